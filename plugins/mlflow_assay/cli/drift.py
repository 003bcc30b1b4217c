"""`assay drift`: has the judge changed, or the agent? A fixed gold set tells."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.labelled import console, label_option, measure, read, table
from mlflow_assay.cli.options import (
    json_option,
    judges_path,
    max_calls_option,
    model_options,
    model_settings,
    texts_option,
    trace_options,
)
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.labels.history import Watch
    from mlflow_assay.labels.pairs import Paired
    from mlflow_assay.labels.window import Window
    from mlflow_assay.trust.drift import Diagnosis, GoldCheck

__all__ = ["drift"]


@click.command()
@trace_options
@click.option("--judge", "-j", required=True, help="The judge to check.")
@label_option
@click.option("--stored", is_flag=True, help="Compare the first and the latest stored verdict; ask nothing.")
@texts_option
@max_calls_option
@click.option(
    "--tolerated-flips",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of verdicts that differ without any change; `assay probe` measures it.",
)
@click.option("--watch", "watched", metavar="EXPERIMENT", help="Also look for a drop in this experiment's verdicts.")
@click.option("--baseline", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="The rate it should hold.")
@click.option("--watch-since", metavar="TIME", help="Only the watched traces since then: 7d, 2026-11-01.")
@model_options
@judges_path
@json_option
def drift(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    judge: str,
    labels: tuple[str, ...],
    stored: bool,
    settings: tuple[str, ...],
    max_calls: int | None,
    tolerated_flips: float,
    watched: str | None,
    baseline: float | None,
    watch_since: str | None,
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Judge a fixed gold set again and say whether the judge has changed, or the agent.

    --experiment is the gold set: traces that do not change, judged once (assay score), best with labels. They are
    judged again now, without the cache, and compared with the first verdict; nothing is written. With --watch and
    --baseline, verdicts of live traffic are looked at as well, by an alarm that stays valid however often it is
    looked at. Exit code 0: nothing has demonstrably changed; 1: something has; 2: an error. Fit for a schedule.

    \b
    assay drift --experiment gold --judge request_resolved --model openai:/gpt-4.1-mini
    assay drift -e gold -j request_resolved --stored --watch support --baseline 0.8
    """
    from mlflow_assay.trust.drift import check_gold, diagnose

    if (watched is None) != (baseline is None):
        raise ConfigError("--watch and --baseline belong together.", fix="For example: --watch support --baseline 0.8")
    chosen = model_settings(model, base_url, timeout_s)
    window = read(experiment, filter_string, since, max_traces, labels, paths, quiet=as_json)
    paired = window.pair(judge)
    units, before, now = _twice(window, paired, stored, (judge, chosen, paths, settings), max_calls)
    truth = dict(zip(paired.units, paired.good, strict=True))
    home = dict(zip(paired.units, paired.clusters, strict=True))
    gold = check_gold(
        before,
        now,
        [truth.get(u) for u in units] if any(truth.get(u) is not None for u in units) else None,
        clusters=[home.get(u, u) for u in units],
        tolerated_flips=tolerated_flips,
        name=judge,
    )
    seen = _watch(watched, baseline, watch_since, judge, paths, as_json)
    said = diagnose(None if seen is None else seen.change, gold)
    if as_json:
        found = {"judge": judge, "gold": gold.to_dict(), "watch": None if seen is None else seen.to_dict()}
        click.echo(json.dumps(found | {"cause": said.cause, "text": said.text}, ensure_ascii=False, indent=2))
    else:
        _show(gold, seen, said, paired.n_trained)
    sys.exit(0 if said.cause == "none" else 1)


def _twice(
    window: Window,
    paired: Paired,
    stored: bool,
    how: tuple[str, Any, tuple[str, ...], tuple[str, ...]],
    limit: int | None,
) -> tuple[list[str], list[bool | None], list[bool | None]]:
    """Gold traces with the verdict then and now; those the judge was trained on stay, since both sides share it.

    Raises:
        ConfigError: the gold set was not judged, or with --stored not judged twice.
    """
    from mlflow_assay.cli.asking import ask, build
    from mlflow_assay.labels.history import history, then_and_now

    judge = paired.judge
    past = history(window.rows, judge, window.contracts.get(judge))
    if stored:
        found = then_and_now(past)
        if not found[0]:
            raise ConfigError(
                f"No gold trace carries two verdicts of {judge!r} that were not taken from a cache.",
                fix="Leave out --stored to ask the judge again now.",
            )
        return found
    units = list(past)
    if not units:
        raise ConfigError(
            f"{judge!r} was never asked about the gold set itself: all its verdicts come from a cache.",
            fix="Judge it once with assay score --no-cache.",
        )
    bound = build(*how)
    (again,) = ask(bound, units, 1, limit)
    return units, [past[u][0].reading.passed for u in units], [again.get(u) for u in units]


def _watch(
    experiment: str | None, baseline: float | None, since: str | None, judge: str, paths: tuple[str, ...], quiet: bool
) -> Watch | None:
    if experiment is None or baseline is None:
        return None
    from mlflow_assay.labels.history import watch

    window = read(experiment, None, since, None, (), paths, quiet=quiet)
    if judge not in window.found:
        raise ConfigError(f"No verdict of {judge!r} in experiment {experiment!r}.", valid=list(window.found))
    return watch(list(window.found[judge].verdicts.values()), baseline)


def _show(gold: GoldCheck, seen: Watch | None, said: Diagnosis, n_trained: int) -> None:
    from mlflow_assay.labels.history import LATEST
    from mlflow_assay.report.words import interval, percent

    out, c = console(), gold.comparison
    out.print(said.text, style="bold")
    made = table("on the gold set", "then", "now", "change")
    change = "–" if c.difference is None else f"{100 * c.difference:+.1f} points"
    made.add_row("pass rate", percent(c.value_a), percent(c.value_b), change)
    if gold.before is not None and gold.now is not None and gold.gain is not None:
        made.add_row("kappa with labels", measure(gold.before.kappa), measure(gold.now.kappa), measure(gold.gain))
    out.print(made)
    out.print(
        f"{c.n} traces; {len(c.wins)} turned to pass, {len(c.losses)} to fail: {percent(gold.flips.raw)} flipped "
        f"[{interval(gold.flips)}], {percent(gold.tolerated)} is this judge's ordinary noise. "
        f"Left out as unscored then or now: {c.n_dropped}."
    )
    if n_trained:
        out.print(f"{n_trained} traces were used to train the judge; their labels are left out.")
    if seen is not None:
        alarm = seen.alarm
        state = f"alarm after {alarm.alarm_at}" if alarm.alarm else "no alarm"
        out.print(
            f"Watched: {state} of {alarm.seen} sessions; of the latest {LATEST}, {percent(seen.rate)} passed against a "
            f"baseline of {percent(alarm.baseline)} (evidence {alarm.e_value:.3g}, alarm at {1 / alarm.alpha:g})."
        )
