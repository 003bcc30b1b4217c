"""One judge's part of the report: counts, estimates, labels, cost, versions, trend."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.labels.kpi import agreement_of, corrected, uncorrected
from mlflow_assay.labels.pairs import pairs
from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.verdicts import JudgeVerdicts, RuleSource, Verdict, human_marks, read_plain
from mlflow_assay.report.model import Cost, Counts, HumanFeedback, JudgeReport, JudgeVersion, Latency
from mlflow_assay.report.trend import trend_of
from mlflow_assay.trust.estimate import Estimate, share

__all__ = ["estimate_of", "human_feedback", "judge_report", "latency_of"]

_MOST_VALUES = 8

# MLflow's own keys of an assessment's metadata, as of 3.17.
_COST = "mlflow.assessment.judgeCost"
_INPUT_TOKENS = "mlflow.assessment.judgeInputTokens"
_OUTPUT_TOKENS = "mlflow.assessment.judgeOutputTokens"
_SCORER_VERSION = "mlflow.assessment.scorerVersion"
_SCORER_DIGEST = "mlflow.assessment.scorerDigest"

_VersionKey = tuple[str | None, str | None, str | None, str | None, str | None]


def judge_report(
    found: JudgeVerdicts, rows: Sequence[Row], names: Sequence[str], contract: JudgeContract | None
) -> JudgeReport:
    """All about one judge.

    Args:
        found: its verdicts.
        rows: all traces of the report.
        names: where its labels are read from; empty takes people's feedback under its own name.
        contract: from the catalogue, None when it is not there.
    """
    units = {row.unit if found.scope == "session" else row.trace_id for row in rows}
    verdicts = list(found.verdicts.values())
    counts = _counts(verdicts, len(units))
    paired = pairs(found, rows, names, contract)
    has_rule = counts.judged > 0 or (contract is not None and bool(verdicts))
    rule, source = _rule(verdicts, contract)
    return JudgeReport(
        name=found.name,
        purpose=contract.purpose if contract else None,
        scope=found.scope,
        pass_rule=rule,
        rule_source=source,
        counts=counts,
        units=len(units),
        estimate=corrected(paired) if has_rule else None,
        uncorrected=uncorrected(paired) if has_rule else None,
        bounds=_bounds(counts) if has_rule else None,
        values=() if has_rule else _values(v.mark.value for v in verdicts if v.mark.error is None),
        value_range=None if has_rule else _range([v.mark.value for v in verdicts if v.mark.value is not None]),
        labels=paired.summary,
        agreement=agreement_of(paired) if paired.summary is not None else None,
        cost=_cost(verdicts),
        latency=latency_of(_numbers(verdicts, semconv.LATENCY_MS)),
        versions=_versions(verdicts),
        trend=trend_of(found.name, verdicts),
        overridden=sum(v.overridden for v in verdicts),
        superseded=found.superseded,
        simulated=sum(v.mark.metadata.get(semconv.SIMULATED) == "true" for v in verdicts),
        trained_on=paired.n_trained,
    )


def estimate_of(name: str, verdicts: Sequence[Verdict]) -> Estimate:
    """The judge's own pass rate over some of its verdicts, with sessions as clusters."""
    return share([v.reading.passed for v in verdicts], clusters=[v.row.unit for v in verdicts], name=name)


def _counts(verdicts: Sequence[Verdict], units: int) -> Counts:
    said = Counter(v.reading.passed for v in verdicts)
    reasons = Counter(v.reading.reason or "" for v in verdicts if v.reading.passed is None)
    return Counts(said[True], said[False], tuple(reasons.most_common()), units - len(verdicts))


def _bounds(counts: Counts) -> tuple[float, float] | None:
    asked = counts.judged + counts.unscored
    return (counts.passed / asked, (counts.passed + counts.unscored) / asked) if asked else None


def _rule(verdicts: Sequence[Verdict], contract: JudgeContract | None) -> tuple[str | None, RuleSource]:
    """The pass rule in words, and where it comes from: the least certain source that decided any verdict."""
    decided = {v.reading.rule for v in verdicts if v.reading.passed is not None}
    if contract is not None:
        return contract.value.describe(), "recorded" if decided == {"recorded"} else "catalogue"
    if "assumed" in decided:
        return "true, yes and pass count as good", "assumed"
    if "recorded" in decided:
        return None, "recorded"
    return None, "none"


def _values(values: Iterable[Any]) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(str(v)[:80] for v in values if v is not None).most_common(_MOST_VALUES))


def _range(values: Sequence[Any]) -> tuple[float, float, float] | None:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if not numbers or len(numbers) < len(values):
        return None
    return min(numbers), float(np.median(numbers)), max(numbers)


def _numbers(verdicts: Sequence[Verdict], key: str) -> list[float]:
    """The finite numbers under a metadata key; what is not a number was not recorded."""
    found = []
    for verdict in verdicts:
        try:
            number = float(verdict.mark.metadata[key])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(number):
            found.append(number)
    return found


def _cost(verdicts: Sequence[Verdict]) -> Cost:
    usd = _numbers(verdicts, _COST)
    inputs, outputs = _numbers(verdicts, _INPUT_TOKENS), _numbers(verdicts, _OUTPUT_TOKENS)
    return Cost(
        usd=math.fsum(usd) if usd else None,
        usd_known=len(usd),
        input_tokens=int(sum(inputs)) if inputs else None,
        output_tokens=int(sum(outputs)) if outputs else None,
        tokens_known=max(len(inputs), len(outputs)),
        cache_hits=sum(v.mark.metadata.get(semconv.CACHE_HIT) == "true" for v in verdicts),
    )


def latency_of(milliseconds: Sequence[float]) -> Latency | None:
    """Median and 95th percentile of durations in milliseconds; None without any."""
    if not milliseconds:
        return None
    median, p95 = np.quantile(milliseconds, [0.5, 0.95])
    return Latency(float(median), float(p95), len(milliseconds))


def _versions(verdicts: Sequence[Verdict]) -> tuple[JudgeVersion, ...]:
    groups: dict[_VersionKey, list[int]] = {}
    for verdict in verdicts:
        m = verdict.mark.metadata
        key: _VersionKey = (
            m.get(semconv.JUDGE_VERSION) or m.get(_SCORER_VERSION),
            m.get(semconv.JUDGE_DIGEST) or m.get(_SCORER_DIGEST),
            m.get(semconv.JUDGE_MODEL),
            m.get(semconv.JUDGE_KIND) or {"LLM_JUDGE": "language model", "CODE": "code"}.get(verdict.mark.kind),
            verdict.mark.source or None,
        )
        groups.setdefault(key, []).append(verdict.mark.time_ms)
    found = [JudgeVersion(*key, len(times), min(times), max(times)) for key, times in groups.items()]
    return tuple(sorted(found, key=lambda v: -v.n))


def human_feedback(rows: Sequence[Row], name: str) -> HumanFeedback:
    """Feedback by people under a name no judge uses: the latest of each trace."""
    marks = {row.trace_id: (row, m) for row, m in sorted(human_marks(rows, [name]), key=lambda p: p[1].time_ms)}
    read = {trace: read_plain(mark.value) for trace, (_, mark) in marks.items()}
    estimate = None
    if any(value is not None for value in read.values()):
        estimate = share(list(read.values()), clusters=[row.unit for row, _ in marks.values()], name=name)
    people = {mark.source for _, mark in marks.values()}
    values = () if estimate else _values(mark.value for _, mark in marks.values())
    return HumanFeedback(name, len(marks), len(people), estimate, values)
