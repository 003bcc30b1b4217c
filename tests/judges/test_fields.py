"""Named fields of a trace: present, absent (never an empty string), and optional."""

from __future__ import annotations

import pytest

from mlflow_assay import trace_fields
from mlflow_assay.errors import ConfigError

SPANS = [
    {"name": "router", "type": "CHAIN", "outputs": {"route": "billing"}},
    {"name": "billing", "type": "AGENT", "outputs": {"answer": "ok"}},
    {
        "name": "chat",
        "type": "CHAT_MODEL",
        "attributes": {
            "mlflow.chat.tools": [
                {"type": "function", "function": {"name": "get_invoice", "description": "An invoice."}},
                {"type": "function", "function": {"name": "get_invoice", "description": "the same again"}},
            ],
            "mlflow.chat.tokenUsage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
            "mlflow.llm.cost": {"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.3},
        },
    },
    {"name": "get_invoice", "inputs": {"month": 3}, "outputs": {"total": 39.9}},
    {"name": "refund", "inputs": {"amount": 39.9}, "error": "not allowed"},
    {"name": "search", "type": "RETRIEVER", "outputs": [{"page_content": "Refunds take 5 days."}]},
]
SAID = {
    "inputs": {
        "messages": [{"role": "user", "content": "Why 39.90?"}, {"role": "assistant", "content": "One moment."}]
    },
    "outputs": {"answer": "It is the March invoice."},
    "spans": SPANS,
    "tags": {"domain": "telecom"},
    "expectations": {"route": "billing"},
}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("first_user_message", "Why 39.90?"),
        ("final_answer", "It is the March invoice."),
        ("transcript", "user: Why 39.90?\nassistant: One moment.\nassistant: It is the March invoice."),
        ("agents", ["billing"]),
        ("tools_called", ["get_invoice", "refund"]),
        ("tool_errors", ["refund: Error: not allowed"]),
        ("retrieved", ["Refunds take 5 days."]),
        ("evidence", ["Refunds take 5 days.", 'get_invoice: {"total": 39.9}']),
        ("tools_available", [{"name": "get_invoice", "description": "An invoice."}]),
        ("total_tokens", 15),
        ("cost_usd", 0.3),
        ("duration_ms", 600),
        ("steps", 6),
        ("tag:domain", "telecom"),
        ("expectation:route", "billing"),
        ("inputs.messages.0.content", "Why 39.90?"),
        ("outputs.answer", "It is the March invoice."),
        ("span:router.outputs.route", "billing"),
        ("span:refund.inputs", {"amount": 39.9}),
    ],
)
def test_a_field_is_read_from_the_trace(make_trace, field, expected):
    assert trace_fields.extract(make_trace(**SAID), field) == expected


@pytest.mark.parametrize(
    "field", [*trace_fields._NAMED, "tag:x", "metadata:x", "expectation:x", "inputs.a.b", "span:x.inputs"]
)
def test_a_field_the_trace_lacks_is_none_and_an_optional_one_says_so(make_trace, field):
    trace = make_trace()
    assert trace_fields.extract(trace, field) is None
    assert trace_fields.extract(trace, f"{field}?") == "(not recorded)"
    assert trace_fields.extract_all(trace, {"a": field, "b": f"{field}?"}) == {"b": "(not recorded)"}


def test_an_optional_field_that_is_there_is_itself(make_trace):
    assert trace_fields.extract(make_trace(**SAID), "agents?") == ["billing"]


def test_tools_offered_in_the_request_itself_are_found(make_trace):
    """OpenAI-style requests carry the tools in the span's inputs."""
    request = {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}}]}
    trace = make_trace(inputs={"q": "x"}, spans=[{"name": "chat", "type": "CHAT_MODEL", "inputs": request}])
    assert trace_fields.extract(trace, "tools_available") == [{"name": "a", "parameters": {"type": "object"}}]


def test_a_tools_null_result_is_no_evidence(make_trace):
    trace = make_trace(inputs={"q": "x"}, spans=[{"name": "ping", "outputs": None}])
    assert trace_fields.extract(trace, "evidence") is None


@pytest.mark.parametrize("field", ["first_message", "tag:", "span:router", "span:.inputs", "?", "agents??"])
def test_an_unknown_field_lists_the_valid_ones(field):
    with pytest.raises(ConfigError, match="Valid: "):
        trace_fields.check(field)


@pytest.mark.parametrize(
    ("field", "needed"),
    [("agents", True), ("inputs.q?", True), ("tag:x", False), ("duration_ms", False), ("cost_usd?", False)],
)
def test_it_is_known_which_fields_need_spans(field, needed):
    assert trace_fields.needs_spans(field) is needed
