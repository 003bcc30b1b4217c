"""Each assessment as a span `evaluation <name>` in the evaluated trace. Entry point `otlp-span`.

One verdict a span, all facts as span attributes, child of the evaluated span (and linked to it), so that Tempo and
others find it without a join. The span's id comes from the revision's key: sent twice, it is the same span (Tempo
shows it twice all the same). Edits and deletions are spans of their own with `assay.change`: what is sent stays.

A verdict that comes when Tempo has already put its trace away is found at once by trace id, and by a search that
matches only it; a search that matches older verdicts of the trace too still lacked it two minutes later (Tempo 2.8).

The status is never an error, not even where the judge failed (`error.type` says so then): error searches and
tail-sampling policies are about the agent's trace, and a judge's timeout is not the agent's fault.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, Delivery
from mlflow_assay.errors import SinkError
from mlflow_assay.sinks import otlp
from mlflow_assay.sinks.http import Client, number

__all__ = ["OtlpSpanSink"]


class OtlpSpanSink(otlp.VerdictSink):
    """Posts verdict spans over OTLP/HTTP; returns when the far end has acknowledged.

    The span ends when the verdict was given (MLflow's clock) and starts the judge's latency earlier, where known.

    Args:
        endpoint, headers, timeout_s: see `otlp.OtlpClient`.
        profile: names profile, see `semconv`.
        tempo: base URL of the Tempo these spans end in; makes `held` possible.
    """

    name: ClassVar[str] = "otlp-span"
    guarantee: ClassVar[str] = (
        "A span sent again has the same id, and Tempo shows it twice; with tempo=URL it is asked first. Edits "
        "and deletions are spans of their own: nothing is taken back."
    )
    signal: ClassVar[otlp.Signal] = "traces"

    def __init__(
        self,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | str | None = None,
        profile: str | None = None,
        tempo: str | None = None,
    ) -> None:
        super().__init__(endpoint, headers, timeout_s, profile)
        self._tempo, self._timeout = tempo, number("timeout_s", timeout_s or 10)

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Send a batch as one request."""
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

        return otlp.deliver_protobuf(
            self._client,
            service.ExportTraceServiceRequest,
            service.ExportTraceServiceResponse,
            partial(_request, profile=self._profile),
            revisions,
        )

    def held(self, revisions: Sequence[AssessmentRevision]) -> Mapping[str, int]:
        """How many spans Tempo holds of each revision, by key.

        Raises:
            SinkError: no Tempo was named, or it does not answer.
        """
        if not self._tempo:
            raise SinkError(
                "The sink 'otlp-span' cannot be asked what it holds.",
                fix="Name its Tempo: --sink otlp-span,tempo=http://localhost:3200",
            )
        client = Client({"Accept": "application/json"}, timeout_s=self._timeout)
        found: Counter[str] = Counter()
        for trace_id in dict.fromkeys(revision.trace.otel_trace_id for revision in revisions):
            reply = client.send("GET", f"{self._tempo.rstrip('/')}/api/v2/traces/{trace_id}")
            if reply.status != 404 and not reply.accepted:
                raise SinkError(f"Tempo could not be asked: {reply.problem}.")
            found.update(_keys(json.loads(reply.body)) if reply.accepted else ())
        client.close()
        return {revision.key: found[revision.key] for revision in revisions}


def _keys(node: Any) -> Iterator[str]:
    """Revision keys of the spans in Tempo's JSON, however its envelope is called."""
    if isinstance(node, list):
        for item in node:
            yield from _keys(item)
    elif isinstance(node, dict):
        for name, inner in node.items():
            if name == "spans":
                yield from (
                    str(pair["value"].get("stringValue"))
                    for span in inner
                    for pair in span.get("attributes", ())
                    if pair["key"] == semconv.REVISION_KEY
                )
            else:
                yield from _keys(inner)


def _request(revisions: Sequence[AssessmentRevision], profile: str) -> Any:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

    spans = [_span(revision, profile) for revision in revisions]
    scope = ScopeSpans(scope=otlp.proto_scope(), spans=spans, schema_url=semconv.SCHEMA_URL)
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(resource=otlp.proto_resource(), scope_spans=[scope], schema_url=semconv.SCHEMA_URL)
        ]
    )


def _span(revision: AssessmentRevision, profile: str) -> Any:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    trace_id = bytes.fromhex(revision.trace.otel_trace_id)
    evaluated = bytes.fromhex(revision.span_id or revision.trace.root_span_id or "")
    end = revision.changed_ms * 1_000_000
    took = 0 if revision.change != "created" else int((revision.latency_ms or 0.0) * 1e6)
    facts = {
        semconv.GEN_AI_OPERATION: semconv.OPERATION_EVALUATION,
        # A collector that samples tails keeps it beside a trace it has kept.
        semconv.SAMPLING_KEEP: True,
        **otlp.verdict_attributes(revision, profile),
        # Always there, so that a query for any agent finds it.
        semconv.GEN_AI_AGENT: revision.trace.agent or semconv.UNKNOWN,
    }
    return Span(
        trace_id=trace_id,
        span_id=bytes.fromhex(otlp.verdict_span_id(revision)),
        parent_span_id=evaluated,
        name=f"{semconv.OPERATION_EVALUATION} {revision.name}",
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=end - took,
        end_time_unix_nano=end,
        attributes=otlp.attributes(facts),
        links=[Span.Link(trace_id=trace_id, span_id=evaluated)] if evaluated else [],
        flags=1,
    )
