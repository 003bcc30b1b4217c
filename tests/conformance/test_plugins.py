"""Every registered plugin against the conformance classes that users get too."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mlflow_assay import registry
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import (
    FakeJudgeServer,
    ImporterConformance,
    JudgeConformance,
    JudgeRequest,
    ListSource,
    MemorySink,
    PromptOptimizerConformance,
    SinkConformance,
    SourceConformance,
    sample_trace,
)


class TestJsonLinesSink(SinkConformance):
    def make(self, tmp_path):
        return registry.load("sinks", "jsonl")(tmp_path / "verdicts.jsonl")


class TestMemorySink(SinkConformance):
    def make(self, tmp_path):
        return MemorySink()


@pytest.mark.parametrize("fast", [True, False], scope="class")
class TestMlflowSink(SinkConformance):
    @pytest.fixture(autouse=True)
    def _traces(self, log_trace, fast):
        self._ids, self._fast = [log_trace() for _ in range(3)], fast

    def make(self, tmp_path):
        return registry.load("sinks", "mlflow")(fast=self._fast)

    def trace_ids(self):
        return self._ids


def test_every_registered_sink_is_in_this_suite():
    assert set(registry.available("sinks")) == {"jsonl", "mlflow"}


class TestListSource(SourceConformance):
    def make(self, tmp_path):
        return ListSource([sample_trace(number=i) for i in (1, 2)])


class TestMlflowSource(SourceConformance):
    @pytest.fixture(autouse=True)
    def _traces(self, log_trace):
        for i in range(3):
            log_trace(request=f"question {i}")

    def make(self, tmp_path):
        return MlflowSource("test")


def test_every_registered_source_is_in_this_suite():
    assert set(registry.available("sources")) == {"mlflow"}


@pytest.mark.parametrize("name", registry.available("importers"))
class TestImporters(ImporterConformance):
    @pytest.fixture(autouse=True)
    def _name(self, name):
        self._name = name

    def make(self):
        return registry.load("importers", self._name)()


# Judges of one trace that can judge the sample; the others are run over their own cases in tests/judges/.
JUDGES = ["answer_relevance", "latency_limit", "repeated_steps", "request_resolved", "tone", "mlflow/Safety"]


@pytest.mark.parametrize("name", JUDGES)
class TestJudges(JudgeConformance):
    @pytest.fixture(autouse=True)
    def _served(self, name) -> Iterator[None]:
        self._name = name
        with FakeJudgeServer() as server:
            self._model = server.model
            yield

    def make(self):
        return Catalogue().build(self._name, self._model)


def _written(request: JudgeRequest) -> str:
    """New instructions, in the form each library asks for."""
    text = "Sort each request. Desks: billing, support, product."
    fields = re.findall(r"\[\[ ## (\w+) ## \]\]", request.prompt.rpartition("Respond with ")[2])
    said = [f"[[ ## {name} ## ]]\n{text}" for name in dict.fromkeys(fields) if name != "completed"]
    return "\n\n".join(said) or f"```\n{text}\n```"


@pytest.mark.parametrize("name", registry.available("optimizers"))
class TestOptimizers(PromptOptimizerConformance):
    @pytest.fixture(autouse=True)
    def _served(self, name) -> Iterator[None]:
        if name in ("bootstrap_few_shot", "gepa", "miprov2"):
            pytest.importorskip("dspy", reason="the extra `dspy` is not installed")
        self._name = name
        with FakeJudgeServer(_written) as server:
            self._model = server.model
            yield

    def make(self):
        few = {"gepa": {"max_metric_calls": 30}, "miprov2": {"candidates": 2, "trials": 2}}
        return registry.load("optimizers", self._name)(writer_model=self._model, **few.get(self._name, {}))
