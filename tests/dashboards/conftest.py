"""One scripted stretch of traffic, played through the real bridge into real servers, shared by the tests here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from assay_stack.services import Prometheus
from assay_stack.stack import Stack

DAYS, PER_HOUR, EVERY = 6.0, 3.0, 285.0
ROOT = Path(__file__).parents[2]


class _Backfilled(Prometheus):
    """Takes points of any age, as a server that was there all the time would have taken them when they came."""

    def prepare(self) -> None:
        super().prepare()
        path = self.folder / "prometheus.yml"
        text = path.read_text().replace("storage: {", "storage: {tsdb: {out_of_order_time_window: 60d}, ")
        path.write_text(text)


@dataclass
class Week:
    """What was played, and where it went."""

    stack: Stack
    start: float
    end: float
    said: dict[str, Any]
    tracking_uri: str

    def gauge(self, name: str, **labels: str) -> float:
        """The last value computed by the trust code, by the gauge's labels with dots as double underscores."""
        wanted = {key.replace("__", "."): value for key, value in labels.items()}
        found = [
            row["value"]
            for row in self.said["gauges"]
            if row["metric"] == name
            and {k: v for k, v in row["labels"].items() if k in wanted} == wanted
            and ("assay.slice" in wanted or "assay.slice" not in row["labels"])
        ]
        assert len(found) == 1, (name, wanted, found)
        return found[0]

    def promql(self, query: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """An instant query's (labels, value)."""
        import requests

        asked = {"query": query, **({"time": at} if at else {})}
        answer = requests.get(f"{self.stack.prometheus}/api/v1/query", params=asked, timeout=30).json()
        return [(row["metric"], float(row["value"][1])) for row in answer["data"]["result"]]

    def runs_now(self, seconds: float = 12.0) -> None:
        """Agent runs with model and tool calls as spans through the collector, now: RED metrics need them."""
        load("spans_now").send(self.stack.otlp_http, seconds)


@pytest.fixture(scope="session")
def measuring() -> Any:
    """The module that writes down what panels showed."""
    return load("measured")


@pytest.fixture(scope="session")
def week(tmp_path_factory, _empty_store):
    """Six days that end now, in MLflow, Tempo and Prometheus."""
    import shutil

    folder = tmp_path_factory.mktemp("week")
    with Stack() as stack:
        stack._prometheus.__class__ = _Backfilled
        stack._prometheus.rules = _rules(folder)
        stack.up()
        yield _play(stack, folder, Path(shutil.copy(_empty_store, folder / "mlflow.db")))


def _rules(folder: Path) -> Path:
    """The rule file of the shipped slo.yaml, evaluated more often than once a minute: a test does not wait so long."""
    from mlflow_assay.slo.prometheus_rules import rule_file
    from mlflow_assay.slo.spec import load as load_objectives

    path = folder / "assay.rules.yaml"
    text = rule_file(load_objectives(ROOT / "dashboards" / "slo.yaml"))
    path.write_text(text.replace("interval: 1m", "interval: 20s"), encoding="utf-8")
    return path


def _play(stack: Stack, folder: Path, store: Path) -> Week:
    end = time.time()
    start = end - DAYS * 86400
    uri = f"sqlite:///{store}"
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "ASSAY_CACHE_URL": f"sqlite:///{folder}/verdicts.db",
        "OPENAI_API_KEY": "fake",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    options = {
        "start": start,
        "days": DAYS,
        "per-hour": PER_HOUR,
        "every": EVERY,
        "otlp": stack.otlp_http,
        "prometheus": stack.prometheus,
        "outbox": f"sqlite:///{folder}/outbox.db",
    }
    command = [sys.executable, str(Path(__file__).with_name("week.py"))]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1400, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return Week(stack, start, end, json.loads(done.stdout.splitlines()[-1]), uri)


def load(name: str) -> Any:
    """A module that lies beside the tests."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
