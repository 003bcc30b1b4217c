"""Recorded runs written into MLflow: whole, once, and counted.

Files are read twice: first to check all of them and to plan (so a broken file leaves nothing half imported), then to
write. A run's trace id, span ids and assessment ids follow from the experiment and the recording, so importing again
adds nothing, and an import that was cut short is finished by running it again: spans go in first, the trace's record
with its tags and assessments last, and only a trace with that record counts as being there. At the end the store is
asked what it holds; anything missing is an `IncompleteError`.

Spans are written in batches of whole traces through MLflow's tracking store, the way MLflow's own exporter and
OTLP endpoint do: `mlflow.start_span` would write each span in its own transaction and cannot keep a recorded id.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.contracts import TraceImporter
from mlflow_assay.errors import IncompleteError, StoreError
from mlflow_assay.sources import mlflow_spans
from mlflow_assay.sources.import_plan import Plan, PlannedRun, plan
from mlflow_assay.sources.mlflow_store import reach
from mlflow_assay.sources.recorded import RecordedAssessment, RecordedRun, RecordedSpan, digest

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

__all__ = ["Imported", "Plan", "import_runs", "plan"]

_BATCH_SPANS = 1000
_BATCH_CHARACTERS = 8_000_000
_LOOKUP = 100
_HTTP_THREADS = 4
_LISTED = 10


@dataclass
class Imported:
    """What an import did. "There" means it was in the store before and was left as it is.

    Attributes:
        experiment: name.
        experiment_id: MLflow's id.
        tracking_uri: where.
        traces_new: traces written.
        traces_there: traces that were there already, whole or to be completed.
        spans_new: spans written.
        spans_there: planned spans that were there already.
        new: assessments written, by kind: expectation, feedback, verdict.
        there: assessments that were there already, by kind.
        elsewhere: trace ids that another experiment of the store holds already; they were left out.
        seconds: wall time of writing and checking.
    """

    experiment: str
    experiment_id: str
    tracking_uri: str
    traces_new: int = 0
    traces_there: int = 0
    spans_new: int = 0
    spans_there: int = 0
    new: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    elsewhere: list[str] = field(default_factory=list)
    seconds: float = 0.0


def import_runs(
    importer: TraceImporter,
    paths: Sequence[Path],
    planned: Plan,
    experiment: str,
    *,
    progress: Callable[[int], None] = lambda pieces: None,
) -> Imported:
    """Write what was planned, and check that the store holds it.

    Args:
        importer: the one the plan was made with.
        paths: likewise.
        planned: from `plan`; says what is wanted.
        experiment: its name; created when it does not exist.
        progress: called with the number of runs just dealt with.

    Raises:
        StoreError: MLflow cannot be reached or refuses; what was written before stays and is not repeated.
        IncompleteError: the store holds less than was planned; the message lists what is missing.
    """
    started = time.monotonic()
    uri = reach()
    with _store_errors(uri):
        writer = _Writer(planned, _experiment(experiment), uri)
        for batch in _batches(importer, paths) if writer.wanting else ():
            writer.write(batch)
            progress(len(batch))
        writer.check()
    writer.done.seconds = round(time.monotonic() - started, 3)
    return writer.done


def _batches(importer: TraceImporter, paths: Sequence[Path]) -> Iterator[list[RecordedRun]]:
    """Runs in groups of about a thousand spans and a few megabytes of text."""
    batch: list[RecordedRun] = []
    spans = characters = 0
    for run in (run for path in paths for run in importer.runs(path)):
        batch.append(run)
        spans += len(run.spans)
        characters += sum(map(_size, run.spans))
        if spans >= _BATCH_SPANS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, spans, characters = [], 0, 0
    if batch:
        yield batch


def _size(span: RecordedSpan | Span) -> int:
    if isinstance(span, RecordedSpan):
        return len(str(span.inputs)) + len(str(span.outputs))
    return sum(len(str(value)) for value in (span._span.attributes or {}).values())


class _Writer:
    """One import into one experiment."""

    def __init__(self, planned: Plan, experiment: Any, uri: str) -> None:
        from mlflow.tracing.client import TracingClient

        self.store = TracingClient().store
        self.planned = planned
        self.done = Imported(experiment.name, str(experiment.experiment_id), uri)
        self.threads = _HTTP_THREADS if uri.startswith("http") else 1
        self.ids = {run_id: p.trace_id or self._derived(p.format, run_id) for run_id, p in planned.runs.items()}
        self.held: dict[str, set[str]] = {}  # assessments by trace, for every trace that is whole
        self.spans_before: dict[str, set[str]] = {}  # of partial runs whose trace was there
        self.skipped: set[str] = set()
        self._look_up()
        self.stored_spans = self._count_spans()

    def _derived(self, source_format: str, run_id: str) -> str:
        name = [self.done.experiment_id, source_format, run_id]
        return digest(["trace", *name]) + digest([*name, "trace"])

    # --- what is there already ---

    def _look_up(self) -> None:
        planned = {self.ids[run_id]: p for run_id, p in self.planned.runs.items()}
        for info in self._infos(self.ids.values()):
            trace_id = info.trace_id.removeprefix("tr-")
            if str(info.experiment_id) != self.done.experiment_id:
                self.skipped.add(trace_id)
                self.done.elsewhere.append(info.trace_id)
            elif planned[trace_id].trace_id is not None:
                self.spans_before[trace_id] = set()
                self.held[trace_id] = _recorded_ids(info)
            elif semconv.SOURCE_ID in info.tags:
                self.held[trace_id] = _recorded_ids(info)
        self.spans_before = self._spans_of(self.spans_before)
        self.done.traces_there = len(self.held)
        for trace_id, there in self.held.items():
            wanted = planned[trace_id].assessments
            self.done.there.update(a.kind for key, a in wanted.items() if key in there)

    def _infos(self, trace_ids: Iterable[str]) -> Iterator[TraceInfo]:
        ids = [f"tr-{trace_id}" for trace_id in trace_ids]
        for at in range(0, len(ids), _LOOKUP):
            yield from self.store.batch_get_trace_infos(ids[at : at + _LOOKUP])

    def _spans_of(self, trace_ids: Iterable[str]) -> dict[str, set[str]]:
        ids = list(trace_ids)
        found: dict[str, set[str]] = {trace_id: set() for trace_id in ids}
        for at in range(0, len(ids), _LOOKUP):
            for trace in self.store.batch_get_traces([f"tr-{i}" for i in ids[at : at + _LOOKUP]]):
                found[trace.info.trace_id.removeprefix("tr-")] = {s.span_id for s in trace.data.spans}
        return found

    def _count_spans(self) -> int | None:
        """How many spans the experiment holds, counted by the store; None when the store cannot count."""
        from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
        from mlflow.exceptions import MlflowException

        count = [MetricAggregation(AggregationType.COUNT)]
        try:
            points = self.store.query_trace_metrics(
                [self.done.experiment_id], MetricViewType.SPANS, "span_count", count
            )
        except MlflowException:  # an older server: the spans are then read and counted one trace at a time
            return None
        return int(points[0].values["COUNT"]) if points else 0

    @property
    def wanting(self) -> bool:
        """Whether anything planned is not in the store yet."""
        for run_id, planned in self.planned.runs.items():
            trace_id = self.ids[run_id]
            there = trace_id in self.held and planned.assessments.keys() <= self.held[trace_id]
            whole = planned.trace_id is None or planned.span_ids <= self.spans_before.get(trace_id, set())
            if trace_id not in self.skipped and not (there and whole):
                return True
        return False

    # --- writing ---

    def write(self, batch: Sequence[RecordedRun]) -> None:
        """Spans first, then the traces' records; only what is not there yet."""
        runs = [run for run in _merged(batch) if self.ids[run.id] not in self.skipped]
        fresh = [run for run in runs if run.partial or self.ids[run.id] not in self.held]
        added = [run for run in runs if not run.partial and self.ids[run.id] in self.held]
        self._write_spans(fresh)
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self._write_record, [run for run in fresh if not run.partial]))
            list(pool.map(self._add, [(run, a) for run in added for a in self._missing(run)]))
        for run in runs:
            self._account(run)

    def _write_spans(self, runs: Sequence[RecordedRun]) -> None:
        groups: dict[str, list[Span]] = {}
        for run in runs:
            before = self.spans_before.get(self.ids[run.id], set())
            for span in mlflow_spans.to_spans(run, self.ids[run.id]):
                if span.span_id not in before:
                    groups.setdefault(_resource(span), []).append(span)
        # One call for each resource: over HTTP MLflow gives all spans of a call the first one's.
        for spans in groups.values():
            self.store.log_spans(self.done.experiment_id, spans)
            self.done.spans_new += len(spans)

    def _write_record(self, run: RecordedRun) -> None:
        trace_id = self.ids[run.id]
        assessments = [mlflow_spans.to_assessment(a, trace_id) for a in self._missing(run)]
        self.store.start_trace(mlflow_spans.to_info(run, trace_id, self.done.experiment_id, assessments))

    def _add(self, pair: tuple[RecordedRun, RecordedAssessment]) -> None:
        run, recorded = pair
        self.store.create_assessment(mlflow_spans.to_assessment(recorded, self.ids[run.id]))

    def _missing(self, run: RecordedRun) -> list[RecordedAssessment]:
        held = self.held.get(self.ids[run.id], set())
        wanted = self.planned.runs[run.id].assessments
        return [a for a in run.assessments if a.id in wanted and a.id not in held]

    def _account(self, run: RecordedRun) -> None:
        trace_id = self.ids[run.id]
        if trace_id not in self.held:
            self.done.traces_new += 1
        self.done.new.update(a.kind for a in self._missing(run))
        self.held.setdefault(trace_id, set()).update(a.id for a in self._missing(run))
        if run.partial:
            self.spans_before.setdefault(trace_id, set()).update(s.span_id for s in run.spans)

    # --- checking ---

    def check(self) -> None:
        """Ask the store for everything planned.

        Raises:
            IncompleteError: it holds less.
        """
        wanted = {self.ids[r]: p for r, p in self.planned.runs.items() if self.ids[r] not in self.skipped}
        found = {info.trace_id.removeprefix("tr-"): _recorded_ids(info) for info in self._infos(wanted)}
        self.done.spans_there = sum(len(p.span_ids) for p in wanted.values()) - self.done.spans_new
        missing = [f"trace tr-{trace_id}" for trace_id in wanted if trace_id not in found]
        for trace_id, held in found.items():
            lost = [a.name for key, a in wanted[trace_id].assessments.items() if key not in held]
            missing += [f"assessment {name!r} of tr-{trace_id}" for name in lost]
        before, after = self.stored_spans, self._count_spans()
        if before is None or after is None or after - before != self.done.spans_new:
            missing += self._lost_spans({trace_id: p for trace_id, p in wanted.items() if trace_id in found})
        if missing:
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            raise IncompleteError(
                f"MLflow holds less than was imported into {self.done.experiment!r}: {len(missing)} missing.",
                found=", ".join(missing[:_LISTED]) + more,
                fix="Run the same command again: it adds only what is missing.",
            )

    def _lost_spans(self, wanted: dict[str, PlannedRun]) -> list[str]:
        stored = self._spans_of(wanted)
        lost = {trace_id: len(p.span_ids - stored[trace_id]) for trace_id, p in wanted.items()}
        return [f"{count} spans of tr-{trace_id}" for trace_id, count in lost.items() if count]


