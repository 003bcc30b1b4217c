"""`assay labels`: choose what the experts shall label, and bring labels in and out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import json_option, judges_path

if TYPE_CHECKING:
    from mlflow_assay.labels.exchange import ImportReport
    from mlflow_assay.labels.pick import PickResult
    from mlflow_assay.labels.planned import LabelPlan

__all__ = ["labels"]

_experiment: Any = click.option("--experiment", "-e", required=True, help="Name or id of the MLflow experiment.")
_half_width: Any = click.option(
    "--half-width",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Precision wanted of the corrected rate: 0.05 is ± 5 points.",
)


@click.group()
def labels() -> None:
    """Choose the traces whose label teaches most, and bring labels in and out as CSV."""


@labels.command()
@_experiment
@click.option("--judge", "-j", required=True, help="The judge to be checked; it must have judged the traces.")
@click.option("--count", "-n", type=click.IntRange(min=1), required=True, help="Traces of the sample in all.")
@click.option("--queue", "-q", required=True, help="Review queue in MLflow; made when missing.")
@click.option("--pilot", type=click.IntRange(min=1), help="Draw so many first, the rest once these are labelled.")
@click.option("--experts", default="", help="Who labels, separated by commas; two or more get a queue each.")
@click.option("--overlap", type=click.IntRange(min=0), default=0, help="Traces that every expert labels.")
@click.option("--by", metavar="FIELD", help="Also a few of each value of agent, tag:KEY, metadata:KEY or span:NAME.")
@click.option("--uncertain", type=click.FloatRange(0, 1), help="Share to take from verdicts of low confidence.")
@click.option("--unscored", type=click.IntRange(min=0), default=0, help="So many from traces the judge cannot score.")
@click.option("--at-least", type=click.IntRange(min=0), default=2, show_default=True, help="Traces from each stratum.")
@click.option("--labels-are-random", is_flag=True, help="Labels already there are a random sample within each verdict.")
@click.option("--filter", "filter_string", help="MLflow's search syntax; fixed at the queue's first pick.")
@click.option("--since", help="Only traces since then: 7d, 24h, 2026-11-01; fixed at the queue's first pick.")
@click.option("--seed", type=int, help="Repeats a draw. [default: 0]")
@_half_width
@click.option("--dry-run", is_flag=True, help="Say what would be drawn, write nothing.")
@judges_path
@json_option
def pick(
    experiment: str,
    judge: str,
    count: int,
    queue: str,
    pilot: int | None,
    experts: str,
    overlap: int,
    by: str | None,
    uncertain: float | None,
    unscored: int,
    at_least: int,
    labels_are_random: bool,
    filter_string: str | None,
    since: str | None,
    seed: int | None,
    half_width: float,
    dry_run: bool,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Draw traces for the experts, with known probabilities, into MLflow's review queue.

    Traces are drawn at random within what the judge passed and what it failed (and within --by and --uncertain), more
    where labels so far differ most. Each drawn trace keeps its probability in a tag, so a rate corrected with these
    labels is not biased by the choice. Running it again adds nothing until --count grows or the pilot is labelled.

    \b
    assay labels pick -e support -j request_resolved -n 100 -q week-48 --pilot 30
    assay labels pick -e support -j request_resolved -n 60 -q week-48 --experts ana,ben --overlap 20
    """
    from mlflow_assay.cli.labelled import contracts
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.labels.pick import PickRequest
    from mlflow_assay.labels.pick import pick as do_pick
    from mlflow_assay.labels.picking import Share
    from mlflow_assay.sources.mlflow_store import parse_since

    known = contracts(paths)
    request = PickRequest(
        experiment,
        _assessment_name(judge, paths),
        queue,
        Share(count, unscored, uncertain, at_least, labels_are_random),
        pilot,
        tuple(experts.split(",")),
        overlap,
        filter_string,
        parse_since(since) if since else None,
        by,
        seed,
        half_width,
    )
    with Steps("Reading traces", quiet=as_json) as steps:
        result = do_pick(request, known, dry_run=dry_run, progress=lambda _: steps.step())
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_pick(result)


