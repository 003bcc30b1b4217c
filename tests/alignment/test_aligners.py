"""Aligners behind MLflow's own door, what each refuses, and the choice of cases."""

from __future__ import annotations

import inspect

import mlflow
import numpy as np
import pytest
from mlflow.entities import AssessmentSource, AssessmentSourceType
from mlflow.genai.judges import make_judge
from mlflow.genai.judges.base import AlignmentOptimizer, Judge
from tests.alignment.conftest import deaf, learner

from mlflow_assay import registry
from mlflow_assay.alignment.aligner import Aligner, Proposal
from mlflow_assay.alignment.local import Local
from mlflow_assay.alignment.nearest import NearestExamples, _cover
from mlflow_assay.alignment.procedure import Request, align, make_aligner, plan
from mlflow_assay.alignment.recalibrate import Recalibrate
from mlflow_assay.contracts import NumericValue
from mlflow_assay.errors import AssayError, ConfigError, NotTrustedError, PluginError
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, answer

INSTRUCTIONS = "Read {{ inputs }} and {{ outputs }}. Is the answer polite?"


def traces(ids):
    return [mlflow.get_trace(i) for i in ids]


def judge_at(server, **more):
    options = {"name": "polite", "instructions": INSTRUCTIONS, "feedback_value_type": bool, **more}
    return make_judge(model="openai:/fake-judge", base_url=server.url, **options)


# --- conformance: every registered aligner ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(registry.available("aligners")))
def test_a_registered_aligner_keeps_the_contract(name):
    """MLflow's ABC, a name, a docstring, a seed by keyword; unknown options and judges it cannot align are refused."""
    made = registry.load("aligners", name)
    assert issubclass(made, AlignmentOptimizer) and not inspect.isabstract(made)
    assert made.__doc__
    aligner = make_aligner(name, {}, seed=3)
    assert isinstance(aligner, Aligner)
    assert (aligner.name, aligner.seed) == (name, 3)
    with pytest.raises(ConfigError, match="refuses the options"):
        make_aligner(name, {"no_such_option": 1}, seed=0)


@pytest.mark.parametrize("name", sorted(registry.available("aligners")))
def test_a_judge_of_sessions_is_refused_by_mlflow_or_by_us(name, labelled):
    judge = make_judge(name="polite", instructions="Was {{ conversation }} polite?", model="openai:/m")
    with pytest.raises((ConfigError, NotImplementedError)):
        judge.align(traces(labelled[:2]), make_aligner(name, {}, seed=0))
    with pytest.raises(ConfigError, match=r"sessions|no score"):
        make_aligner(name, {"value": None}, seed=0).align(judge, traces(labelled[:2]))


def test_an_unknown_optimizer_lists_the_installed():
    with pytest.raises(PluginError, match="nearest_examples"):
        make_aligner("nearest_example", {}, seed=0)


# --- judge.align ----------------------------------------------------------------------------------------------


def test_judge_align_returns_a_judge_that_learnt_and_can_be_registered(labelled, store):
    with FakeJudgeServer(learner) as server:
        judge = judge_at(server)
        aligned = judge.align(traces(labelled[:40]), NearestExamples())
        assert isinstance(aligned, Judge) and aligned.name == "polite"
        assert judge.instructions == INSTRUCTIONS
        assert "Shrugging a customer off" in aligned.instructions
        from mlflow_assay.engine import mlflow_endpoint

        with mlflow_endpoint.route(server.model):
            assert judge(inputs="x", outputs="SHRUG").value is True
            assert aligned(inputs="x", outputs="SHRUG").value is False
    registered = aligned.register(experiment_id=mlflow.get_experiment_by_name("test").experiment_id)
    assert registered.instructions == aligned.instructions


def test_judge_align_stays_within_its_limit_of_calls(labelled, store):
    with FakeJudgeServer(learner) as server:
        with pytest.raises(NotTrustedError):
            judge_at(server).align(traces(labelled[:40]), NearestExamples(max_calls=10))
        assert len(server.requests) <= 10


def test_judge_align_moves_a_threshold_without_a_call(labelled, store):
    """MLflow's judge has no threshold of its own; its pass rule is set."""
    with FakeJudgeServer(deaf) as server:
        judge = judge_at(server, feedback_value_type=int)
        source = AssessmentSource(AssessmentSourceType.LLM_JUDGE, "m")
        for i, trace_id in enumerate(labelled[:80]):
            mlflow.log_feedback(trace_id=trace_id, name="polite", value=3 if i % 3 == 0 else 5, source=source)
        aligned = judge.align(traces(labelled[:80]), Recalibrate(value=NumericValue(1, 5, threshold=2)))
        assert server.requests == []
    assert [aligned.pass_if(v) for v in (3, 4, 5)] == [False, True, True]


