"""From traces as MLflow holds them to revisions in the outbox: the one door by which anything gets in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlflow_assay.bridge.changes import Known, ObservedTrace
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.bridge.revision import Redact, observe, state_of
from mlflow_assay.bridge.subject import Subjects, started_ms
from mlflow_assay.contracts import JudgeContract

if TYPE_CHECKING:
    from mlflow.entities import Assessment, TraceInfo

__all__ = ["Ingest"]


@dataclass
class Ingest:
    """Takes traces of one experiment in.

    Args:
        outbox: where what is new is recorded.
        experiment_id: MLflow's.
        reader: who holds the experiment's reading lease; None where nobody else can be at work.
        contracts: what values mean, by assessment name.
        redact: masks what must not leave, before it is kept in the outbox.
        subjects: describes the evaluated runs.
    """

    outbox: Outbox
    experiment_id: str
    reader: str | None = None
    contracts: Mapping[str, JudgeContract] = field(default_factory=dict)
    redact: Redact | None = None
    subjects: Subjects = field(default_factory=Subjects)

    def take(
        self,
        infos: Sequence[TraceInfo],
        gone: Sequence[str] = (),
        positions: Mapping[str, str] | None = None,
    ) -> int:
        """Record what is new about these traces; what is known already costs one look into the outbox.

        Args:
            infos: traces with all their assessments.
            gone: ids of traces that are no longer in MLflow.
            positions: marks to be moved once it is recorded.

        Returns:
            How many revisions are new.

        Raises:
            StoreError: MLflow or the outbox cannot be used, or another worker reads now; nothing was recorded.
        """
        unique = {str(info.trace_id): info for info in infos}
        known = self.outbox.known([*unique, *gone])
        changed = [info for trace_id, info in unique.items() if _differs(info, known.get(trace_id, {}))]
        lost = [ObservedTrace(i) for i in gone if i not in unique and _stands(known.get(i, {}))]
        if not changed and not lost and not positions:
            return 0
        observed = [*self._observe(changed), *lost]
        return self.outbox.record(self.experiment_id, observed, positions, self.reader)

    def _observe(self, infos: Sequence[TraceInfo]) -> Iterator[ObservedTrace]:
        runs = self.subjects.of(infos) if infos else {}
        for info in infos:
            trace_id = str(info.trace_id)
            said = (observe(a, state, runs[trace_id], self.contracts, self.redact) for a, state in _states(info))
            yield ObservedTrace(trace_id, tuple(said))


def _states(info: TraceInfo) -> Iterator[tuple[Assessment, Known]]:
    """The assessments on a trace with the facts by which a change of each is told."""
    for assessment in info.assessments or []:
        yield assessment, state_of(assessment, str(info.trace_id), started_ms(info))


def _differs(info: TraceInfo, known: Mapping[str, Known]) -> bool:
    """Whether anything on the trace is not as it is known."""
    seen = {state.assessment_id: state for _, state in _states(info)}
    if any(held.standing for assessment_id, held in known.items() if assessment_id not in seen):
        return True
    return any(_fact(state) != _fact(known.get(assessment_id)) for assessment_id, state in seen.items())


def _fact(known: Known | None) -> Known | None:
    """What is known apart from our own count of revisions."""
    return None if known is None else replace(known, revision=0, key="")


def _stands(known: Mapping[str, Known]) -> bool:
    return any(held.standing for held in known.values())
