"""`assay dashboards import` against a server that speaks Grafana's API: idempotent, careful, clear when refused."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("grafana_client", reason="pip install 'mlflow-assay[dashboards]'")

from mlflow_assay.cli.dashboards import dashboards
from mlflow_assay.errors import ConfigError, SinkError

ROOT = Path(__file__).parents[2]
SLO = str(ROOT / "dashboards" / "slo.yaml")
_spec = importlib.util.spec_from_file_location("fake_grafana", Path(__file__).with_name("fake_grafana.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)


@pytest.fixture
def grafana():
    with fake.running() as server:
        yield server


@pytest.fixture
def ready(grafana):
    grafana.add_source("prometheus")
    grafana.add_source("tempo")
    return grafana


def run(grafana, *more, token=None, **environment):
    env = {"GRAFANA_TOKEN": token or fake.TOKEN, **environment}
    return CliRunner().invoke(dashboards, ["import", "--url", grafana.url, *more], env=env, catch_exceptions=False)


def test_boards_and_alerts_arrive_in_their_folder(ready):
    done = run(ready, "--slo", SLO)
    assert done.exit_code == 0, done.output
    assert ready.folders["mlflow-assay"]["title"] == "Agent quality"
    assert len(ready.boards) == 6 and len(ready.rules) == 24
    assert {rule["folderUID"] for rule in ready.rules.values()} == {"mlflow-assay"}
    assert {rule["data"][0]["datasourceUid"] for rule in ready.rules.values()} == {"prometheus-1"}


def test_a_folder_of_that_title_serves_under_whatever_uid(ready):
    """File provisioning of alerts makes the folder under a uid of Grafana's own; a second of that name is refused."""
    ready.folders["e9f4"] = {"uid": "e9f4", "title": "Agent quality"}
    run(ready, "--slo", SLO)
    assert list(ready.folders) == ["e9f4"]
    assert {board["meta"]["folderUid"] for board in ready.boards.values()} == {"e9f4"}
    assert {rule["folderUID"] for rule in ready.rules.values()} == {"e9f4"}


def test_a_second_import_writes_nothing(ready):
    run(ready, "--slo", SLO)
    ready.calls.clear()
    done = run(ready, "--slo", SLO)
    assert ready.writes == [] and "0 of 31 changed" in done.output


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(ready):
    done = run(ready, "--dry-run")
    assert ready.writes == [] and "would create  board Agent quality: judges" in done.output


def test_an_edited_board_is_put_right_and_the_diff_shows_how(ready):
    run(ready)
    ready.boards["assay-judges"]["dashboard"]["title"] = "Scribbled on"
    done = run(ready, "--diff")
    assert "updated  board Agent quality: judges" in done.output and '- "title": "Scribbled on"' in done.output
    assert ready.boards["assay-judges"]["dashboard"]["title"] == "Agent quality: judges"
    assert "1 of 7 changed" in done.output


def test_json_lists_every_change(ready):
    answer = json.loads(run(ready, "--json", "--dry-run").output)
    assert answer["dry_run"] is True
    assert [c["action"] for c in answer["changes"]] == ["create"] * 7


def test_missing_data_sources_are_created_where_addresses_are_given(grafana):
    run(grafana, "--prometheus-url", "http://prometheus:9090", "--tempo-url", "http://tempo:3200", "--slo", SLO)
    assert {source["uid"]: source["url"] for source in grafana.sources} == {
        "assay-prometheus": "http://prometheus:9090",
        "assay-tempo": "http://tempo:3200",
    }
    assert {rule["data"][0]["datasourceUid"] for rule in grafana.rules.values()} == {"assay-prometheus"}


def test_without_data_sources_nothing_is_written(grafana):
    with pytest.raises(ConfigError, match=r"of type prometheus and none of type tempo.*--prometheus-url"):
        run(grafana)
    assert grafana.writes == []


def test_several_prometheus_sources_need_a_choice(ready):
    ready.add_source("prometheus", uid="other")
    with pytest.raises(ConfigError, match=r"Which prometheus data source.*--prometheus-uid"):
        run(ready, "--slo", SLO)
    run(ready, "--slo", SLO, "--prometheus-uid", "other")
    assert {rule["data"][0]["datasourceUid"] for rule in ready.rules.values()} == {"other"}


