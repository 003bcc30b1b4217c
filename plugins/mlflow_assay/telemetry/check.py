"""Sends one span to an OTLP/HTTP endpoint and says in plain words what came of it.

The span says `assay.check` and nothing of `gen_ai.*`: no rate, board or search of agents takes it for one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_assay import semconv

__all__ = ["Checked", "check"]

_ADVICE = {
    400: "it does not take what was sent as OTLP",
    401: "the key or token is missing or wrong",
    403: "the key or token may not send traces",
    404: "nothing takes traces under this path",
    405: "nothing takes traces under this path",
    415: "it does not take protobuf over HTTP; a gRPC port (4317) perhaps",
    429: "it asks to send less",
}


@dataclass(frozen=True)
class Checked:
    """What the far end said.

    Attributes:
        taken: whether it acknowledged the span.
        detail: for a person.
        status: of HTTP; None where there was no answer.
        trace_id: of the span sent, 32 hex digits, to be looked for there.
    """

    taken: bool
    detail: str
    status: int | None
    trace_id: str


def check(url: str, headers: Mapping[str, str], *, service: str = "assay-check", timeout_s: float = 10.0) -> Checked:
    """Send a span `assay check` to a traces URL; never raises for what the far end does."""
    import requests

    trace_id = secrets.token_hex(16)
    sent = {**headers, "content-type": "application/x-protobuf"}
    try:
        answer = requests.post(
            url, data=_request(trace_id, service), headers=sent, timeout=timeout_s, allow_redirects=False
        )
    except requests.exceptions.SSLError:
        return Checked(False, "its certificate is not trusted here (OTEL_EXPORTER_OTLP_CERTIFICATE)", None, trace_id)
    except requests.exceptions.ConnectionError:
        return Checked(False, "nothing listens there, or it ended the connection", None, trace_id)
    except requests.exceptions.Timeout:
        return Checked(False, f"it did not answer within {timeout_s:g} s", None, trace_id)
    except requests.exceptions.RequestException as error:
        return Checked(False, f"it could not be asked ({type(error).__name__})", None, trace_id)
    return _said(answer.status_code, answer.headers.get("Content-Type", ""), answer.content, trace_id)


def _said(status: int, content_type: str, body: bytes, trace_id: str) -> Checked:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    if not 200 <= status < 300:
        why = _ADVICE.get(status, "it has trouble of its own" if status >= 500 else "it refused")
        return Checked(False, f"HTTP {status}: {why}", status, trace_id)
    if "html" in content_type:
        return Checked(False, f"HTTP {status}, but with a web page: this is no OTLP endpoint", status, trace_id)
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:  # vendors answer in forms of their own; the status is what counts
        return Checked(True, f"HTTP {status}", status, trace_id)
    if partial.rejected_spans:
        return Checked(False, f"HTTP {status}, but the span was refused: {partial.error_message}", status, trace_id)
    return Checked(True, f"HTTP {status}", status, trace_id)


def _request(trace_id: str, service: str) -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    def pair(key: str, value: str) -> KeyValue:
        return KeyValue(key=key, value=AnyValue(string_value=value))

    message, now = ExportTraceServiceRequest(), time.time_ns()
    resource = message.resource_spans.add()
    resource.resource.attributes.append(pair(semconv.SERVICE_NAME, service))
    span = resource.scope_spans.add().spans.add()
    span.name, span.trace_id, span.span_id = "assay check", bytes.fromhex(trace_id), secrets.token_bytes(8)
    span.start_time_unix_nano, span.end_time_unix_nano, span.kind = now - 1_000_000, now, span.SPAN_KIND_INTERNAL
    marks = (semconv.CHECK, semconv.SAMPLING_KEEP)
    span.attributes.extend(KeyValue(key=mark, value=AnyValue(bool_value=True)) for mark in marks)
    data: bytes = message.SerializeToString()
    return data
