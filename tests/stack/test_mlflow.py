"""MLflow on PostgreSQL, with the very command of compose.yaml."""

from __future__ import annotations

import http.client

import pytest
import yaml
from assay_stack import build
from assay_stack.ports import Ports
from assay_stack.services import Mlflow

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class FromCompose(Mlflow):
    """The server as compose.yaml starts it, at a loopback address and a folder of its own."""

    def command(self) -> list[str]:
        compose = yaml.safe_load((build.ROOT / "compose" / "compose.yaml").read_text(encoding="utf-8"))
        words = compose["services"]["mlflow"]["command"]
        here = {"--host": "127.0.0.1", "--port": str(self.port), "--workers": "1"}
        here["--artifacts-destination"] = str(self.folder / "artifacts")
        options = [word.split("=", 1) for word in words[2:]]
        kept = [f"{name}={here.get(name, value)}" for name, value in options]
        return [*super().command()[:3], *words[1:2], *kept]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MLFLOW_BACKEND_STORE_URI": self.store}


def status(port: int, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default", headers={"Host": host})
    return connection.getresponse().status


def test_mlflow_keeps_traces_in_postgresql_and_answers_to_its_names_only(stack, tmp_path, monkeypatch):
    import mlflow

    ports = Ports()
    server = FromCompose(tmp_path / "mlflow", ports, store=stack.new_database("mlflow"))
    before = mlflow.get_tracking_uri()
    try:
        server.start()
        mlflow.set_tracking_uri(server.url)
        mlflow.set_experiment("postgres")
        with mlflow.start_span("agent") as span:
            span.set_outputs("done")
        mlflow.log_feedback(trace_id=span.trace_id, name="resolved", value=True)
        server.kill()
        server.start()
        (trace,) = mlflow.search_traces(return_type="list")
        assert [assessment.name for assessment in trace.info.assessments] == ["resolved"]
        assert status(server.port, "mlflow:5000") == 200
        assert status(server.port, f"localhost:{server.port}") == 200
        assert status(server.port, "evil.example.com") == 403
    finally:
        mlflow.set_tracking_uri(before)
        server.kill()
        ports.release()
