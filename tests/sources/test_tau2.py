from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay import semconv
from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import InputError
from mlflow_assay.sources import tau2_verdicts
from mlflow_assay.sources.dialogue import NO_TIME_START_NS, Result, Said
from mlflow_assay.sources.tau2 import ENVIRONMENT, Tau2Importer
from mlflow_assay.sources.tau2_transcript import TranscriptError, events

MS = 1_000_000


def runs(path):
    return list(Tau2Importer().runs(path))


@pytest.fixture
def run(simulation_file):
    return runs(simulation_file)[0]


def named(run, name):
    return [s for s in run.spans if s.name == name]


# --- simulations ----------------------------------------------------------------------------------------


def test_every_message_is_one_span_below_an_agent_root(run):
    root, *steps = run.spans

    assert (root.type, root.name, root.parent_id) == ("AGENT", "lamps agent", None)
    assert [s.parent_id for s in steps] == [root.span_id] * 9
    assert len({s.span_id for s in run.spans}) == 10


def test_only_the_agents_tools_are_tool_spans(run):
    """What the customer does on the phone stays visible, but judges of tool use must not see it."""
    assert [s.name for s in run.spans if s.type == "TOOL"] == ["find_lamp", "find_plug"]
    phone = named(run, "phone: press_switch")[0]
    assert (phone.type, phone.attributes[semconv.ACTOR]) == ("TASK", "customer")


def test_a_tool_span_has_arguments_result_and_error(run):
    lamp, plug = named(run, "find_lamp")[0], named(run, "find_plug")[0]

    assert (lamp.inputs, lamp.outputs, lamp.error) == ({"room": "hall"}, {"lamp": "L1"}, None)
    assert plug.error == "Error: no plug in hall"


def test_a_chat_span_has_model_tokens_and_recorded_cost(run):
    decided, replied = named(run, "chat")

    assert (decided.model, decided.input_tokens, decided.output_tokens, decided.cost_usd) == ("gpt-tiny", 100, 7, 0.001)
    assert replied.outputs["choices"][0]["message"]["content"] == "Please press the switch."


def test_a_chat_spans_inputs_are_what_is_new_since_the_last_one(run):
    """The policy stands before the first turn; nothing the agent could not see is in them."""
    first, second = named(run, "chat")

    assert [m["role"] for m in first.inputs["messages"]] == ["system", "assistant", "user"]
    assert [m["role"] for m in second.inputs["messages"]] == ["tool", "tool"]


def test_the_models_playing_the_customer_cost_the_agent_nothing(run):
    customer = named(run, "customer")[0]

    assert (customer.model, customer.input_tokens, customer.cost_usd) == (None, None, None)
    assert customer.attributes["assay.customer.cost_usd"] == 0.5


def test_the_root_serves_previews_and_judges(run):
    root = run.spans[0]

    assert root.inputs == {"messages": [{"role": "user", "content": "The lamp is dark."}]}
    assert root.outputs["choices"][0]["message"]["content"] == "Please press the switch."
    assert [m["role"] for m in root.outputs["messages"]] == [
        "assistant", "user", "assistant", "tool", "tool", "assistant", "user", "user",
    ]  # fmt: skip
    assert "press_switch() → \n```\nThe lamp\nis on.\n```" in root.outputs["messages"][-2]["content"]


def test_the_task_id_which_names_the_fault_is_a_tag_only(run):
    assert run.tags[semconv.TAG_TASK] == "lamp-off"
    assert "lamp-off" not in str([s.inputs for s in run.spans]) + str([s.outputs for s in run.spans])


def test_times_are_the_recorded_ones(run):
    """A step runs from the event before it (a tool from its call) to its own time stamp."""
    root, plug = run.spans[0], named(run, "find_plug")[0]
    ten_o_clock = 1_740_823_200_000_250_000  # 2025-03-01T10:00:00.000250Z

    assert (root.start_ns, root.end_ns) == (ten_o_clock, ten_o_clock + 8000 * MS)
    assert (plug.start_ns, plug.end_ns) == (ten_o_clock + 2000 * MS, ten_o_clock + 4000 * MS)
    assert run.tags[semconv.SOURCE_TIMES] == "recorded without a time zone, read as UTC"


def test_a_time_zone_is_honoured(write, simulations):
    for i, message in enumerate(simulations["simulations"][0]["messages"]):
        message["timestamp"] = f"2025-03-01T12:00:0{i}+02:00"
    run = runs(write(simulations))[0]

    assert run.spans[0].start_ns == 1_740_823_200_000_000_000
    assert run.tags[semconv.SOURCE_TIMES] == "recorded"


def test_a_run_without_all_times_says_that_its_times_are_made_up(write, simulations):
    del simulations["simulations"][0]["messages"][3]["timestamp"]
    run = runs(write(simulations))[0]

    assert run.spans[0].end_ns == NO_TIME_START_NS + 9 * MS
    assert run.tags[semconv.SOURCE_TIMES].startswith("not recorded")


