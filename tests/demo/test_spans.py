from __future__ import annotations

import json
import re

import pytest

from mlflow_assay.demo.agent import Agent
from mlflow_assay.demo.knowledge import handbook
from mlflow_assay.demo.prompt import FIRST_PROMPT, parse
from mlflow_assay.demo.recorder import MODEL, Recorder, tokens
from mlflow_assay.demo.runner import play
from mlflow_assay.demo.specialists import _INVENTIONS
from mlflow_assay.demo.telecom import TOOLS, Telecom, ToolError


def _numbers(value):
    return set(re.findall(r"\d+(?:\.\d+)?", json.dumps(value)))


def test_root_router_and_specialist_carry_request_answer_and_route(faulty):
    for turn in faulty:
        root, router, *rest = turn.reply.spans
        desks = [s for s in rest if s.type == "AGENT"]
        assert (root.name, root.type, root.inputs) == ("telecom_support", "AGENT", {"request": turn.request.text})
        assert router.outputs == {"route": turn.reply.route, "scores": turn.reply.scores}
        assert [s.name for s in desks] == [turn.reply.route]
        if turn.reply.answer is None:
            assert root.outputs is None and root.error is not None
        else:
            assert root.outputs == {"answer": turn.reply.answer, "route": turn.reply.route}


def test_every_trace_looks_up_the_handbook_and_chats(faulty):
    for turn in faulty:
        kinds = [s.type for s in turn.reply.spans]
        assert kinds.count("RETRIEVER") == 1
        assert kinds.count("CHAT_MODEL") >= 2
        retrieved = next(s for s in turn.reply.spans if s.type == "RETRIEVER").outputs
        assert all({"page_content", "metadata", "id"} <= set(document) for document in retrieved)


def test_children_lie_within_their_parents_and_no_time_is_slept(faulty):
    for turn in faulty:
        spans = turn.reply.spans
        assert spans[0].parent is None and spans[0].start_ns == int(turn.started.timestamp() * 1000) * 10**6
        for number, span in enumerate(spans[1:], start=1):
            parent = spans[span.parent]
            assert span.parent < number
            assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns
        assert 0.3 < (spans[0].end_ns - spans[0].start_ns) / 1e9 < 90


def test_a_chat_span_has_autologgings_shape_and_counts_its_tokens_by_the_stated_rule(faulty):
    chats = [s for turn in faulty for s in turn.reply.spans if s.type == "CHAT_MODEL"]
    plain = [s for s in chats if "tools" not in s.inputs and not any("tool_calls" in m for m in s.inputs["messages"])]

    assert plain
    for span in plain:
        usage = span.attributes["mlflow.chat.tokenUsage"]
        reply = span.outputs["choices"][0]["message"]["content"]
        assert span.inputs["model"] == span.outputs["model"] == span.attributes["mlflow.llm.model"] == MODEL
        assert usage["input_tokens"] == sum(tokens(m["content"]) for m in span.inputs["messages"])
        assert usage["output_tokens"] == tokens(reply)
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert span.outputs["usage"]["total_tokens"] == usage["total_tokens"]


def test_tool_calls_in_chat_spans_are_the_tools_run_next(faulty):
    for turn in faulty:
        spans = turn.reply.spans
        asked = [s.outputs["choices"][0]["message"].get("tool_calls", []) for s in spans if s.type == "CHAT_MODEL"]
        wanted = [call["function"]["name"] for calls in asked for call in calls]
        ran = [s.name for s in spans if s.type == "TOOL"]
        assert set(wanted) <= set(ran) or turn.reply.faults
        assert set(ran) <= {*wanted, "open_ticket"}


def test_answers_without_a_planted_fault_hold_no_figure_that_neither_tool_nor_handbook_gave(faulty):
    allowed = set.union(*(_numbers(a.answer) for a in handbook().articles))
    checked = 0
    for turn in faulty:
        if turn.reply.answer is None or "ungrounded" in turn.reply.faults:
            continue
        seen = set.union(set(), *(_numbers(s.outputs) for s in turn.reply.spans if s.type == "TOOL"))
        assert _numbers(turn.reply.answer) <= seen | allowed
        checked += 1
    assert checked > 350


