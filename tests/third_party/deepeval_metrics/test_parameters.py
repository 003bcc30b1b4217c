"""What definitions may say of DeepEval's metrics, and what the library is then shown."""

from __future__ import annotations

import json

import pytest

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.judging import outcome_of, reason_of
from mlflow_assay.errors import ConfigError
from mlflow_assay.testing import FakeJudgeServer, Reply

NOBODY = ModelSettings("openai:/nobody", "http://127.0.0.1:9/v1/chat/completions")


def asked(of, name, trace, session=(), **params):
    """The prompts a metric sends, and its verdict."""
    with FakeJudgeServer(of.replies(name, True)) as server:
        found = of.verdict(of.bind(name, server.model, **params), trace, session)
    assert found.error is None, found.error
    return "\n".join(request.prompt for request in server.requests), found, len(server.requests)


def test_geval_shows_the_model_what_its_parameters_name_and_nothing_else(of, full_trace):
    trace = full_trace()
    bound = of.bind("GEval", NOBODY, evaluation_params=["actual_output", "expected_output"])
    assert bound.contract.needs == ("outputs", "expectations.expected_response")
    prompts, *_ = asked(of, "GEval", trace, evaluation_params=["actual_output", "expected_output"])
    assert "Order 7 arrives tomorrow." in prompts and "It arrives tomorrow." in prompts
    assert "Where is order 7?" not in prompts


def test_steps_of_ones_own_save_the_call_that_makes_them(of, full_trace):
    prompts, _, calls = asked(of, "GEval", full_trace(), evaluation_steps=["Look for courtesy."], criteria=None)
    assert calls == 1 and "Look for courtesy." in prompts


def test_geval_without_params_judges_the_whole_trace(of, full_trace):
    assert of.bind("GEval", NOBODY, evaluation_params=[]).contract.needs == ("spans",)
    prompts, *_ = asked(of, "GEval", full_trace(), evaluation_params=[])
    assert '"name": "get_order"' in prompts and '"type": "retriever"' in prompts


def test_hallucination_is_judged_against_the_context_and_no_other_expectation(of, full_trace):
    prompts, *_ = asked(of, "HallucinationMetric", full_trace())
    assert "A courier brings them." in prompts
    assert "a parcel agent" not in prompts and "No idea." not in prompts


def test_each_passage_is_a_passage_of_its_own(of, full_trace):
    prompts, *_ = asked(of, "ContextualPrecisionMetric", full_trace())
    assert "Orders take two days." in prompts and "Parcels travel by night." in prompts
    assert "page_content" not in prompts and "doc_uri" not in prompts


def test_turns_carry_their_tools_and_passages(of, full_session):
    session = full_session(2, number=3)
    prompts, *_ = asked(of, "ToolUseMetric", session[0], session)
    assert '"order": 3' in prompts and '"order": 4' in prompts and "Finds an order." in prompts
    prompts, *_ = asked(of, "TurnFaithfulnessMetric", session[0], session)
    assert "Parcels travel by night." in prompts


def test_mcp_metrics_see_calls_and_server(of, full_session, full_trace):
    session = full_session(1)
    prompts, *_ = asked(of, "MultiTurnMCPUseMetric", session[0], session, server_name="orders")
    assert "MCP Server orders" in prompts and "Name: get_order" in prompts
    prompts, *_ = asked(of, "MCPUseMetric", full_trace(), server_name="orders")
    assert "MCP Server orders" in prompts


def test_the_winner_of_a_duel_is_told_by_name_not_by_place(of, full_trace):
    """DeepEval shuffles and masks; over many duels the answer wins each, wherever it stands."""
    with FakeJudgeServer(of.replies("ArenaGEval", True)) as server:
        bound = of.bind("ArenaGEval", server.model)
        found = [of.verdict(bound, full_trace()) for _ in range(8)]
    assert [f.value for f in found] == [True] * 8
    places = [
        r.prompt.find("No idea.") < r.prompt.find("Order 7 arrives") for r in server.requests if "No idea." in r.prompt
    ]
    assert len(places) == 8


