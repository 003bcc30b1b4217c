"""The desks behind the router: plain code with tools and a handbook. No model is called.

A desk looks the request up in the handbook. If the best article is another desk's, it may not act and
escalates to a person; else it calls the article's tools and words the answer from their results. A few
calls fail, a few answers claim what no tool said: faults for judges to find, all decided by the seed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_assay.demo.knowledge import Article, handbook
from mlflow_assay.demo.recorder import Recorder, chat, tokens
from mlflow_assay.demo.telecom import TOOLS, Telecom, ToolError, catalogue, tool_schema

__all__ = ["Case", "CrashError", "Outcome", "Specialist"]

TOOL_ERROR_RATE = 0.05  # of tool calls, a time-out of the back end
RETRY_HELPS = 0.6  # share of these that succeed at the second attempt
SLOW_RATE = 0.04  # of tool calls, 8 to 20 seconds
UNGROUNDED_RATE = 0.04  # of answers, a figure or promise that no tool gave
_CRASHES = 0.2  # share of tools that fail twice: the agent gives up; for _INVENTS it makes an answer up
_INVENTS = 0.3
_REMIT = 0.06  # cosine below which the handbook has nothing on a request

_OPENINGS = ("", "", "Thank you for your message. ", "I have looked into it. ", "Happy to help. ", "Let me see. ")
_CLOSINGS = ("", "", " Is there anything else?", " Please write again if that does not help.", " Have a good day.")
_ESCALATIONS = (
    "I'm afraid I can't help with that from here. I have passed it on to a colleague, ticket {ticket}.",
    "This is not something that we can settle at this desk. A colleague will call you back about {ticket}.",
    "I can only see your contract here, so I have escalated your request as {ticket}. Someone will be in touch.",
    "Sorry, that is beyond what I can do. I've opened {ticket} so that the right team can answer you.",
)
_APOLOGIES = (
    "Our system does not answer right now, so I could not check that. I have noted it as {ticket}.",
    "I can't reach your data at the moment. To be safe I opened {ticket}; we will write to you.",
)
_INVENTIONS = (
    "Everything looks fine on our side, so there is nothing to worry about.",
    "I have credited 10 euros to your account for the trouble.",
    "This is settled already and will show tomorrow.",
)


class CrashError(Exception):
    """The agent gave up: a tool failed twice and nothing caught it. The trace ends without an answer."""


@dataclass(frozen=True)
class Case:
    """What a desk is given.

    Attributes:
        text: the customer's message.
        previous: what the customer wrote before in the session; empty for nothing.
        customer: the customer's id.
        history: the session's earlier chat messages.
        draw: decides latency and faults.
    """

    text: str
    previous: str
    customer: str
    history: Sequence[Mapping[str, Any]]
    draw: random.Random


@dataclass
class Outcome:
    """What a desk did: the answer, and which faults were planted while making it."""

    answer: str = ""
    escalated: bool = False
    faults: list[str] = field(default_factory=list)


class Specialist:
    """One desk.

    Args:
        desk: its name, also the name of its AGENT span.
        telecom: the back end its tools call.
    """

    def __init__(self, desk: str, telecom: Telecom) -> None:
        self.desk = desk
        self.telecom = telecom
        own = {tool for a in handbook().articles if a.desk == desk for tool in a.tools} | {"open_ticket"}
        self.tools = [tool_schema(tool) for tool in TOOLS if tool in own]

    def handle(self, case: Case, recorder: Recorder) -> Outcome:
        """Answer the request, recording spans.

        Raises:
            CrashError: a tool failed twice and the desk had no way round (rare; planted).
        """
        with recorder.span(self.desk, "AGENT", {"request": case.text, "customer": case.customer}) as span:
            outcome = _Visit(self, case, recorder).handle()
            span.outputs = {"answer": outcome.answer, "escalated": outcome.escalated}
        return outcome


class _Visit:
    """One request at one desk: the chat so far, and what came of it."""

    def __init__(self, desk: Specialist, case: Case, recorder: Recorder) -> None:
        name = desk.desk.replace("_", " ")
        system = f"You are the {name} desk. Act only within your remit; hand other matters to a colleague."
        self._desk, self._case, self._recorder = desk, case, recorder
        self._outcome = Outcome()
        self._messages: list[Mapping[str, Any]] = [
            {"role": "system", "content": system},
            *case.history,
            {"role": "user", "content": case.text},
        ]

    def handle(self) -> Outcome:
        found = self._look_up()
        self._messages.append({"role": "system", "content": "Handbook: " + " | ".join(a.text for a, _ in found)})
        best, score = found[0]
        if best.desk != self._desk.desk or score < _REMIT:
            self._escalate()
        else:
            self._solve(best)
        return self._outcome

    def _look_up(self) -> list[tuple[Article, float]]:
        case = self._case
        with self._recorder.span("search_handbook", "RETRIEVER", {"query": case.text}) as span:
            self._recorder.wait(case.draw.lognormvariate(3.4, 0.3))
            found = handbook().search(case.text, case.previous)
            span.outputs = [
                {
                    "id": a.id,
                    "page_content": f"{a.title}. {a.text}",
                    "metadata": {"doc_uri": f"handbook/{a.desk}/{a.id}", "desk": a.desk, "score": score},
                }
                for a, score in found
            ]
        return found

    def _escalate(self) -> None:
        self._decide([("open_ticket", self._arguments("open_ticket"))])
        self._hand_over(_ESCALATIONS)

    def _hand_over(self, wordings: Sequence[str]) -> None:
        ticket = self._attempt("open_ticket", self._arguments("open_ticket"))
        self._outcome.escalated = True
        self._answer(self._case.draw.choice(wordings).format(**ticket))

    def _solve(self, article: Article) -> None:
        calls = [(tool, self._arguments(tool, article.id)) for tool in article.tools]
        self._decide(calls)
        try:
            results = {tool: self._insist(tool, arguments) for tool, arguments in calls}
        except ToolError as error:
            return self._without_result(error)
        extra = ""
        if self._case.draw.random() < UNGROUNDED_RATE:
            self._outcome.faults.append("ungrounded")
            results, extra = _distorted(results, article.answer, self._case.draw)
        return self._answer(article.answer.format(**results) + extra)

    def _decide(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """The chat turn that chooses tools."""
        wanted = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": tool, "arguments": json.dumps(arguments)},
            }
            for number, (tool, arguments) in enumerate(calls)
        ]
        ms = _thinking(self._case.draw, 20)
        chat(self._recorder, self._messages, "", ms=ms, tools=self._desk.tools, calls=wanted)
        self._messages.append({"role": "assistant", "content": None, "tool_calls": wanted})

    def _insist(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; after an error once more, without the argument that a 404 complained about."""
        draw = self._case.draw
        fails = draw.random() < TOOL_ERROR_RATE
        try:
            return self._attempt(tool, arguments, fails=fails)
        except ToolError as error:
            self._outcome.faults.append("tool_error")
            if str(error).startswith("404"):
                arguments = {key: arguments[key] for key in TOOLS[tool]}
        return self._attempt(tool, arguments, fails=fails and draw.random() > RETRY_HELPS)

    def _attempt(self, tool: str, arguments: Mapping[str, Any], *, fails: bool = False) -> dict[str, Any]:
        draw = self._case.draw
        with self._recorder.span(tool, "TOOL", dict(arguments)) as span:
            slow = draw.random() < SLOW_RATE
            self._recorder.wait(draw.uniform(8000, 20000) if slow else draw.lognormvariate(4.6, 0.5))
            if fails:
                self._recorder.wait(5000)
                raise ToolError(f"504 {tool}: the back end did not answer within 5 seconds")
            result = self._desk.telecom.call(tool, arguments)
            span.outputs = result
        self._messages.append({"role": "tool", "content": json.dumps(result)})
        return result

    def _without_result(self, error: ToolError) -> None:
        """The tool failed twice: mostly a ticket, sometimes a made-up answer, sometimes nothing at all."""
        self._outcome.faults.append("unrecovered")
        self._messages.append({"role": "tool", "content": str(error)})
        luck = self._case.draw.random()
        if luck < _CRASHES:
            raise CrashError(f"unhandled tool failure: {error}") from error
        if luck < _CRASHES + _INVENTS:
            self._outcome.faults.append("ungrounded")
            return self._answer(self._case.draw.choice(_INVENTIONS))
        return self._hand_over(_APOLOGIES)

    def _answer(self, text: str) -> None:
        draw = self._case.draw
        self._outcome.answer = f"{draw.choice(_OPENINGS)}{text}{draw.choice(_CLOSINGS)}"
        ms = _thinking(draw, tokens(self._outcome.answer))
        chat(self._recorder, self._messages, self._outcome.answer, ms=ms)

    def _arguments(self, tool: str, topic: str = "") -> dict[str, Any]:
        """The tool's arguments, as a careful reader would take them from the conversation."""
        case = self._case
        said = f"{case.text} {case.previous}"
        slots = catalogue()["slots"]
        known = {
            "customer": case.customer,
            "field": topic,
            "summary": case.text[:80],
            "city": _mentioned(slots["city"], said) or self._desk.telecom.get_account(case.customer)["city"],
            "name": _mentioned(catalogue()["devices"], said) or "Tern 8a",
        }
        arguments = {key: known[key] for key in TOOLS[tool]}
        month = _mentioned(slots["month"], case.text)
        return {**arguments, "month": month} if tool in ("get_invoice", "open_dispute") and month else arguments


def _mentioned(names: Sequence[str] | Mapping[str, Any], said: str) -> str | None:
    places = {name: said.lower().find(name.lower()) for name in names}
    found = [name for name, at in places.items() if at >= 0]
    return min(found, key=lambda name: places[name]) if found else None


def _thinking(draw: random.Random, written: float) -> float:
    """Milliseconds of a chat turn: a start-up time and about 12 ms a token written."""
    return draw.lognormvariate(6.0, 0.35) + 12.0 * written


def _distorted(results: Mapping[str, Any], answer: str, draw: random.Random) -> tuple[dict[str, Any], str]:
    """The results with one figure of the answer changed; where it has none, a promise that no tool made."""
    used = re.findall(r"\{(\w+)\[(\w+)\]\}", answer)
    figures = [(tool, key) for tool, key in used if isinstance(results[tool][key], int | float)]
    if not figures:
        return dict(results), " " + draw.choice(_INVENTIONS)
    tool, key = draw.choice(figures)
    wrong = round(results[tool][key] * draw.uniform(1.3, 2.5) + 5, 2)
    return {**results, tool: {**results[tool], key: wrong}}, ""