def _recorded_ids(info: TraceInfo) -> set[str]:
    return {str((a.metadata or {}).get(semconv.SOURCE_ID)) for a in info.assessments or []}


def _merged(batch: Sequence[RecordedRun]) -> list[RecordedRun]:
    """Runs that stand in the batch more than once, as one."""
    merged: dict[str, RecordedRun] = {}
    for run in batch:
        other = merged.get(run.id)
        if other is None:
            merged[run.id] = run
            continue
        assessments = {a.id: a for a in (*other.assessments, *run.assessments)}
        spans = {s.span_id: s for s in (*other.spans, *run.spans)} if run.partial else {}
        merged[run.id] = replace(
            other, assessments=tuple(assessments.values()), spans=tuple(spans.values()) or other.spans
        )
    return list(merged.values())


def _resource(span: Span) -> str:
    resource = getattr(span._span, "resource", None)
    return resource.to_json(indent=None) if resource is not None and resource.attributes else ""


# --- experiment and errors -----------------------------------------------------------------------------


def _experiment(name: str) -> Any:
    import mlflow
    from mlflow import MlflowClient

    found = mlflow.get_experiment_by_name(name)
    if found is None:
        found = mlflow.get_experiment(MlflowClient().create_experiment(name))
    if found.lifecycle_stage != "active":
        raise StoreError(
            f"The experiment {name!r} has been deleted.",
            fix=f"Restore it (mlflow experiments restore -x {found.experiment_id}) or choose another name.",
        )
    return found


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    """What MLflow, its database layer and requests raise, as a StoreError that says how to go on."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        said = str(getattr(error, "orig", None) or getattr(error, "message", error)).strip().rstrip(".")
        raise StoreError(
            f"MLflow at {uri} refused or did not answer: {said}.",
            fix="Run the same command again: what is there already is not repeated.",
        ) from error
