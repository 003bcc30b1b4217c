"""`assay align`: a judge aligned with the experts' labels, accepted only when proven on labels it never saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import (
    cache_option,
    json_option,
    judges_path,
    model_options,
    model_settings,
    proof_options,
    read_texts,
    tell_plan,
    texts_option,
    trace_options,
)
from mlflow_assay.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from mlflow_assay.alignment.procedure import Plan, Request
    from mlflow_assay.alignment.record import Outcome
    from mlflow_assay.alignment.report import AlignmentReport

__all__ = ["align", "detectable", "read_options"]


@click.command()
@click.argument("judge")
@trace_options
@click.option("--optimizer", "-o", required=True, help="recalibrate, nearest_examples, local, simba, gepa, …")
@click.option("--label", help="Name of the labels.  [default: the judge's name]")
@click.option(
    "--label-source",
    type=click.Choice(["human", "code", "any"]),
    default="human",
    show_default=True,
    help="Whose labels: people's, recorded ground truth, or both.",
)
@click.option("--option", "options", multiple=True, help="Parameter of the optimizer: KEY=VALUE; repeatable.")
@texts_option
@judges_path
@model_options
@click.option("--max-calls", type=click.IntRange(min=0), help="At most so many model calls in all.")
@cache_option
@proof_options("How much less often right still counts as not worse, for a cheaper judge.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("aligned"),
    show_default=True,
    help="Folder an accepted definition is written to.",
)
@click.option("--register", "registering", is_flag=True, help="Also register an accepted version in MLflow.")
@click.option("--force", is_flag=True, help="Accept all the same; this is recorded in the run and the definition.")
@click.option("--dry-run", is_flag=True, help="Show labels, split and calls needed; call and change nothing.")
@json_option
def align(
    judge: str,
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    optimizer: str,
    label: str | None,
    label_source: Any,
    options: tuple[str, ...],
    settings: tuple[str, ...],
    paths: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    max_calls: int | None,
    cache: bool,
    seed: int,
    margin: float,
    out: Path,
    registering: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Align JUDGE with the experts, and keep the new version only if it is proven.

    Labels are parted by session and near-duplicates into training, validation and test. The optimizer sees the first
    two. Old and new then judge the test part, and the new is accepted only if it is better there, or not worse and
    cheaper. Otherwise nothing changes and the exit code is 1. Both versions, the split and all figures are logged to
    an MLflow run.

    Try them in this order: `recalibrate` (a numeric judge; no call), `local` (no call at judging time),
    `nearest_examples` (labelled cases in the prompt), then `memalign`, `simba`, `miprov2`, `gepa` (extra dspy).

    \b
    assay align request_resolved -e support --label resolved -o nearest_examples --model openai:/gpt-4.1-mini
    assay align helpfulness -e support -o recalibrate --path judges --out judges
    assay align tone -e support -o local --dry-run
    """
    from mlflow_assay.alignment import procedure
    from mlflow_assay.alignment.procedure import Request
    from mlflow_assay.sources.mlflow_store import MlflowSource, parse_since
    from mlflow_assay.trust.gate import Gate

    source = MlflowSource(experiment, filter_string, parse_since(since) if since else None, max_traces)
    request = Request(
        judge=judge,
        optimizer=optimizer,
        label=label,
        label_source=label_source,
        options=read_options(options),
        model=model_settings(model, base_url, timeout_s),
        texts=_texts(judge, settings),
        paths=paths,
        max_calls=max_calls,
        seed=seed,
        gate=Gate(margin=margin),
        force=force,
        register=registering,
    )
    if dry_run:
        _show_plan(procedure.plan(source, request), as_json)
        return
    try:
        report, outcome = _run(source, request, out, cache, registering)
    except NotTrustedError as error:
        click.echo(json.dumps({"accepted": False, "reason": str(error)}) if as_json else f"Nothing changed. {error}")
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(report.to_dict() | _done(outcome), indent=2, default=str))
    else:
        _print(report, outcome, paths)
    if not report.accepted:
        sys.exit(1)


def _run(source: Any, request: Request, out: Path, cache: bool, registering: bool) -> tuple[AlignmentReport, Outcome]:
    from mlflow_assay.alignment import procedure, record
    from mlflow_assay.engine.cache import VerdictCache

    known = VerdictCache() if cache else None
    try:
        report = procedure.align(source, request, cache=known, progress=lambda text: click.echo(text, err=True))
    finally:
        if known is not None:
            known.close()
    return report, record.keep(report, request, source.experiment_id, out, registering=registering)


def _texts(judge: str, settings: tuple[str, ...]) -> dict[str, str]:
    found = read_texts(settings)
    if stray := sorted(set(found) - {judge}):
        raise ConfigError(f"A text is set for the judge {stray[0]!r}, which is not aligned.", valid=judge)
    return found.get(judge, {})


def read_options(settings: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` settings; a value that is JSON is read as such, and commas make a list."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, given, text = setting.partition("=")
        if not given or not key:
            raise ConfigError(f"--option {setting!r} cannot be read.", valid="KEY=VALUE, such as sizes=[2,4]")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text.split(",") if "," in text else text
    return found


def _done(outcome: Outcome) -> dict[str, Any]:
    registered = outcome.registration.version if outcome.registration else None
    return {
        "run_id": outcome.run_id,
        "attempt": outcome.attempt,
        "path": outcome.path,
        "registered_version": registered,
    }


def _show_plan(todo: Plan, as_json: bool) -> None:
    parts = {name: todo.part(name) for name in ("train", "validation", "test")}
    facts = {
        "judge": todo.bound.name,
        "version": todo.bound.contract.version,
        "labels": len(todo.labels.labels),
        "conflicts": todo.labels.conflicts,
        "ties": todo.labels.ties,
        "corrections": sum(label.correction for label in todo.labels.labels),
        "purged": len(todo.parts.purged),
        **{name: len(found) for name, found in parts.items()},
        **{f"{name}_good": sum(e.passed for e in found) for name, found in parts.items()},
        "verdicts_standing": len(todo.known),
        "verdicts_to_ask": len(todo.to_ask),
        "calls_at_least": todo.calls,
        "smallest_gain_shown": detectable(len(parts["test"])),
    }
    tell_plan(
        facts,
        as_json,
        "The smallest gain shown is in the share judged rightly, with 80 % power, if 30 % of the verdicts change. "
        "Nothing was called or changed. The optimizer's own calls come on top; limit them with --max-calls.",
    )


def detectable(n: int) -> float | None:
    """The smallest gain in a share that so many held-out rows would show, if 30 % of the verdicts change."""
    from mlflow_assay.trust.gate import Gate
    from mlflow_assay.trust.planning import detectable_difference

    found = detectable_difference(n, variance=0.3, confidence=1 - 2 * Gate().alpha) if n else None
    return None if found is None else round(found, 2)


def _print(report: AlignmentReport, outcome: Outcome, paths: tuple[str, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("on held-out labels", "before", "after"):
        table.add_column(heading, overflow="fold")
    for row in report.rows():
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for what, text in report.facts():
        click.echo(f"{what:12} {text}")
    if report.decision.accepted:
        click.echo(f"Accepted. {report.decision.reason}")
    elif report.forced:
        click.echo(f"Accepted by --force, which is recorded. {report.decision.reason}")
    else:
        click.echo(f"Not accepted; nothing changed. {report.decision.reason}")
        if report.decision.n_needed:
            click.echo(f"About {report.decision.n_needed} more held-out labels would settle it.")
    if outcome.attempt > 1:
        chance = 1 - (1 - report.decision.alpha) ** outcome.attempt
        click.echo(
            f"This is alignment {outcome.attempt} against the labels {report.label!r}: the chance that one of them "
            f"passes by luck has grown to {chance:.0%}. Fresh labels bring it back to {report.decision.alpha:.0%}."
        )
    click.echo(f"Logged to MLflow run {outcome.run_id}.")
    if outcome.path is not None:
        click.echo(f"Written to {outcome.path}. Next: assay score --judge {report.judge} --path {outcome.path.parent}")
    if outcome.registration is not None:
        click.echo(f"Registered in MLflow as version {outcome.registration.version}.")
