"""Spans on a simulated clock: the demo's agent takes no time, its spans say how long a real one would have.

A `Recorder` holds the spans of one trace as plain data; `writer` turns them into MLflow spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["MODEL", "Recorder", "SpanRecord", "chat", "tokens"]

MODEL: Final = "simulated-llm"
# True, and it keeps MLflow from asking litellm, hence the network, for the price of a model that is none.
NO_COST: Final = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0}
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MS = 1_000_000


@dataclass
class SpanRecord:
    """One span.

    Attributes:
        name: span name.
        type: an `mlflow.entities.SpanType` value.
        start_ns: start, nanoseconds since the epoch.
        parent: index of the parent span in the trace, None for the root.
        inputs: what went in, JSON-like.
        outputs: what came out; None if it failed.
        attributes: further MLflow span attributes.
        end_ns: end, nanoseconds since the epoch.
        error: exception type and message, None if it succeeded.
    """

    name: str
    type: str
    start_ns: int
    parent: int | None
    inputs: Any
    outputs: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    end_ns: int = 0
    error: tuple[str, str] | None = None


class Recorder:
    """Records the spans of one trace; time passes only by `wait`.

    Args:
        start_ns: when the trace starts, nanoseconds since the epoch.
    """

    def __init__(self, start_ns: int) -> None:
        self.spans: list[SpanRecord] = []
        self.now_ns = start_ns
        self._open: list[int] = []

    def wait(self, ms: float) -> None:
        """Let simulated milliseconds pass."""
        self.now_ns += int(ms * _MS)

    @contextmanager
    def span(self, name: str, kind: str, inputs: Any) -> Iterator[SpanRecord]:
        """A span around the block, child of the span that is open; an exception marks it failed and goes on."""
        record = SpanRecord(name, kind, self.now_ns, self._open[-1] if self._open else None, inputs)
        self.spans.append(record)
        self._open.append(len(self.spans) - 1)
        try:
            yield record
        except Exception as error:
            record.error = (type(error).__name__, str(error))
            raise
        finally:
            record.end_ns = self.now_ns
            self._open.pop()


def tokens(text: str) -> int:
    """Tokens by a plain rule: each word and each punctuation mark is one."""
    return len(_TOKEN.findall(text))


def chat(
    recorder: Recorder,
    messages: Sequence[Mapping[str, Any]],
    reply: str,
    *,
    ms: float,
    tools: Sequence[Mapping[str, Any]] = (),
    calls: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Record a chat turn as MLflow's OpenAI autologging would; the "model" is this code, which knew the reply.

    Args:
        recorder: the trace.
        messages: chat messages given to the model.
        reply: text of its answer; empty when it only calls tools.
        ms: how long it is said to have taken.
        tools: tool definitions offered.
        calls: tool calls made, each `{"id", "type", "function": {"name", "arguments"}}`.
    """
    request: dict[str, Any] = {"model": MODEL, "temperature": 0, "messages": list(messages)}
    if tools:
        request["tools"] = list(tools)
    with recorder.span("Completions", "CHAT_MODEL", request) as span:
        recorder.wait(ms)
        usage = _usage(messages, reply, tools, calls)
        span.outputs = _completion(span, reply, calls, usage)
        span.attributes |= {
            "mlflow.message.format": "openai",
            "mlflow.llm.model": MODEL,
            "mlflow.llm.provider": "simulated",
            "mlflow.chat.tokenUsage": usage,
            "mlflow.llm.cost": NO_COST,
        }
        if tools:
            span.attributes["mlflow.chat.tools"] = list(tools)


def _usage(
    messages: Sequence[Mapping[str, Any]],
    reply: str,
    tools: Sequence[Mapping[str, Any]],
    calls: Sequence[Mapping[str, Any]],
) -> dict[str, int]:
    read = sum(tokens(str(m.get("content") or "")) + _call_tokens(m.get("tool_calls", ())) for m in messages)
    read += sum(tokens(str(tool)) for tool in tools)
    wrote = tokens(reply) + _call_tokens(calls)
    return {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}


def _call_tokens(calls: Sequence[Mapping[str, Any]]) -> int:
    return sum(tokens(call["function"]["name"] + call["function"]["arguments"]) for call in calls)


def _completion(
    span: SpanRecord, reply: str, calls: Sequence[Mapping[str, Any]], usage: Mapping[str, int]
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply or None}
    if calls:
        message["tool_calls"] = list(calls)
    return {
        "object": "chat.completion",
        "created": span.start_ns // 1_000_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }
