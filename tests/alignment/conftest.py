"""Labelled traces in a real store, and a judge model that is scripted: it says nothing about real models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback

from mlflow_assay import semconv
from mlflow_assay.demo import writer
from mlflow_assay.demo.recorder import SpanRecord
from mlflow_assay.demo.writer import TraceRecord
from mlflow_assay.sinks.mlflow_assessments import MlflowSink
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


@pytest.fixture(autouse=True)
def _no_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own judge path would look prices up on the network."""
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")


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


@pytest.fixture(scope="session")
def _labelled_store(_empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 90 labelled traces, made once a worker; tests get copies, and take fewer with --max-traces.

    In a third of them the agent says SHRUG, which the experts call impolite and an unaligned judge lets pass.
    """
    path = tmp_path_factory.mktemp("labelled") / "labelled.db"
    shutil.copy(_empty_store, path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    experiment = mlflow.create_experiment("test", artifact_location=(path.parent / "artifacts").as_uri())
    writer.write(experiment, [_trace(i) for i in range(90)])
    MlflowSink().write([_label(i) for i in range(90)])
    mlflow.set_tracking_uri(before)
    return path


def _id(i: int) -> str:
    return f"tr-{i + 1:032x}"


def _trace(i: int) -> TraceRecord:
    request = f"I {VERBS[i % 10]} about my {SUBJECTS[(i // 10 + i) % 10]} number{i} zeta{i * 7} omega{i * 13}"
    reply = f"SHRUG, item{i} not my job" if i % 3 == 0 else f"Thank you, item{i} is on its way"
    start = 1_760_000_000_000_000_000 + i * 1_000_000_000
    root = SpanRecord("agent", "AGENT", start, None, {"request": request}, {"answer": reply}, end_ns=start + 1_000_000)
    return TraceRecord(_id(i), [root], f"session-{i}", "customer", {semconv.SIMULATED: "true"})


def _label(i: int) -> Feedback:
    return Feedback(
        trace_id=_id(i),
        name="polite",
        value="fail" if i % 3 == 0 else "pass",
        source=AssessmentSource(AssessmentSourceType.HUMAN, "ann"),
        rationale="Shrugging a customer off is impolite." if i % 3 == 0 else None,
    )


@pytest.fixture
def labelled(store: str, _labelled_store: Path) -> list[str]:
    """The ids of the labelled traces, oldest first, in a fresh copy of the store."""
    shutil.copy(_labelled_store, store.removeprefix("sqlite:///"))
    experiment = mlflow.get_experiment_by_name("test")
    found = mlflow.MlflowClient().search_traces(
        locations=[experiment.experiment_id], max_results=200, order_by=["timestamp_ms ASC"], include_spans=False
    )
    return [trace.info.trace_id for trace in found]


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
