"""A real OTLP/HTTP receiver on loopback, and scripts run as the agent's own process (configuration is process-wide)."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def plain(value: Any) -> Any:
    """An OTLP value as Python's."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def pairs(attributes: Any) -> dict[str, Any]:
    return {item.key: plain(item.value) for item in attributes}


@dataclass
class Receiver:
    """What arrived at a loopback OTLP/HTTP endpoint; `status` is what it answers."""

    status: int = 200
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append((self.path, headers, body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]

    @property
    def exports(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for path, _, body in self.requests if path == "/v1/traces"]

    @property
    def spans(self) -> dict[str, dict[str, Any]]:
        """Spans by name, as plain Python."""
        found = {}
        for export in self.exports:
            for resource in export.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found[span.name] = {
                            "trace_id": span.trace_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "kind": span.kind,
                            "attributes": pairs(span.attributes),
                            "events": [(event.name, pairs(event.attributes)) for event in span.events],
                            "status": (span.status.code, span.status.message),
                            "resource": pairs(resource.resource.attributes),
                        }
        return found


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@dataclass
class Agent:
    """Runs a script against a fresh copy of an MLflow store, with an OTLP receiver beside it."""

    store: str
    folder: Path
    receiver: Receiver

    def run(self, script: str, **environment: str) -> Any:
        """The JSON the script printed last; None when it printed nothing."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ASSAY_"))}
        settings = {
            **clean,
            "MLFLOW_TRACKING_URI": self.store,
            "OTLP_URL": self.receiver.url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=settings,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        self.stderr = done.stderr
        self.output = done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
        return json.loads(lines[-1]) if lines else None


@pytest.fixture(scope="module")
def make_agent(tmp_path_factory, _empty_store):
    """A function that gives a fresh Agent; one a module where scenarios are read by several tests."""
    import shutil

    made: list[Receiver] = []

    def make() -> Agent:
        folder = tmp_path_factory.mktemp("agent")
        shutil.copy(_empty_store, folder / "mlflow.db")
        made.append(Receiver())
        return Agent(f"sqlite:///{folder}/mlflow.db", folder, made[-1])

    yield make
    for receiver in made:
        receiver.close()
