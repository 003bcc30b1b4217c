"""Every judge of the catalogue, whoever wrote it, keeps the contract: one meaning, unscored and never a crash."""

from __future__ import annotations

import re

import pytest

from mlflow_assay import registry
from mlflow_assay.contracts import ModelSettings, Outcome, UnscoredError
from mlflow_assay.engine.judging import Subject, judge, missing, outcome_of, reason_of, subject_of
from mlflow_assay.engine.mlflow_endpoint import route
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.cases import example_texts
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.testing import FakeJudgeServer

MODEL = ModelSettings("openai:/never-called")


# They run only through a definition that gives their parameters; other tests build them so.
NEED_PARAMETERS = {
    "local/classifier": r"needs `model`, the path of a trained judge.*assay judges train",
    "mlflow/ConversationalGuidelines": r"guidelines: Field required.*`uses: mlflow/ConversationalGuidelines`",
    "mlflow/Guidelines": r"guidelines: Field required.*`uses: mlflow/Guidelines` and `with:`",
    "mlflow/RegexMatch": r"pattern: Field required.*`uses: mlflow/RegexMatch` and `with:`",
    "mlflow/ResponseLength": r"at least one of `min_length`.*`uses: mlflow/ResponseLength` and `with:`",
}


def pytest_generate_tests(metafunc):
    """One test a judge; metrics of other libraries, which these judges' replies do not suit, are in conformance/."""
    if "name" in metafunc.fixturenames:
        theirs = {n for n, point in registry.available("judges").items() if ".third_party." in point.value}
        own = [name for name, entry in Catalogue().entries.items() if entry.library not in theirs]
        metafunc.parametrize("name", [name for name in own if name not in NEED_PARAMETERS])


def bind(catalogue, name, model=MODEL):
    definition = catalogue.get(name).definition
    return catalogue.build(name, model, example_texts(definition) if definition else {})


@pytest.mark.parametrize(("needy", "told"), NEED_PARAMETERS.items())
def test_a_judge_that_needs_parameters_says_which_and_how(catalogue, needy, told):
    with pytest.raises(ConfigError, match=told):
        catalogue.build(needy, MODEL)


def test_it_declares_a_name_a_question_and_a_scale_that_is_read_back(catalogue, name):
    contract = catalogue.get(name).contract
    assert catalogue.get(name).origin
    assert re.fullmatch(r"[\w./-]{2,100}", contract.name)
    assert contract.purpose.endswith("?") and contract.kind
    assert contract.value.describe()
    with pytest.raises(UnscoredError):
        contract.value.read("certainly not an option of any judge")
    with pytest.raises(UnscoredError):
        contract.value.read(None)


def test_each_build_is_a_fresh_scorer_with_the_same_digest_under_its_own_name(catalogue, name):
    from mlflow.genai.scorers import Scorer

    one, two = bind(catalogue, name), bind(catalogue, name)
    assert isinstance(one.scorer, Scorer) and one.scorer is not two.scorer
    assert one.digest == two.digest and re.fullmatch(r"[0-9a-f]{16}", one.digest)
    assert one.scorer.name == one.name == catalogue.get(name).contract.name
    assert one.scorer.is_session_level_scorer == (one.contract.scope == "session")


def test_a_model_is_bound_exactly_when_one_is_called(catalogue, name):
    bound = bind(catalogue, name)
    assert (bound.model is not None) == bound.contract.calls_llm
    if bound.contract.calls_llm:
        assert bound.digest != bind(catalogue, name, ModelSettings("openai:/other")).digest


def test_a_trace_with_nothing_in_it_is_unscored_and_nothing_is_called(catalogue, make_trace, name):
    with FakeJudgeServer() as server, route(server.model):
        bound = bind(catalogue, name, server.model)
        feedback = judge(bound, Subject(make_trace()))
    assert outcome_of(feedback) is Outcome.UNSCORED
    assert reason_of(feedback).value == "missing_field" and feedback.error.error_message
    assert server.requests == []


def test_a_full_trace_gets_a_verdict_within_its_scale(catalogue, make_trace, name):
    """With every field recorded and a willing model, each judge comes to a verdict that is on its own menu."""
    turn = {
        "inputs": {"question": "Where is order 7?"},
        "outputs": {"answer": "It arrives tomorrow."},
        "spans": [
            {"name": "orders", "type": "AGENT", "outputs": {"answer": "x"}},
            {
                "name": "chat", "type": "CHAT_MODEL", "attributes": {
                    "mlflow.chat.tools": [{"type": "function", "function": {"name": "get_order"}}],
                    "mlflow.chat.tokenUsage": {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10},
                    "mlflow.llm.cost": {"input_cost": 0.01, "output_cost": 0.0, "total_cost": 0.01},
                },
            },
            {"name": "get_order", "inputs": {"order": 7}, "outputs": {"due": "tomorrow"}},
            {"name": "notify", "inputs": {"order": 7}, "error": "timeout"},
            {"name": "search", "type": "RETRIEVER", "outputs": [{"page_content": "Orders take two days."}]},
        ],
        "expectations": {"expected_response": "Tomorrow.", "guidelines": "Be brief."},
    }  # fmt: skip
    session = _session(turn) if catalogue.get(name).contract.scope == "session" else ()
    with FakeJudgeServer() as server, route(server.model):
        bound = bind(catalogue, name, server.model)
        subject = subject_of(bound, session[0] if session else make_trace(**turn), session)
        assert missing(bound, subject) is None
        feedback = judge(bound, subject)
    assert feedback.error is None, feedback.error
    value = bound.contract.value.read(feedback.value)
    assert outcome_of(feedback) is (Outcome.PASS if bound.contract.value.passes(value) else Outcome.FAIL)
    assert bool(server.requests) == bound.contract.calls_llm
    assert feedback.metadata["assay.judge.digest"] == bound.digest and feedback.name == bound.name


def _session(turn):
    from mlflow_assay.judges.case_traces import session_of
    from mlflow_assay.judges.definition import Case

    turns = [{key: turn[key] for key in ("inputs", "outputs", "spans")}] * 2
    return session_of(Case.model_validate({"name": "s", "kind": "good", "expect": "x", "turns": turns}), "s")