def test_cost_0_with_tokens_is_a_price_the_recording_did_not_know(write, simulations):
    simulations["simulations"][0]["messages"][2]["cost"] = 0.0

    assert named(runs(write(simulations))[0], "chat")[0].cost_usd is None


def test_ground_truth_is_the_environments_and_says_so(run):
    found = {a.name: a for a in run.assessments}

    assert found["task_success"].value is True
    assert (found["task_success"].source_type, found["task_success"].source_id) == ("CODE", ENVIRONMENT)
    assert "no person did" in found["task_success"].rationale
    assert "assert_lamp(on=True): met" in found["task_success"].rationale
    assert "matched: 1 of 2" in found["task_success"].rationale
    assert found["expected_actions"].value == [{"by": "user", "name": "press_switch", "arguments": {}}]
    assert found["expected_final_state"].value == ["assert_lamp(on=True)"]


@pytest.mark.parametrize(("reason", "broken"), [("user_stop", False), ("max_steps", False), ("too_many_errors", True)])
def test_only_a_run_that_broke_off_is_an_error(write, simulations, reason, broken):
    simulations["simulations"][0]["termination_reason"] = reason
    run = runs(write(simulations))[0]

    assert (run.spans[0].error is not None) is broken
    assert run.tags[semconv.TAG_TERMINATION] == reason


def test_reading_a_file_twice_gives_the_same_ids(simulation_file):
    assert runs(simulation_file) == runs(simulation_file)


# --- transcripts ----------------------------------------------------------------------------------------


def test_numbered_lists_inside_messages_open_no_turn(transcript):
    said = [e.text for e in events(transcript) if isinstance(e, Said) and e.text]

    assert said[1] == "The lamp is dark. I tried:\n1. pressing\n2. shouting"
    assert said[2] == "Please:\n\n1. Press the switch.\n2. Wait."


def test_calls_in_a_row_are_one_decision_answered_in_order(transcript):
    decision = next(e for e in events(transcript) if isinstance(e, Said) and e.calls)
    lamp, plug, phone = (e for e in events(transcript) if isinstance(e, Result))

    assert [c.arguments for c in decision.calls] == [{"room": "hall", "deep": {"a": None}}, {"room": "the owner's"}]
    assert (lamp.call, plug.call) == decision.calls
    assert (lamp.failed, plug.failed) == (False, True)
    assert (phone.who, phone.call, phone.content) == ("customer", None, "The lamp\nis on.")


def test_a_label_with_another_number_is_text():
    found = events("1. Assistant: a\n7. User: quoted\n2. User: b")

    assert [e.text for e in found] == ["a\n7. User: quoted", "b"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Once upon a time", "turn 1 is expected"),
        ("2. User: late", "turn 1 is expected"),
        ("1. Assistant TOOL CALL -> look {'a': open('x')}", "not a tool call"),
        ("1. Assistant TOOL CALL -> look", "not a tool call"),
    ],
)
def test_a_text_that_is_no_transcript_is_refused(text, complaint):
    with pytest.raises(TranscriptError, match=complaint):
        events(text)


plain = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), min_size=1).filter(
    lambda t: not any(line[:1].isdigit() and ". " in line for line in t.split("\n"))
)
arguments = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | plain, max_size=3)
turn = st.one_of(
    st.tuples(st.just("Assistant: "), plain),
    st.tuples(st.just("User: "), plain),
    st.tuples(st.just("Assistant TOOL CALL -> "), arguments.map(lambda a: f"look {a}")),
    st.tuples(st.just("Tool call_1x: "), plain),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(turn, min_size=1, max_size=12))
def test_what_was_printed_is_read_back(turns):
    """Whatever is said, every turn comes back with its text, and every call with its arguments."""
    text = "\n".join(f"{n}. {label}{said}" for n, (label, said) in enumerate(turns, 1))
    found = events(text)

    said = [t for label, t in turns if label in ("Assistant: ", "User: ")]
    results = [t for label, t in turns if label.startswith("Tool")]
    calls = [t for label, t in turns if "CALL" in label]
    assert [e.text for e in found if isinstance(e, Said) and not e.calls] == said
    assert [e.content for e in found if isinstance(e, Result)] == results
    assert [f"look {c.arguments}" for e in found if isinstance(e, Said) for c in e.calls] == calls


# --- judged runs ----------------------------------------------------------------------------------------


def test_a_judged_run_becomes_a_trace_with_truth_and_verdict(judge_file, entry):
    run = runs(judge_file(entry(verdict="Compliant")))[0]
    truth, verdict = run.assessments

    assert [s.type for s in run.spans] == [
        "AGENT", "TASK", "TASK", "CHAT_MODEL", "TOOL", "TOOL", "CHAT_MODEL", "TASK", "TASK",
    ]  # fmt: skip
    assert (truth.name, truth.value, truth.source_type) == ("task_success", False, "CODE")
    assert (verdict.name, verdict.value, verdict.source_type) == ("lamp_check_v2", True, "LLM_JUDGE")
    assert (verdict.source_id, verdict.raw, verdict.read_as) == ("azure/gpt-judge", "Compliant", "pass")
    assert verdict.rationale == "It shone.\n- slow\n- rude — turn 7"
    assert run.tags[semconv.SOURCE_TIMES].startswith("not recorded")


