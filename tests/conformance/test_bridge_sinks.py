"""Every registered bridge sink against the conformance classes that users get too, with a fake far end on loopback."""

from __future__ import annotations

import pytest

from mlflow_assay import registry
from mlflow_assay.testing.bridge_conformance import BridgeSinkConformance, HttpBridgeSinkConformance

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(("OTEL_", "DD_", "LANGFUSE_", "PHOENIX_", "ASSAY_SEMCONV")):
            monkeypatch.delenv(name)


class TestJsonLines(BridgeSinkConformance):
    def make(self, tmp_path):
        return registry.load("bridge_sinks", "jsonl")(path=str(tmp_path / "revisions.jsonl"))


@pytest.mark.parametrize("name", ["otlp-span", "otlp-event", "otlp-metrics"], scope="class")
class TestOtlp(HttpBridgeSinkConformance):
    secret = KEY

    @pytest.fixture(autouse=True)
    def _name(self, name, monkeypatch):
        self._sink = name
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-api-key={KEY}")

    def make_for(self, url, timeout_s):
        return registry.load("bridge_sinks", self._sink)(endpoint=url, timeout_s=str(timeout_s))


class TestDatadog(HttpBridgeSinkConformance):
    secret = KEY

    def make_for(self, url, timeout_s):
        return registry.load("bridge_sinks", "datadog")(api_key=KEY, url=url, timeout_s=str(timeout_s), ml_app="x")


class TestLangfuse(HttpBridgeSinkConformance):
    secret = KEY

    def make_for(self, url, timeout_s):
        sink = registry.load("bridge_sinks", "langfuse")
        return sink(host=url, public_key="pk-lf-1234", secret_key=KEY, timeout_s=str(timeout_s))


class TestPhoenix(HttpBridgeSinkConformance):
    secret = KEY

    def make_for(self, url, timeout_s):
        return registry.load("bridge_sinks", "phoenix")(host=url, api_key=KEY, timeout_s=str(timeout_s))


def test_every_registered_bridge_sink_is_in_this_suite():
    tested = {"jsonl", "otlp-span", "otlp-event", "otlp-metrics", "datadog", "langfuse", "phoenix"}
    assert set(registry.available("bridge_sinks")) == tested


@pytest.mark.parametrize("name", registry.available("bridge_sinks"))
def test_it_says_what_it_promises_against_doubles(name):
    promise = registry.load("bridge_sinks", name).guarantee
    assert 40 < len(promise) < 220 and promise.endswith(".")