def test_judge_align_distils_a_local_judge(labelled, store):
    with FakeJudgeServer(deaf) as server:
        aligned = judge_at(server).align(traces(labelled), Local())
        assert server.requests == []
    assert isinstance(aligned, Judge)
    assert aligned(trace=mlflow.get_trace(labelled[0])).value is False
    assert aligned(trace=mlflow.get_trace(labelled[1])).value is True


def test_a_scale_that_cannot_be_read_off_the_judge_is_asked_for(labelled):
    judge = make_judge(name="polite", instructions=INSTRUCTIONS, model="openai:/m", feedback_value_type=int)
    with pytest.raises(ConfigError, match="value="):
        judge.align(traces(labelled[:3]), NearestExamples())


def test_traces_without_labels_under_the_judges_name_are_refused(log_trace):
    judge = make_judge(name="polite", instructions=INSTRUCTIONS, model="openai:/m", feedback_value_type=bool)
    with pytest.raises(NotTrustedError, match="No trace has a usable human label"):
        judge.align([mlflow.get_trace(log_trace())], NearestExamples())


# --- the choice of cases ----------------------------------------------------------------------------------------


def test_chosen_cases_cover_all_kinds_of_error_each_with_its_counterpart():
    """Two clusters of errors far apart: one of each comes first, each followed by its nearest of the other label."""
    corner = np.array([[0, 0], [0.1, 0], [0, 0.1], [5, 5], [5.1, 5], [0.2, 0.2], [5.2, 5.2], [9, 0]])
    near = np.exp(-np.linalg.norm(corner[:, None] - corner[None], axis=2))
    wrong = np.array([True, True, True, True, True, False, False, False])
    passed = np.array([False] * 5 + [True] * 3)
    chosen = _cover(near, wrong, passed, 4)
    assert chosen[0] in (0, 1, 2) and chosen[1] == 5
    assert chosen[2] in (3, 4) and chosen[3] == 6


def test_a_judge_without_errors_has_nothing_to_be_shown(labelled, store):
    def right(request):
        return answer("SHRUG" not in request.body["messages"][-1]["content"])

    with FakeJudgeServer(right) as server, pytest.raises(NotTrustedError, match="makes no error"):
        judge_at(server).align(traces(labelled[:30]), NearestExamples())


def test_template_variables_in_a_quoted_case_are_made_inert(labelled, label_trace, log_trace, store):
    """A customer who writes {{ outputs }} must not change what the judge is shown."""
    for i in range(6):
        trace_id = log_trace(request=f"show me {{{{ outputs }}}} {i}", answer=f"SHRUG {{{{ trace }}}} {i}", tools=())
        label_trace(trace_id, False, rationale="Shrugging a customer off is impolite.")
    found = mlflow.search_traces(return_type="list", max_results=500)
    with FakeJudgeServer(learner) as server:
        aligned = judge_at(server).align(found, NearestExamples())
    assert set(aligned.template_variables) == {"inputs", "outputs"}


# --- foreign optimizers -----------------------------------------------------------------------------------------


class Foreign(AlignmentOptimizer):
    """Knows MLflow only; adds what the first label's rationale says."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def align(self, judge, traces):
        labels = [a for t in traces for a in t.info.assessments if str(a.source.source_type) == "HUMAN"]
        assert {a.name for a in labels} == {"polite"} and {a.value for a in labels} == {True, False}
        reason = self.text or next(a.rationale for a in labels if a.rationale)
        return make_judge(name=judge.name, instructions=f"{judge.instructions} {reason}", model=judge.model)


@pytest.fixture
def foreign(monkeypatch):
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Foreign if name == "foreign" else real(kind, name))


def test_any_alignment_optimizer_goes_through_the_same_gate(foreign, labelled, folder, store):
    with FakeJudgeServer(learner) as server:
        request = Request("polite", "foreign", paths=[folder], model=server.model)
        report = align(MlflowSource("test", max_traces=60), request)
    assert report.decision.accepted
    assert "Shrugging a customer off" in report.new.text


def test_instructions_that_lose_their_variables_are_refused_and_nothing_changes(foreign, labelled, folder, store):
    request = Request("polite", "foreign", paths=[folder], options={"text": "{{ secret }}"})
    with FakeJudgeServer(learner) as server, pytest.raises(AssayError):
        align(
            MlflowSource("test", max_traces=60),
            Request(request.judge, request.optimizer, paths=[folder], options=request.options, model=server.model),
        )


# --- plan and proposal ------------------------------------------------------------------------------------------


def test_a_plan_needs_a_definition(labelled, folder, store):
    with pytest.raises(ConfigError, match="no YAML definition"):
        plan(MlflowSource("test"), Request("mlflow/Fluency", "local", paths=[folder]))


@pytest.mark.parametrize("changes", [{}, {"appendix": "a", "threshold": 1.0}])
def test_a_proposal_is_exactly_one_change(changes):
    with pytest.raises(ConfigError, match="exactly one change"):
        Proposal("?", **changes)
