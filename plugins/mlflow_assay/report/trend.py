"""A judge's pass rate over time, in bins as fine as the span of the data allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Literal

from mlflow_assay import semconv
from mlflow_assay.labels.verdicts import Verdict
from mlflow_assay.report.model import Trend, TrendBin
from mlflow_assay.trust.estimate import share

__all__ = ["bin_unit", "trend_of"]

_HOUR, _DAY = 3_600_000, 86_400_000
Unit = Literal["hour", "day", "week"]


def bin_unit(first_ms: int, last_ms: int) -> Unit:
    """Hours up to two days of data, days up to eight weeks, weeks beyond."""
    span = last_ms - first_ms
    return "hour" if span <= 2 * _DAY else "day" if span <= 56 * _DAY else "week"


def trend_of(name: str, verdicts: Sequence[Verdict]) -> Trend | None:
    """The judge's own pass rate by the time the traces happened (UTC; weeks begin on Monday).

    Returns:
        None without verdicts on traces whose times were recorded; bins without a verdict are left out.
    """
    scored = [v for v in verdicts if v.reading.passed is not None and v.row.timed]
    if not scored:
        return None
    times = [v.row.time_ms for v in scored]
    unit = bin_unit(min(times), max(times))
    groups: dict[int, list[Verdict]] = {}
    for verdict in scored:
        groups.setdefault(_start(verdict.row.time_ms, unit), []).append(verdict)
    bins: list[TrendBin] = []
    before: str | None = None
    for start, found in sorted(groups.items()):
        version = Counter(v.mark.metadata.get(semconv.JUDGE_DIGEST) for v in found).most_common(1)[0][0]
        estimate = share([v.reading.passed for v in found], clusters=[v.row.unit for v in found], name=name)
        bins.append(TrendBin(start, estimate, bool(bins) and version != before))
        before = version
    return Trend(unit, tuple(bins))


def _start(time_ms: int, unit: Unit) -> int:
    """Start of the bin a time falls into, epoch milliseconds."""
    if unit == "hour":
        return time_ms // _HOUR * _HOUR
    day = time_ms // _DAY * _DAY
    if unit == "day":
        return day
    moment = datetime.fromtimestamp(day / 1000, timezone.utc)
    return int((moment - timedelta(days=moment.weekday())).timestamp() * 1000)