def test_a_verdict_carries_its_judge_and_what_it_cost(judge_file, entry):
    metadata = runs(judge_file(entry()))[0].assessments[-1].metadata

    assert metadata[semconv.JUDGE_NAME] == "lamp_check_v2"
    assert metadata[semconv.JUDGE_VERSION] == "2"
    assert metadata[semconv.JUDGE_MODEL] == "azure:/gpt-judge"
    assert metadata[semconv.OUTCOME] == "pass"
    assert metadata["mlflow.assessment.judgeCost"] == "0.004"
    assert metadata["mlflow.assessment.judgeInputTokens"] == "300"


@pytest.mark.parametrize(
    "change", [{"judge_model": "b"}, {"judge_temperature": 1.0}, {"judge_system_prompt": "Be strict."}]
)
def test_a_judges_digest_changes_with_prompt_model_and_parameters(judge_file, entry, change):
    one, other = runs(judge_file(entry(), entry(run="run-10", **change)))

    assert one.assessments[-1].judge.digest != other.assessments[-1].judge.digest


def test_the_same_run_in_two_judge_files_is_the_same_run(judge_file, entry):
    one = runs(judge_file(entry(judge="a_v1"), name="a.json"))[0]
    other = runs(judge_file(entry(judge="b_v1", verdict="fail"), name="b.json"))[0]

    assert (one.id, one.spans, one.assessments[0]) == (other.id, other.spans, other.assessments[0])
    assert one.assessments[1].id != other.assessments[1].id


def test_a_spelling_nobody_looked_at_is_unscored_and_kept(judge_file, entry):
    verdict = runs(judge_file(entry(verdict="mostly harmless")))[0].assessments[-1]

    assert (verdict.value, verdict.unscored[0]) == (None, Unscored.OFF_MENU)
    assert verdict.metadata[semconv.RAW_VALUE] == "mostly harmless"
    assert verdict.metadata[semconv.OUTCOME] == "unscored"


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        ("pass", True), ("Satisfied", True), ("SATISFACTORY", True), ("compliant ", True), ("success", True),
        ("fail", False), ("failure", False), ("unsatisfied", False), ("unsatisfactory", False),
        ("partially  satisfied", False), ("partially_satisfied", False),
    ],
)  # fmt: skip
def test_each_spelling_is_read_as_the_table_says(said, passed):
    assert tau2_verdicts.read(said)[0] is passed


@pytest.mark.parametrize(
    ("said", "reason"), [("unknown", Unscored.OFF_MENU), (True, Unscored.OFF_MENU), ("passing", Unscored.OFF_MENU),
                         ("", Unscored.EMPTY_REPLY), (None, Unscored.EMPTY_REPLY)],
)  # fmt: skip
def test_anything_else_is_unscored(said, reason):
    with pytest.raises(UnscoredError) as raised:
        tau2_verdicts.read(said)
    assert raised.value.reason is reason


# --- bad files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"a": 1}, r"not a tau2 file.*keys 'a'.*`simulations`"),
        ([1], r"not a tau2 file.*JSON list"),
        ({"resourceSpans": []}, r"use --format otlp-json"),
        (
            {"simulations": [{"id": "x", "task_id": "t", "messages": [{"role": "robot"}]}]},
            r"simulations\.0\.messages\.0\.role",
        ),
        ({"simulations": [{"id": "x", "task_id": "t", "messages": []}]}, r"simulations\.0\.messages: .*at least 1"),
        ({"entries": [{"simulation_id": "x"}]}, r"entries\.0\.task_id: Field required \(3 more\)"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_the_place(write, document, complaint):
    with pytest.raises(InputError, match=complaint):
        runs(write(document))


@pytest.mark.parametrize("prompt", ["no conversation here", "Conversation transcript:\n1. User: a"])
def test_a_judge_prompt_without_a_conversation_names_the_run(judge_file, entry, prompt):
    with pytest.raises(InputError, match=r"entries\.0\.judge_prompt \(run 'run-9'\).*there is no line"):
        runs(judge_file(entry(judge_prompt=prompt)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"hello", r":1: not valid JSON: Expecting value at column 1"),
        (b'{\n "simulations": [\n', r":3: not valid JSON"),
        (b"\xff\xfe", r"not text in UTF-8.*0xff"),
        (b"\x1f\x8bnonsense", r"cannot be read"),
        (b"\x28\xb5\x2f\xfdzstd", r"compressed with zstd"),
    ],
)
def test_a_file_that_is_no_json_is_refused(tmp_path, content, complaint):
    path = tmp_path / "runs.json"
    path.write_bytes(content)

    with pytest.raises(InputError, match=complaint):
        runs(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        runs(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        runs(tmp_path)
