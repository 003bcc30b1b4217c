"""The worker's HTTP endpoint: `/healthz`, `/readyz`, `/status` and `/metrics`. Loopback unless told otherwise.

It answers with states, counts and times only: no assessment, rationale, address or key is ever in an answer, apart
from what a part that failed said, with passwords and keys masked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.bridge.worker import Health
from mlflow_assay.contracts import BridgeStatus
from mlflow_assay.errors import AssayError, ConfigError
from mlflow_assay.redaction import Redactor

__all__ = ["HealthServer", "prometheus_text"]


class HealthServer:
    """Serves a worker's health.

    Args:
        health: what each part said last.
        sinks: what each sink that fails said last, by its name in the outbox.
        status: how the bridge stands.
        port: 0 takes a free one.
        host: the address to listen on.
        metrics: what `/metrics` answers, in Prometheus' text format, from how the bridge stands.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(
        self,
        health: Health,
        sinks: Callable[[], Mapping[str, str]],
        status: Callable[[], BridgeStatus],
        port: int,
        host: str = "127.0.0.1",
        metrics: Callable[[BridgeStatus], str] | None = None,
    ) -> None:
        self._health, self._sinks, self._status = health, sinks, status
        self._metrics = metrics or prometheus_text
        self._mask = Redactor(kinds=["secret"]).text
        try:
            self._server = ThreadingHTTPServer((host, port), self._handler())
        except (OSError, OverflowError) as error:
            fix = "Name another port with --health-port."
            raise ConfigError(f"The health endpoint cannot listen on {host}:{port}: {error}.", fix=fix) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, str]:
        """Status, content type and body for a path."""
        if path in ("/", "/healthz"):
            return 200, "text/plain", "ok\n"  # the process answers; what is ill is for /readyz to say
        if path == "/readyz":
            faults = {part: self._mask(why) for part, why in self._health.faults.items()}
            # A sink that is away is no reason to restart the worker, which keeps what it is owed.
            sinks = {name: self._mask(why) for name, why in self._sinks().items()}
            return (503 if faults else 200), "application/json", json.dumps({"faults": faults, "sinks": sinks}) + "\n"
        if path in ("/status", "/metrics"):
            try:
                status = self._status()
            except AssayError as error:
                return 503, "text/plain", self._mask(str(error)) + "\n"
            if path == "/status":
                return 200, "application/json", self._mask(json.dumps(asdict(status))) + "\n"
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics(status)
        return 404, "text/plain", "there is /healthz, /readyz, /status and /metrics\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, kind, body = answer(self.path.partition("?")[0])
                held = body.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(held)))
                self.end_headers()
                self.wfile.write(held)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Requests are not logged."""

        return Handler


def prometheus_text(status: BridgeStatus) -> str:
    """How the bridge stands, in Prometheus' text format, under the names the OTLP metrics have there."""
    lines = []
    backlog, lag = semconv.prometheus_name(semconv.M_BACKLOG), semconv.prometheus_name(semconv.M_LAG)
    age = semconv.prometheus_name(semconv.M_WATERMARK_AGE)
    sink, state = semconv.prometheus_label(semconv.SINK), semconv.prometheus_label(semconv.STATE)
    experiment = semconv.prometheus_label(semconv.EXPERIMENT_ID)
    lines.append(f"# TYPE {backlog} gauge")
    for one in status.sinks:
        for name, count in (("pending", one.pending), ("retrying", one.retrying), ("dead", one.dead)):
            lines.append(f'{backlog}{{{sink}="{_quoted(one.sink)}",{state}="{name}"}} {count}')
    lines.append(f"# TYPE {lag} gauge")
    lines += [f'{lag}{{{sink}="{_quoted(one.sink)}"}} {one.lag_s:.3f}' for one in status.sinks]
    lines.append(f"# TYPE {age} gauge")
    for name, seconds in status.watermark_age_s.items():
        if seconds is not None:
            lines.append(f'{age}{{{experiment}="{_quoted(name)}"}} {seconds:.3f}')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
