"""The gauges of one window: each function turns what the trust code says into (metric, labels, value).

A total names `semconv.ALL_AGENTS` as its agent and has no slice; so has a slice of all agents' runs. What cannot be
said is absent, never 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from mlflow_assay import semconv
from mlflow_assay.kpis.snapshot import Run, Snapshot, hours_of
from mlflow_assay.labels.history import history, then_and_now, watch
from mlflow_assay.labels.kpi import Kpi, agreement_of, kpi_of, uncorrected
from mlflow_assay.labels.pairs import Paired, pairs
from mlflow_assay.labels.people import labels_of
from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.verdicts import JudgeVerdicts
from mlflow_assay.labels.window import Window
from mlflow_assay.trust.drift import check_gold
from mlflow_assay.trust.estimate import share

__all__ = ["Gauge", "agents", "agreement", "alarm", "backlog", "gold", "people", "rates"]

Gauge = tuple[str, Mapping[str, str], float]
_MOST_SLICES = 30  # values of one breakdown; the rarer ones are in the total only
_HOUR_MS = 3_600_000
_FEWEST = 20  # sessions of an earlier time before a rate may serve as the one to hold
_QUANTILES = (0.5, 0.95)


@dataclass(frozen=True)
class _Group:
    """A part of a window's traces that has gauges of its own."""

    labels: Mapping[str, str]
    trace_ids: frozenset[str]


def _pair(window: Window, judge: str) -> Paired:
    """Verdicts beside labels. A window whose traces carry no label of the names asked for is simply unlabelled."""
    return pairs(window.found[judge], window.rows, window.choice.of(judge), window.contracts.get(judge))


def _groups(snapshot: Snapshot, rows: Sequence[Row], by: Sequence[str]) -> list[_Group]:
    """Everything, each agent, each slice; the rarer values of a breakdown are in the total only."""
    members: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        for label, field, value in _parts(snapshot.runs.get(row.trace_id, Run()), row, by):
            named = f"{field}={value}" if label == semconv.SLICE else value
            members.setdefault((label, field), {}).setdefault(named, []).append(row.trace_id)
    every = {semconv.GEN_AI_AGENT: semconv.ALL_AGENTS}
    groups = [_Group(every, frozenset(row.trace_id for row in rows))]
    for (label, _), values in members.items():
        common = sorted(values.items(), key=lambda item: -len(item[1]))[:_MOST_SLICES]
        groups += [_Group({**every, label: value}, frozenset(ids)) for value, ids in common]
    return groups


