"""Verdicts as OTLP metrics: scores, verdicts, judges' calls, tokens, cost, latency. Entry point `otlp-metrics`.

What is counted when:
- every revision once in `gen_ai.evaluation.verdicts`, with its outcome and change; created less deleted is what
  stands, an edit is no new verdict;
- an assessment's first revision only in the score histogram, the unscored counter and the judge's metrics: editing
  or restoring a verdict calls no judge again.

Each value is recorded while the verdict's span is current, so exemplars lead to the evaluated trace. A new series is
pushed at 0 before it counts, or Prometheus would never see its first count. Within one process a revision that comes
again is not counted again; a worker killed between the acknowledgement and the outbox's note of it counts it twice.
A restarted worker is a new `service.instance.id` whose counters begin at 0: sum over instances, use increase().
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import TRANSIENT, AssessmentRevision, Delivery, Outcome, Unscored
from mlflow_assay.errors import SinkError
from mlflow_assay.recent import Recent
from mlflow_assay.sinks import otlp
from mlflow_assay.sinks.http import Client, Reply, delivery_of, number
from mlflow_assay.sinks.meters import Meters, interval

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["OtlpMetricsSink"]

_REMEMBERED = 20_000  # revisions counted and acknowledged lately, so that a resend is recognised; about 4 MB
_UNSURE = 100_000  # revisions counted whose push was not acknowledged: they will come again, however late
_APART_S = 0.01  # between a series' 0 and its first count; Prometheus' clock ticks in milliseconds
_CREATED = "created"


class OtlpMetricsSink:
    """Counts revisions and pushes the counts over OTLP/HTTP; returns when the far end has acknowledged them.

    Args:
        endpoint, headers, timeout_s: see `otlp.OtlpClient`.
        interval_s: seconds between pushes while nothing happens; None takes `OTEL_METRIC_EXPORT_INTERVAL`, or 15.
        prometheus: base URL of the Prometheus these metrics end in; makes `tally` possible.
        lookback: how far back `tally` looks, as a Prometheus duration.
    """

    name: ClassVar[str] = "otlp-metrics"
    guarantee: ClassVar[str] = (
        "A worker killed between acknowledgement and note counts up to a batch twice; resends of a running "
        "one are not counted. Exact numbers: assay bridge kpis."
    )

    def __init__(
        self,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | str | None = None,
        interval_s: float | str | None = None,
        prometheus: str | None = None,
        lookback: str = "30d",
    ) -> None:
        client = otlp.OtlpClient("metrics", endpoint=endpoint, headers=headers, timeout_s=timeout_s)
        self._meters = Meters(client, interval(interval_s))
        self._counted: Recent[str, None] = Recent(_REMEMBERED)
        self._unsure: Recent[str, None] = Recent(_UNSURE)
        self._prometheus, self._lookback = prometheus, lookback
        self._timeout = number("timeout_s", timeout_s or 10)

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Count a batch and push; what was counted already is pushed again and not counted again."""
        if not revisions:
            return []
        found: Delivery = self._meters.locked(lambda: self._deliver(revisions))
        return [found] * len(revisions)

    def _deliver(self, revisions: Sequence[AssessmentRevision]) -> Delivery:
        self._meters.start()
        new = [r for r in revisions if r.key not in self._counted and r.key not in self._unsure]
        measured = [(revision, list(_measures(revision))) for revision in new]
        seeds = [self._meters.bounds.of(name, labels) for revision in new for name, labels in _series(revision)]
        fresh = self._meters.missing(seeds)
        if fresh:
            self._meters.seed(fresh)
            reply = self._meters.push()
            if not reply.accepted:
                return delivery_of(reply)
            time.sleep(_APART_S)
        for revision, measures in measured:
            self._count(revision, measures)
        found = _delivery(self._meters.push())
        if found.state == "delivered":
            self._acknowledged(revisions)
        return found

    def _count(self, revision: AssessmentRevision, measures: list[tuple[str, Mapping[str, Any], float]]) -> None:
        context = _current(revision)
        for name, labels, value in measures:
            self._meters.record(self._meters.bounds.of(name, labels), value, context)
        self._unsure[revision.key] = None

    def _acknowledged(self, revisions: Sequence[AssessmentRevision]) -> None:
        for revision in revisions:
            self._unsure.pop(revision.key, None)
            self._counted[revision.key] = None

    def tally(self) -> Mapping[tuple[str, str], int]:
        """Revisions counted in Prometheus by (assessment name, change), over all workers and restarts.

        Raises:
            SinkError: no Prometheus was named, or it does not answer.
        """
        if not self._prometheus:
            raise SinkError(
                "The sink 'otlp-metrics' cannot be asked what it counted.",
                fix="Name its Prometheus: --sink otlp-metrics,prometheus=http://localhost:9090",
            )
        name, change = (semconv.prometheus_label(label) for label in (semconv.EVALUATION_NAME, semconv.CHANGE))
        # Series of one process never reset, so their maxima are the counts; increase() would extrapolate.
        series = f"max_over_time({semconv.prometheus_name(semconv.M_VERDICTS)}[{self._lookback}])"
        found = _query(self._prometheus, f"sum by ({name}, {change}) ({series})", self._timeout)
        return {(labels.get(name, ""), labels.get(change, "")): round(value) for labels, value in found}

    def close(self) -> None:
        """A last push, then let go of the connection."""
        self._meters.close()


