"""Pass rates within groups of traces: by a tag, a step, the agent that answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlflow_assay.labels.rows import AUTOMATIC, Row, by_title
from mlflow_assay.labels.verdicts import JudgeVerdicts, Verdict
from mlflow_assay.report.judge import estimate_of
from mlflow_assay.report.model import Breakdown, Group, JudgeBreakdown

__all__ = ["FEW", "OTHERS", "breakdowns"]

FEW = 10  # fewer verdicts than this are shown faint, and never lead a ranking
OTHERS = "all other values"
_MOST_GROUPS = 12


def breakdowns(rows: Sequence[Row], judges: Sequence[JudgeVerdicts], asked: Sequence[str]) -> tuple[Breakdown, ...]:
    """The breakdowns asked for, or one by the first tag of `rows.AUTOMATIC` that tells traces apart."""
    if asked:
        return tuple(_breakdown(by, True, rows, judges) for by in asked)
    for by in AUTOMATIC:
        values = {row.groups.get(by) for row in rows} - {None}
        if 2 <= len(values) <= _MOST_GROUPS:
            return (_breakdown(by, False, rows, judges),)
    return ()


def _breakdown(by: str, chosen: bool, rows: Sequence[Row], judges: Sequence[JudgeVerdicts]) -> Breakdown:
    sizes = Counter(row.groups.get(by) for row in rows)
    common = {value for value, _ in sizes.most_common() if value is not None}
    if len(common) > _MOST_GROUPS:
        kept = [value for value, _ in sizes.most_common() if value is not None][: _MOST_GROUPS - 1]
        common = set(kept)
    merged = sum(value is not None and value not in common for value in sizes)
    group_of = {row.trace_id: _name(row.groups.get(by), common) for row in rows}
    parts = [_judge(found, group_of) for found in judges if any(_scored(v) for v in found.verdicts.values())]
    return Breakdown(by, by_title(by), chosen, tuple(parts), merged)


def _name(value: str | None, common: set[str]) -> str | None:
    return value if value is None or value in common else OTHERS


def _scored(verdict: Verdict) -> bool:
    return verdict.reading.passed is not None


def _judge(found: JudgeVerdicts, group_of: Mapping[str, str | None]) -> JudgeBreakdown:
    members: dict[str | None, list[Verdict]] = {}
    for verdict in found.verdicts.values():
        members.setdefault(group_of[verdict.row.trace_id], []).append(verdict)
    groups = [Group(value, len(v), estimate_of(found.name, v)) for value, v in members.items()]
    return JudgeBreakdown(found.name, tuple(sorted(groups, key=_order)))


def _order(group: Group) -> tuple[bool, bool, float, str]:
    """Lowest pass rate first; groups with few verdicts after the others, what was put together last."""
    rate = group.estimate.value
    return group.value == OTHERS, group.estimate.n_judged < FEW, 2.0 if rate is None else rate, group.value or ""
