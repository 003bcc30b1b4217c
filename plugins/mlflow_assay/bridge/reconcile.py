"""Reconciling: MLflow compared with the outbox, and the outbox with every sink whose far end can be asked.

What is found missing can be queued again. Duplicates at an append-only far end, such as Tempo, are counted and shown;
nobody can take them back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlflow_assay.bridge.deliveries import Deliveries
from mlflow_assay.bridge.mlflow_reads import FOREVER_MS, Reads
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.bridge.revision import state_of
from mlflow_assay.bridge.subject import started_ms
from mlflow_assay.contracts import BridgeSink, CountingSink, InquirableSink
from mlflow_assay.errors import SinkError

__all__ = ["SinkCheck", "SourceCheck", "check_sink", "check_source"]

_SHOWN = 20


@dataclass(frozen=True)
class SourceCheck:
    """MLflow beside the outbox, for one experiment.

    Attributes:
        experiment_id: MLflow's.
        in_mlflow: assessments that stand there (feedback and expectations).
        known: assessments that stand as far as the outbox knows.
        unknown: ids of assessments that MLflow has and the outbox does not know, or knows differently.
        gone: ids of assessments that stand for the outbox and not in MLflow.
        by_name: standing assessments in MLflow by name.
    """

    experiment_id: str
    in_mlflow: int
    known: int
    unknown: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    by_name: Mapping[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether they agree."""
        return not self.unknown and not self.gone

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "clean": self.clean}


@dataclass(frozen=True)
class SinkCheck:
    """One sink beside the outbox.

    Attributes:
        sink: its name in the outbox.
        how: `held` where each revision was asked for, `counted` where the far end keeps sums only, `none` where it
            cannot be asked; then `reason` says why.
        delivered: revisions the outbox noted as delivered.
        pending, dead, skipped: revisions in these states.
        found: revisions the far end holds (copies apart), or the sum it counts; None where it cannot be asked.
        missing: keys noted as delivered that the far end does not hold.
        duplicates: copies too many.
        differences: where sums are kept, (name, change, noted, counted) where they differ.
        requeued: revisions queued again.
        reason: why it could not be asked.
    """

    sink: str
    how: str
    delivered: int
    pending: int = 0
    dead: int = 0
    skipped: int = 0
    found: int | None = None
    missing: tuple[str, ...] = ()
    duplicates: int = 0
    differences: tuple[tuple[str, str, int, int], ...] = ()
    requeued: int = 0
    reason: str | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing is missing, doubled, pending or dead; True where the far end cannot be asked."""
        return not (self.missing or self.duplicates or self.differences or self.pending or self.dead)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; of many missing keys the first are shown."""
        shown = {**asdict(self), "missing": list(self.missing[:_SHOWN]), "missing_count": len(self.missing)}
        return {**shown, "clean": self.clean}


def check_source(reads: Reads, outbox: Outbox, experiment_id: str, since_ms: int = 0, page: int = 200) -> SourceCheck:
    """Compare every assessment of an experiment, by content, with what the outbox knows of it.

    Raises:
        StoreError: MLflow or the outbox cannot be read.
    """
    unknown: list[str] = []
    seen: set[str] = set()
    by_name: Counter[str] = Counter()
    for infos in _pages(reads, since_ms, page):
        known = outbox.known([str(info.trace_id) for info in infos])
        for info in infos:
            held = known.get(str(info.trace_id), {})
            for assessment in info.assessments or []:
                state = state_of(assessment, str(info.trace_id), started_ms(info))
                shipped = assessment.feedback is not None or assessment.expectation is not None
                if state.standing and shipped and state.assessment_id not in seen:
                    by_name[state.name] += 1
                    seen.add(state.assessment_id)
                one = held.get(state.assessment_id)
                if one is None or (one.content, one.standing) != (state.content, state.standing):
                    unknown.append(state.assessment_id)
    ours = {r.assessment_id for some in outbox.current(experiment_id) for r in some if r.trace.started_ms >= since_ms}
    return SourceCheck(
        experiment_id, len(seen), len(ours), tuple(dict.fromkeys(unknown)), tuple(sorted(ours - seen)), dict(by_name)
    )


def _pages(reads: Reads, since_ms: int, size: int) -> Iterator[list[Any]]:
    start: int | None = since_ms
    while start is not None:
        page = reads.page(start, FOREVER_MS, size)
        if page.infos:
            yield list(page.infos)
        start = page.next_ms


def check_sink(name: str, sink: BridgeSink | None, deliveries: Deliveries, *, repair: bool = False) -> SinkCheck:
    """Compare what the outbox noted as delivered with what the far end holds.

    Args:
        name: the sink's name in the outbox.
        sink: None when it is not at hand: then only the outbox's own states are given.
        repair: queue again what the far end does not hold.

    Raises:
        OutboxError: the outbox cannot be used.
    """
    found = next(iter(deliveries.status([name])), None)
    if found is None:
        return SinkCheck(name, "none", 0, reason="the outbox does not know this sink")
    base = SinkCheck(name, "none", found.delivered, found.pending + found.retrying, found.dead, found.skipped)
    if sink is None:
        return replace(base, reason="the sink was not named, so its far end was not asked")
    try:
        if isinstance(sink, InquirableSink):
            return _held(base, sink, deliveries, repair)
        if isinstance(sink, CountingSink):
            return _counted(base, sink, deliveries)
    except SinkError as error:
        return replace(base, reason=str(error))
    return replace(base, reason="this sink's far end cannot be asked what it holds")


def _held(base: SinkCheck, sink: InquirableSink, deliveries: Deliveries, repair: bool) -> SinkCheck:
    missing: list[str] = []
    found = doubled = 0
    for some in deliveries.everything(base.sink, "delivered"):
        copies = sink.held(some)
        missing += [revision.key for revision in some if copies.get(revision.key, 0) < 1]
        found += sum(1 for revision in some if copies.get(revision.key, 0) > 0)
        doubled += sum(max(0, copies.get(revision.key, 0) - 1) for revision in some)
    requeued = deliveries.requeue(base.sink, missing) if repair and missing else 0
    return replace(base, how="held", found=found, missing=tuple(missing), duplicates=doubled, requeued=requeued)


def _counted(base: SinkCheck, sink: CountingSink, deliveries: Deliveries) -> SinkCheck:
    noted: Counter[tuple[str, str]] = Counter()
    for some in deliveries.everything(base.sink, "delivered"):
        noted.update((revision.name, revision.change) for revision in some)
    counted = sink.tally()
    pairs = sorted({*noted, *counted})
    differ = tuple(
        (n, c, noted[n, c], counted.get((n, c), 0)) for n, c in pairs if noted[n, c] != counted.get((n, c), 0)
    )
    return replace(base, how="counted", found=sum(counted.values()), differences=differ)
