"""The field mapper: what a metric is shown of a trace or a session, and from where."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.case_traces import session_of, trace_of
from mlflow_assay.judges.definition import Case
from mlflow_assay.judges.third_party.sample import SampleFields, ToolCall


def trace(**said):
    return trace_of(Case.model_validate({"name": "made", "kind": "good", "expect": "x", **said}), "made")


def sample(found, overrides=None, **given_):
    return SampleFields(overrides).sample(trace=found, **given_)


def test_every_field_is_read_from_its_own_place(full_trace):
    found = sample(full_trace(7))
    assert (found.input, found.output) == ("Where is order 7?", "Order 7 arrives tomorrow.")
    assert found.expected_output == "It arrives tomorrow."
    assert found.context == ("Orders take two days.", "A courier brings them.")
    assert found.retrieved == ("Orders take two days.", "Parcels travel by night.")
    assert found.tools_called == (ToolCall("get_order", {"order": 7}, {"due": "tomorrow"}),)
    assert found.expected_tools == (ToolCall("get_order", {"order": 7}),)
    assert [tool["name"] for tool in found.tools_available] == ["get_order"]
    assert found.baseline == "No idea."


def test_an_expectation_is_read_by_one_name_and_no_other_leaks_into_it():
    found = sample(trace(inputs={"q": "?"}, expectations={"tone": "polite", "expected_response": "Yes."}))
    assert (found.expected_output, found.context, found.baseline) == ("Yes.", (), None)


def test_what_is_not_there_is_none_or_empty_and_never_an_empty_text():
    found = sample(trace())
    assert found.input is found.output is found.expected_output is None
    assert found.retrieved == found.tools_called == found.turns == ()


def test_a_request_of_several_messages_is_shown_as_a_transcript():
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ]
    assert sample(trace(inputs={"messages": messages})).input == "user: Hi\nassistant: Yes?\nuser: Bye"
    assert sample(trace(inputs={"messages": messages[:1]})).input == "Hi"


def test_values_given_stand_for_the_traces_own(full_trace):
    found = sample(full_trace(), inputs="asked", outputs="said", expectations={"expected_response": "other"})
    assert (found.input, found.output, found.expected_output) == ("asked", "said", "other")


def test_fields_are_read_from_where_a_definition_says(full_trace):
    overrides = {
        "output": "span:chat.outputs.content",
        "expected_output": "expectation:scenario",
        "retrieved": "evidence",
        "chatbot_role": "text:a clerk",
        "input": "inputs.question",
    }
    found = sample(full_trace(), overrides)
    assert (found.output, found.expected_output) == ("I will look it up.", "A user asks for a parcel.")
    assert found.retrieved[-1] == 'get_order: {"due": "tomorrow"}'
    assert (found.chatbot_role, found.input) == ("a clerk", "Where is order 7?")


def test_what_is_needed_follows_the_places():
    reads = ("input", "expected_output", "retrieved", "turns", "spans")
    assert SampleFields().needs(reads) == ("inputs", "expectations.expected_response", "retrieved", "session", "spans")
    moved = SampleFields({"expected_output": "expectation:gold", "retrieved": "evidence?", "input": "text:x"})
    assert moved.needs(reads) == ("expectation:gold", "session", "spans")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"answer": "outputs"}, "no field 'answer'.*Valid: baseline, chatbot_role"),
        ({"output": "the end"}, "no trace field 'the end'"),
        ({"output": 3}, "is a text"),
    ],
)
def test_a_wrong_place_is_refused_with_what_is_valid(overrides, told):
    with pytest.raises(ConfigError, match=told):
        SampleFields(overrides)


@pytest.mark.parametrize(
    "calls",
    [
        [{"name": "f", "arguments": {"a": 1}}],
        [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
        [{"name": "f", "input_parameters": {"a": 1}}],
        [{"name": "f", "args": {"a": 1}}],
    ],
)
def test_expected_calls_are_read_in_the_forms_people_write_them(calls):
    found = sample(trace(expectations={"expected_tool_calls": calls}))
    assert found.expected_tools == (ToolCall("f", {"a": 1}),)


def test_names_alone_are_expected_calls_without_arguments():
    assert sample(trace(expectations={"expected_tool_calls": ["f"]})).expected_tools == (ToolCall("f"),)


@pytest.mark.parametrize("calls", ["f", [{"arguments": {}}], [7]])
def test_expected_calls_that_are_none_are_unscored_with_what_was_found(calls):
    with pytest.raises(UnscoredError, match=r"expected_tools.*found") as raised:
        sample(trace(expectations={"expected_tool_calls": calls}))
    assert raised.value.reason is Unscored.MISSING_FIELD


def test_a_failed_call_keeps_its_error():
    spans = [{"name": "notify", "inputs": {"to": "C1"}, "error": "timeout"}]
    (call,) = sample(trace(inputs={"q": "?"}, spans=spans)).tools_called
    assert call.name == "notify" and "timeout" in call.error


def test_a_sessions_turns_carry_what_was_called_and_retrieved_for_each(full_session):
    session = full_session(2, number=3)
    turns = SampleFields().sample(session=session).turns
    assert [t.role for t in turns] == ["user", "assistant"] * 2
    assert [t.content for t in turns[::2]] == ["Where is order 3?", "Where is order 4?"]
    assert [t.tools[0].arguments for t in turns[1::2]] == [{"order": 3}, {"order": 4}]
    assert all(len(t.retrieved) == 2 for t in turns[1::2])


def test_with_history_in_the_inputs_a_turn_is_what_was_said_last():
    asked = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ]
    found = SampleFields().sample(session=[trace(inputs={"messages": asked}, outputs={"answer": "Bye!"})])
    assert [t.content for t in found.turns] == ["Bye", "Bye!"]


def test_a_trace_that_holds_a_conversation_gives_its_turns_with_their_calls():
    messages = [
        {"role": "user", "content": "Where is it?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Welcome."},
    ]
    found = SampleFields().sample(session=[trace(inputs={"q": "x"}, outputs={"messages": messages})])
    assert [(t.role, t.content) for t in found.turns] == [
        ("user", "Where is it?"), ("assistant", "Here."), ("user", "Thanks"), ("assistant", "Welcome."),
    ]  # fmt: skip
    assert [len(t.tools) for t in found.turns] == [0, 1, 0, 0]
    assert found.turns[1].tools[0] == ToolCall("f", {"a": 1}, "found")


def test_session_of_cases_is_in_order():
    turns = [{"inputs": {"q": str(n)}, "outputs": {"answer": str(n)}} for n in range(5)]
    session = session_of(Case.model_validate({"name": "s", "kind": "good", "expect": "x", "turns": turns}), "s")
    assert [t.content for t in SampleFields().sample(session=session).turns] == [str(n // 2) for n in range(10)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(inputs=json_values, outputs=json_values, expected=json_values)
def test_whatever_is_recorded_is_text_or_unscored_and_never_a_crash(inputs, outputs, expected):
    """Any JSON in any place gives a sample of texts, or says what is missing."""
    try:
        found = SampleFields().sample(
            inputs=inputs,
            outputs=outputs,
            expectations={"expected_tool_calls": expected, "expected_response": expected},
        )
    except UnscoredError as error:
        assert error.reason is Unscored.MISSING_FIELD
        return
    for text in (found.input, found.output, found.expected_output):
        assert text is None or isinstance(text, str)