def test_ungrounded_answers_hold_a_figure_or_promise_that_no_tool_gave(faulty):
    planted = [t for t in faulty if "ungrounded" in t.reply.faults]

    assert 5 <= len(planted) <= 40
    for turn in planted:
        seen = set.union(set(), *(_numbers(s.outputs) for s in turn.reply.spans if s.type == "TOOL"))
        promised = any(words in turn.reply.answer for words in _INVENTIONS)
        assert promised or _numbers(turn.reply.answer) - seen


def test_some_tools_fail_and_are_retried_some_stay_failed_and_some_traces_crash(faulty):
    failed = [t for t in faulty if any(s.type == "TOOL" and s.error for s in t.reply.spans)]
    unrecovered = [t for t in failed if "unrecovered" in t.reply.faults]
    crashed = [t for t in faulty if "crash" in t.reply.faults]

    assert {t.trace_id for t in failed} == {t.trace_id for t in faulty if "tool_error" in t.reply.faults}
    assert 12 <= len(failed) <= 60
    assert 0 < len(unrecovered) < len(failed)
    assert 0 < len(crashed) < len(unrecovered)
    assert all(t.reply.answer is None and t.reply.spans[0].error[0] == "CrashError" for t in crashed)
    for turn in failed:
        names = [s.name for s in turn.reply.spans if s.type == "TOOL"]
        first = next(s.name for s in turn.reply.spans if s.type == "TOOL" and s.error)
        assert names.count(first) >= 2


def test_sessions_carry_the_conversation_so_far_into_the_chat(faulty):
    second = next(t for t in faulty if t.request.turn == 2)
    first = next(t for t in faulty if t.session_id == second.session_id and t.request.turn == 1)
    chats = [s for s in second.reply.spans if s.type == "CHAT_MODEL"]

    assert first.request.text in chats[0].inputs["messages"][0]["content"]
    assert first.request.text in [m.get("content") for m in chats[-1].inputs["messages"]]


def test_equal_seeds_give_equal_traces_ids_included_and_only_faults_depend_on_the_agents_seed(faulty, traffic, now):
    some = traffic[:60]
    once, again = (play(Agent(parse(FIRST_PROMPT)), some, now=now) for _ in range(2))
    other = play(Agent(parse(FIRST_PROMPT), seed=8), some, now=now)

    assert once == again == faulty[:60]
    assert [t.reply.route for t in other] == [t.reply.route for t in once]
    assert [t.reply.spans for t in other] != [t.reply.spans for t in once]
    assert len({t.trace_id for t in faulty}) == len(faulty)


def test_a_recorder_closes_a_failed_span_and_lets_the_error_through():
    recorder = Recorder(1000)
    with pytest.raises(ToolError), recorder.span("root", "AGENT", {}), recorder.span("tool", "TOOL", {}):
        recorder.wait(2)
        raise ToolError("404 nothing")

    assert [(s.name, s.error, s.end_ns) for s in recorder.spans] == [
        ("root", ("ToolError", "404 nothing"), 2_001_000),
        ("tool", ("ToolError", "404 nothing"), 2_001_000),
    ]


def test_tools_answer_the_same_every_time_and_refuse_what_they_do_not_know():
    one, two = Telecom(), Telecom()
    someone = one.customers()[0]
    known = {"customer": someone, "name": "Kite Pro", "city": "Holm", "field": "x", "summary": "y"}

    for tool, required in TOOLS.items():
        arguments = {key: known[key] for key in required}
        assert one.call(tool, arguments) == two.call(tool, arguments)
    for tool, arguments in (("get_account", {"customer": "C-0"}), ("check_device", {"name": "Phone"}), ("fly", {})):
        with pytest.raises(ToolError):
            one.call(tool, arguments)
