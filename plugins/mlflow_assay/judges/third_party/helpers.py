"""Small things adapters share: running coroutines, scores a hair off their scale, parameters, OpenAI's messages."""

from __future__ import annotations

import asyncio
import json
import string
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mlflow_assay import trace_fields
from mlflow_assay.contracts import NumericValue, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.sample import Sample, ToolCall

__all__ = ["check_params", "expected_messages", "named_fields", "on_scale", "openai_messages", "placeholders", "run"]

T = TypeVar("T")
_HAIR = 1e-6


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """A coroutine's result, in an event loop of its own; also where this thread already runs one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    found: list[T] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            found.append(asyncio.run(coroutine))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def on_scale(score: Any, value: ValueSpec) -> Any:
    """A number that rounding put a hair (1e-6) off its scale, put back on it; everything else as it is."""
    if not isinstance(value, NumericValue) or isinstance(score, bool):
        return score
    number = float(score)
    if value.low - _HAIR <= number < value.low:
        return value.low
    if value.high < number <= value.high + _HAIR:
        return value.high
    return number


def check_params(judge: str, params: Mapping[str, Any], valid: Iterable[str]) -> None:
    """Refuse parameters a metric does not have.

    Raises:
        ConfigError: names the first of them and the valid ones.
    """
    known = sorted(set(valid))
    if stray := sorted(set(params) - set(known)):
        raise ConfigError(f"The judge {judge!r} has no parameter {stray[0]!r}.", valid=[*known, "fields"])


def named_fields(prompt: Any, places: Mapping[str, str]) -> tuple[str, ...]:
    """The fields of a sample a prompt names, by its own placeholders.

    Args:
        places: placeholder as it is written, to the sample's field.

    Raises:
        ConfigError: it names none, so that every run would get the same verdict.
    """
    found = tuple(place for written, place in places.items() if written in str(prompt))
    if not found:
        raise ConfigError("The prompt does not name what it reads.", found=f"{str(prompt)!r:.80}", valid=list(places))
    return found


def placeholders(prompt: Any, places: Iterable[str]) -> list[str]:
    """The fields a prompt names in braces, in order.

    Args:
        places: what it may name.

    Raises:
        ConfigError: the prompt is no text, names nothing, or names what there is not.
    """
    if not isinstance(prompt, str):
        raise ConfigError("The parameter `prompt` is a text.", found=repr(prompt))
    try:
        named = list(dict.fromkeys(field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None))
    except ValueError as error:
        raise ConfigError(f"The prompt's braces do not fit: {error}.", fix="Write {{ and }} for braces.") from error
    if not named or set(named) - set(places):
        raise ConfigError("The prompt does not name what it reads.", found=named, valid=[f"{{{k}}}" for k in places])
    return named


def openai_messages(sample: Sample) -> list[dict[str, Any]]:
    """The session's turns, or one run's request, tool calls with their results, and answer, as OpenAI's messages."""
    if not sample.turns:
        return [
            {"role": "user", "content": sample.input or ""},
            *_called(sample.tools_called, results=True),
            {"role": "assistant", "content": sample.output or ""},
        ]
    found: list[dict[str, Any]] = []
    for turn in sample.turns:
        found += _called(turn.tools, results=True)
        found.append({"role": turn.role, "content": turn.content})
    return found


def expected_messages(sample: Sample, *, expected: bool) -> list[dict[str, Any]]:
    """A run as evaluators of trajectories compare it: the request, the tool calls made or expected, an answer."""
    tools = sample.expected_tools if expected else sample.tools_called
    answer = {"role": "assistant", "content": sample.output or ""}
    return [{"role": "user", "content": sample.input or ""}, *_called(tools, results=False), answer]


def _called(tools: Sequence[ToolCall], *, results: bool) -> list[dict[str, Any]]:
    if not tools:
        return []
    made = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": c.name, "arguments": json.dumps(dict(c.arguments or {}), default=str)},
        }
        for n, c in enumerate(tools)
    ]
    answered = [
        {"role": "tool", "tool_call_id": f"call_{n}", "content": c.error or trace_fields.as_text(c.result)}
        for n, c in enumerate(tools)
    ]
    return [{"role": "assistant", "content": "", "tool_calls": made}, *(answered if results else [])]
