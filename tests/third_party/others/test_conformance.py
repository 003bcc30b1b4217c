"""Every metric of these libraries against the conformance class all judges pass."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

import pytest

from mlflow_assay import registry
from mlflow_assay.engine import judging
from mlflow_assay.testing import FakeJudgeServer, JudgeConformance

NAMES = ("agentevals", "autoevals", "guardrails", "openevals", "phoenix", "ragas", "trulens")
LIBRARIES = {name: registry.load("judges", name)() for name in NAMES}
# Compared as JSON, numbers or lists, or asking for a second exchange; their verdicts are held in test_each_metric.py.
OF_ANOTHER_FORM = {"JSONDiff", "ListContains", "NumericDiff", "UserFriction", "json_match"}


def metrics():
    found = []
    for name, library in LIBRARIES.items():
        absent = importlib.util.find_spec(library.module.partition(".")[0]) is None
        marks = [pytest.mark.skip(reason=f"pip install 'mlflow-assay[{library.extra}]'")] if absent else []
        found += [
            pytest.param((library, metric), id=f"{name}/{metric}", marks=marks)
            for metric in library.metrics
            if metric not in OF_ANOTHER_FORM
        ]
    return found


@pytest.mark.parametrize("one", metrics())
class TestMetrics(JudgeConformance):
    @pytest.fixture(autouse=True)
    def _served(self, of, one):
        self._of, (self._library, self._name) = of, one
        self._metric = self._library.metrics[self._name]
        session = self._metric.scope == "session"
        self._trace = of.a_session()[0] if session else of.a_trace()
        if not self._metric.calls_llm:
            self._model = None
            yield
            return
        with FakeJudgeServer(of.replies(self._library, self._name, True), record=False) as server:
            self._model = server.model
            yield

    def make(self):
        return self._of.bind(self._library, self._name, self._model)

    def trace(self):
        return self._trace

    def test_each_build_is_a_fresh_scorer_that_names_the_librarys_version(self):
        one, two = self.make(), self.make()
        assert one.scorer is not two.scorer
        assert one.scorer.name == self._name
        installed = version(self._library.package)
        assert one.scorer.fingerprint == f"{self._name} of {self._library.package} {installed}"

    def test_it_changes_nothing_it_is_shown(self):
        before = self._trace.to_json()
        judging.judge(self.make(), judging.subject_of(self.make(), self._trace, (self._trace,)))
        assert self._trace.to_json() == before


def test_every_registered_library_is_tested_here_or_in_a_folder_of_its_own():
    from mlflow_assay.judges.third_party.metric import MetricLibrary

    loaded = {name: registry.load("judges", name) for name in registry.available("judges")}
    adapters = {n for n, p in loaded.items() if isinstance(p, type) and issubclass(p, MetricLibrary)}
    assert adapters == {*NAMES, "deepeval"}
