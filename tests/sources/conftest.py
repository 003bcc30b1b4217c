"""Small recordings of our own making, in the shapes τ²-bench and the OpenTelemetry Collector write."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

START = "2025-03-01T10:00:0"


def message(role: str, second: int, content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "timestamp": f"{START}{second}.000250", **more}


def call(number: int, name: str, by: str, **arguments: Any) -> dict[str, Any]:
    return {"id": f"c{number}", "name": name, "arguments": arguments, "requestor": by}


SIMULATION: dict[str, Any] = {
    "id": "run-1",
    "task_id": "lamp-off",
    "termination_reason": "user_stop",
    "trial": 0,
    "messages": [
        message("assistant", 0, "Hello, what is wrong?", cost=0.0, usage=None),
        message("user", 1, "The lamp is dark.", cost=0.5, usage={"prompt_tokens": 900, "completion_tokens": 9}),
        message(
            "assistant",
            2,
            tool_calls=[call(1, "find_lamp", "assistant", room="hall"), call(2, "find_plug", "assistant", room="hall")],
            cost=0.001,
            usage={"prompt_tokens": 100, "completion_tokens": 7},
        ),
        message("tool", 3, '{"lamp": "L1"}', id="c1", requestor="assistant", error=False),
        message("tool", 4, "Error: no plug in hall", id="c2", requestor="assistant", error=True),
        message(
            "assistant", 5, "Please press the switch.", cost=0.002, usage={"prompt_tokens": 150, "completion_tokens": 8}
        ),
        message(
            "user", 6, tool_calls=[call(3, "press_switch", "user")], usage={"prompt_tokens": 1, "completion_tokens": 1}
        ),
        message("tool", 7, "The lamp\nis on.", id="c3", requestor="user", error=False),
        message("user", 8, "It shines. ###STOP###", usage={"prompt_tokens": 1, "completion_tokens": 1}),
    ],
    "reward_info": {
        "reward": 1.0,
        "reward_basis": ["ENV_ASSERTION"],
        "env_assertions": [
            {
                "env_assertion": {"func_name": "assert_lamp", "arguments": {"on": True}, "assert_value": True},
                "met": True,
            }
        ],
        "action_checks": [{"action_match": True}, {"action_match": False}],
    },
}

SIMULATIONS: dict[str, Any] = {
    "info": {
        "agent_info": {"implementation": "llm_agent", "llm": "gpt-tiny"},
        "user_info": {"llm": "gpt-actor"},
        "environment_info": {"domain_name": "lamps", "policy": "Be kind to lamps."},
    },
    "tasks": [
        {
            "id": "lamp-off",
            "evaluation_criteria": {
                "actions": [{"requestor": "user", "name": "press_switch", "arguments": {}}],
                "env_assertions": [{"func_name": "assert_lamp", "arguments": {"on": True}, "assert_value": True}],
            },
        }
    ],
    "simulations": [SIMULATION],
}

TRANSCRIPT = """\
1. Assistant: Hello, what is wrong?
2. User: The lamp is dark. I tried:
1. pressing
2. shouting
3. Assistant TOOL CALL -> find_lamp {'room': 'hall', 'deep': {'a': None}}
4. Assistant TOOL CALL -> find_plug {'room': "the owner's"}
5. Tool c1: {"lamp": "L1"}
6. Tool c2: Error: no plug
7. Assistant: Please:

1. Press the switch.
2. Wait.
8. Tool c3: The lamp
is on.
9. User: It shines. ###STOP###"""


def judge_prompt(transcript: str = TRANSCRIPT) -> str:
    return (
        "Domain: lamps\n\nDomain policy:\nBe kind to lamps.\n\nConversation transcript:\n"
        f"{transcript}\n\nJudging instructions:\n- Look at the lamp.\n- Return JSON with `verdict`. Cite turns.\n"
    )


def judged(run: str = "run-9", verdict: Any = "pass", *, judge: str = "lamp_check_v2", **more: Any) -> dict[str, Any]:
    return {
        "simulation_id": run,
        "task_id": "lamp-off",
        "label": "evening batch",
        "tau2_reward": 0.0,
        "tau2_success": False,
        "judge_prompt": judge_prompt(),
        "judge_prompt_name": judge,
        "judge_system_prompt": "You judge lamps.",
        "judge_model": "azure/gpt-judge",
        "judge_temperature": 0.0,
        "judge_verdict": verdict,
        "judge_justification": "It shone.",
        "judge_issues": ["slow", {"issue": "rude", "evidence": "turn 7"}],
        "judge_prompt_tokens": 300,
        "judge_completion_tokens": 20,
        "judge_cost_usd": 0.004,
        **more,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a JSON document, or a list of lines, to a file and returns its path."""

    def writer(document: Any, name: str = "runs.json", *, lines: bool = False, zipped: bool = False) -> Path:
        text = "\n".join(json.dumps(d) for d in document) + "\n" if lines else json.dumps(document)
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
        return path

    return writer


@pytest.fixture
def simulations() -> dict[str, Any]:
    """A file of one simulated run, to be changed at will."""
    return copy.deepcopy(SIMULATIONS)


@pytest.fixture
def simulation_file(write, simulations) -> Path:
    return write(simulations, "simulations.json.gz", zipped=True)


@pytest.fixture
def judge_file(write) -> Callable[..., Path]:
    """Writes a judge file of the given entries."""

    def writer(*entries: dict[str, Any], name: str = "judged.json") -> Path:
        return write({"entries": list(entries)}, name)

    return writer


@pytest.fixture
def entry() -> Callable[..., dict[str, Any]]:
    """Makes one judged run."""
    return judged


@pytest.fixture
def transcript() -> str:
    return TRANSCRIPT


@pytest.fixture
def prompt_of() -> Callable[[str], str]:
    """Makes a judge prompt around a transcript."""
    return judge_prompt


def otlp_span(
    trace: str, span: str, parent: str = "", name: str = "step", attributes: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    values = [
        {"key": k, "value": v if isinstance(v, dict) else {"stringValue": v}} for k, v in (attributes or {}).items()
    ]
    return {
        "traceId": trace,
        "spanId": span,
        "parentSpanId": parent,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": "1740823200000000123",
        "endTimeUnixNano": "1740823201500000456",
        "attributes": values,
        "status": {"code": 1},
        **more,
    }


@pytest.fixture
def span() -> Callable[..., dict[str, Any]]:
    """Makes one span as OTLP/JSON."""
    return otlp_span


@pytest.fixture
def export() -> Callable[..., dict[str, Any]]:
    """Makes one export request of spans."""

    def make(*spans: dict[str, Any], service: str = "shop") -> dict[str, Any]:
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        return {
            "resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "t"}, "spans": list(spans)}]}]
        }

    return make
