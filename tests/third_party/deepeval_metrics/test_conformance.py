"""Every metric of DeepEval against the conformance class all judges pass."""

from __future__ import annotations

import pytest

from mlflow_assay.engine import judging
from mlflow_assay.judges.third_party.deepeval_table import METRICS
from mlflow_assay.testing import FakeJudgeServer, JudgeConformance


@pytest.mark.parametrize("name", METRICS)
class TestMetrics(JudgeConformance):
    @pytest.fixture(autouse=True)
    def _served(self, of, name, full_trace, full_session):
        self._of, self._name = of, name
        session = METRICS[name].scope == "session"
        self._trace = full_session(1)[0] if session else full_trace()
        with FakeJudgeServer(of.replies(name, True)) as server:
            self._model = server.model if METRICS[name].calls_llm else None
            yield

    def make(self):
        return self._of.bind(self._name, self._model)

    def trace(self):
        return self._trace

    def test_each_build_is_a_fresh_scorer_under_its_own_name(self):
        one, two = self.make(), self.make()
        assert one.scorer is not two.scorer
        assert one.scorer.name == self._name
        assert one.scorer.is_session_level_scorer == (one.contract.scope == "session")

    def test_the_fingerprint_names_the_library_and_its_version(self):
        from importlib.metadata import version

        assert self.make().scorer.fingerprint == f"{self._name} of deepeval {version('deepeval')}"

    def test_it_changes_nothing_it_is_shown(self):
        before = self._trace.to_json()
        judging.judge(self.make(), judging.subject_of(self.make(), self._trace, (self._trace,)))
        assert self._trace.to_json() == before