def _delivery(reply: Reply) -> Delivery:
    """Cumulative counts travel with every later push, so data points refused in part may simply be pushed again."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    refused = otlp.refused(ExportMetricsServiceResponse, reply) if reply.accepted else None
    if refused is not None:
        return Delivery("retry", f"{refused[0]} data points were refused: {refused[1]}")
    return delivery_of(reply)


def _current(revision: AssessmentRevision) -> Context:
    """A context in which the verdict's span is current."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    trace_id, span_id = int(revision.trace.otel_trace_id, 16), int(otlp.verdict_span_id(revision), 16)
    return set_span_in_context(
        NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    )


# --- what a revision counts for ----------------------------------------------------------------------------


def _series(revision: AssessmentRevision) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The series a revision needs to exist: its own, and its siblings, so that a first fail is seen as one."""
    for name, labels, _ in _measures(revision):
        yield name, labels
    if revision.kind == "feedback" and revision.outcome is not None:
        for outcome in Outcome:
            yield semconv.M_VERDICTS, {**_verdict(revision), semconv.OUTCOME: outcome.value, semconv.CHANGE: _CREATED}


def _measures(revision: AssessmentRevision) -> Iterator[tuple[str, Mapping[str, Any], float]]:
    labels = _verdict(revision)
    outcome = revision.outcome.value if revision.outcome else semconv.UNKNOWN
    yield semconv.M_VERDICTS, {**labels, semconv.OUTCOME: outcome, semconv.CHANGE: revision.change}, 1
    if revision.kind == "feedback" and revision.revision == 1 and revision.change == _CREATED:
        if revision.score is not None and math.isfinite(revision.score):
            yield semconv.M_SCORE, labels, float(revision.score)
        if revision.outcome is Outcome.UNSCORED:
            yield semconv.M_UNSCORED, {**labels, semconv.UNSCORED_REASON: revision.reason}, 1
        if revision.judge_digest is not None:
            yield from _judge(revision)


def _verdict(revision: AssessmentRevision) -> dict[str, Any]:
    return {
        semconv.EVALUATION_NAME: revision.name,
        semconv.GEN_AI_AGENT: revision.trace.agent,
        semconv.JUDGE_VERSION: revision.judge_version,
        semconv.SOURCE_TYPE: revision.source_type.lower(),
        semconv.ENVIRONMENT: revision.trace.environment,
        semconv.EXPERIMENT_ID: revision.trace.experiment_id,
        semconv.ASSESSMENT_KIND: revision.kind,
    }


def _judge(revision: AssessmentRevision) -> Iterator[tuple[str, Mapping[str, Any], float]]:
    """What our judges cost; a verdict from the cache cost nothing and took no call's time."""
    labels = {semconv.EVALUATION_NAME: revision.name, semconv.JUDGE_MODEL: revision.judge_model}
    hit = bool(revision.cache_hit)
    stage = {semconv.CACHE_HIT: hit, semconv.CASCADE_STAGE: revision.cascade_stage}
    yield semconv.M_JUDGE_CALLS, {**labels, **stage}, 1
    if revision.reason in {reason.value for reason in TRANSIENT - _NO_CALL}:
        yield semconv.M_JUDGE_ERRORS, {**labels, semconv.ERROR_TYPE: revision.reason}, 1
    if hit:
        return
    for kind, tokens in (("input", revision.input_tokens), ("output", revision.output_tokens)):
        if tokens is not None:
            yield semconv.M_JUDGE_TOKENS, {**labels, semconv.GEN_AI_TOKEN_TYPE: kind}, tokens
    if revision.cost_usd is not None:
        yield semconv.M_JUDGE_COST, labels, revision.cost_usd
    if revision.latency_ms is not None:
        yield semconv.M_JUDGE_LATENCY, labels, revision.latency_ms / 1000


# Transient reasons that are no failure of a judge's call: the trace lacks something, or nothing was to be spent.
_NO_CALL = frozenset({Unscored.MISSING_FIELD, Unscored.UNREADABLE_TRACE, Unscored.BUDGET})


def _query(base: str, promql: str, timeout_s: float) -> list[tuple[dict[str, str], float]]:
    client = Client({}, timeout_s=timeout_s)
    reply = client.send("POST", f"{base.rstrip('/')}/api/v1/query", data={"query": promql})
    client.close()
    if not reply.accepted:
        raise SinkError(f"Prometheus could not be asked: {reply.problem}.")
    return [(row["metric"], float(row["value"][1])) for row in json.loads(reply.body)["data"]["result"]]
