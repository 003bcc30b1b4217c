"""A τ²-bench judge prompt read back into the run it shows.

The prompt holds the conversation as numbered lines:

    1. Assistant: Hi! How can I help you today?
    2. User: My data is slow.
    3. Assistant TOOL CALL -> get_details_by_id {'id': 'L1002'}
    4. Tool call_edVx…: {"line_id": "L1002"}

A message may run over many lines and hold numbered lists of its own, so a line opens a turn only when it carries
the next number *and* a speaker's label. Calls are printed without ids and results with them: results belong to the
open calls in order. A result with no open call came from the customer's phone, whose calls are not printed.
"""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from mlflow_assay.sources.dialogue import Call, Result, Said

__all__ = ["JudgePrompt", "TranscriptError", "events", "split"]

_BEFORE = "Conversation transcript:\n"
_AFTER = "\n\nJudging instructions:\n"
_TURN = re.compile(r"(\d+)\. (Assistant TOOL CALL -> |User TOOL CALL -> |Assistant: |User: |Tool ([^\s:]+): ?)")
_TOOL_CALL = re.compile(r"(\S+) (\{.*\})", re.DOTALL)
_FAILED = "Error: "


class TranscriptError(ValueError):
    """The text is not such a prompt; the message says where it stops being one."""


@dataclass(frozen=True)
class JudgePrompt:
    """The three parts of a judge prompt."""

    opening: str
    transcript: str
    instructions: str


def split(prompt: str) -> JudgePrompt:
    """The prompt's parts: opening (domain, policy), transcript, judging instructions.

    Raises:
        TranscriptError: a marker between them is missing.
    """
    opening, found, rest = prompt.partition(_BEFORE)
    if not found:
        raise TranscriptError(f"there is no line {_BEFORE.strip()!r}")
    transcript, found, instructions = rest.rpartition(_AFTER)
    if not found:
        raise TranscriptError(f"there is no line {_AFTER.strip()!r}")
    return JudgePrompt(opening.strip(), transcript, instructions.strip())


def events(transcript: str) -> tuple[Said | Result, ...]:
    """The conversation's events in order.

    Raises:
        TranscriptError: the text does not begin with turn 1, or a tool call's arguments cannot be read.
    """
    return tuple(_events(list(_lines(transcript))))


@dataclass(frozen=True)
class _Line:
    number: int
    label: str
    tool_id: str
    text: str

    @property
    def who(self) -> Literal["agent", "customer"]:
        return "agent" if self.label.startswith("Assistant") else "customer"

    @property
    def is_call(self) -> bool:
        return "TOOL CALL" in self.label

    @property
    def is_result(self) -> bool:
        return self.label.startswith("Tool ")


def _lines(transcript: str) -> Iterator[_Line]:
    """The numbered turns; text that opens none belongs to the turn before it."""
    opened: re.Match[str] | None = None
    kept: list[str] = []
    number = 0
    for line in transcript.split("\n"):
        match = _TURN.match(line)
        if match and int(match[1]) == number + 1:
            if opened:
                yield _Line(number, opened[2], opened[3] or "", "\n".join(kept))
            opened, kept, number = match, [line[match.end() :]], number + 1
        elif opened:
            kept.append(line)
        elif line.strip():
            raise TranscriptError(f"turn 1 is expected, found {line[:60]!r}")
    if opened:
        yield _Line(number, opened[2], opened[3] or "", "\n".join(kept))


def _events(lines: list[_Line]) -> Iterator[Said | Result]:
    """Calls that follow one another are one decision of whoever made them."""
    answered_by = _answers(lines)
    calls = {n.number: _call(n, answered_by.get(n.number)) for n in lines if n.is_call}
    question = {answer.number: number for number, answer in answered_by.items()}
    made_by = {n.number: n.who for n in lines if n.is_call}
    for _, group in groupby(lines, key=lambda n: (n.label, 0 if n.is_call else n.number)):
        line, *more = group
        if line.is_call:
            yield Said(line.who, None, tuple(calls[n.number] for n in (line, *more)))
        elif line.is_result:
            asked = question.get(line.number, 0)
            failed = line.text.startswith(_FAILED)
            yield Result(made_by.get(asked, "customer"), line.tool_id, calls.get(asked), line.text, failed)
        else:
            yield Said(line.who, line.text, canned=line.number == 1 and line.who == "agent")


def _answers(lines: list[_Line]) -> dict[int, _Line]:
    """The result that answers each call, by the call's number: in order, until somebody speaks again."""
    waiting: deque[int] = deque()
    answers: dict[int, _Line] = {}
    for line in lines:
        if line.is_call:
            waiting.append(line.number)
        elif not line.is_result:
            waiting.clear()
        elif waiting:
            answers[waiting.popleft()] = line
    return answers


def _call(line: _Line, answer: _Line | None) -> Call:
    match = _TOOL_CALL.fullmatch(line.text.strip())
    try:
        arguments = ast.literal_eval(match[2]) if match else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        arguments = None
    if match is None or not isinstance(arguments, dict):
        raise TranscriptError(f"turn {line.number}: not a tool call: {line.text[:60]!r}")
    return Call(answer.tool_id if answer else f"turn-{line.number}", match[1], arguments)
