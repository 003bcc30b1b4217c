"""`assay judges`: a group of lazily imported commands, one file each."""

from __future__ import annotations

import click

from mlflow_assay.cli.lazy import LazyGroup

__all__ = ["judges"]

# name -> (module:attribute, the line shown in `assay judges --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "list": ("mlflow_assay.cli.judges_show:list_", "All judges this environment knows."),
    "show": ("mlflow_assay.cli.judges_show:show", "One judge in full: instructions, cases, digest."),
    "validate": ("mlflow_assay.cli.judges_check:validate", "Check definition files."),
    "test": ("mlflow_assay.cli.judges_check:test", "Run the cases beside each definition."),
    "register": ("mlflow_assay.cli.judges_register:register", "Register judges with an MLflow experiment."),
    "schema": ("mlflow_assay.cli.judges_check:schema", "The JSON Schema of a definition, for editors."),
    "calibrate": ("mlflow_assay.cli.judges_calibrate:calibrate", "What labels allow a cascade, or teach a panel."),
    "train": ("mlflow_assay.cli.judges_train:train", "Train a local judge on labelled traces."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def judges() -> None:
    """List, show, validate, test, train and register judges.

    Judges come from installed packages and from your own folders of YAML definitions (--path or ASSAY_JUDGES_PATH);
    a definition of yours replaces an installed judge of the same name.

    \b
    assay judges list
    assay judges show tone
    assay judges test --offline
    assay judges register tone --experiment support --model gateway:/judge --start --sample-rate 0.1
    """
