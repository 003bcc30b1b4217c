"""What a run has to do: which judge owes which trace a verdict, read from the store.

So a run can be killed and started again, and nothing is judged twice. A verdict stands when the trace carries
a valid one of the same name and judge digest. A verdict of an older digest is judged again and overridden, as
is an unscored one whose reason may have passed; the old ones stay in MLflow, marked invalid. A scored verdict is
never overridden by one that failed for a reason from outside (a wrong URL, an outage, a spent budget).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.contracts import TRANSIENT, BoundJudge, Unscored

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

__all__ = ["Due", "Plan", "make_plan"]


@dataclass(frozen=True)
class Due:
    """A verdict owed.

    Attributes:
        judge: index into the run's judges.
        trace_id: where it will be logged.
        revision: how many verdicts of this name the trace carries from us already.
        overrides: the id of the verdict it replaces, or None.
        session: trace ids of the session, oldest first, for a session-level judge.
        scored: whether the verdict it replaces is a scored one, by an older version of the judge.
        was: why the verdict it replaces is unscored, where the judge has not changed since; judged again
            with the same reason, nothing new is stored.
    """

    judge: int
    trace_id: str
    revision: int = 0
    overrides: str | None = None
    session: tuple[str, ...] = ()
    was: str | None = None
    scored: bool = False


@dataclass
class Plan:
    """All verdicts owed, grouped by trace in the store's order; holds ids only, so it stays small.

    Attributes:
        due: owed verdicts by trace id.
        standing: per judge, how many verdicts stand already.
        foreign: per judge, how many traces carry a machine's assessment of its name that is not ours.
        no_session: per session-level judge, how many traces belong to no session.
        traces: traces seen.
    """

    judges: Sequence[BoundJudge]
    due: dict[str, list[Due]] = field(default_factory=lambda: defaultdict(list))
    standing: Counter[int] = field(default_factory=Counter)
    foreign: Counter[int] = field(default_factory=Counter)
    no_session: Counter[int] = field(default_factory=Counter)
    traces: int = 0

    @property
    def total(self) -> int:
        """Verdicts owed."""
        return sum(len(owed) for owed in self.due.values())

    def planned(self, judge: int) -> int:
        """Verdicts owed by one judge."""
        return sum(1 for owed in self.due.values() for due in owed if due.judge == judge)

    def pages(self, size: int) -> Iterator[list[Due]]:
        """Owed verdicts in pages of about `size` traces."""
        ids = list(self.due)
        for start in range(0, len(ids), size):
            yield [due for trace_id in ids[start : start + size] for due in self.due[trace_id]]


def make_plan(infos: Iterable[TraceInfo], judges: Sequence[BoundJudge]) -> Plan:
    """Read the traces' infos once and note what is owed.

    Args:
        infos: trace infos with their assessments, oldest first.
        judges: the judges of the run; their names must differ.
    """
    from mlflow.tracing.constant import TraceMetadataKey

    plan = Plan(judges)
    sessions: dict[str, list[str]] = defaultdict(list)
    first_of: dict[str, TraceInfo] = {}
    for_sessions = [i for i, judge in enumerate(judges) if judge.contract.scope == "session"]
    for info in infos:
        plan.traces += 1
        for index, judge in enumerate(judges):
            if index not in for_sessions:
                _note(plan, index, judge, info)
        if for_sessions:
            session = info.trace_metadata.get(TraceMetadataKey.TRACE_SESSION)
            if session is None:
                plan.no_session.update(for_sessions)
            else:
                sessions[session].append(info.trace_id)
                first_of.setdefault(session, info)
    for session, ids in sessions.items():
        for index in for_sessions:
            _note(plan, index, judges[index], first_of[session], tuple(ids))
    return plan


def _note(plan: Plan, index: int, judge: BoundJudge, info: TraceInfo, session: tuple[str, ...] = ()) -> None:
    named = [a for a in info.assessments or [] if a.name == judge.name and a.feedback is not None]
    ours = [a for a in named if (a.metadata or {}).get(semconv.JUDGE_DIGEST)]
    if any(a not in ours and a.source.source_type != "HUMAN" and a.valid is not False for a in named):
        plan.foreign[index] += 1
    current = max((a for a in ours if a.valid is not False), key=lambda a: a.create_time_ms or 0, default=None)
    if current is not None and _stands(current, judge):
        plan.standing[index] += 1
        return
    overrides = current.assessment_id if current is not None else None
    facts = (current.metadata or {}) if current is not None else {}
    was = facts.get(semconv.UNSCORED_REASON) if facts.get(semconv.JUDGE_DIGEST) == judge.digest else None
    scored = current is not None and semconv.UNSCORED_REASON not in facts
    plan.due[info.trace_id].append(Due(index, info.trace_id, len(ours), overrides, session, was, scored))


def _stands(assessment: Any, judge: BoundJudge) -> bool:
    """Whether an earlier verdict of ours needs no second look."""
    metadata = assessment.metadata or {}
    if metadata.get(semconv.JUDGE_DIGEST) != judge.digest:
        return False
    reason = metadata.get(semconv.UNSCORED_REASON)
    return reason is None or (reason in {u.value for u in Unscored} and Unscored(reason) not in TRANSIENT)
