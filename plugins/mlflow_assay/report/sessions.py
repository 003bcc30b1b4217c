"""Where to look first: the sessions with most failed verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlflow_assay.report.links import Links
from mlflow_assay.report.model import FailedVerdict, SessionReport
from mlflow_assay.report.rows import Row
from mlflow_assay.report.verdicts import JudgeVerdicts, Verdict

__all__ = ["worst_sessions"]

_MOST_SESSIONS = 8
_MOST_VERDICTS = 4


def worst_sessions(
    rows: Sequence[Row], judges: Sequence[JudgeVerdicts], links: Links
) -> tuple[tuple[SessionReport, ...], int]:
    """Sessions by number of failed verdicts, the newest first among equals, and how many more there are.

    A trace without a session stands for itself.
    """
    failed: dict[str, list[Verdict]] = {}
    for found in judges:
        for verdict in found.verdicts.values():
            if verdict.reading.passed is False:
                failed.setdefault(verdict.row.unit, []).append(verdict)
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(row.unit, []).append(row)
    ranked = sorted(failed, key=lambda unit: (-len(failed[unit]), -members[unit][-1].time_ms))
    shown = [_session(unit, members[unit], failed[unit], links) for unit in ranked[:_MOST_SESSIONS]]
    return tuple(shown), len(ranked) - len(shown)


def _session(unit: str, rows: Sequence[Row], failed: Sequence[Verdict], links: Links) -> SessionReport:
    single = rows[0].session is None
    by_judge = Counter(v.mark.name for v in failed).most_common()
    return SessionReport(
        id=unit,
        single=single,
        url=links.trace(unit) if single else links.session(unit),
        n_traces=len(rows),
        first_ms=min(row.time_ms for row in rows),
        failures=len(failed),
        by_judge=tuple(by_judge),
        verdicts=tuple(_verdict(v, links) for v in _varied(failed, dict(by_judge))),
    )


def _varied(failed: Sequence[Verdict], by_judge: Mapping[str, int]) -> list[Verdict]:
    """A few verdicts, one of each judge before a second of any, in the order they happened."""
    seen: Counter[str] = Counter()
    ranked = []
    for verdict in sorted(failed, key=lambda v: v.row.time_ms):
        ranked.append((seen[verdict.mark.name], -by_judge[verdict.mark.name], verdict.row.time_ms, verdict))
        seen[verdict.mark.name] += 1
    kept = sorted(ranked, key=lambda r: r[:3])[:_MOST_VERDICTS]
    return [r[3] for r in sorted(kept, key=lambda r: (r[2], r[3].mark.name))]


def _verdict(verdict: Verdict, links: Links) -> FailedVerdict:
    row, mark = verdict.row, verdict.mark
    return FailedVerdict(mark.name, row.trace_id, links.trace(row.trace_id), row.time_ms, row.request, mark.rationale)