@labels.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_experiment
@click.option("--name", help="Assessment name (the judge's) of lines without one.")
@click.option("--by", help="Who labelled, for lines that do not say.")
@click.option("--skip-bad", is_flag=True, help="Leave out bad lines instead of writing nothing.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@judges_path
@json_option
def import_(
    file: Path,
    experiment: str,
    name: str | None,
    by: str | None,
    skip_bad: bool,
    dry_run: bool,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Put the labels of a CSV FILE on their traces, as human feedback.

    Columns: trace_id, value, and name, by, rationale, probability where known; others are passed over. A value must be
    one the judge of that name may give. The same file twice changes nothing. Exit code 1 when lines were left out.

    \b
    assay labels import labels.csv -e support --name request_resolved --by ana
    """
    from mlflow_assay.cli.labelled import contracts
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.labels.exchange import import_csv

    known, called = contracts(paths), _assessment_name(name, paths) if name else None
    with Steps("Writing labels", quiet=as_json) as steps:
        report = import_csv(
            file, experiment, known, name=called, by=by, skip_bad=skip_bad, dry_run=dry_run, progress=steps.reach
        )
    if as_json:
        click.echo(json.dumps({**report.to_dict(), "dry_run": dry_run}, indent=2, ensure_ascii=False))
    else:
        _print_import(report, dry_run)
    if report.bad:
        sys.exit(1)


@labels.command()
@_experiment
@click.option("--name", "names", multiple=True, help="Assessment name; repeatable. Default: all that people gave.")
@click.option("--filter", "filter_string", help="MLflow's search syntax.")
@click.option("--since", help="Only traces since then: 7d, 24h, 2026-11-01.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write. [default: standard output]"
)
@judges_path
def export(
    experiment: str,
    names: tuple[str, ...],
    filter_string: str | None,
    since: str | None,
    out: Path | None,
    paths: tuple[str, ...],
) -> None:
    """Write people's labels as CSV, with sampling probability and the judge's verdict beside.

    \b
    assay labels export -e support --name request_resolved --out labels.csv
    """
    from mlflow_assay.cli.labelled import contracts
    from mlflow_assay.errors import ConfigError
    from mlflow_assay.labels.csv_file import write_csv
    from mlflow_assay.labels.exchange import EXPORT_COLUMNS, exported
    from mlflow_assay.sources.mlflow_store import MlflowSource, parse_since

    source = MlflowSource(experiment, filter_string, parse_since(since) if since else None)
    rows = list(exported(source, contracts(paths), [_assessment_name(name, paths) for name in names]))
    if out is None:
        write_csv(sys.stdout, EXPORT_COLUMNS, rows)
        return
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            write_csv(file, EXPORT_COLUMNS, rows)
    except OSError as error:
        raise ConfigError(f"The labels cannot be written to {out}: {error}.") from error
    click.echo(f"{len(rows)} labels written to {out}.")


@labels.command()
@_experiment
@click.option("--judge", "-j", help="Only samples for this judge.")
@_half_width
@judges_path
@json_option
def status(experiment: str, judge: str | None, half_width: float, paths: tuple[str, ...], as_json: bool) -> None:
    """Show how far each sample is labelled, and how many labels are still needed."""
    from mlflow_assay.cli.labelled import contracts
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.labels.designs import frames_of
    from mlflow_assay.labels.pick import sample_state
    from mlflow_assay.sources.mlflow_store import find_experiment

    known, found = contracts(paths), find_experiment(experiment)
    frames = frames_of(found.tags or {}, _assessment_name(judge, paths) if judge else None)
    with Steps("Reading traces", quiet=as_json) as steps:
        states = [
            sample_state(experiment, f, known, half_width=half_width, progress=lambda _: steps.step()) for f in frames
        ]
    if as_json:
        click.echo(json.dumps([state.to_dict() for state in states], indent=2, ensure_ascii=False))
        return
    for state in states:
        click.echo(f"{state.frame.queue}: {state.answered} of {state.drawn} traces labelled, for {state.frame.judge}.")
        _print_state(state)
    if not states:
        click.echo("No sample was drawn here yet. Draw one with `assay labels pick`.")


def _assessment_name(judge: str, paths: tuple[str, ...]) -> str:
    """The name a judge's verdicts carry: `mlflow/Safety` is called `Safety` on the traces."""
    from mlflow_assay.judges.catalogue import Catalogue

    entry = Catalogue(paths).entries.get(judge)
    return entry.contract.name if entry is not None else judge


def _print_pick(result: PickResult) -> None:
    would = "would be " if result.dry else ""
    frame = result.frame
    click.echo(
        f"{len(result.new)} traces {would}drawn for {frame.judge}, queue {frame.queue!r} (seed {frame.seed}, "
        f"{frame.date}): {result.drawn} of {result.traces} judged traces, {result.answered} labelled."
    )
    _print_state(result)


def _print_state(result: PickResult) -> None:
    from mlflow_assay.cli.labelled import console, table

    strata = table("stratum", "traces", "drawn", "probability", "labelled", numbers=(1, 2, 3, 4))
    for s in result.strata:
        strata.add_row(s.name, str(s.size), str(s.drawn), f"{s.drawn / s.size:.4f}", str(s.labelled))
    console().print(strata)
    for q in result.queues:
        added = (
            f"{q.added} would be added" if result.dry and q.added else f"{q.added} added" if q.added else "none added"
        )
        click.echo(f"  queue {q.name!r}: {added}; {q.pending} pending, {q.complete} complete, {q.declined} declined")
        if q.url:
            click.echo(f"    {q.url}")
    click.echo(_plan_words(result.plan))
    for note in result.notes:
        click.echo(note)


def _plan_words(plan: LabelPlan) -> str:
    points = f"± {plan.half_width * 100:g} points"
    basis = (
        f"at a rate of {plan.rate:.2f} and a correlation of {plan.correlation:.2f} between verdict and label"
        if plan.measured
        else "in the worst case, until 20 labels say more"
    )
    if not plan.lacking:
        return f"Labels suffice for {points}: {plan.have} of {plan.needed} needed, {basis}."
    return f"{plan.lacking} more labels are needed for {points} ({plan.have} of {plan.needed}), {basis}."


def _print_import(report: ImportReport, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    click.echo(
        f"{report.written} labels {would}written, {report.replaced} {would}replaced, {report.already} already there, "
        f"{len(report.bad)} lines left out."
    )
    for line in [*report.bad, *report.notes]:
        click.echo(f"  {line}")
