"""A real Grafana, by `assay dashboards import` and by compose's file provisioning: the backend of 10.0.0-preview, built
as a Go module, no front end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

pytest.importorskip("grafana_client", reason="pip install 'mlflow-assay[dashboards]'")

from mlflow_assay.cli.dashboards import dashboards
from mlflow_assay.cli.slo import slo
from mlflow_assay.dashboards.files import generated
from mlflow_assay.errors import SinkError
from mlflow_assay.slo.alerts import alerts
from mlflow_assay.slo.spec import load

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SLO = str(ROOT / "dashboards" / "slo.yaml")
LOGIN = ("admin", "admin")
ALERTS = alerts(load(ROOT / "dashboards" / "slo.yaml"))
PROVISIONING = ROOT / "compose" / "grafana" / "provisioning"


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
    with server(tmp_path_factory.mktemp("grafana")) as url:
        yield url


@contextlib.contextmanager
def server(data: Path, **more: str):
    """A server on loopback with its data in a folder and its output in `out` there; its address."""
    where = home()
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
        **more,
    }
    with (data / "out").open("w") as log:
        process = subprocess.Popen(
            [str(where / "grafana"), "server", "--homepath", str(where)],
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _healthy(f"http://127.0.0.1:{port}", process, data / "out")
        finally:
            process.terminate()
            process.wait(20)


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
    assert f"0 of {boards + 1 + len(ALERTS)} changed" in run(imported, "--slo", SLO)


def test_a_board_changed_in_grafana_is_put_right(imported):
    there = get(imported, "/api/dashboards/uid/assay-judges")["dashboard"] | {"title": "Scribbled on"}
    body = {"dashboard": there, "folderUid": "mlflow-assay", "overwrite": True}
    requests.post(f"{imported}/api/dashboards/db", json=body, auth=LOGIN, timeout=30).raise_for_status()
    assert "updated  board Agent quality: judges" in run(imported)
    assert get(imported, "/api/dashboards/uid/assay-judges")["dashboard"]["title"] == "Agent quality: judges"


@pytest.mark.timeout(300)
def test_grafana_evaluates_every_alert_rule_without_an_error(imported):
    """Each is asked of Prometheus by Grafana's own scheduler; on an empty Prometheus only the silent bridge fires."""
    rules = evaluated(imported)
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] not in ("ok", "nodata")} == {}
    assert [rule["name"] for rule in rules if rule["state"] != "inactive"] == ["AssayBridgeSilent"]


def evaluated(url: str) -> list[dict]:
    """The alert rules as Grafana's scheduler has them, when it has asked each at least once."""
    deadline, rules = time.monotonic() + 200, []
    while time.monotonic() < deadline:
        groups = get(url, "/api/prometheus/grafana/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if len(rules) == len(ALERTS) and all(rule["lastEvaluation"] > "0002" for rule in rules):
            return rules
        time.sleep(3)
    raise AssertionError(f"of {len(ALERTS)} rules: {[(r['name'], r['lastEvaluation']) for r in rules]}")


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


# --- file provisioning, as compose.yaml mounts it ----------------------------------------------------------


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory, stack):
    """A server that reads compose's files at its start, with the alerts `assay slo build` writes; (address, output)."""
    data = tmp_path_factory.mktemp("provisioned")
    files = Path(shutil.copytree(PROVISIONING, data / "provisioning"))
    boards = files / "dashboards" / "assay.yaml"
    mounted = boards.read_text().replace(
        "/var/lib/grafana/dashboards/agent-quality", str(ROOT / "dashboards/generated")
    )
    boards.write_text(mounted)
    built = CliRunner().invoke(slo, ["build", SLO, "--out", str(data / "rules")], catch_exceptions=False)
    assert built.exit_code == 0, built.output
    shutil.copy(data / "rules" / "assay.grafana-alerts.yaml", files / "alerting")
    environment = {"GF_PATHS_PROVISIONING": str(files), "PROMETHEUS_URL": stack.prometheus, "TEMPO_URL": stack.tempo}
    with server(data, **environment) as url:
        stack.eventually(lambda: len(get(url, "/api/search?type=dash-db")) == len(generated()), timeout=60)
        yield url, data / "out"


def test_the_provisioned_boards_are_the_committed_ones(provisioned):
    url, _ = provisioned
    for board in generated():
        there = get(url, f"/api/dashboards/uid/{board.uid}")
        assert there["meta"]["provisioned"]
        assert there["meta"]["folderTitle"] == "Agent quality"
        kept = {k: v for k, v in there["dashboard"].items() if k not in ("id", "version")}
        assert kept == {k: v for k, v in board.model.items() if k not in ("id", "version")}


def test_the_provisioned_data_sources_are_linked_and_answer(provisioned):
    url, _ = provisioned
    sources = {source["uid"]: source for source in get(url, "/api/datasources")}
    assert {uid: source["type"] for uid, source in sources.items()} == {"prometheus": "prometheus", "tempo": "tempo"}
    assert sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"][0]["datasourceUid"] == "tempo"
    assert "{$__tags}" in sources["tempo"]["jsonData"]["tracesToMetrics"]["queries"][0]["query"]
    query = {"refId": "A", "expr": "up", "instant": True, "datasource": {"uid": "prometheus"}}
    body = {"queries": [query], "from": "now-5m", "to": "now"}
    answer = requests.post(f"{url}/api/ds/query", json=body, auth=LOGIN, timeout=30).json()
    assert answer["results"]["A"]["status"] == 200, answer
    echoed = requests.get(f"{url}/api/datasources/proxy/uid/tempo/api/echo", auth=LOGIN, timeout=30)
    assert (echoed.status_code, echoed.text) == (200, "echo\n")


@pytest.mark.timeout(300)
def test_the_provisioned_alert_rules_are_all_there_and_evaluate(provisioned):
    url, _ = provisioned
    rules = get(url, "/api/v1/provisioning/alert-rules")
    assert sorted(rule["title"] for rule in rules) == sorted(f"{a.name} {a.key}".strip() for a in ALERTS)
    for rule in rules:
        assert get(url, f"/api/v1/provisioning/alert-rules/{rule['uid']}")["provenance"] == "file"
    assert {rule["health"] for rule in evaluated(url)} <= {"ok", "nodata"}


def test_nothing_of_the_files_was_refused(provisioned):
    """Two folders that Grafana looks for and we have no use for are missing; nothing else is complained about."""
    _, out = provisioned
    lines = [line for line in out.read_text().splitlines() if "logger=provisioning" in line]
    wrong = [line for line in lines if "level=error" in line]
    assert [line for line in wrong if "logger=provisioning.plugins" not in line and "notifiers" not in line] == []


def test_an_import_beside_the_files_changes_nothing(provisioned):
    """What is provisioned cannot be saved, and being equal need not be: the folder is found by its title."""
    url, _ = provisioned
    assert f"0 of {len(generated()) + 1 + len(ALERTS)} changed" in run(url, "--slo", SLO)
