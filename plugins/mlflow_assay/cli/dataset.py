"""`assay dataset`: a group of lazily imported commands, by what they do to a dataset."""

from __future__ import annotations

import click

from mlflow_assay.cli.lazy import LazyGroup

__all__ = ["dataset"]

# name -> (module:attribute, the line shown in `assay dataset --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("mlflow_assay.cli.dataset_build:build", "Make a dataset of traces, chosen by verdict, label or tag."),
    "append": ("mlflow_assay.cli.dataset_build:append", "Add traces to a dataset; splits stay apart."),
    "list": ("mlflow_assay.cli.dataset_show:list_", "All datasets of a store."),
    "show": ("mlflow_assay.cli.dataset_show:show", "One version in full: what it holds, and how it came about."),
    "diff": ("mlflow_assay.cli.dataset_show:diff", "Rows added, removed and changed between two versions."),
    "query": ("mlflow_assay.cli.dataset_show:query", "SQL over a version."),
    "tag": ("mlflow_assay.cli.dataset_change:tag", "Tags and aliases of a version."),
    "sweep": ("mlflow_assay.cli.dataset_change:sweep", "Remove what killed writers left."),
    "export": ("mlflow_assay.cli.dataset_exchange:export", "Write a version in another form."),
    "import": ("mlflow_assay.cli.dataset_exchange:import_", "Make a version from a file or another library's set."),
    "sync": ("mlflow_assay.cli.dataset_exchange:sync", "Two ways between a dataset and MLflow's own of that name."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def dataset() -> None:
    """Versioned evaluation datasets: from traces, into a folder or an object store.

    A store is a folder or a URL (--store, or ASSAY_DATASETS): s3://bucket/folder, abfs://container/folder,
    gs://bucket/folder, with the credentials of the environment. A version never changes; it is named NAME,
    NAME@latest, NAME@v3, NAME@golden (an alias) or NAME@4f0c12 (the start of its digest).

    \b
    assay dataset build misrouted --experiment support --where 'judge routing_accuracy failed'
    assay dataset show misrouted
    assay dataset query misrouted "SELECT slice, count(*) FROM dataset GROUP BY 1"
    assay dataset tag misrouted --alias golden
    assay dataset export misrouted@golden goldens.json --format deepeval
    """
