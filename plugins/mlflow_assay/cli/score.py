"""`assay score`: judge the traces of an experiment."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import (
    cache_option,
    json_option,
    judges_path,
    model_options,
    model_settings,
    read_texts,
    texts_option,
    trace_options,
)
from mlflow_assay.contracts import Unscored

if TYPE_CHECKING:
    from mlflow_assay.engine.forecast import Forecast
    from mlflow_assay.engine.report import RunReport, Tally

_FORECAST = ("owed", "already", "no field", "cached", "calls", "tokens in", "tokens out", "cost")
_ALWAYS = ("judge", "passed", "failed", "unscored")  # the other columns only where they say something


@click.command()
@trace_options
@click.option("--judge", "-j", "judges", multiple=True, required=True, help="Judge by name; repeatable.")
@texts_option
@judges_path
@model_options
@click.option("--concurrency", type=click.IntRange(1, 1024), default=64, show_default=True, help="Calls in flight.")
@click.option(
    "--price", help="The model's price, INPUT,OUTPUT in dollars per million tokens; default: MLflow's catalogue."
)
@click.option("--max-usd", type=click.FloatRange(min=0, min_open=True), help="Stop before spending more.")
@click.option("--max-calls", type=click.IntRange(min=1), help="Stop before calling the model more often.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Stop before using more tokens.")
@cache_option
@click.option("--sink", "sinks", multiple=True, help="Also write verdicts to: jsonl=PATH, or an installed sink's name.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray", "spark"]),
    default="local",
    show_default=True,
    help="Where to judge: in this process, or in --workers processes of Ray or Spark.",
)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes on ray and spark.")
@click.option("--dry-run", is_flag=True, help="Say what it would do and about what it would cost; call nothing.")
@json_option
def score(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    judges: tuple[str, ...],
    settings: tuple[str, ...],
    paths: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    concurrency: int,
    price: str | None,
    max_usd: float | None,
    max_calls: int | None,
    max_tokens: int | None,
    cache: bool,
    sinks: tuple[str, ...],
    engine: str,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Judge traces and store the verdicts on them as MLflow assessments.

    Running it twice doubles nothing: a verdict that stands is left alone. Kill it and start it again, and it
    goes on where it stopped. A verdict that could not be reached is *unscored*, with the reason; it is never
    counted as a fail.

    \b
    assay score -e support -j request_resolved -j tone --model openai:/gpt-4.1-mini
    assay score -e support -j repeated_steps --since 7d
    assay score -e support -j policy_adherence --set policy_adherence.policy=@policy.md --max-usd 5
    assay score -e support -j tone --model openai:/gpt-4.1-mini --dry-run
    assay score -e support -j tone --engine ray --workers 8
    """
    from mlflow_assay import pipeline
    from mlflow_assay.cli.progress import ScoreProgress
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.engine.run import Options
    from mlflow_assay.sources.mlflow_store import MlflowSource, parse_since

    source = MlflowSource(experiment, filter_string, parse_since(since) if since else None, max_traces, since)
    settings_of_model = model_settings(model, base_url, timeout_s, price)
    built = pipeline.build_judges(judges, model=settings_of_model, paths=paths, texts=read_texts(settings))
    limits = (max_usd, max_tokens, max_calls)
    budget = pipeline.make_budget(built, *limits, lambda text: click.echo(text, err=True))
    if dry_run:
        _print_forecast(pipeline.dry_run(source, built, options=Options(cache=_kept() if cache else None)), as_json)
        return
    known = VerdictCache() if cache else None
    options = Options(concurrency=concurrency, cache=known, budget=budget if engine == "local" else None)
    shared = _shared_budget(source.experiment_id, limits) if engine != "local" and budget is not None else None
    displays: list[ScoreProgress] = []

    def display(plan: Any) -> ScoreProgress:
        displays.append(ScoreProgress(plan))
        return displays[0]

    try:
        report = pipeline.score(
            source,
            built,
            options=options,
            sinks=_sinks(sinks),
            progress=display,
            engine=engine,
            workers=workers,
            budget=shared,
            told=_say_partition,
        )
    finally:
        for shown in displays:
            shown.close()
        if known is not None:
            known.close()
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    if dead := [t.judge for t in report.tallies if _got_nowhere(t)]:
        click.echo(f"No verdict at all from {', '.join(dead)}: see the reasons above.", err=True)
        sys.exit(1)


