"""Where to look first: the sessions with most failed verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.verdicts import JudgeVerdicts, Verdict
from mlflow_assay.report.links import Links
from mlflow_assay.report.model import FailedTrace, FailedVerdict, SessionReport

__all__ = ["worst_sessions"]

_MOST_SESSIONS = 6
_MOST_TRACES = 4


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
    by_trace: dict[str, list[Verdict]] = {}
    for verdict in sorted(failed, key=lambda v: (v.row.time_ms, v.mark.name)):
        by_trace.setdefault(verdict.row.trace_id, []).append(verdict)
    worst = sorted(by_trace.values(), key=lambda found: -len(found))[:_MOST_TRACES]
    return SessionReport(
        id=unit,
        single=single,
        url=links.trace(unit) if single else links.session(unit),
        n_traces=len(rows),
        first_ms=min((row.time_ms for row in rows if row.timed), default=None),
        failures=len(failed),
        by_judge=tuple(Counter(v.mark.name for v in failed).most_common()),
        traces=tuple(_trace(found, links) for found in sorted(worst, key=lambda found: found[0].row.time_ms)),
    )


def _trace(failed: Sequence[Verdict], links: Links) -> FailedTrace:
    row = failed[0].row
    verdicts = tuple(FailedVerdict(v.mark.name, v.mark.rationale) for v in failed)
    when = row.time_ms if row.timed else None
    return FailedTrace(row.trace_id, links.trace(row.trace_id), when, row.request, verdicts)
