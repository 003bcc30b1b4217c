"""OTLP as JSON, made by hand so that every field can be filled; and a server that keeps what a collector sends."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def value(plain: Any) -> dict[str, Any]:
    """A Python value as an OTLP AnyValue."""
    if isinstance(plain, bool):
        return {"boolValue": plain}
    if isinstance(plain, int):
        return {"intValue": str(plain)}
    if isinstance(plain, float):
        return {"doubleValue": plain}
    if isinstance(plain, list):
        return {"arrayValue": {"values": [value(item) for item in plain]}}
    if isinstance(plain, Mapping):
        return {"kvlistValue": {"values": attributes(plain)}}
    return {"stringValue": str(plain)}


def attributes(plain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A dictionary as OTLP attributes."""
    return [{"key": key, "value": value(item)} for key, item in plain.items()]


def new_trace() -> str:
    """A trace id, 32 hex digits."""
    return os.urandom(16).hex()


def span(
    trace_id: str,
    name: str = "invoke_agent router",
    *,
    parent: str = "",
    span_id: str | None = None,
    seconds: float = 0.1,
    ago: float = 0.0,
    error: str | None = None,
    state: str = "",
    events: Iterable[dict[str, Any]] = (),
    links: Iterable[dict[str, Any]] = (),
    **labels: Any,
) -> dict[str, Any]:
    """A span that ended `ago` seconds before now and took `seconds`; keywords are attributes, `__` for a dot."""
    end = time.time_ns() - int(ago * 1e9)
    return {
        "traceId": trace_id,
        "spanId": span_id or os.urandom(8).hex(),
        "parentSpanId": parent,
        "traceState": state,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(end - int(seconds * 1e9)),
        "endTimeUnixNano": str(end),
        "attributes": attributes({key.replace("__", "."): item for key, item in labels.items()}),
        "status": {} if error is None else {"code": 2, "message": error},
        "events": list(events),
        "links": list(links),
    }


def agent_span(trace_id: str, name: str = "invoke_agent router", **more: Any) -> dict[str, Any]:
    """A span of an agent's work, the root unless told otherwise."""
    return span(trace_id, name, gen_ai__operation__name="invoke_agent", gen_ai__agent__name="router", **more)


def verdict_span(trace_id: str, judge: str = "faithful", score: float = 1.0, **more: Any) -> dict[str, Any]:
    """A verdict as the bridge sends it: `evaluation <judge>`, a child somewhere in the trace."""
    labels = {
        "gen_ai__operation__name": "evaluation",
        "gen_ai__evaluation__name": judge,
        "gen_ai__evaluation__score__value": float(score),
        "gen_ai__evaluation__score__label": "pass" if score >= 0.5 else "fail",
    }
    return span(trace_id, f"evaluation {judge}", parent=more.pop("parent", "1" * 16), **{**labels, **more})


def post(url: str, body: Mapping[str, Any], timeout: float = 10.0) -> int:
    """POSTs JSON; the status, 0 when there was no answer."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def traces(
    spans: Iterable[dict[str, Any]],
    *,
    service: str = "agents",
    resource: Mapping[str, Any] | None = None,
    scope: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of POST /v1/traces."""
    about = attributes({"service.name": service, **(resource or {})})
    group = {"scope": dict(scope or {"name": "tests"}), "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": about}, "scopeSpans": [group]}]}


def logs(records: Iterable[dict[str, Any]], *, resource: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of POST /v1/logs."""
    about = attributes({"service.name": "agents", **(resource or {})})
    group = {"scope": {"name": "tests"}, "logRecords": list(records)}
    return {"resourceLogs": [{"resource": {"attributes": about}, "scopeLogs": [group]}]}


@dataclass
class Received:
    """One request a sink was sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes  # decompressed


@dataclass
class Sink:
    """An HTTP server that keeps what is posted to it; `status` is what it answers. A context manager."""

    status: int = 200
    requests: list[Received] = field(default_factory=list)

    def __enter__(self) -> Sink:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                sink.requests.append(Received(self.path, dict(self.headers), body))
                self.send_response(sink.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def spans(self) -> list[Any]:
        """Every span received, as protobuf messages."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for request in (r for r in self.requests if r.path.endswith("/traces")):
            message = ExportTraceServiceRequest.FromString(request.body)
            found += [s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans]
        return found

    def spans_named(self, part: str) -> list[Any]:
        """Those whose name contains `part`."""
        return [span for span in self.spans() if part in span.name]

    def records(self) -> list[Any]:
        """Every log record received, as protobuf messages."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        found = []
        for request in (r for r in self.requests if r.path.endswith("/logs")):
            message = ExportLogsServiceRequest.FromString(request.body)
            found += [s for r in message.resource_logs for scope in r.scope_logs for s in scope.log_records]
        return found
