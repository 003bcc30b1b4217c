"""Each verdict as the standard's event `gen_ai.evaluation.result`, an OTLP log record. Entry point `otlp-event`.

The record carries the evaluated span's context, as the convention asks. Expectations are no results and are
skipped. A deletion is an event too, with `assay.change` and what was last said: log stores cannot take back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, Delivery
from mlflow_assay.sinks import otlp

__all__ = ["OtlpEventSink"]


class OtlpEventSink(otlp.VerdictSink):
    """Posts evaluation events over OTLP/HTTP; returns when the far end has acknowledged. Options as in the base."""

    name: ClassVar[str] = "otlp-event"
    guarantee: ClassVar[str] = (
        "A record sent again stands there twice, with the same assay.revision.key. Edits and deletions are "
        "records of their own. Expectations are skipped."
    )
    signal: ClassVar[otlp.Signal] = "logs"

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Send the feedback of a batch as one request."""
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

        make = partial(_request, profile=self._profile)
        results = [revision for revision in revisions if revision.kind == "feedback"]
        sent = iter(
            otlp.deliver_protobuf(
                self._client, service.ExportLogsServiceRequest, service.ExportLogsServiceResponse, make, results
            )
        )
        skipped = Delivery("skipped", "an expectation is no evaluation result")
        return [next(sent) if revision.kind == "feedback" else skipped for revision in revisions]


def _request(revisions: Sequence[AssessmentRevision], profile: str) -> Any:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs, ScopeLogs

    records = [_record(revision, profile) for revision in revisions]
    scope = ScopeLogs(scope=otlp.proto_scope(), log_records=records, schema_url=semconv.SCHEMA_URL)
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=otlp.proto_resource(), scope_logs=[scope], schema_url=semconv.SCHEMA_URL)]
    )


def _record(revision: AssessmentRevision, profile: str) -> Any:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

    facts = otlp.verdict_attributes(revision, profile)
    return LogRecord(
        time_unix_nano=revision.changed_ms * 1_000_000,
        observed_time_unix_nano=time.time_ns(),
        severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
        severity_text="INFO",
        event_name=semconv.EVALUATION_EVENT,
        # Stores that do not know event names yet find it under the attribute they used before.
        attributes=otlp.attributes({"event.name": semconv.EVALUATION_EVENT, **facts}),
        trace_id=bytes.fromhex(revision.trace.otel_trace_id),
        span_id=bytes.fromhex(revision.span_id or revision.trace.root_span_id or ""),
        flags=1,
    )
