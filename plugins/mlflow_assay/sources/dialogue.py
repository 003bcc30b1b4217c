"""A recorded conversation between an agent and a customer, turned into spans.

One span a turn and one a tool call, flat below an AGENT root, in the order they happened:

* `AGENT` root: `inputs.messages` is the customer's first request; `outputs.choices[0].message` is the agent's
  last reply and `outputs.messages` the whole conversation, so that MLflow's previews, its chat view and a judge
  reading `{{ inputs }}` and `{{ outputs }}` each find what they need. The task's id stays out of them: in
  τ²-bench it names the fault the agent has to find.
* `CHAT_MODEL` for each model turn of the agent; its inputs are the messages new since the turn before (the whole
  history at every turn would grow with the square of the length), the policy being the first one's system message.
* `TOOL` for each tool call of the agent. Nothing else has this type, so judges of tool use see only the agent's.
* `TASK` for what the customer says and does (span attribute `assay.actor` = `customer`). A model that plays the
  customer keeps its tokens and cost out of the trace's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_assay import semconv
from mlflow_assay.sources.recorded import RecordedSpan, span_id

__all__ = ["NO_TIME_START_NS", "Call", "Dialogue", "Result", "Said", "spans"]

Who = Literal["agent", "customer"]

# 2025-01-01T00:00:00Z: where a recording without times is placed, its n-th event n milliseconds later.
NO_TIME_START_NS = 1_735_689_600_000_000_000
_MILLISECOND = 1_000_000


@dataclass(frozen=True)
class Call:
    """One tool call; `arguments` is None when the recording does not hold them."""

    id: str
    name: str
    arguments: Mapping[str, Any] | None


@dataclass(frozen=True)
class Said:
    """A message, or the decision to call tools.

    Attributes:
        who: the agent or the customer.
        text: what was said; None when only tools were called.
        calls: the tools called.
        at_ns: when it had been said; None when not recorded.
        canned: a fixed text, no model was called.
        attributes: further span attributes.
    """

    who: Who
    text: str | None
    calls: Sequence[Call] = ()
    at_ns: int | None = None
    canned: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What the tool call of that id came to; `call` is None when the call itself is not recorded."""

    who: Who
    id: str
    call: Call | None
    content: str
    failed: bool = False
    at_ns: int | None = None


@dataclass(frozen=True)
class Dialogue:
    """A whole conversation.

    Attributes:
        id: of the run.
        name: for the root span.
        events: in order.
        model: the agent's; None when not recorded.
        policy: the agent's system prompt; None when not recorded.
        customer: who plays the customer, for example `gpt-4.1`; None when not recorded.
        error: why the run broke off; None when it ended as it should.
    """

    id: str
    name: str
    events: Sequence[Said | Result]
    model: str | None = None
    policy: str | None = None
    customer: str | None = None
    error: str | None = None

    @property
    def timed(self) -> bool:
        """Whether every event's time is recorded, so that the spans' times are real."""
        return all(e.at_ns is not None for e in self.events)


def spans(talk: Dialogue) -> tuple[RecordedSpan, ...]:
    """The dialogue's spans, root first, one more than it has events."""
    times = _times(talk)
    root = RecordedSpan(
        span_id=span_id(talk.id, 0),
        name=talk.name,
        type="AGENT",
        start_ns=times[0],
        end_ns=times[-1],
        inputs=_request(talk),
        outputs=_outcome(talk),
        error=talk.error,
        attributes={"mlflow.message.format": "openai"},
    )
    steps, called_at, heard = [], dict[str, int](), _opening(talk)
    for index, event in enumerate(talk.events):
        start = times[index - 1] if index else times[0]
        if isinstance(event, Result):
            start = called_at.get(event.id, start)
        else:
            called_at.update((call.id, times[index]) for call in event.calls)
        place = {"span_id": span_id(talk.id, index + 1), "parent_id": root.span_id}
        steps.append(_step(talk, event, heard, {**place, "start_ns": start, "end_ns": times[index]}))
        heard = _heard(heard, event)
    return (root, *steps)


def _times(talk: Dialogue) -> list[int]:
    """When each event was over; never going back, so that no span ends before it starts."""
    if not talk.timed:
        return [NO_TIME_START_NS + i * _MILLISECOND for i in range(1, len(talk.events) + 1)] or [NO_TIME_START_NS]
    times: list[int] = []
    for event in talk.events:
        times.append(max(event.at_ns or 0, times[-1] if times else 0))
    return times or [NO_TIME_START_NS]


