"""`assay dashboards import` into a real Grafana: the backend of 10.0.0-preview, built as a Go module, no front end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

pytest.importorskip("grafana_client", reason="pip install 'mlflow-assay[dashboards]'")

from mlflow_assay.cli.dashboards import dashboards
from mlflow_assay.dashboards.files import generated
from mlflow_assay.errors import SinkError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SLO = str(ROOT / "dashboards" / "slo.yaml")
LOGIN = ("admin", "admin")


def home() -> Path:
    """Where `.ci/grafana` built it; skips with how to get it. Not required in CI: the build takes its time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = sorted((cache / "mlflow-assay" / "grafana").glob("*/grafana"))
    if not found:
        pytest.skip("Grafana's backend is not built: .ci/grafana does it (Go 1.26, some minutes)")
    return found[-1].parent


@pytest.fixture(scope="module")
def grafana(tmp_path_factory):
    """Address of a fresh server on loopback."""
    where, data = home(), tmp_path_factory.mktemp("grafana")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(data),
        "GF_PATHS_LOGS": str(data / "log"),
        "GF_PATHS_PLUGINS": str(data / "plugins"),
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_SECURITY_ADMIN_PASSWORD": LOGIN[1],
        "GF_LOG_LEVEL": "warn",
    }
    with (data / "out").open("w") as log:
        server = subprocess.Popen(
            [str(where / "grafana"), "server", "--homepath", str(where)],
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _healthy(f"http://127.0.0.1:{port}", server, data / "out")
        finally:
            server.terminate()
            server.wait(20)


def _healthy(url: str, server: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{url}/api/health", timeout=5).json().get("database") == "ok":
                return url
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def run(url, *more, token="admin:admin"):
    done = CliRunner().invoke(
        dashboards, ["import", "--url", url, *more], env={"GRAFANA_TOKEN": token}, catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def imported(grafana, stack):
    """A server with our boards and alerts, asking a real Prometheus and Tempo."""
    said = run(grafana, "--slo", SLO, "--prometheus-url", stack.prometheus, "--tempo-url", stack.tempo)
    assert "created  board Agent quality: judges" in said
    return grafana


def get(url, path):
    return requests.get(f"{url}{path}", auth=LOGIN, timeout=30).json()


def test_every_board_is_there_as_it_was_sent(imported):
    for board in generated():
        there = get(imported, f"/api/dashboards/uid/{board.uid}")
        assert there["meta"]["folderUid"] == "mlflow-assay"
        kept = {k: v for k, v in there["dashboard"].items() if k not in ("id", "version")}
        assert kept == {k: v for k, v in board.model.items() if k not in ("id", "version")}


def test_a_second_import_changes_nothing(imported):
    boards = len(generated())
    assert f"0 of {boards + 1 + 24} changed" in run(imported, "--slo", SLO)


def test_a_board_changed_in_grafana_is_put_right(imported):
    there = get(imported, "/api/dashboards/uid/assay-judges")["dashboard"] | {"title": "Scribbled on"}
    body = {"dashboard": there, "folderUid": "mlflow-assay", "overwrite": True}
    requests.post(f"{imported}/api/dashboards/db", json=body, auth=LOGIN, timeout=30).raise_for_status()
    assert "updated  board Agent quality: judges" in run(imported)
    assert get(imported, "/api/dashboards/uid/assay-judges")["dashboard"]["title"] == "Agent quality: judges"


@pytest.mark.timeout(300)
def test_grafana_evaluates_every_alert_rule_without_an_error(imported):
    """Each is asked of Prometheus by Grafana's own scheduler; on an empty Prometheus only the silent bridge fires."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        groups = get(imported, "/api/prometheus/grafana/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if len(rules) == 24 and all(rule["lastEvaluation"] > "0002" for rule in rules):
            break
        time.sleep(3)
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] not in ("ok", "nodata")} == {}
    assert [rule["name"] for rule in rules if rule["state"] != "inactive"] == ["AssayBridgeSilent"]


def test_grafana_asks_prometheus_what_a_panel_asks(imported):
    """The data source we made works: a panel's query goes through Grafana's own query API."""
    board = next(b for b in generated() if b.uid == "assay-pipeline-health")
    panel = next(p for p in board.panels if p["title"] == "Scrape targets")
    query = panel["targets"][0] | {"datasource": {"type": "prometheus", "uid": "assay-prometheus"}}
    body = {"queries": [query], "from": "now-5m", "to": "now"}
    answer = requests.post(f"{imported}/api/ds/query", json=body, auth=LOGIN, timeout=30).json()
    assert answer["results"]["A"]["status"] == 200, answer


def test_prompt_versions_are_marked_once(imported, store):
    import mlflow

    mlflow.genai.register_prompt("router", "Route: {{q}}")
    run(imported, "--mark-prompt", "router")
    run(imported, "--mark-prompt", "router")
    marks = get(imported, "/api/annotations?tags=mlflow-assay&tags=release&from=0&to=9999999999999")
    assert [mark["text"] for mark in marks] == ["Prompt router version 1"]


def test_a_wrong_token_and_a_missing_right_are_said(imported):
    with pytest.raises(SinkError, match=r"status 401.*service account"):
        run(imported, token="glsa_wrong")
    account = requests.post(
        f"{imported}/api/serviceaccounts", json={"name": "viewer", "role": "Viewer"}, auth=LOGIN, timeout=30
    ).json()
    token = requests.post(
        f"{imported}/api/serviceaccounts/{account['id']}/tokens", json={"name": "t"}, auth=LOGIN, timeout=30
    ).json()["key"]
    with pytest.raises(SinkError, match=r"status 403.*lacks the right"):
        run(imported, "--folder-uid", "elsewhere", token=token)
