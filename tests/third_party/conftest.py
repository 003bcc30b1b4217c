"""Traces and sessions with every field a metric may need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_assay.judges.case_traces import session_of, trace_of
from mlflow_assay.judges.definition import Case

PICTURE = "data:image/png;base64,iVBORw0KGgo="
TOOL = {
    "type": "function",
    "function": {"name": "get_order", "description": "Finds an order.", "parameters": {"type": "object"}},
}


def turn(number: int) -> dict[str, Any]:
    """One exchange: a question and its answer, each with an image, the tools offered, one call, two passages."""
    return {
        "inputs": {"question": f"Where is order {number}?", "photo": PICTURE},
        "outputs": {"answer": f"Order {number} arrives tomorrow.", "map": PICTURE},
        "spans": [
            {
                "name": "chat",
                "type": "CHAT_MODEL",
                "outputs": {"content": "I will look it up."},
                "attributes": {"mlflow.chat.tools": [TOOL]},
            },
            {"name": "get_order", "inputs": {"order": number}, "outputs": {"due": "tomorrow"}},
            {
                "name": "search",
                "type": "RETRIEVER",
                "outputs": [{"page_content": "Orders take two days."}, {"page_content": "Parcels travel by night."}],
            },
        ],
    }


def expectations(number: int) -> dict[str, Any]:
    return {
        "expected_response": "It arrives tomorrow.",
        "context": ["Orders take two days.", "A courier brings them."],
        "expected_tool_calls": [{"name": "get_order", "arguments": {"order": number}}],
        "baseline_response": "No idea.",
        "chatbot_role": "a parcel agent",
        "expected_outcome": "The user knows the date.",
        "scenario": "A user asks for a parcel.",
    }


@pytest.fixture
def full_trace() -> Callable[..., Any]:
    """A trace with everything recorded and expected; keyword arguments replace parts."""

    def make(number: int = 7, **said: Any) -> Any:
        case = {
            "name": f"t{number}",
            "kind": "good",
            "expect": "x",
            **turn(number),
            "expectations": expectations(number),
        }
        return trace_of(Case.model_validate({**case, **said}), f"t{number}")

    return make


@pytest.fixture
def full_session() -> Callable[..., tuple[Any, ...]]:
    """A session of so many exchanges, likewise."""

    def make(exchanges: int = 1, number: int = 7) -> tuple[Any, ...]:
        turns = [turn(number + i) for i in range(exchanges)]
        case = {
            "name": f"s{number}",
            "kind": "good",
            "expect": "x",
            "expectations": expectations(number),
            "turns": turns,
        }
        return tuple(session_of(Case.model_validate(case), f"s{number}"))

    return make
