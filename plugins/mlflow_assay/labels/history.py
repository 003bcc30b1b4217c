"""All that a judge ever said about each trace, replaced verdicts included, and what repeats and changes tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.verdicts import Verdict, read_verdict
from mlflow_assay.trust.agreement import Measure, krippendorff_alpha
from mlflow_assay.trust.drift import PassRateAlarm
from mlflow_assay.trust.estimate import Estimate, share

__all__ = ["LATEST", "Repeats", "Watch", "history", "repeats_of", "stored_repeats", "then_and_now", "watch"]


LATEST = 100  # sessions over which the rate beside an alarm is taken


def history(rows: Sequence[Row], judge: str, contract: JudgeContract | None) -> dict[str, list[Verdict]]:
    """Every verdict of one judge by trace id, oldest first, those that later ones replaced included.

    Verdicts taken from a cache are left out: the judge was not asked again.
    """
    found: dict[str, list[Verdict]] = {}
    for row in rows:
        own = [m for m in row.marks if m.name == judge and not m.human and not m.expectation]
        asked = [m for m in own if m.metadata.get(semconv.CACHE_HIT) != "true"]
        for mark in sorted(asked, key=lambda m: m.time_ms):
            verdict = Verdict(row, row.trace_id, mark, read_verdict(mark, contract), not mark.valid)
            found.setdefault(row.trace_id, []).append(verdict)
    return found


def then_and_now(
    verdicts: Mapping[str, Sequence[Verdict]],
) -> tuple[list[str], list[bool | None], list[bool | None]]:
    """Traces judged twice or more, with the first and the latest verdict on each."""
    twice = [trace for trace, said in verdicts.items() if len(said) > 1]
    first = [verdicts[trace][0].reading.passed for trace in twice]
    return twice, first, [verdicts[trace][-1].reading.passed for trace in twice]


@dataclass(frozen=True)
class Repeats:
    """How far one version of a judge repeats itself on the same traces.

    Attributes:
        n: traces with two or more scored verdicts.
        verdicts: scored verdicts on these.
        changing: share of these traces on which not all verdicts are equal.
        flips: share of traces whose first two verdicts differ: the noise a check of a gold set must tolerate.
        alpha: Krippendorff's alpha among the repeats, at most 1.
        unscored: repeats without a verdict.
        unstable: the traces on which verdicts changed, with how many passed and failed.
    """

    n: int
    verdicts: int
    changing: Estimate
    flips: Estimate
    alpha: Measure
    unscored: int
    unstable: Mapping[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "n": self.n,
            "verdicts": self.verdicts,
            "changing": self.changing.to_dict(),
            "flips": self.flips.to_dict(),
            "alpha": {"value": self.alpha.value, "low": self.alpha.low, "high": self.alpha.high},
            "unscored": self.unscored,
            "unstable": {trace: {"passed": p, "failed": f} for trace, (p, f) in self.unstable.items()},
        }


def repeats_of(
    judge: str,
    said: Mapping[str, Sequence[bool | None]],
    clusters: Mapping[str, str] | None = None,
    *,
    confidence: float = 0.95,
) -> Repeats:
    """How far a judge repeats itself.

    Args:
        judge: its name.
        said: per trace its verdicts (True is a pass, None unscored) by one version, in the order given.
        clusters: session of each trace; None for traces on their own.
        confidence: level of the intervals, in (0, 1).

    Source: Krippendorff 2019, Content Analysis, 4th ed., chapter 12, with repeats as raters.
    """
    scored = {trace: [v for v in verdicts if v is not None] for trace, verdicts in said.items()}
    twice = {trace: verdicts for trace, verdicts in scored.items() if len(verdicts) > 1}
    homes = [(clusters or {}).get(trace, trace) for trace in twice]
    counts = {trace: (sum(v), len(v) - sum(v)) for trace, v in twice.items()}
    options: dict[str, Any] = {"clusters": homes, "confidence": confidence}
    return Repeats(
        n=len(twice),
        verdicts=sum(map(len, twice.values())),
        changing=share([len(set(v)) > 1 for v in twice.values()], name=f"{judge}, changing verdict", **options),
        flips=share([v[0] != v[1] for v in twice.values()], name=f"{judge}, flips", **options),
        alpha=krippendorff_alpha(list(twice.values()), categories=(False, True), **options),
        unscored=sum(v is None for verdicts in said.values() for v in verdicts),
        unstable={trace: c for trace, c in counts.items() if min(c) > 0},
    )


def stored_repeats(verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, list[bool | None]]:
    """Per trace the verdicts by the version of the judge that gave most of its verdicts there."""
    found = {}
    for trace, said in verdicts.items():
        version = Counter(v.version for v in said).most_common(1)[0][0]
        found[trace] = [v.reading.passed for v in said if v.version == version]
    return found


@dataclass(frozen=True)
class Watch:
    """A stream of verdicts looked at for a drop below a baseline.

    Attributes:
        alarm: its state.
        rate: the share that passed of the latest `LATEST` sessions, in [0, 1]; None without any.
        change: by how much that lies off the baseline; None without an alarm.
    """

    alarm: PassRateAlarm
    rate: float | None
    change: float | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {**self.alarm.to_dict(), "alarm": self.alarm.alarm, "rate": self.rate, "change": self.change}


def watch(verdicts: Sequence[Verdict], baseline: float, *, alpha: float = 0.05) -> Watch:
    """Look at a judge's verdicts in the order of their traces; the first of each session counts.

    Args:
        verdicts: one a trace.
        baseline: the pass rate to hold, in (0, 1), fixed beforehand.
        alpha: chance of ever raising a false alarm.

    Raises:
        ConfigError: baseline or alpha is out of range.
    """
    first: dict[str, Verdict] = {}
    for verdict in sorted(verdicts, key=lambda v: (v.row.time_ms, v.row.trace_id)):
        if verdict.reading.passed is not None:
            first.setdefault(verdict.row.unit, verdict)
    said = [bool(v.reading.passed) for v in first.values()]
    alarm = PassRateAlarm(baseline, alpha=alpha)
    alarm.extend(said)
    latest = said[-LATEST:]
    rate = sum(latest) / len(latest) if latest else None
    return Watch(alarm, rate, rate - baseline if alarm.alarm and rate is not None else None)
