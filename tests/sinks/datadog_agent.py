"""Datadog's own test agent and client, in an environment of their own: their pins do not go beside MLflow's."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

PINS = ("ddapm-test-agent==1.69.1", "ddtrace==4.16.0")
CLIENT = Path(__file__).parent / "datadog_client.py"


def environment() -> Path:
    """The folder of the virtual environment; skips (fails on CI) where it is absent."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mlflow-assay" / "datadog"
    if not (folder / "bin" / "ddapm-test-agent").exists():
        how = f"python -m venv {folder} && {folder}/bin/pip install {' '.join(PINS)}"
        reason = f"Datadog's test agent is not installed: {how}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return folder


def _free_ports(count):
    taken = [socket.socket() for _ in range(count)]
    for one in taken:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class Agent:
    """A running test agent."""

    def __init__(self, folder: Path, port: int, otlp_port: int) -> None:
        self.folder, self.url, self.otlp = folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{otlp_port}"

    def read(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    def evaluations(self) -> list[dict]:
        """The metrics of every eval-metric request, in order."""
        found = []
        for request in self.read("/test/session/requests"):
            if request["url"].endswith("/eval-metric"):
                body = json.loads(base64.b64decode(request["body"]))
                assert body["data"]["type"] == "evaluation_metric"
                found += body["data"]["attributes"]["metrics"]
        return found

    def clear(self) -> None:
        with urllib.request.urlopen(self.url + "/test/session/clear", timeout=10):  # noqa: S310 - loopback
            pass

    def submit(self, calls: list[dict]) -> None:
        """Have ddtrace's own client submit evaluations."""
        variables = {"DD_TRACE_AGENT_URL": self.url, "DD_LLMOBS_AGENTLESS_ENABLED": "0", "DD_TRACE_OTEL_ENABLED": "1"}
        done = subprocess.run(
            [self.folder / "bin" / "python", CLIENT],
            input=json.dumps(calls),
            text=True,
            capture_output=True,
            timeout=90,
            env={**os.environ, **variables, "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"},
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running_agent(log: Path):
    """The agent on free loopback ports; it forwards nothing."""
    folder = environment()
    port, http, grpc, ui = _free_ports(4)
    command = [folder / "bin" / "ddapm-test-agent", "-p", str(port), "--host", "127.0.0.1"]
    command += ["--otlp-http-port", str(http), "--otlp-grpc-port", str(grpc), "--web-ui-port", str(ui)]
    command += ["--disable-llmobs-data-forwarding"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent)
        try:
            agent = Agent(folder, port, http)
            _wait(agent, process, log)
            yield agent
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait(agent: Agent, process, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            agent.read("/info")
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text())
