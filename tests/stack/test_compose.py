"""compose.yaml, read by the loader of `docker compose` itself; its mounted files; and the house's rules for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from assay_stack import build
from assay_stack.fixtures import need

COMPOSE = build.ROOT / "compose"
SECRETS = {
    "POSTGRES_PASSWORD": "planted-a",
    "GRAFANA_PASSWORD": "planted-b",
    "AWS_ACCESS_KEY_ID": "planted-c",
    "AWS_SECRET_ACCESS_KEY": "planted-d",
}
EXPECTED = {
    "dev": {"collector", "grafana", "mlflow", "postgres", "prometheus", "tempo", "watch"},
    "production": {
        "buckets", "collector", "grafana", "mlflow-production", "object-store", "postgres", "prometheus",
        "tempo-production", "watch",
    },
}  # fmt: skip


def load(binary: Path, profile: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in SECRETS}
    command = [str(binary), "-profile", profile, str(COMPOSE / "compose.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**clean, **environment})


@pytest.fixture(scope="module", params=["dev", "production"])
def project(request, compose_config) -> dict[str, Any]:
    done = load(compose_config, request.param, **SECRETS)
    assert done.returncode == 0, done.stderr
    return {"profile": request.param, **json.loads(done.stdout)}


def test_each_profile_is_valid_and_whole(project):
    """Schema, interpolation, merging, references between services, volumes and networks."""
    assert set(project["services"]) == EXPECTED[project["profile"]]


def test_a_missing_secret_is_said_before_anything_starts(compose_config):
    done = load(compose_config, "dev")
    assert done.returncode == 1
    assert "POSTGRES_PASSWORD is missing" in done.stderr
    assert "GRAFANA_PASSWORD is missing" in done.stderr


def test_every_mounted_file_exists(project):
    for name, service in project["services"].items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), (name, volume["source"])
                assert volume.get("read_only"), (name, volume["source"])


def test_every_service_is_bounded_watched_and_pinned(project):
    for name, service in project["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory"} <= set(limits), name
        assert "no-new-privileges:true" in service.get("security_opt", []) or name == "buckets", name
        assert service["restart"] == ("no" if name == "buckets" else "unless-stopped")
        if name != "buckets":
            assert service["healthcheck"]["test"], name
        assert re.search(r":(v?\d+\.\d+[\w.-]*|local)$", service["image"]), (name, service["image"])


def test_every_base_image_is_pinned():
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8") + (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^\s*FROM (\S+)", text, re.MULTILINE)
    assert len(bases) >= 6
    assert [base for base in bases if not re.search(r":\d+\.\d+", base)] == []


def test_ports_are_published_on_loopback_only(project):
    published = {
        name: {port.get("host_ip") for port in service.get("ports", [])}
        for name, service in project["services"].items()
    }
    assert set.union(*published.values()) == {"127.0.0.1"}
    assert published["postgres"] == set()


def test_secrets_come_from_the_environment():
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    for line in re.findall(r"^\s*\w*(?:PASSWORD|SECRET|API_KEY|ACCESS_KEY_ID)\w*: (.*)$", text, re.MULTILINE):
        assert line.startswith("${"), line
    assert (COMPOSE / ".env.example").read_text(encoding="utf-8").count("PASSWORD=\n") == 2


def test_the_example_names_every_variable_that_must_be_set():
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    example = (COMPOSE / ".env.example").read_text(encoding="utf-8")
    assert {v for v in re.findall(r"\$\{(\w+):\?", text) if f"{v}=" not in example} == set()


def test_without_a_flag_the_example_starts_a_whole_profile():
    """Services without a profile alone are a collector with nowhere to send to."""
    example = (COMPOSE / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^COMPOSE_PROFILES=(.*)$", example, re.M)) <= set(EXPECTED)
    assert "COMPOSE_PROFILES=" in example


def test_a_variable_set_for_the_collector_is_one_it_reads(project):
    """A misspelt variable would silently leave the default, which listens on loopback only."""
    read = {
        v for path in (COMPOSE / "collector").rglob("*.yaml") for v in re.findall(r"\$\{env:(\w+)", path.read_text())
    }
    given = set(project["services"]["collector"]["environment"]) - {"GOMEMLIMIT"}
    assert given - read == set()


def test_a_variable_set_for_tempo_is_one_it_reads(project):
    tempo = project["services"]["tempo" if project["profile"] == "dev" else "tempo-production"]
    read = set(re.findall(r"\$\{(\w+)", (COMPOSE / "tempo" / "tempo.yaml").read_text(encoding="utf-8")))
    assert set(tempo["environment"]) - read == set()


def test_the_collectors_files_are_given_to_it_in_order(project):
    names = [part.removeprefix("--config=/etc/otelcol/") for part in project["services"]["collector"]["command"]]
    assert names == ["base.yaml", "edge.yaml", "core.yaml", "overlays/none.yaml"]
    assert all((COMPOSE / "collector" / name).exists() for name in names)


def test_the_worker_is_given_options_it_has(project):
    """The command of compose.yaml with ASSAY_WATCH of the example parses."""
    from mlflow_assay.cli import assay

    example = (COMPOSE / ".env.example").read_text(encoding="utf-8")
    wanted = re.search(r"^ASSAY_WATCH=(.*)$", example, re.MULTILINE)[1]
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    command = re.search(r"exec assay watch (.*) \$\{ASSAY_WATCH", text)[1]
    assay.get_command(None, "watch").make_context("watch", f"{command} {wanted}".split())
    assert f"exec assay watch {command} --experiment Default" in project["services"]["watch"]["command"]


@pytest.mark.integration
def test_prometheus_takes_its_configuration(tmp_path):
    promtool = shutil.which("promtool", path=str(need(build.prometheus).parent) + os.pathsep + os.environ["PATH"])
    text = (COMPOSE / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8")
    copy = tmp_path / "prometheus.yaml"
    copy.write_text(text.replace("/etc/prometheus/rules", str(COMPOSE / "prometheus" / "rules")), encoding="utf-8")
    done = subprocess.run([promtool, "check", "config", str(copy)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_is_provisioned_with_what_the_files_refer_to():
    folder = COMPOSE / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "assay.yaml").read_text(encoding="utf-8"))["datasources"]
    uids = {source["uid"] for source in sources}
    text = json.dumps(sources)
    assert set(re.findall(r'"datasourceUid": "(\w+)"', text)) <= uids
    variables = set(re.findall(r"\$\{(\w+)\}", text))
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
    assert variables <= set(compose["services"]["grafana"]["environment"])
    provider = yaml.safe_load((folder / "dashboards" / "assay.yaml").read_text(encoding="utf-8"))["providers"][0]
    mounts = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts
