"""Beside MLflow's own wrappers: the same verdict where they are right, and what they do where they are not."""

from __future__ import annotations

import importlib.util

import pytest

from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.engine.judging import outcome_of
from mlflow_assay.judges.third_party.guardrails_validators import GuardrailsValidators
from mlflow_assay.judges.third_party.phoenix_metrics import PhoenixMetrics
from mlflow_assay.judges.third_party.ragas_metrics import RagasMetrics
from mlflow_assay.judges.third_party.trulens_metrics import TruLensMetrics
from mlflow_assay.testing import FakeJudgeServer


def need(module, extra):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"not installed: pip install 'mlflow-assay[{extra}]'"
    )


def by_mlflow(server, make, trace):
    """MLflow's verdict on the trace, by the same judge model."""
    with mlflow_endpoint.route(server.model):
        return make(server.model.uri)(trace=trace)


@need("ragas", "ragas")
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("name", ["Faithfulness", "ContextRelevance", "AnswerAccuracy"])
def test_ragas_scores_are_the_same_where_mlflow_shows_the_metric_the_same(of, name, good):
    from mlflow.genai.scorers import ragas

    library, wanted = RagasMetrics(), {"expectations": {"expected_response": "It arrives tomorrow."}}
    trace = of.a_trace(**wanted)
    with FakeJudgeServer(of.replies(library, name, good)) as server:
        theirs = by_mlflow(server, lambda uri: ragas.get_scorer(name, model=uri), trace)
        ours = of.verdict(of.bind(library, name, server.model), **wanted)
    assert theirs.error is None, theirs.error
    assert ours.value == pytest.approx(float(theirs.value))
    assert "mlflow.assessment.judgeInputTokens" not in (theirs.metadata or {})
    assert int(ours.metadata["mlflow.assessment.judgeInputTokens"]) > 0


@need("ragas", "ragas")
def test_ragas_in_mlflow_takes_every_expectation_for_the_reference(of):
    """The answer is exactly the expected one; a second expectation, about something else, makes it wrong there."""
    from mlflow.genai.scorers import ragas

    said = {
        "outputs": {"answer": "It arrives tomorrow."},
        "expectations": {"expected_response": "It arrives tomorrow.", "priority": "high"},
    }
    theirs = ragas.get_scorer("ExactMatch")(trace=of.a_trace(**said))
    ours = of.verdict(of.bind(RagasMetrics(), "ExactMatch", None), **said)
    assert (theirs.value, ours.value) == (0.0, 1.0)


@need("ragas", "ragas")
def test_ragas_in_mlflow_compares_what_was_retrieved_with_itself(of):
    """None of the expected passages was retrieved: the recall is 0, and 1 in MLflow."""
    from mlflow.genai.scorers import ragas

    said = {"expectations": {"context": ["Refunds need a receipt and take thirty working days."]}}
    theirs = ragas.get_scorer("NonLLMContextRecall")(trace=of.a_trace(**said))
    ours = of.verdict(of.bind(RagasMetrics(), "classic.NonLLMContextRecall", None), **said)
    assert (theirs.metadata["score"], ours.value) == (1.0, 0.0)


@need("trulens", "trulens")
@pytest.mark.parametrize("good", [True, False])
def test_trulens_verdicts_are_the_same_and_the_number_is_kept(of, good):
    from mlflow.genai.scorers import trulens

    library = TruLensMetrics()
    with FakeJudgeServer(of.replies(library, "relevance", good)) as server:
        theirs = by_mlflow(server, lambda uri: trulens.AnswerRelevance(model=uri), of.a_trace())
        ours = of.verdict(of.bind(library, "relevance", server.model))
    assert theirs.value == ("yes" if good else "no")
    assert outcome_of(ours).value == ("pass" if good else "fail")
    assert ours.value == pytest.approx(float(theirs.metadata["score"])) == float(good)


@need("trulens", "trulens")
def test_trulens_in_mlflow_shows_the_judge_what_the_experts_expect(of):
    from mlflow.genai.scorers import trulens

    library, secret = TruLensMetrics(), {"expectations": {"verdict": "the expert calls this run a failure"}}
    with FakeJudgeServer(of.replies(library, "logical_consistency", True)) as server:
        theirs = by_mlflow(server, lambda uri: trulens.LogicalConsistency(model=uri), of.a_trace(**secret))
        asked_by_mlflow = len(server.requests)
        ours = of.verdict(of.bind(library, "logical_consistency", server.model), **secret)
    assert theirs.error is None and ours.error is None, (theirs.error, ours.error)
    assert "calls this run a failure" in server.requests[0].prompt
    assert all("calls this run a failure" not in r.prompt for r in server.requests[asked_by_mlflow:])
    assert any("get_order" in r.prompt for r in server.requests[asked_by_mlflow:])


@need("trulens", "trulens")
def test_trulens_in_mlflow_runs_the_judges_reply_as_code(of, tmp_path):
    """TruLens evaluates a list in the reply with `eval`. Whoever can write to the agent can try to write that reply."""
    from mlflow.genai.scorers import trulens

    planted = tmp_path / "planted"
    attack = f"[open({str(planted)!r}, 'w').write('x')]"
    with FakeJudgeServer(attack) as server:
        of.verdict(of.bind(TruLensMetrics(), "groundedness_measure", server.model))
        assert not planted.exists()
        with mlflow_endpoint.route(server.model):
            theirs = trulens.Groundedness(model=server.model.uri)
            theirs._provider._remove_trivial_statements(["It arrives tomorrow."])
    assert planted.exists(), "TruLens no longer does that: the filter can be had again"


@need("phoenix", "phoenix")
def test_mlflow_cannot_make_any_of_its_phoenix_scorers(of):
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import phoenix

    scorers = (phoenix.Hallucination, phoenix.Relevance, phoenix.Toxicity, phoenix.QA, phoenix.Summarization)
    with FakeJudgeServer() as server, mlflow_endpoint.route(server.model):
        for scorer in scorers:
            with pytest.raises(MlflowException, match="Unknown Phoenix metric"):
                scorer(model=server.model.uri)
    assert "Toxicity" in PhoenixMetrics.metrics


@need("guardrails", "guardrails")
def test_guardrails_verdicts_are_the_same_on_the_answer_and_the_request_can_be_read_as_well(of):
    pytest.importorskip("guardrails_ai.regex_match", reason="pip install guardrails-ai-regex-match")
    from mlflow.genai.scorers import guardrails

    arguments = {"regex": ".*tomorrow.*"}
    theirs = guardrails.get_scorer("RegexMatch", **arguments)
    library = GuardrailsValidators()
    given = {"validator": "RegexMatch", "arguments": arguments}
    for said in ({}, {"outputs": {"answer": "No idea."}}):
        ours = of.verdict(of.bind(library, "Validator", None, given), **said)
        assert (theirs(trace=of.a_trace(**said)).value == "yes") == ours.value
    on_request = of.bind(library, "Validator", None, {**given, "on": "input"})
    assert of.verdict(on_request).value is False