def test_a_graph_may_end_in_criteria_of_its_own(of, full_trace):
    nodes = of.graph("actual_output")["nodes"]
    nodes["polite"] = {
        "type": "VerdictNode",
        "verdict": True,
        "child": {
            "type": "geval",
            "name": "Right",
            "criteria": "Is it right?",
            "evaluation_params": ["input", "actual_output"],
        },
    }
    prompts, *_ = asked(of, "DAGMetric", full_trace(), dag={"nodes": nodes})
    assert "Is it polite?" in prompts and "Is it right?" in prompts
    assert of.bind("DAGMetric", NOBODY, dag={"nodes": nodes}).contract.needs == ("outputs", "inputs")


def test_a_graph_may_end_in_another_metric_which_asks_the_same_model(of, full_trace):
    nodes = of.graph("actual_output")["nodes"]
    nodes["polite"] = {
        "type": "VerdictNode",
        "verdict": True,
        "child": {"type": "metric", "metric_class": "AnswerRelevancyMetric", "kwargs": {}},
    }
    _, found, calls = asked(of, "DAGMetric", full_trace(), dag={"nodes": nodes})
    assert calls >= 4 and outcome_of(found).value == "pass"


def test_available_tools_have_the_choice_judged_as_well(of, full_trace):
    bound = of.bind("ToolCorrectnessMetric", NOBODY, available_tools="recorded")
    assert bound.contract.calls_llm and "tools_available" in bound.contract.needs
    prompts, _, calls = asked(of, "ToolCorrectnessMetric", full_trace(), available_tools=["get_order", "refund"])
    assert calls == 1 and "refund" in prompts


def test_tools_are_compared_with_their_arguments_where_asked(of, full_trace):
    right = full_trace(7)
    wrong = full_trace(7, expectations={"expected_tool_calls": [{"name": "get_order", "arguments": {"order": 8}}]})
    params = {"evaluation_params": ["input_parameters"], "should_exact_match": True}
    bound = of.bind("ToolCorrectnessMetric", None, **params)
    assert (of.verdict(bound, right).value, of.verdict(bound, wrong).value) == (1.0, 0.0)
    assert of.verdict(of.bind("ToolCorrectnessMetric", None), wrong).value == 1.0


