"""Labelled traces in a real store, and a judge model that is scripted: it says nothing about real models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import AssessmentSource, AssessmentSourceType

from mlflow_assay.testing import JudgeRequest, answer

DEFINITION = """
name: polite
purpose: Does the agent's answer stay polite to the customer?
value: {type: boolean}
instructions: |
  Read {{ inputs }} and {{ outputs }}.
  Is the answer polite?
"""
SCORED = """
name: helpful
purpose: How helpful is the answer, from 1 to 5?
value: {type: numeric, low: 1, high: 5, threshold: 2, integer: true}
instructions: Read {{ inputs }} and {{ outputs }} and rate how helpful the answer is.
cases:
  - {name: best, kind: good, inputs: {q: a}, outputs: {a: b}, expect: 5}
  - {name: middling, kind: good, inputs: {q: a}, outputs: {a: b}, expect: 2}
"""
SUBJECTS = ["invoice", "router", "contract", "tariff", "roaming", "handset", "voicemail", "refund", "porting", "outage"]
VERBS = ["question", "complain", "wonder", "ask", "write", "insist", "remark", "enquire", "demand", "note"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "judges"
    path.mkdir()
    (path / "polite.yaml").write_text(DEFINITION)
    (path / "helpful.yaml").write_text(SCORED)
    return path


@pytest.fixture
def label_trace() -> Callable[..., None]:
    """Logs one human label."""

    def label(trace_id: str, value, *, name: str = "polite", by: str = "ann", rationale: str | None = None) -> None:
        source = AssessmentSource(AssessmentSourceType.HUMAN, by)
        mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source, rationale=rationale)

    return label


@pytest.fixture
def labelled(log_trace, label_trace) -> Callable[..., list[str]]:
    """Traces with labels: a third say SHRUG, which the experts call impolite and an unaligned judge lets pass."""

    def make(n: int = 60, name: str = "polite") -> list[str]:
        ids = []
        for i in range(n):
            rude = i % 3 == 0
            request = f"I {VERBS[i % 10]} about my {SUBJECTS[(i // 10 + i) % 10]} number{i} zeta{i * 7} omega{i * 13}"
            reply = f"SHRUG, item{i} not my job" if rude else f"Thank you, item{i} is on its way"
            ids.append(log_trace(request=request, answer=reply, tools=()))
            reason = "Shrugging a customer off is impolite." if rude else None
            label_trace(ids[-1], ["fail", "pass"][not rude], name=name, rationale=reason)
        return ids

    return make


def case_of(request: JudgeRequest) -> str:
    """The part of a prompt that holds the trace to be judged: MLflow puts it into the user message."""
    return str(request.body["messages"][-1]["content"])


def learner(request: JudgeRequest) -> str:
    """Lets everything pass, until it has seen a case in the prompt whose experts frowned on shrugging."""
    taught = "Shrugging a customer off" in str(request.body["messages"][0]["content"])
    return answer(not (taught and "SHRUG" in case_of(request)))


def deaf(request: JudgeRequest) -> str:
    """Lets everything pass, whatever the instructions say."""
    return answer(True)
