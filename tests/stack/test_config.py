"""The collector's configuration: valid in every combination, by its own word; files that only add; one version."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from assay_stack import build
from assay_stack.ports import Ports
from assay_stack.services import COLLECTOR, Collector

ROOT = build.ROOT
COMBINATIONS = {
    "one process": ("base", "edge", "core"),
    "one process, no overlay": ("base", "edge", "core", "overlays/none"),
    "and Datadog": ("base", "edge", "core", "overlays/datadog"),
    "and Loki": ("base", "edge", "core", "overlays/loki"),
    "and both": ("base", "edge", "core", "overlays/datadog", "overlays/loki"),
    "edge before Kafka": ("base", "edge", "overlays/to-kafka"),
    "core behind Kafka": ("base", "core", "overlays/from-kafka"),
    "core behind Kafka and Datadog": ("base", "core", "overlays/from-kafka", "overlays/datadog"),
    "balancing edge": ("base", "edge", "overlays/to-balanced"),
    "balanced core": ("base", "core", "overlays/from-balanced"),
}


def files() -> list[Path]:
    return [path for path in sorted(COLLECTOR.rglob("*.yaml")) if path.name != "builder.yaml"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((COLLECTOR / f"{name}.yaml").read_text(encoding="utf-8"))


def run(binary: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(binary), *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def arguments(names: tuple[str, ...]) -> list[str]:
    return [part for name in names for part in ("--config", str(COLLECTOR / f"{name}.yaml"))]


@pytest.mark.integration
@pytest.mark.parametrize("names", COMBINATIONS.values(), ids=COMBINATIONS)
def test_the_collector_itself_finds_the_files_valid(collector_binary, names):
    done = run(collector_binary, "validate", *arguments(names), DD_API_KEY="x")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name in COMBINATIONS if "Kafka" not in name])
def test_the_collector_starts_with_the_files(name, collector_binary, tmp_path):
    """`validate` does not build the pipelines: a connector that leads nowhere is found at the start only.

    With Kafka: test_pipeline.
    """
    ports = Ports()
    files = tuple(f"{file}.yaml" for file in COMBINATIONS[name])
    settings = {"DD_API_KEY": "x", "ASSAY_CORE_LISTEN": f"127.0.0.1:{ports.next()}"}
    collector = Collector(tmp_path, ports, configs=files, settings=settings)
    try:
        collector.start()
        assert collector.running
    finally:
        collector.kill()
        ports.release()


@pytest.mark.integration
def test_the_collectors_validation_can_fail(collector_binary, tmp_path):
    """So that its silence above means something."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("processors: {tail_sampling: {decision_wait: soon}}", encoding="utf-8")
    done = run(collector_binary, "validate", *arguments(("base", "edge", "core")), "--config", str(wrong))
    assert done.returncode != 0
    assert "decision_wait" in done.stderr


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is not a map, by its path: what merging replaces."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {p: v for key, sub in tree.items() for p, v in leaves(sub, (*path, key)).items()}


@pytest.mark.parametrize("names", COMBINATIONS.values(), ids=COMBINATIONS)
def test_no_file_changes_what_another_says(names):
    """Merging replaces silently; here every file adds, so the order of overlays does not matter."""
    for one, other in combinations(names, 2):
        first, second = leaves(read(one) or {}), leaves(read(other) or {})
        assert {path: (first[path], second[path]) for path in first.keys() & second.keys() if path} == {}, (one, other)


def test_every_file_is_in_a_combination():
    used = {f"{name}.yaml" for names in COMBINATIONS.values() for name in names}
    assert {str(path.relative_to(COLLECTOR)) for path in files()} == used


def test_the_version_is_one_and_pinned():
    """Builder, modules, image: the configuration is tested with what users run."""
    manifest = yaml.safe_load(build.MANIFEST.read_text(encoding="utf-8"))
    version = manifest["dist"]["version"]
    modules = [m["gomod"].split() for part in manifest.values() if isinstance(part, list) for m in part if "gomod" in m]
    assert {v for name, v in modules if "/provider/" not in name} == {f"v{version}"}
    assert len({v for name, v in modules if "/provider/" in name}) == 1
    assert build.BUILDER.endswith(f"@v{version}")
    compose = (ROOT / "compose" / "compose.yaml").read_text(encoding="utf-8")
    assert f"otel/opentelemetry-collector-contrib:{version}\n" in compose


def test_every_component_used_is_built():
    manifest = yaml.safe_load(build.MANIFEST.read_text(encoding="utf-8"))
    built = " ".join(m["gomod"] for part in manifest.values() if isinstance(part, list) for m in part if "gomod" in m)
    alias = {"otlp_grpc": "otlp", "otlp_http": "otlphttp", "health_check": "healthcheck", "file_storage": "filestorage"}
    for path in files():
        for kind in ("receivers", "processors", "exporters", "connectors", "extensions"):
            for name in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(kind, {}):
                component = name.split("/")[0]
                module = alias.get(component, component).replace("_", "")
                suffix = {"extensions": "(extension)?"}.get(kind, kind[:-1])
                assert re.search(rf"/{module}{suffix} ", built), (path.name, name)


def test_no_secret_is_written_down_and_no_port_is_open_by_default():
    for path in files():
        text = path.read_text(encoding="utf-8")
        for key in re.findall(r"^\s*[\w-]*(?:api-key|token|password|secret)[\w-]*: *(.+)$", text, re.MULTILINE):
            assert key.startswith("${env:"), (path.name, key)
        assert "0.0.0.0" not in text, path.name  # noqa: S104


def test_queues_survive_the_process_and_never_give_up():
    """Nothing acknowledged waits in memory alone, and no outage is too long (but for metrics, sent again anyway)."""
    for path in files():
        for name, exporter in ((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("exporters") or {}).items():
            if name == "prometheus_remote_write":
                continue
            assert exporter["sending_queue"]["storage"] == "file_storage/queue", (path.name, name)
            assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", (path.name, name)


def test_redaction_stands_before_every_fan_out():
    """What passes the connectors forward/* has passed redaction, and nothing else feeds them in the edge."""
    for name, pipeline in read("edge")["service"]["pipelines"].items():
        steps = pipeline["processors"]
        assert steps[0] == "memory_limiter", name
        assert "redaction/pii" in steps, name
        assert all(exporter.startswith("forward/") for exporter in pipeline["exporters"]), name
    for path in files():
        for name, pipeline in (
            (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("service", {}).get("pipelines", {}).items()
        ):
            if "otlp" in pipeline["receivers"]:
                assert path.name == "edge.yaml", name