def _got_nowhere(tally: Tally) -> bool:
    """Whether a judge was asked and every answer failed for a reason from outside: a wrong URL, key or model."""
    from mlflow_assay.contracts import INHERENT

    outside = sum(n for reason, n in tally.unscored.items() if Unscored(reason) not in INHERENT)
    return bool(outside) and not (tally.scored or tally.valued or tally.standing)


def _shared_budget(experiment_id: str, limits: tuple[float | None, int | None, int | None]) -> Any:
    """The limits of one command for all its workers, kept where the verdict cache is."""
    from mlflow_assay.engine.cache import default_url
    from mlflow_assay.engine.partition import BudgetShare

    return BudgetShare(default_url(), f"score-{experiment_id}-{uuid.uuid4().hex}", *limits)


def _say_partition(result: Any) -> None:
    click.echo(
        f"Partition {result.number}: {result.stored} verdicts by {result.worker}, {result.wall_s:.1f} s", err=True
    )


def _kept() -> Any:
    """The verdict cache to look into; None where there is none yet. It is not closed: that would count the looks."""
    from mlflow_assay.engine.cache import VerdictCache, default_url

    prefix, found, path = default_url().partition("sqlite:///")
    return None if not prefix and found and not Path(path).exists() else VerdictCache()


def _print_forecast(found: Forecast, as_json: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    table = Table("judge", *_FORECAST, box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in table.columns[1:]:
        column.justify = "right"
    for judge in found.judges:
        numbers = [judge.owed, judge.already, judge.missing, judge.cached, judge.calls]
        tokens = [judge.input_tokens, judge.output_tokens]
        usd = "unknown" if judge.cost_usd is None else f"${judge.cost_usd:.4f}"
        table.add_row(judge.judge, *(f"{n:,}" for n in numbers), *(_or_unknown(n) for n in tokens), usd)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for judge in found.judges:
        click.echo(f"  {judge.judge}: estimated from {judge.sampled} of {judge.owed}: {judge.basis}")
    total = "unknown" if found.cost_usd is None else f"about ${found.cost_usd:.4f}"
    click.echo(f"{found.traces} traces; cost {total}. Nothing was called or written.")


def _or_unknown(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _sinks(named: tuple[str, ...]) -> list[Any]:
    from mlflow_assay import registry

    made = []
    for setting in named:
        name, found, argument = setting.partition("=")
        sink = registry.load("sinks", name)
        made.append(sink(argument) if found else sink())
    return made


def _print(report: RunReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = [_row(tally) for tally in report.tallies]
    shown = [h for h in rows[0] if h in _ALWAYS or any(row[h] not in ("0", "–") for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in shown:
        table.add_column(heading, justify="left" if heading == "judge" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[heading] for heading in shown))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for tally in report.tallies:
        for reason, count in tally.unscored.most_common():
            example = " ".join((tally.examples.get(reason) or reason).split())
            click.echo(f"  {tally.judge}: {count} unscored, {reason}. For example: {example}")
    click.echo(f"{report.traces} traces, {report.stored} verdicts stored, {report.wall_s:.1f} s")
    for note in _notes(report):
        click.echo(note)
    click.echo(f"Next: assay report --experiment {report.experiment!r} --out report.html")


def _counts(tally: Tally) -> dict[str, int]:
    return {"passed": tally.passed, "failed": tally.failed, "unscored": tally.unscored.total()}


def _row(tally: Tally) -> dict[str, str]:
    tokens = tally.input_tokens + tally.output_tokens
    return {
        "judge": tally.judge,
        **{key: str(count) if tally.judged else "–" for key, count in _counts(tally).items()},
        "already": str(tally.standing),
        "cached": str(tally.cache_hits),
        "tokens": str(tokens) if tokens else "–",
        "cost": "–" if tally.cost_usd is None else f"${tally.cost_usd:.4f}",
    }


def _notes(report: RunReport) -> list[str]:
    notes = [f"The sink {name!r} failed and was left out: {why}" for name, why in report.sink_failures.items()]
    if report.stopped:
        notes.append(f"Stopped early: {report.stopped}. The rest is unscored (budget); run it again to go on.")
    for tally in report.tallies:
        if tally.foreign:
            notes.append(
                f"{tally.foreign} traces carry an assessment named {tally.judge!r} that is not from this judge; "
                "both stand. Give your judge another name if they must not mix."
            )
        if tally.no_session:
            notes.append(f"{tally.judge} judges sessions; {tally.no_session} traces belong to none.")
    return notes
