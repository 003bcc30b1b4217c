"""Where MLflow's own wrapper of DeepEval is right, ours agrees with it; where it is not, the difference is shown."""

from __future__ import annotations

import json

import pytest

from mlflow_assay.engine.judging import outcome_of
from mlflow_assay.engine.mlflow_endpoint import route
from mlflow_assay.judges.third_party.deepeval_table import METRICS
from mlflow_assay.testing import FakeJudgeServer

# Metrics whose test case MLflow fills as DeepEval means it.
RIGHT = {
    "AnswerRelevancyMetric": {},
    "BiasMetric": {},
    "ToxicityMetric": {},
    "PIILeakageMetric": {},
    "NonAdviceMetric": {"advice_types": ["legal"]},
    "MisuseMetric": {"domain": "parcels"},
    "RoleViolationMetric": {"role": "a parcel agent"},
    "PromptAlignmentMetric": {"prompt_instructions": ["Be brief."]},
    "SummarizationMetric": {},
    "ArgumentCorrectnessMetric": {},
    "TurnRelevancyMetric": {},
    "KnowledgeRetentionMetric": {},
    "ConversationCompletenessMetric": {},
}


def theirs(name, trace, session, server, **params):
    from mlflow.genai.scorers.deepeval import get_scorer

    with route(server.model):
        scorer = get_scorer(name.removesuffix("Metric"), model="openai:/fake-judge", **params)
        return scorer(session=list(session)) if session else scorer(trace=trace)


def model(of, name, good):
    """Replies as their wrapper, which sends no response format but the schema in words, and ours can both read."""
    replies = of.replies(name, good)

    def reply(request):
        if request.schema or "matching this schema: " not in request.prompt:
            return replies(request)
        written = request.prompt.partition("matching this schema: ")[2].partition("\nReturn ONLY")[0]
        schema = eval(written, {"__builtins__": {}})  # noqa: S307 - a dict as the wrapper prints it
        body = {
            "response_format": {"json_schema": {"name": schema["title"], "schema": schema}},
            "messages": request.body["messages"],
        }
        return replies(type(request)(body, request.at))

    return reply


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("name", RIGHT)
def test_the_same_verdict_where_mlflow_is_right(of, full_trace, full_session, name, good):
    session = full_session(2) if METRICS[name].scope == "session" else ()
    trace = session[0] if session else full_trace()
    with FakeJudgeServer(model(of, name, good)) as server:
        wrapped = theirs(name, trace, session, server, **RIGHT[name])
        asked = len(server.requests)
        ours = of.verdict(of.bind(name, server.model, **RIGHT[name]), trace, session)
        assert len(server.requests) == 2 * asked
    assert wrapped.error is None, wrapped.error
    assert ours.value == wrapped.metadata["score"]
    assert (outcome_of(ours).value == "pass") == (str(wrapped.value.value) == "yes") == good
    assert ours.rationale == wrapped.rationale


def test_mlflow_shows_every_expectation_as_context_ours_the_one_of_that_name(of, full_trace):
    prompts = {}
    with FakeJudgeServer(model(of, "HallucinationMetric", True)) as server:
        theirs("HallucinationMetric", full_trace(), (), server)
        prompts["theirs"] = "\n".join(r.prompt for r in server.requests)
    with FakeJudgeServer(model(of, "HallucinationMetric", True)) as server:
        of.verdict(of.bind("HallucinationMetric", server.model), full_trace())
        prompts["ours"] = "\n".join(r.prompt for r in server.requests)
    assert "chatbot_role: a parcel agent" in prompts["theirs"]
    assert "a parcel agent" not in prompts["ours"] and "A courier brings them." in prompts["ours"]


def test_mlflow_makes_one_passage_of_all_a_retriever_found_ours_one_of_each(of, full_trace):
    """So theirs asks once for two passages, and ranks nothing."""
    calls = {}
    with FakeJudgeServer(model(of, "ContextualRelevancyMetric", True)) as server:
        theirs("ContextualRelevancyMetric", full_trace(), (), server)
        calls["theirs"] = len(server.requests)
        of.verdict(of.bind("ContextualRelevancyMetric", server.model), full_trace())
        calls["ours"] = len(server.requests) - calls["theirs"]
    assert calls == {"theirs": 2, "ours": 3}


def test_mlflow_loses_a_turns_tools_ours_shows_them(of, full_session):
    session = full_session(1)
    tools = [{"name": "get_order", "description": "Finds an order."}]
    with FakeJudgeServer(model(of, "ToolUseMetric", True)) as server:
        from deepeval.test_case import ToolCall

        theirs("ToolUseMetric", session[0], session, server, available_tools=[ToolCall(**tools[0])])
        before = len(server.requests)
        ours = of.verdict(of.bind("ToolUseMetric", server.model, available_tools=tools), session[0], session)
    called = '"order": 7'
    assert not any(called in r.prompt for r in server.requests[:before])
    assert any(called in r.prompt for r in server.requests[before:]) and ours.value == 1.0


@pytest.mark.parametrize("name", ["GEval", "DAG", "ConversationalGEval", "AgentLoopDetection", "ToolPermission"])
def test_mlflow_cannot_make_them_at_all(of, name):
    from mlflow.genai.scorers.deepeval import get_scorer

    given = {"GEval": {"name": "x", "criteria": "Is it?"}, "DAG": {"name": "x"}}.get(name, {})
    with FakeJudgeServer() as server, route(server.model), pytest.raises(Exception):  # noqa: B017 - whatever it raises
        get_scorer(name, model="openai:/fake-judge", **given)


def test_mlflow_keeps_the_number_aside_ours_is_the_number(of, full_trace):
    with FakeJudgeServer(json.dumps({"statements": ["a"], "verdicts": [{"verdict": "no"}], "reason": "x"})) as server:
        wrapped = theirs("AnswerRelevancyMetric", full_trace(), (), server)
        ours = of.verdict(of.bind("AnswerRelevancyMetric", server.model), full_trace())
    assert (str(wrapped.value.value), ours.value, outcome_of(ours).value) == ("no", 0.0, "fail")
