"""The fast path against MLflow's own: the same request is sent and the same verdict comes back."""

from __future__ import annotations

import asyncio

import aiohttp
import mlflow
import pytest

from mlflow_assay.contracts import ModelSettings, UnscoredError
from mlflow_assay.engine import judging
from mlflow_assay.engine.chat import prepare
from mlflow_assay.engine.limits import AdaptiveLimiter, RetryPolicy
from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry, _bind_instructions
from mlflow_assay.judges.definition import JudgeDefinition
from mlflow_assay.testing import FakeJudgeServer, answer

VALUES = {
    "boolean": ({"type": "boolean"}, True),
    "categorical": ({"type": "categorical", "options": ["yes", "no", "unsure"], "good": ["yes"]}, "no"),
    "integer": ({"type": "numeric", "low": 1, "high": 5, "threshold": 3, "integer": True}, 4),
    "float": ({"type": "numeric", "low": 0, "high": 1, "threshold": 0.5}, 0.75),
}
TEMPLATES = [
    "Judge {{ inputs }} alone and say what you think.",
    "Judge {{ outputs }} and then {{ inputs }} in this odd order.",
    "Judge {{ inputs }}, {{ outputs }} and what was expected: {{ expectations }}.",
    "Only the expectations {{ expectations }} matter to this judge.",
]


def bind(template: str, value: dict, model: ModelSettings, **more):
    definition = JudgeDefinition.model_validate(
        {"name": "parity", "purpose": "A judge for the parity test.", "value": value, "instructions": template, **more}
    )
    return _bind_instructions(JudgeEntry(definition.contract("test"), "test", definition), definition, model, {})


@pytest.fixture
def subject_trace(log_trace):
    trace_id = log_trace(request={"text": "Wie geht's? \u2603", "n": [1, 2.5, None]})
    mlflow.log_expectation(
        trace_id=trace_id, name="expected_route", value="billing", source=mlflow.entities.AssessmentSource("HUMAN", "e")
    )
    return mlflow.get_trace(trace_id)


def both(bound, trace, session=()):
    """(request, feedback) by MLflow's path and by the fast one, from the same server."""
    server: FakeJudgeServer = bound.server
    subject = judging.subject_of(bound.judge, trace, session)
    theirs = judging._call(bound.judge, subject)
    chat = prepare(bound.judge)
    assert chat is not None

    async def call():
        async with aiohttp.ClientSession() as http:
            return await chat.call(http, AdaptiveLimiter(4), RetryPolicy(attempts=1), chat.render(subject))

    ours = asyncio.run(call())
    return server.requests[-2].body, theirs, server.requests[-1].body, ours


class Bound:
    def __init__(self, judge, server):
        self.judge, self.server = judge, server


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("rationale_first", [True, False])
def test_request_and_verdict_are_mlflows(monkeypatch, subject_trace, kind, template, rationale_first):
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    value, reply = VALUES[kind]
    with FakeJudgeServer(answer(reply, "Let's think step by step. because"), tokens=(7, 3)) as server:
        model = ModelSettings("openai:/fake", server.url, params={"temperature": 0.1, "max_tokens": 50})
        bound = Bound(bind(template, value, model, rationale_first=rationale_first), server)
        their_request, theirs, our_request, ours = both(bound, subject_trace)
    assert our_request == their_request
    for part in ("name", "value", "rationale", "source"):
        assert getattr(ours, part) == getattr(theirs, part), part
    assert ours.metadata == theirs.metadata


def test_a_conversation_is_rendered_as_mlflow_does(monkeypatch, log_trace):
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    session = tuple(mlflow.get_trace(log_trace(request=f"turn {i}", session="s")) for i in range(3))
    with FakeJudgeServer(answer(True)) as server:
        model = ModelSettings("openai:/fake", server.url)
        judge = bind("How did this {{ conversation }} go?", {"type": "boolean"}, model, scope="session")
        their_request, theirs, our_request, ours = both(Bound(judge, server), session[0], session)
    assert our_request == their_request
    assert ours.value == theirs.value


@pytest.mark.parametrize(
    "reply",
    [
        '```json\n{"result": true, "rationale": "fenced"}\n```',
        'Here:\n```json\n{"result": true}\n```\nDone',
        '{"result": "True "}',
    ],
)
def test_odd_but_readable_replies_read_as_mlflow_reads_them(monkeypatch, subject_trace, reply):
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with FakeJudgeServer(reply) as server:
        bound = Bound(bind(TEMPLATES[0], {"type": "boolean"}, ModelSettings("openai:/fake", server.url)), server)
        _, theirs, _, ours = both(bound, subject_trace)
    assert (ours.value, ours.rationale) == (theirs.value, theirs.rationale)


@pytest.mark.parametrize(
    "name", [e.name for e in Catalogue().entries.values() if e.definition and e.definition.instructions]
)
def test_every_shipped_judge_sends_mlflows_request(monkeypatch, subject_trace, name):
    """Trace-level judges run MLflow's tool loop and are handed over to it; the others must match to the byte."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    catalogue = Catalogue()
    definition = catalogue.get(name).definition
    texts = dict.fromkeys(definition.variables, "Be kind.")
    with FakeJudgeServer() as server:
        judge = catalogue.build(name, ModelSettings("openai:/fake", server.url), texts)
        if "trace" in definition.template_variables:
            assert prepare(judge) is None
            return
        session = (subject_trace,) if judge.contract.scope == "session" else ()
        if session:
            pytest.skip("one trace without a session id is no session; conversations are tested above")
        subject = judging.subject_of(judge, subject_trace)
        if judging.missing(judge, subject):
            subject = judging.Subject(subject_trace, {"request": "hi"}, {"answer": "ho"}, {"k": "v"})
            monkeypatch.setattr(judging, "subject_of", lambda *_: subject)
        their_request, theirs, our_request, ours = both(Bound(judge, server), subject_trace)
    assert our_request == their_request
    assert ours.value == theirs.value


def test_a_garbled_reply_keeps_the_tokens_it_cost(subject_trace):
    with FakeJudgeServer("nonsense", tokens=(11, 2)) as server:
        chat = prepare(bind(TEMPLATES[0], {"type": "boolean"}, ModelSettings("openai:/fake", server.url)))
        with pytest.raises(UnscoredError) as raised:
            chat.read(
                {
                    "choices": [{"message": {"content": "nonsense"}}],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 2},
                }
            )
    assert raised.value.metadata["mlflow.assessment.judgeInputTokens"] == 11