def test_the_default_prometheus_source_is_taken(ready):
    ready.add_source("prometheus", uid="main", default=True)
    run(ready, "--slo", SLO)
    assert {rule["data"][0]["datasourceUid"] for rule in ready.rules.values()} == {"main"}


def test_the_mlflow_address_reaches_the_links(ready):
    run(ready, "--mlflow-url", "https://mlflow.example.org/")
    variables = ready.boards["assay-judges"]["dashboard"]["templating"]["list"]
    assert [v["query"] for v in variables if v["name"] == "mlflow"] == ["https://mlflow.example.org"]


def test_prompt_versions_are_marked_once(ready, store):
    import mlflow

    mlflow.genai.register_prompt("router", "Route: {{q}}")
    mlflow.genai.register_prompt("router", "Route well: {{q}}")
    run(ready, "--mark-prompt", "router")
    run(ready, "--mark-prompt", "router")
    assert sorted(mark["text"] for mark in ready.marks) == ["Prompt router version 1", "Prompt router version 2"]
    assert {"mlflow-assay", "release", "prompt:router/1"} <= set(ready.marks[0]["tags"] + ready.marks[1]["tags"])


# --- refused ------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_said_and_never_shown(ready):
    with pytest.raises(SinkError, match=r"status 401.*service account") as raised:
        run(ready, token="glsa_secret_wrong")
    assert "glsa_secret_wrong" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/folders", 403, "lacks the right"),
        ("/api/dashboards/db", 500, "Grafana itself failed"),
        ("/api/v1/provisioning", 403, "alert rules"),
        ("/api/datasources", 401, "token is wrong"),
    ],
)
def test_a_refusal_says_what_and_what_to_do(ready, path, status, words):
    ready.refuse[path] = status
    with pytest.raises(SinkError, match=f"status {status}.*{words}"):
        run(ready, "--slo", SLO)


def test_a_board_provisioned_from_files_is_a_clear_412(ready):
    ready.provisioned.add("assay-agents")
    with pytest.raises(SinkError, match=r"board 'Agent quality: agents' with status 412.*provisioned from files"):
        run(ready)


def test_after_a_failure_the_same_command_goes_on(ready):
    ready.refuse["/api/v1/provisioning/alert-rules"] = 500
    with pytest.raises(SinkError):
        run(ready, "--slo", SLO)
    ready.refuse.clear()
    assert run(ready, "--slo", SLO).exit_code == 0
    assert len(ready.boards) == 6 and len(ready.rules) == 24


def test_a_server_that_is_not_there_is_said(ready):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ready.url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SinkError, match="cannot be reached"):
        run(ready)


def test_an_address_that_is_none_is_refused(ready):
    ready.url = "grafana"
    with pytest.raises(ConfigError, match="is no address"):
        run(ready)


# --- the other commands ---------------------------------------------------------------------------------


def test_list_names_every_board_and_its_panels():
    answer = json.loads(CliRunner().invoke(dashboards, ["list", "--json"]).output)
    assert len(answer) == 6 and all(len(board["panels"]) >= 5 for board in answer)


def test_check_passes_on_ours_and_fails_on_a_spoilt_board(tmp_path):
    assert CliRunner().invoke(dashboards, ["check"]).exit_code == 0
    model = json.loads((ROOT / "dashboards/generated/assay-judges.json").read_text(encoding="utf-8"))
    model["editable"] = True
    (tmp_path / "assay-judges.json").write_text(json.dumps(model), encoding="utf-8")
    done = CliRunner().invoke(dashboards, ["check", "--boards", str(tmp_path)])
    assert done.exit_code == 1 and "[identity]" in done.output


def test_build_writes_and_diff_finds_the_stale(tmp_path):
    assert CliRunner().invoke(dashboards, ["build", "--diff", "--out", str(tmp_path)]).exit_code == 1
    assert CliRunner().invoke(dashboards, ["build", "--out", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(dashboards, ["build", "--diff", "--out", str(tmp_path)]).exit_code == 0