def _step(talk: Dialogue, event: Said | Result, heard: list[dict[str, Any]], place: dict[str, Any]) -> RecordedSpan:
    if isinstance(event, Result):
        return _tool(event, place)
    if event.who == "customer":
        return _customer(talk, event, place)
    if event.canned:
        return RecordedSpan(name="greeting", type="TASK", outputs=event.text, attributes=event.attributes, **place)
    return RecordedSpan(
        name="chat",
        type="CHAT_MODEL",
        inputs={"model": talk.model, "messages": heard} if talk.model else {"messages": heard},
        outputs={"choices": [_choice(event)]},
        model=talk.model,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cost_usd=event.cost_usd,
        attributes={"mlflow.message.format": "openai", **event.attributes},
        **place,
    )


def _choice(event: Said) -> dict[str, Any]:
    choice = {"index": 0, "message": _said(event), "finish_reason": event.finish_reason}
    return {key: value for key, value in choice.items() if value is not None}


def _tool(event: Result, place: dict[str, Any]) -> RecordedSpan:
    agent = event.who == "agent"
    name = event.call.name if event.call else "call not recorded"
    return RecordedSpan(
        name=name if agent else f"phone: {name}",
        type="TOOL" if agent else "TASK",
        inputs=dict(event.call.arguments) if event.call and event.call.arguments is not None else None,
        outputs=_parsed(event.content),
        error=event.content if event.failed else None,
        attributes={semconv.GEN_AI_TOOL_CALL_ID: event.id, **({} if agent else {semconv.ACTOR: "customer"})},
        **place,
    )


def _customer(talk: Dialogue, event: Said, place: dict[str, Any]) -> RecordedSpan:
    recorded = {
        "assay.customer.model": talk.customer,
        "assay.customer.input_tokens": event.input_tokens,
        "assay.customer.output_tokens": event.output_tokens,
        "assay.customer.cost_usd": event.cost_usd,
    }
    return RecordedSpan(
        name="customer" if event.text else "customer uses the phone",
        type="TASK",
        outputs=event.text or [{"name": c.name, "arguments": c.arguments} for c in event.calls],
        attributes={
            semconv.ACTOR: "customer",
            **{key: value for key, value in recorded.items() if value is not None},
            **event.attributes,
        },
        **place,
    )


def _parsed(content: str) -> Any:
    """A tool result as the JSON object or list it is, so that MLflow shows it as one; else the text itself."""
    if content[:1] in ("{", "["):
        try:
            return json.loads(content)
        except ValueError:
            return content
    return content


# --- as chat messages ----------------------------------------------------------------------------------


def _said(event: Said) -> dict[str, Any]:
    if event.who == "customer":
        return {"role": "user", "content": event.text}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments or {}), ensure_ascii=False)},
        }
        for call in event.calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": event.text}
    return {**message, "tool_calls": calls} if calls else message


def _message(event: Said | Result) -> dict[str, Any] | None:
    """The event as one message of the conversation; what the customer does on the phone is the customer's."""
    if isinstance(event, Said):
        return None if event.who == "customer" and not event.text else _said(event)
    if event.who == "agent":
        return {"role": "tool", "tool_call_id": event.id, "content": event.content}
    called = "call not recorded"
    if event.call:
        arguments = ", ".join(f"{k}={v!r}" for k, v in (event.call.arguments or {}).items())
        called = f"{event.call.name}({arguments})"
    # Fenced when it has several lines, which MLflow's chat view would otherwise run together.
    result = f"\n```\n{event.content}\n```" if "\n" in event.content else event.content
    return {"role": "user", "content": f"[on the customer's phone] {called} → {result}"}


def _request(talk: Dialogue) -> dict[str, Any] | None:
    first = next((e for e in talk.events if isinstance(e, Said) and e.who == "customer" and e.text), None)
    return {"messages": [_said(first)]} if first else None


def _outcome(talk: Dialogue) -> dict[str, Any] | None:
    messages = [m for m in map(_message, talk.events) if m is not None]
    last = next((e for e in reversed(talk.events) if isinstance(e, Said) and e.who == "agent" and e.text), None)
    if last is None:
        return {"messages": messages} if messages else None
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": last.text}}], "messages": messages}


def _opening(talk: Dialogue) -> list[dict[str, Any]]:
    return [{"role": "system", "content": talk.policy}] if talk.policy else []


def _heard(heard: list[dict[str, Any]], event: Said | Result) -> list[dict[str, Any]]:
    """What the agent's next model call has to read: nothing of what happens on the customer's phone."""
    message = _message(event)
    if isinstance(event, Result) and event.who == "customer":
        return heard
    if message is None:
        return heard
    if isinstance(event, Said) and event.who == "agent" and not event.canned:
        return []
    return [*heard, message]
