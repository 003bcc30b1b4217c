"""`assay dataset export`, `import` and `sync`: other forms of a dataset, and MLflow's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay import registry
from mlflow_assay.cli.dataset_options import (
    governance_options,
    json_option,
    open_,
    redactor,
    shaping_options,
    store_option,
    summary,
)
from mlflow_assay.cli.progress import Steps
from mlflow_assay.errors import ConfigError, InputError

if TYPE_CHECKING:
    from mlflow_assay.datasets.model import DatasetRow

__all__ = ["export", "import_", "sync"]

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def _format(name: str | None, path: Path) -> Any:
    chosen = name or _SUFFIXES.get(path.suffix.lower())
    if chosen is None:
        raise ConfigError(
            f"--format is needed: {path.name} does not say what it is.", valid=registry.available("dataset_formats")
        )
    return registry.load("dataset_formats", chosen)()


@click.command()
@click.argument("reference")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", metavar="FORMAT", help="jsonl, csv, huggingface, deepeval, ragas, dspy, or a plugin's."
)
@click.option("--split", help="One split only.")
@store_option
@json_option
def export(
    reference: str, path: Path, format_name: str | None, split: str | None, store: str | None, as_json: bool
) -> None:
    """Write the version REFERENCE to PATH in another form; what that form cannot hold is reported.

    \b
    FORMAT
      jsonl, csv   every field; told by the file's ending
      huggingface  a folder for datasets.load_from_disk
      deepeval     goldens, for EvaluationDataset.add_goldens_from_json_file
      ragas        single-turn samples, for EvaluationDataset.from_jsonl
      dspy         examples with their input fields

    \b
    assay dataset export misrouted@golden goldens.json --format deepeval
    assay dataset export misrouted rows.csv --split test
    """
    from mlflow_assay.datasets.store import load_dataset

    found = load_dataset(reference, None if "/" in reference and store is None else open_(store))
    chosen = _format(format_name, path)
    lost = chosen.write(_stepped(found.rows(split), "Writing rows", as_json), path)
    if as_json:
        click.echo(json.dumps({"reference": found.reference, "path": str(path), "lost": dict(lost)}, indent=2))
        return
    click.echo(f"{found.reference} written to {path}")
    for reason, count in sorted(lost.items()):
        click.echo(f"{count:>8} {reason}")


@click.command("import")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--format", "format_name", metavar="FORMAT", help="jsonl, csv, huggingface, deepeval, ragas, dspy, or a plugin's."
)
@click.option("--reshape", is_flag=True, help="Merge duplicates, sample and split anew.  [default: rows as they are]")
@shaping_options
@governance_options
@click.option(
    "--redaction",
    metavar="FILE",
    envvar="ASSAY_REDACTION",
    help="Replace personal data first: YAML with patterns, or `built-in`. Also ASSAY_REDACTION.  [default: none]",
)
@store_option
@json_option
def import_(
    name: str,
    path: Path,
    format_name: str | None,
    reshape: bool,
    duplicates: Any,
    near: float,
    sample: int | None,
    split: str,
    seed: int,
    redaction: str | None,
    store: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Make a version of the dataset NAME from the rows at PATH.

    Rows are stored as they are, splits included; --reshape treats them as `build` treats traces. In a CSV file of your
    own, `expectations.NAME` columns are expectations and all other columns are inputs.

    \b
    assay dataset import questions questions.csv --reshape --owner qa-team --licence CC-BY-4.0
    assay dataset import goldens goldens.json --format deepeval
    """
    from mlflow_assay.datasets.model import About
    from mlflow_assay.datasets.redacting import Redacting
    from mlflow_assay.datasets.shaping import Shaping, shape
    from mlflow_assay.datasets.splitting import parse_fractions

    masking = Redacting(redactor(None if redaction == "built-in" else redaction or "none"))
    rows = masking.rows(_stepped(_format(format_name, path).read(path), "Reading rows", as_json))
    shaping = Shaping(duplicates, near, sample, parse_fractions(split), seed)
    query: dict[str, Any] = {"file": path.name, "format": format_name or path.suffix.lstrip(".")}
    opened = open_(store)
    if reshape:
        with shape(rows, shaping) as shaped:
            about = About(how="import", query={**query, "shaped": shaped.record}, redaction=masking.record(), **said)
            manifest = opened.write(name, shaped.rows(), about)
    else:
        with shape(_some(rows, path), Shaping("none", fractions=None)) as shaped:
            about = About(how="import", query=query, redaction=masking.record(), **said)
            manifest = opened.write(name, shaped.rows(), about)
    click.echo(json.dumps(manifest.to_dict(), indent=2) if as_json else summary(manifest))


def _some(rows: Iterator[DatasetRow], path: Path) -> Iterator[DatasetRow]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"There are no rows in {path}.")


def _stepped(rows: Iterator[DatasetRow], label: str, quiet: bool) -> Iterator[DatasetRow]:
    with Steps(label, quiet=quiet) as steps:
        for row in rows:
            yield row
            steps.step()


@click.command()
@click.argument("name")
@click.option("--mlflow-name", metavar="NAME", help="Of MLflow's dataset.  [default: the same]")
@click.option("--experiment", "-e", "experiments", multiple=True, help="Experiment a new one belongs to. Repeatable.")
@click.option("--push", is_flag=True, help="Only from here to MLflow: make it hold exactly the latest version.")
@click.option("--prefer", type=click.Choice(["here", "mlflow"]), help="Which side wins where both changed a row.")
@store_option
@json_option
def sync(
    name: str,
    mlflow_name: str | None,
    experiments: tuple[str, ...],
    push: bool,
    prefer: Any,
    store: str | None,
    as_json: bool,
) -> None:
    """Carry changes both ways between the dataset NAME and MLflow's own evaluation dataset.

    MLflow's has no versions: both sides are compared with the version of the last sync, and what changed on one goes
    to the other. A row changed on both sides is an error until --prefer says which side wins. What MLflow cannot hold
    stays here and is reported.

    \b
    assay dataset sync misrouted --experiment support
    assay dataset sync misrouted --prefer mlflow
    assay dataset sync misrouted@golden --push --mlflow-name misrouted-golden
    """
    from mlflow_assay.datasets import sync as ways
    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.sources.mlflow_store import find_experiment

    opened = open_(store)
    ids = [str(find_experiment(e).experiment_id) for e in experiments]
    if push:
        done = ways.push(Dataset(opened.find(name), opened), mlflow_name, ids)
    else:
        done = ways.sync(opened, name, mlflow_name, experiment_ids=ids, prefer=prefer)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
        return
    click.echo(f"{done.version} and MLflow's dataset {done.mlflow_id} hold the same rows.")
    for side, counts in (("here", done.here), ("in MLflow", done.there)):
        if any(counts.values()):
            click.echo(f"  {side}: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n))
    if done.conflicts:
        click.echo(f"  {len(done.conflicts)} rows had changed on both sides; {prefer} won.")
    for reason, count in sorted(done.unmapped.items()):
        click.echo(f"  {count} × {reason}")
