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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.contracts import TraceImporter
from mlflow_assay.errors import IncompleteError, StoreError
from mlflow_assay.sources import mlflow_spans
from mlflow_assay.sources.mlflow_store import reach
from mlflow_assay.sources.recorded import RecordedAssessment, RecordedJudge, RecordedRun, RecordedSpan, digest

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

__all__ = ["Imported", "Plan", "import_runs", "plan"]

_BATCH_SPANS = 1000
_BATCH_CHARACTERS = 8_000_000
_LOOKUP = 100
_HTTP_THREADS = 4
_LISTED = 10


# --- the plan ------------------------------------------------------------------------------------------


@dataclass
class _Planned:
    """What one trace must hold in the end: span ids, and assessments by id."""

    format: str
    trace_id: str | None
    span_ids: set[str] = field(default_factory=set)
    assessments: dict[str, RecordedAssessment] = field(default_factory=dict)


@dataclass
class Plan:
    """What the files hold, before anything is written.

    Attributes:
        runs: planned traces by the recording's run id.
        readings: how many verdicts of a judge had a spelling, and how it was read: (judge, spelling, read as).
        unscored: verdicts that could not be read, by reason.
        judges: the recorded judges by name.
        pieces: how many runs the files hold, a run standing in several files counted in each.
        verdicts_left_out: recorded verdicts that were not asked for.
    """

    runs: dict[str, _Planned] = field(default_factory=dict)
    readings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unscored: Counter[str] = field(default_factory=Counter)
    judges: dict[str, RecordedJudge] = field(default_factory=dict)
    pieces: int = 0
    verdicts_left_out: int = 0

    @property
    def spans(self) -> int:
        """How many spans the planned traces hold."""
        return sum(len(run.span_ids) for run in self.runs.values())

    def add(self, run: RecordedRun, verdicts: bool) -> None:
        """Count one run of a file in."""
        self.pieces += 1
        planned = self.runs.setdefault(run.id, _Planned(run.format, run.trace_id))
        if run.partial or not planned.span_ids:
            planned.span_ids.update(span.span_id for span in run.spans)
        for found in run.assessments:
            if found.judge:
                self.judges.setdefault(found.judge.name, found.judge)
            if found.kind == "verdict" and not verdicts:
                self.verdicts_left_out += 1
            elif found.id not in planned.assessments:
                planned.assessments[found.id] = replace(found, rationale=None, judge=None)
                self._count(found)

    def _count(self, found: RecordedAssessment) -> None:
        if found.kind == "verdict":
            self.readings[found.name, found.raw or "", found.read_as or ""] += 1
            if found.unscored:
                self.unscored[found.unscored[0].value] += 1


def plan(importer: TraceImporter, paths: Sequence[Path], *, verdicts: bool = False) -> Plan:
    """Read all files once, checking them, and say what an import would write.

    Args:
        importer: of the files' format.
        paths: the files.
        verdicts: whether recorded verdicts are to be imported too.

    Raises:
        InputError: a file cannot be read in this format.
    """
    found = Plan()
    for path in paths:
        for run in importer.runs(path):
            found.add(run, verdicts)
    return found


# --- the import ----------------------------------------------------------------------------------------


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

    def _count_spans(self) -> int:
        """How many spans the experiment holds, counted by the store."""
        from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType

        points = self.store.query_trace_metrics(
            [self.done.experiment_id],
            MetricViewType.SPANS,
            "span_count",
            [MetricAggregation(AggregationType.COUNT)],
        )
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
        missing = [f"trace tr-{trace_id}" for trace_id in wanted if trace_id not in found]
        for trace_id, held in found.items():
            lost = [a.name for key, a in wanted[trace_id].assessments.items() if key not in held]
            missing += [f"assessment {name!r} of tr-{trace_id}" for name in lost]
        if self._count_spans() - self.stored_spans != self.done.spans_new:
            missing += self._lost_spans(wanted)
        if missing:
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            raise IncompleteError(
                f"MLflow holds less than was imported into {self.done.experiment!r}: {len(missing)} missing.",
                found=", ".join(missing[:_LISTED]) + more,
                fix="Run the same command again: it adds only what is missing.",
            )

    def _lost_spans(self, wanted: dict[str, _Planned]) -> list[str]:
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


class _store_errors:  # noqa: N801 - a context manager, named like a function
    """Turns what MLflow and requests raise into a StoreError that says the import can be continued."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        if isinstance(error, MlflowException | RequestException):
            raise StoreError(
                f"MLflow at {self.uri} refused or did not answer: {getattr(error, 'message', error)}",
                fix="Run the same command again: what is there already is not repeated.",
            ) from error