def test_json_is_checked_by_its_schema(of, full_trace):
    schema = {
        "type": "object",
        "properties": {
            "due": {"type": "string"}, "state": {"enum": ["sent", "lost"]},
            "days": {"type": "array", "items": {"type": "integer"}},
            "to": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
        "required": ["due"],
    }  # fmt: skip
    bound = of.bind("JsonCorrectnessMetric", None, expected_schema=schema)

    def value(said):
        return of.verdict(bound, full_trace(outputs=json.dumps(said))).value

    assert value({"due": "x", "state": "sent", "days": [1], "to": {"name": "A"}}) == 1.0
    for wrong in ({}, {"due": 1}, {"due": "x", "state": "eaten"}, {"due": "x", "days": ["a"]}, {"due": "x", "to": {}}):
        assert value(wrong) == 0.0, wrong


def test_the_reason_of_wrong_json_is_worded_by_a_model_only_where_asked(of, full_trace):
    bound = of.bind("JsonCorrectnessMetric", None)
    assert not bound.contract.calls_llm
    found = of.verdict(bound, full_trace(outputs="{}"))
    assert (found.value, outcome_of(found).value) == (0.0, "fail")
    _, found, calls = asked(of, "JsonCorrectnessMetric", full_trace(outputs="{}"), include_reason=True)
    assert calls == 1 and found.rationale


@pytest.mark.parametrize(
    ("name", "params", "told"),
    [
        ("GEval", {"criteria": None}, "needs `criteria` or `evaluation_steps`"),
        ("GEval", {"model": "gpt-5"}, "no parameter 'model' here"),
        ("GEval", {"threshold": 0.7}, "no parameter 'threshold' here"),
        ("ToolPermissionMetric", {"allowed_tools": None}, "refuses its metric 'ToolPermissionMetric'"),
        ("DAGMetric", {"dag": {"nodes": {}}}, "refuses its metric 'DAGMetric'"),
        ("DAGMetric", {"dag": [1]}, "a mapping with `nodes`"),
        ("JsonCorrectnessMetric", {"expected_schema": {"type": "array"}}, "JSON Schema of an object"),
        (
            "JsonCorrectnessMetric",
            {"expected_schema": {"type": "object", "properties": {"a": {"type": "date"}}}},
            "a type that cannot be checked",
        ),
        ("ToolCorrectnessMetric", {"evaluation_params": ["colour"]}, "not a valid ToolCallParams.*input_parameters"),
    ],
)
def test_wrong_parameters_are_refused_when_the_judge_is_built(of, name, params, told):
    with pytest.raises(ConfigError, match=told):
        of.bind(name, NOBODY, **params)


def test_a_conversation_without_an_exchange_is_unscored(of):
    """DeepEval would score it 0 or 1, by metric."""
    from mlflow_assay.testing import sample_trace

    monologue = sample_trace(None, {"answer": "Hello?"})
    with FakeJudgeServer() as server:
        found = of.verdict(of.bind("GoalAccuracyMetric", server.model), monologue, (monologue,))
        assert server.requests == []
    assert reason_of(found).value == "missing_field" and "found 1 turns" in found.error.error_message


def test_text_of_a_trace_is_no_reference_to_a_file(of, full_trace, tmp_path):
    """DeepEval reads `[DEEPEVAL:IMAGE:path]` in a text as an image to load; a trace's text must not be one."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"PNG")
    prompts, *_ = asked(of, "AnswerRelevancyMetric", full_trace(outputs={"answer": f"See [DEEPEVAL:IMAGE:{secret}]"}))
    assert f"[DEEPEVAL :IMAGE:{secret}]" in prompts


@pytest.mark.parametrize("said", ["```json\n{}\n```", "Sure! {} Hope that helps."])
def test_a_reply_in_a_fence_or_with_chatter_is_read(of, full_trace, said):
    replies = of.replies("AnswerRelevancyMetric", True)
    with FakeJudgeServer(lambda request: said.replace("{}", replies(request))) as server:
        found = of.verdict(of.bind("AnswerRelevancyMetric", server.model), full_trace())
    assert found.value == 1.0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("not json", "garbled_reply"),
        ("{}", "garbled_reply"),
        (Reply("no", 401), "unauthorized"),
        (Reply("", refusal="no"), "refused"),
        (Reply("{", finish_reason="length"), "truncated"),
        (Reply("late", delay_s=3), "timeout"),
    ],
)
def test_a_failing_model_leaves_the_metric_unscored_with_the_reason(of, full_trace, reply, reason):
    from dataclasses import replace

    with FakeJudgeServer(reply) as server:
        found = of.verdict(of.bind("FaithfulnessMetric", replace(server.model, timeout_s=1)), full_trace())
    assert (outcome_of(found).value, reason_of(found).value, found.value) == ("unscored", reason, None)


def test_an_endpoint_without_response_formats_serves_as_well(of, full_trace):
    """DeepEval's own prompts ask for JSON in words, which is what such an endpoint gets."""

    def reply(request):
        if request.schema:
            return Reply("response_format json_schema is not supported", 400)
        return json.dumps({"statements": ["x"], "verdicts": [{"verdict": "yes"}], "reason": "fine"})

    with FakeJudgeServer(reply) as server:
        found = of.verdict(of.bind("AnswerRelevancyMetric", server.model), full_trace())
    assert (found.value, found.rationale) == (1.0, "fine")


def test_facts_under_free_keys_are_asked_for_in_words(of, full_session):
    """A strict format would only allow an empty object, and nothing could ever be forgotten."""
    session = full_session(1)
    with FakeJudgeServer(of.replies("KnowledgeRetentionMetric", False)) as server:
        found = of.verdict(of.bind("KnowledgeRetentionMetric", server.model), session[0], session)
    assert (found.value, [bool(request.schema) for request in server.requests]) == (0.0, [False, True, True])
