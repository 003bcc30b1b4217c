"""`assay traces`: recorded agent runs into MLflow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay import registry
from mlflow_assay.cli.progress import Steps
from mlflow_assay.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from mlflow_assay.sources.importing import Imported, Plan
    from mlflow_assay.sources.recorded import RecordedJudge

__all__ = ["traces"]


@click.group()
def traces() -> None:
    """Import recorded agent runs as MLflow traces."""


@traces.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "format_name", required=True, metavar="FORMAT", help="tau2, otlp-json, or a plugin's.")
@click.option("--experiment", required=True, metavar="NAME", help="MLflow experiment; created if there is none.")
@click.option("--with-verdicts", is_flag=True, help="Also log the LLM judges' verdicts the files record.")
@click.option(
    "--write-judges",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the recorded judge prompts into DIR as judge definitions.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def import_(
    files: tuple[Path, ...],
    format_name: str,
    experiment: str,
    with_verdicts: bool,
    write_judges: Path | None,
    as_json: bool,
) -> None:
    """Turn recorded agent runs in FILES into MLflow traces, with their ground truth.

    Every run becomes one trace: an agent root span, a span for each model turn and tool call, original times,
    tokens and cost where recorded, and the recorded ground truth as expectations and feedback. Importing the same
    files again adds nothing; an import that was cut short is finished by running it again. All files are checked
    before anything is written.

    \b
    FORMAT
      tau2       tau2-bench: simulation files, and files of judged conversations (JSON or .json.gz)
      otlp-json  OpenTelemetry traces as the Collector's file exporter writes them (JSON lines)

    \b
    EXAMPLES
      assay traces import --format tau2 gpt41_telecom.json.gz --experiment telecom
      assay traces import --format tau2 telecom_judge_*.json.gz --experiment telecom --with-verdicts
      assay traces import --format tau2 telecom_judge_*.json.gz --experiment telecom --write-judges my-judges
      assay traces import --format otlp-json traces.jsonl more.jsonl.gz --experiment production
      MLFLOW_TRACKING_URI=http://localhost:5000 assay traces import --format otlp-json t.jsonl --experiment prod
    """
    from mlflow_assay.sources import importing

    importer = registry.load("importers", format_name)()
    planned = importing.plan(importer, files, verdicts=with_verdicts)
    if not planned.runs:
        raise InputError(f"There are no runs in {', '.join(map(str, files))}.")
    judges = _judge_files(planned, write_judges) if write_judges else {}
    with Steps("Importing runs", planned.pieces, quiet=as_json) as steps:
        done = importing.import_runs(importer, files, planned, experiment, progress=steps.step)
    for path, text in judges.items():
        path.write_text(text, encoding="utf-8")
    if as_json:
        click.echo(json.dumps(_summary(planned, done, list(judges)), ensure_ascii=False))
    else:
        _show(planned, done, list(judges))


# --- recorded judges -----------------------------------------------------------------------------------


def _judge_files(planned: Plan, folder: Path) -> dict[Path, str]:
    """File texts by path, checked before anything is written anywhere."""
    if not planned.judges:
        raise ConfigError("--write-judges: these files record no judges.", fix="Leave the option out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--write-judges: {folder} cannot be made: {error.strerror}.") from error
    names = Counter(judge.name for judge in planned.judges.values())
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"--write-judges: {names[twice[0]]} different prompts in these files are called {twice[0]!r}.",
            fix="Import the files one by one, each into a folder of its own.",
        )
    judges = sorted(planned.judges.values(), key=lambda judge: judge.name)
    return {folder / f"{judge.name}.yaml": _judge_text(judge, folder) for judge in judges}


def _judge_text(judge: RecordedJudge, folder: Path) -> str:
    from mlflow_assay.judges import definition
    from mlflow_assay.sources import recorded_judges

    text = recorded_judges.to_yaml(judge)
    path = folder / f"{judge.name}.yaml"
    definition.loads(text, str(path))
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"--write-judges: {path} exists already and says something else.",
            fix="Name another folder, or move the file away.",
        )
    return text


# --- the summary ---------------------------------------------------------------------------------------


def _summary(planned: Plan, done: Imported, judges: Sequence[Path]) -> dict[str, Any]:
    return {
        **asdict(done),
        "new": dict(done.new),
        "there": dict(done.there),
        "spans_planned": planned.spans,
        "verdicts_left_out": planned.verdicts_left_out,
        "readings": [
            {"judge": judge, "spelling": spelling, "read_as": read_as, "count": count}
            for (judge, spelling, read_as), count in sorted(planned.readings.items())
        ],
        "unscored": dict(planned.unscored),
        "judges_written": [str(path) for path in judges],
    }


def _show(planned: Plan, done: Imported, judges: Sequence[Path]) -> None:
    from rich.console import Console

    console = Console()
    if planned.readings:
        console.print(_readings(planned))
    console.print(_counts(planned, done))
    for reason, count in sorted(planned.unscored.items()):
        console.print(f"{count} of the verdicts could not be read and count as unscored: {reason}.")
    if done.elsewhere:
        listed = ", ".join(done.elsewhere[:3]) + (", …" if len(done.elsewhere) > 3 else "")
        console.print(f"{len(done.elsewhere)} traces are in another experiment already and were left there: {listed}")
    if planned.verdicts_left_out:
        console.print(f"{planned.verdicts_left_out} recorded verdicts were left out; --with-verdicts logs them.")
    for path in judges:
        console.print(f"Wrote {path}", soft_wrap=True)
    console.print(_next(done, judges), soft_wrap=True, highlight=False, markup=False)


def _readings(planned: Plan) -> Table:
    from rich.table import Table

    table = Table(title="How each spelling was read", title_justify="left")
    table.add_column("judge", no_wrap=True)
    for heading in ("answered", "verdicts", "read as"):
        table.add_column(heading)
    named = ""
    for (judge, spelling, read_as), count in sorted(planned.readings.items(), key=lambda r: (r[0][0], -r[1])):
        table.add_row("" if judge == named else judge, spelling, str(count), read_as)
        named = judge
    return table


def _counts(planned: Plan, done: Imported) -> Table:
    from rich.table import Table

    title = f"Imported into {done.experiment!r} in {done.seconds:.1f} s"
    table = Table("", "new", "already there", title=title, title_justify="left")
    table.add_row("traces", str(done.traces_new), str(done.traces_there))
    table.add_row("spans", str(done.spans_new), str(done.spans_there))
    for kind, name in (("expectation", "expectations"), ("feedback", "feedback"), ("verdict", "judges' verdicts")):
        if done.new[kind] or done.there[kind]:
            table.add_row(name, str(done.new[kind]), str(done.there[kind]))
    return table


def _next(done: Imported, judges: Sequence[Path]) -> str:
    name = done.experiment if done.experiment.replace("-", "").replace("_", "").isalnum() else f"'{done.experiment}'"
    lines = [f"Next: assay score --experiment {name} --judge request_resolved --model openai:/gpt-4.1-mini"]
    if judges:
        lines.append(f"      assay judges list --path {judges[0].parent}")
    if done.tracking_uri.startswith("http"):
        place = f"{done.tracking_uri.rstrip('/')}/#/experiments/{done.experiment_id}/traces?startTimeLabel=ALL"
    else:
        place = f"mlflow ui --backend-store-uri {done.tracking_uri}"
    return "\n".join([*lines, f"Look: {place} (choose the time range All: recorded runs keep their dates)"])
