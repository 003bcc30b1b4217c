"""The bridge worker's own metrics: backlog, lag, deliveries and their time, traces judged, budget spent.

A `contracts.BridgeObserver`: the bridge tells it what it does. The numbers are pushed over OTLP, and can be had as
Prometheus text for a worker that is scraped instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, BridgeStatus, Delivery
from mlflow_assay.sinks.meters import Meters, interval
from mlflow_assay.sinks.otlp import OtlpClient

__all__ = ["WorkerMetrics"]

_STATES = ("delivered", "skipped", "retry", "rejected")
_TRACES = ("judged", "sampled_out", "filtered")


class WorkerMetrics:
    """Counts what it is told and pushes it every few seconds once started.

    Args:
        endpoint, timeout_s: see `otlp.OtlpClient`.
        interval_s: seconds between pushes; None takes `OTEL_METRIC_EXPORT_INTERVAL`, or 15.
        push: False keeps the numbers for `prometheus_text` only, whatever endpoint the environment names.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout_s: float | str | None = None,
        interval_s: float | str | None = None,
        *,
        push: bool = True,
    ) -> None:
        client = OtlpClient("metrics", endpoint=endpoint, timeout_s=timeout_s) if push else None
        self._meters = Meters(client, interval(interval_s))

    def start(self) -> None:
        """Push from now on, if it is to push."""
        self._meters.start()

    def delivered(self, sink: str, outcomes: Sequence[tuple[AssessmentRevision, Delivery]], at_ms: int) -> None:
        """A batch came back from a sink."""
        self._seed(sink)
        for state, count in Counter(delivery.state for _, delivery in outcomes).items():
            self._record(semconv.M_DELIVERIES, {semconv.SINK: sink, semconv.STATE: state}, count)
        for revision, delivery in outcomes:
            if delivery.state == "delivered":
                # Two clocks are compared, MLflow's and ours: a small lead of theirs is no negative time.
                took = max(0.0, (at_ms - revision.changed_ms) / 1000)
                self._record(semconv.M_DELIVERY, {semconv.SINK: sink}, took)

    def judged(self, experiment_id: str, counts: Mapping[str, int]) -> None:
        """Traces gone through since the last call."""
        states = dict.fromkeys((*_TRACES, *counts))
        self._begin(
            semconv.M_TRACES, [{semconv.EXPERIMENT_ID: experiment_id, semconv.STATE: state} for state in states]
        )
        for state in states:
            labels = {semconv.EXPERIMENT_ID: experiment_id, semconv.STATE: state}
            self._record(semconv.M_TRACES, labels, counts.get(state, 0))

    def backlog(self, status: BridgeStatus) -> None:
        """How things stand."""
        for one in status.sinks:
            self._seed(one.sink)
            for state, count in (("pending", one.pending), ("retrying", one.retrying), ("dead", one.dead)):
                self._record(semconv.M_BACKLOG, {semconv.SINK: one.sink, semconv.STATE: state}, count)
            self._record(semconv.M_LAG, {semconv.SINK: one.sink}, one.lag_s)
        for experiment_id, age in status.watermark_age_s.items():
            if age is not None:
                self._record(semconv.M_WATERMARK_AGE, {semconv.EXPERIMENT_ID: experiment_id}, age)
        if status.budget_spent is not None:
            self._record(semconv.M_BUDGET_SPENT, {}, status.budget_spent)

    def prometheus_text(self) -> str:
        """Everything as it stands, in Prometheus' text format 0.0.4, under the names it has after OTLP."""
        return self._meters.text()

    def close(self) -> None:
        """A last push, then let go of the connection."""
        self._meters.close()

    def _seed(self, sink: str) -> None:
        self._meters.seed([self._meters.bounds.of(semconv.M_DELIVERY, {semconv.SINK: sink})])
        self._begin(semconv.M_DELIVERIES, [{semconv.SINK: sink, semconv.STATE: state} for state in _STATES])

    def _begin(self, name: str, labels: Sequence[Mapping[str, str]]) -> None:
        """Series at 0, and sent so: Prometheus' increase() never sees a count that a series begins with."""
        new = self._meters.missing(self._meters.bounds.of(name, each) for each in labels)
        self._meters.seed(new)
        if new and self._meters.started:
            self._meters.push()

    def _record(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._meters.record(self._meters.bounds.of(name, labels), value)
