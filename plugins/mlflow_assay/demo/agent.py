"""The demo's telecom support agent: a router and four desks, run by plain code. No model is called.

The router compares a request with the descriptions in its prompt from MLflow's registry. Both are placed in
the space of the company's handbook (`knowledge.Handbook.concepts`) and compared by cosine; a request that
resembles no description goes to the desk the prompt names for such cases. What the prompt does not describe
cannot be chosen, so the first prompt misroutes questions about devices and plans, and a better one does not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_assay.demo.knowledge import handbook
from mlflow_assay.demo.prompt import DESKS, RouterPrompt
from mlflow_assay.demo.recorder import Recorder, SpanRecord, chat
from mlflow_assay.demo.specialists import Case, CrashError, Outcome, Specialist
from mlflow_assay.demo.telecom import Telecom

__all__ = ["Agent", "Reply", "Router"]

ROOT_SPAN = "telecom_support"
ROUTER_SPAN = "router"
_LEAST = 0.22  # cosine that a description must reach; below it the prompt's fallback desk is chosen
_SHARPNESS = 2.0  # a request is about one or two articles, a description about many


class Router:
    """Picks the desk for a request by the prompt's descriptions."""

    def __init__(self, prompt: RouterPrompt) -> None:
        self.prompt = prompt
        self._desks = {desk: handbook().concepts(text) for desk, text in prompt.categories.items()}

    def route(self, text: str, previous: str = "") -> tuple[str, dict[str, float]]:
        """The desk, and the cosine in [0, 1] of the request with each description.

        Args:
            text: the customer's message.
            previous: what the customer wrote before in the session; empty for nothing.
        """
        where = handbook().concepts(text, previous, _SHARPNESS)
        scores = {desk: round(float(where @ vector), 4) for desk, vector in self._desks.items()}
        best = max(scores, key=lambda desk: scores[desk])
        return (best if scores[best] >= _LEAST else self.prompt.fallback), scores


@dataclass(frozen=True)
class Reply:
    """What the agent did with one request.

    Attributes:
        answer: what the customer reads; None if the agent crashed.
        route: the desk chosen.
        scores: cosine with each description of the prompt.
        escalated: whether the desk handed the case to a person.
        faults: planted faults: `tool_error`, `unrecovered`, `ungrounded`, `crash`. Truth for tests and
            reports; written nowhere in the trace.
        spans: the trace, root first.
    """

    answer: str | None
    route: str
    scores: Mapping[str, float]
    escalated: bool
    faults: tuple[str, ...]
    spans: tuple[SpanRecord, ...]


class Agent:
    """The support agent.

    Args:
        prompt: the router's prompt.
        seed: decides latencies and planted faults, never the route.
    """

    def __init__(self, prompt: RouterPrompt, *, seed: int = 7) -> None:
        telecom = Telecom()
        self.router = Router(prompt)
        self._someone = telecom.customers()[0]
        self._seed = seed
        self._desks = {desk: Specialist(desk, telecom) for desk in DESKS}

    def predict(self, request: str) -> dict[str, Any]:
        """Answer one request outside any session: `{"answer", "route"}`, as a `predict_fn` for evaluation."""
        reply = self.respond(request, key=request)
        return {"answer": reply.answer, "route": reply.route}

    def respond(
        self,
        text: str,
        *,
        customer: str | None = None,
        history: Sequence[tuple[str, str]] = (),
        key: str = "",
        start_ns: int = 0,
    ) -> Reply:
        """Answer one request and record its trace.

        Args:
            text: the customer's message.
            customer: the customer's id; None for any.
            history: earlier (message, answer) pairs of the session.
            key: with the seed decides latency and faults; use one a request.
            start_ns: when the request arrives, nanoseconds since the epoch.
        """
        draw = random.Random(f"{self._seed} {key}")  # noqa: S311 - a demo, not a secret
        case = Case(text, " ".join(said for said, _ in history), customer or self._someone, _messages(history), draw)
        recorder = Recorder(start_ns)
        outcome, route, scores = Outcome(), "", dict[str, float]()
        try:
            with recorder.span(ROOT_SPAN, "AGENT", {"request": text}) as root:
                route, scores = self._route(case, recorder)
                outcome = self._desks[route].handle(case, recorder)
                root.outputs = {"answer": outcome.answer, "route": route}
        except CrashError:
            return Reply(None, route, scores, False, ("tool_error", "unrecovered", "crash"), tuple(recorder.spans))
        return Reply(outcome.answer, route, scores, outcome.escalated, tuple(outcome.faults), tuple(recorder.spans))

    def _route(self, case: Case, recorder: Recorder) -> tuple[str, dict[str, float]]:
        asked = {"request": case.text, "conversation": case.previous}
        with recorder.span(ROUTER_SPAN, "CHAIN", asked) as span:
            route, scores = self.router.route(case.text, case.previous)
            filled = _fill(self.router.prompt.text, case)
            chat(recorder, [{"role": "user", "content": filled}], route, ms=case.draw.lognormvariate(5.6, 0.3))
            span.outputs = {"route": route, "scores": scores}
        return route, scores


def _fill(template: str, case: Case) -> str:
    said = "\n".join(f"{m['role']}: {m['content']}" for m in case.history) or "(none)"
    values = {"conversation": said, "request": case.text}
    for name, value in values.items():
        for slot in (f"{{{{{name}}}}}", f"{{{{ {name} }}}}"):
            template = template.replace(slot, value)
    return template


def _messages(history: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    pairs = [({"role": "user", "content": said}, {"role": "assistant", "content": got}) for said, got in history]
    return [message for pair in pairs for message in pair]