def _parts(run: Run, row: Row, by: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(label, breakdown, value) of all a run counts for beside the total."""
    slices = {one.partition(":")[2] or one: row.groups.get(one) for one in by}
    slices = {"model": run.model, "prompt_version": run.prompt_version, **slices}
    if run.agent:
        yield semconv.GEN_AI_AGENT, "agent", run.agent
    for field, value in slices.items():
        if value:
            yield semconv.SLICE, field, value


def rates(snapshot: Snapshot, window: Window, judge: str, by: Sequence[str]) -> Iterator[Gauge]:
    """The judge's pass rate: raw, shown, interval, counts; over all, by agent, by slice."""
    paired = _pair(window, judge)
    for group in _groups(snapshot, window.rows, by):
        at = [n for n, verdict in enumerate(paired.verdicts) if verdict.row.trace_id in group.trace_ids]
        rows = [row for row in window.rows if row.trace_id in group.trace_ids]
        units = {row.unit if paired.scope == "session" else row.trace_id for row in rows}
        if at:
            labels = {semconv.EVALUATION_NAME: judge, **group.labels}
            yield from _rate(kpi_of(paired.at(at), len(units)), labels, snapshot.now_ms)


def people(snapshot: Snapshot, window: Window, by: Sequence[str]) -> Iterator[Gauge]:
    """Feedback of people that is nobody's label, such as users' thumbs: the share that is good, as they gave it."""
    taken = {*window.found, *window.choice.names}
    marks = (mark for row in window.rows for mark in row.marks)
    names = {mark.name for mark in marks if mark.human and mark.valid and not mark.expectation} - taken
    for name in sorted(names):
        said = labels_of(JudgeVerdicts(name, "trace", {}, 0), window.rows, (), window.contracts.get(name))
        rated = set(said.ratings.units)
        for group in _groups(snapshot, window.rows, by):
            rows = [row for row in window.rows if row.trace_id in group.trace_ids]
            heard = [row for row in rows if row.trace_id in rated]
            if heard:
                good = [said.agreed.get(row.trace_id) for row in heard]
                found = share(good, clusters=[row.unit for row in heard], name=name)
                kpi = Kpi(name, "trace", found, found, {}, len(rows), 0, {})
                yield from _rate(kpi, {semconv.EVALUATION_NAME: name, **group.labels}, snapshot.now_ms)


def _rate(kpi: Kpi, labels: Mapping[str, str], now_ms: int) -> Iterator[Gauge]:
    shown = kpi.estimate
    method = {semconv.METHOD: "corrected" if shown.is_corrected else "uncorrected"}
    values = {
        semconv.M_KPI_RAW: shown.raw,
        semconv.M_KPI_LOW: shown.low,
        semconv.M_KPI_HIGH: shown.high,
        semconv.M_KPI_JUDGED: shown.n_judged,
        semconv.M_KPI_LABELLED: shown.n_labelled,
        semconv.M_KPI_UNSCORED: shown.n_unscored,
        semconv.M_KPI_UNITS: kpi.units,
        semconv.M_KPI_COMPUTED: now_ms / 1000,
    }
    yield from _known(labels, values)
    yield from _known({**labels, **method}, {semconv.M_KPI_RATE: shown.value})


def _known(labels: Mapping[str, str], values: Mapping[str, float | None]) -> Iterator[Gauge]:
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            yield name, labels, float(value)


def agreement(window: Window, judge: str) -> Iterator[Gauge]:
    """Kappa of judge and labels with its interval, and how far people agree with one another; none without labels."""
    paired = _pair(window, judge)
    if not paired.n_labelled:
        return
    labels = {semconv.EVALUATION_NAME: judge, semconv.JUDGE_VERSION: _version(paired)}
    kappa = agreement_of(paired).kappa
    ceiling = paired.summary.ceiling if paired.summary else None
    values = {
        semconv.M_KAPPA: kappa.value,
        semconv.M_KAPPA_LOW: kappa.low,
        semconv.M_KAPPA_HIGH: kappa.high,
        semconv.M_HUMAN_CEILING: ceiling,
    }
    yield from _known(labels, values)


def _version(paired: Paired) -> str:
    """The version that gave most of the verdicts."""
    said = Counter(v.mark.metadata.get(semconv.JUDGE_VERSION, "") for v in paired.verdicts)
    return said.most_common(1)[0][0] if said else ""


def alarm(snapshot: Snapshot, length: str, judge: str, target: float | None) -> Iterator[Gauge]:
    """The highest e-value since the window's block began against "the pass rate has not fallen".

    Blocks lie end to end from the Unix epoch (a 24h block is a UTC day), so that when a stream of bets begins does
    not depend on when one looks: the promise about false alarms holds for each block. The rate to hold is the target,
    else the lower end of the interval of what was read from before the block; without either there is no gauge.
    """
    length_ms = hours_of(length) * _HOUR_MS
    begin = snapshot.now_ms - snapshot.now_ms % length_ms
    held = target if target is not None else _held(snapshot.between(0, begin), judge)
    block = snapshot.between(begin)
    if held is not None and 0 < held < 1 and judge in block.found:
        seen = watch(list(block.found[judge].verdicts.values()), held)
        if seen.alarm.seen:
            labels = {semconv.EVALUATION_NAME: judge, semconv.GEN_AI_AGENT: semconv.ALL_AGENTS}
            yield semconv.M_KPI_ALARM, labels, seen.alarm.highest


def _held(window: Window, judge: str) -> float | None:
    """The lower end of the judge's own earlier rate; None where too little was judged to hold anybody to it."""
    if judge not in window.found:
        return None
    paired = _pair(window, judge)
    estimate = uncorrected(paired)
    return estimate.low if len(set(paired.clusters)) >= _FEWEST else None


def backlog(snapshot: Snapshot, window: Window, judge: str) -> Iterator[Gauge]:
    """Traces drawn for labels that have none yet, and since when the oldest waits."""
    drawn = {row.trace_id: row.draws[judge] for row in window.rows if judge in row.draws}
    if not drawn or judge not in window.found:
        return
    contract = window.contracts.get(judge)
    ratings = labels_of(window.found[judge], window.rows, window.choice.of(judge), contract).ratings
    labelled = set(ratings.units)
    waiting = [draw for trace_id, draw in drawn.items() if trace_id not in labelled]
    ages = [snapshot.now_ms / 1000 - _midnight(draw.date) for draw in waiting]
    labels = {semconv.EVALUATION_NAME: judge}
    yield semconv.M_LABEL_BACKLOG, labels, float(len(waiting))
    yield semconv.M_LABEL_AGE, labels, max(0.0, *ages) if ages else 0.0


def _midnight(date: str) -> float:
    return datetime.fromisoformat(date).replace(tzinfo=timezone.utc).timestamp()


def agents(snapshot: Snapshot, window: Window) -> Iterator[Gauge]:
    """Cost and latency of runs, of all and by agent; and per judge what a passed run cost."""
    for group in _groups(snapshot, window.rows, ()):
        if semconv.SLICE in group.labels:
            continue
        rows = [row for row in window.rows if row.trace_id in group.trace_ids]
        costs = [row.usd for row in rows if row.usd is not None]
        if costs:
            yield semconv.M_COST_PER_UNIT, group.labels, sum(costs) / len(costs)
        durations = [row.duration_ms / 1000 for row in rows if row.duration_ms is not None]
        for quantile in _QUANTILES if durations else ():
            labels = {**group.labels, semconv.QUANTILE: f"{quantile:g}"}
            yield semconv.M_RUN_LATENCY, labels, float(np.quantile(durations, quantile))
        for judge in window.judges:
            yield from _cost_per_pass(window, judge, group)


def _cost_per_pass(window: Window, judge: str, group: _Group) -> Iterator[Gauge]:
    """Of judged runs that say their cost: the whole cost over the passes; none without a pass."""
    scored: list[tuple[float, bool]] = []
    for verdict in window.found[judge].verdicts.values():
        row, passed = verdict.row, verdict.reading.passed
        if row.trace_id in group.trace_ids and row.usd is not None and passed is not None:
            scored.append((row.usd, passed))
    passes = sum(passed for _, passed in scored)
    if passes:
        labels = {semconv.EVALUATION_NAME: judge, **group.labels}
        yield semconv.M_COST_PER_PASS, labels, sum(cost for cost, _ in scored) / passes


def gold(window: Window, judge: str) -> Iterator[Gauge]:
    """Kappa of the judge's latest verdicts on the gold set less that of its first, where it was judged twice."""
    if judge not in window.found:
        return
    paired = _pair(window, judge)
    units, before, now = then_and_now(history(window.rows, judge, window.contracts.get(judge)))
    truth = dict(zip(paired.units, paired.good, strict=True))
    labels = [truth.get(unit) for unit in units]
    if not any(label is not None for label in labels):
        return
    home = dict(zip(paired.units, paired.clusters, strict=True))
    checked = check_gold(before, now, labels, clusters=[home.get(u, u) for u in units], name=judge)
    if checked.gain is not None:
        named = {semconv.EVALUATION_NAME: judge, semconv.JUDGE_VERSION: _version(paired)}
        yield from _known(named, {semconv.M_GOLD_DRIFT: checked.gain.value})


def labelled_with(points: Iterable[Gauge], **labels: Any) -> Iterator[Gauge]:
    """The same gauges with further labels, named by the constants of `semconv`."""
    more = {getattr(semconv, name): str(value) for name, value in labels.items()}
    for name, own, value in points:
        yield name, {**own, **more}, value
