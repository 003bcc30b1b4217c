"""`assay bridge`: how the outbox stands, what a sink would not take, and whether everything has arrived."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from mlflow_assay.cli.bridge_kpis import kpis
from mlflow_assay.cli.bridge_options import GuaranteesGroup, make_sinks, outbox_option, sink_options
from mlflow_assay.cli.options import json_option

if TYPE_CHECKING:
    from mlflow_assay.bridge.deliveries import DeadLetter, Deliveries
    from mlflow_assay.bridge.reconcile import SinkCheck, SourceCheck
    from mlflow_assay.contracts import SinkStatus

__all__ = ["bridge"]


@click.group(cls=GuaranteesGroup)
def bridge() -> None:
    """See what `assay watch` has shipped, and mend what has not arrived."""


bridge.add_command(kpis)


@bridge.command()
@outbox_option
@json_option
def status(outbox_url: str | None, as_json: bool) -> None:
    """Show for each sink what is delivered, to go, retrying and dead, and how far it lags."""
    found = _deliveries(outbox_url).status()
    if as_json:
        click.echo(json.dumps({"sinks": [asdict(one) for one in found]}, indent=2))
    else:
        _print_status(found)


@bridge.command()
@outbox_option
@click.option("--sink", help="Only of this sink.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many, the latest first."
)
@json_option
def dead(outbox_url: str | None, sink: str | None, limit: int, as_json: bool) -> None:
    """List what a sink refused for good, and why. `assay bridge replay` tries again."""
    letters = _deliveries(outbox_url).dead(sink, limit)
    if as_json:
        click.echo(json.dumps([letter.to_dict() for letter in letters], indent=2))
        return
    for letter in letters:
        click.echo(_line(letter))
    click.echo(f"{len(letters)} dead letters." if letters else "No dead letters.")


@bridge.command()
@outbox_option
@click.option("--sink", required=True, help="Whose dead letters.")
@click.option("--key", "keys", multiple=True, help="Only this revision; repeatable.")
@click.option("--superseded", is_flag=True, help="Also those of which a later revision went out since.")
@json_option
def replay(outbox_url: str | None, sink: str, keys: tuple[str, ...], superseded: bool, as_json: bool) -> None:
    """Make a sink's dead letters due again; the running worker sends them.

    Letters of which a later revision has gone out are left, since a sink that keeps what it is told last would then
    hold what no longer holds; --superseded takes them along.

    \b
    assay bridge replay --sink datadog
    """
    count = _deliveries(outbox_url).replay(sink, keys or None, superseded=superseded)
    click.echo(json.dumps({"replayed": count}) if as_json else f"{count} are due again.")


@bridge.command()
@outbox_option
@click.option("--older-than", required=True, metavar="AGE", help="Recorded longer ago than 30d, 12h, or an ISO date.")
@json_option
def prune(outbox_url: str | None, older_than: str, as_json: bool) -> None:
    """Forget superseded revisions that every sink has got. What stands, waits or is dead stays.

    `assay bridge reconcile` can then no longer compare the sums of sinks that only count, such as otlp-metrics.
    """
    from mlflow_assay.sources.mlflow_store import parse_since

    count = _deliveries(outbox_url).prune(parse_since(older_than))
    click.echo(json.dumps({"forgotten": count}) if as_json else f"{count} revisions are forgotten.")


@bridge.command()
@click.option("--experiment", "-e", "experiments", multiple=True, required=True, help="Name or id; repeatable.")
@click.option("--since", help="Only traces since then, as given to `assay watch`.")
@sink_options
@outbox_option
@click.option("--repair", is_flag=True, help="Queue again what a sink does not hold.")
@json_option
def reconcile(
    experiments: tuple[str, ...],
    since: str | None,
    sinks: tuple[str, ...],
    datadog: bool,
    otlp_endpoint: str | None,
    outbox_url: str | None,
    repair: bool,
    as_json: bool,
) -> None:
    """Compare MLflow with the outbox, and the outbox with each sink that can be asked what it holds.

    Name the sinks as for `assay watch`; those not named are reported from the outbox alone. Exit code 1 when anything
    is missing, doubled, waiting or dead.

    \b
    assay bridge reconcile -e support --sink otlp-span,endpoint=http://localhost:4318,tempo=http://localhost:3200
    assay bridge reconcile -e support --sink jsonl,path=verdicts.jsonl --repair
    """
    from mlflow_assay.bridge.mlflow_reads import MlflowReads
    from mlflow_assay.bridge.outbox import Outbox
    from mlflow_assay.bridge.reconcile import check_sink, check_source
    from mlflow_assay.sources.mlflow_store import find_experiment, parse_since

    deliveries = _deliveries(outbox_url)
    outbox, named = Outbox(deliveries.database), make_sinks(sinks, otlp_endpoint, datadog)
    since_ms = parse_since(since) if since else 0
    try:
        ids = [str(find_experiment(name).experiment_id) for name in experiments]
        sources = [check_source(MlflowReads(one), outbox, one, since_ms) for one in ids]
        known = [one.sink for one in deliveries.status()]
        checks = [
            check_sink(name, named.get(name), deliveries, repair=repair) for name in dict.fromkeys([*known, *named])
        ]
    finally:
        for sink in named.values():
            sink.close()
    clean = all(source.clean for source in sources) and all(check.clean for check in checks)
    if as_json:
        found = {"clean": clean, "mlflow": [s.to_dict() for s in sources], "sinks": [c.to_dict() for c in checks]}
        click.echo(json.dumps(found, indent=2))
    else:
        _print_reconciled(sources, checks)
    if not clean:
        sys.exit(1)


def _deliveries(outbox_url: str | None) -> Deliveries:
    from mlflow_assay.bridge.database import Database, default_url
    from mlflow_assay.bridge.deliveries import Deliveries
    from mlflow_assay.errors import StoreError

    url = outbox_url or default_url()
    prefix, found, path = url.partition("sqlite:///")
    if not prefix and found and not _exists(path):
        fix = "Start `assay watch` first, or name the outbox with --outbox or ASSAY_OUTBOX_URL."
        raise StoreError(f"There is no outbox at {path}.", fix=fix)
    return Deliveries(Database(url))


def _exists(path: str) -> bool:
    from pathlib import Path

    return Path(path).exists()


def _print_status(found: Sequence[SinkStatus]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not found:
        click.echo("The outbox has served no sink yet.")
        return
    table = Table("sink", "delivered", "pending", "retrying", "dead", "skipped", "lag", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found:
        counts = (one.delivered, one.pending, one.retrying, one.dead, one.skipped)
        table.add_row(one.sink, *(f"{count:,}" for count in counts), f"{one.lag_s:.0f} s")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for one in found:
        if one.oldest_error:
            click.echo(f"{one.sink} retries: {one.oldest_error}")


def _line(letter: DeadLetter) -> str:
    died = datetime.fromtimestamp(letter.died_ms / 1000, timezone.utc).isoformat(timespec="seconds")
    revision = letter.revision
    what = f"{revision.change} {revision.name} on {revision.trace.trace_id} (key {revision.key})"
    return f"{died} {letter.sink}: {what}: {letter.detail}" + (" [superseded since]" if letter.superseded else "")


def _print_reconciled(sources: Sequence[SourceCheck], checks: Sequence[SinkCheck]) -> None:
    for source in sources:
        state = (
            "agree" if source.clean else f"{len(source.unknown)} not in the outbox as they are, {len(source.gone)} gone"
        )
        click.echo(
            f"MLflow, experiment {source.experiment_id}: {source.in_mlflow} stand, outbox {source.known}: {state}"
        )
    for one in checks:
        click.echo(
            f"{one.sink}: {one.delivered} delivered, {one.pending} to go, {one.dead} dead, {one.skipped} skipped"
        )
        if one.how == "held":
            click.echo(f"  far end holds {one.found}: {len(one.missing)} missing, {one.duplicates} duplicates")
        elif one.how == "counted":
            click.echo(f"  far end counts {one.found}: " + ("agrees" if not one.differences else "differs"))
            for name, change, noted, counted in one.differences:
                click.echo(f"    {name} {change}: {noted} noted, {counted} counted")
        else:
            click.echo(f"  not asked: {one.reason}")
        if one.requeued:
            click.echo(f"  {one.requeued} are queued again")
