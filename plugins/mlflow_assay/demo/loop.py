"""The whole loop of the demo, in the order a team would go through it.

Agent, customers and expert are simulated by code, and no model is called. What is real: the traces are MLflow's,
the judge is trained on the expert's labels and never sees the truth, its verdicts are stored on the traces, and
the intervals are computed from them. The truth, known only because it is simulated, is shown beside the
estimate at the end and used for nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlflow_assay import pipeline
from mlflow_assay.errors import NotTrustedError

if TYPE_CHECKING:
    from mlflow_assay.engine.report import RunReport
    from mlflow_assay.judges.local import TrainingReport
    from mlflow_assay.report.model import JudgeReport

__all__ = ["CODE_JUDGES", "EXPERIMENT", "JUDGE", "LoopResult", "play"]

EXPERIMENT = "telecom-support-demo"
JUDGE = "routing_accuracy"
CODE_JUDGES = ("repeated_steps", "latency_limit")
_FIELDS = ("first_user_message", "tag:agent")


class Display(Protocol):
    """Shows how far the loop is."""

    def stage(self, text: str) -> None:
        """A new stage begins."""
        ...

    def steps(self, label: str) -> Callable[[int, int], None]:
        """A callback for (done, of) within the stage."""
        ...


@dataclass(frozen=True)
class LoopResult:
    """What the loop found.

    Attributes:
        folder: where the store, the judge and the page are.
        tracking_uri: MLflow's address of the store.
        traces, sessions: written.
        labels: how many traces the expert labelled.
        training: the judge's training report.
        run: the scoring run.
        judged: the routing judge's part of the report; its estimate is corrected by labels it never saw.
        true_pass_rate: share of rightly routed requests in [0, 1], known because it is simulated.
        page: the report.
    """

    folder: Path
    tracking_uri: str
    traces: int
    sessions: int
    labels: int
    training: TrainingReport
    run: RunReport
    judged: JudgeReport
    true_pass_rate: float
    page: Path


def play(folder: Path, display: Display, *, requests: int = 400, labels: int = 200, seed: int = 7) -> LoopResult:
    """Play the loop into a folder with a store of its own; other MLflow stores are not touched.

    Args:
        folder: made when missing; what an earlier demo left in it is replaced.
        requests: how many requests the agent answers, one trace each.
        labels: how many of them the expert labels: half to train the judge, half to check it.
        seed: decides traffic, faults and labels.

    Raises:
        NotTrustedError: the labels do not support a judge, with the evidence.
    """
    from mlflow_assay.demo.expert import label
    from mlflow_assay.demo.runner import run

    with _own_store(folder) as uri:
        display.stage("1  The agent answers requests; every answer is a trace in MLflow")
        traffic = run(EXPERIMENT, requests=requests, seed=seed, progress=display.steps("traces"))
        display.stage("2  An expert labels a random sample: right desk or wrong desk, and why")
        thumbs = label(traffic, sample=labels, seed=seed, progress=display.steps("labels"))
        display.stage("3  A judge is trained on half of the labels; no model is called")
        learn = {thumb.trace_id for thumb in thumbs[::2]}
        training = _train(folder / "judges", learn)
        display.stage("4  The judge, and two judges that are code, go over all traces")
        report = _score(folder)
        display.stage("5  How prevalent is the fault? Corrected by the labels the judge never saw")
        page, judged = _report(folder, uri)
    return LoopResult(
        folder=folder,
        tracking_uri=uri,
        traces=len(traffic.turns),
        sessions=len(traffic.session_ids),
        labels=len(thumbs),
        training=training,
        run=report,
        judged=judged,
        true_pass_rate=1 - traffic.prevalence,
        page=page,
    )


@contextmanager
def _own_store(folder: Path) -> Iterator[str]:
    """MLflow set to a store inside the folder, and back afterwards."""
    import mlflow

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("mlflow.db*"):
        old.unlink()
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    mlflow.set_tracking_uri(uri)
    artifacts = (folder / "artifacts").resolve().as_uri()
    mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts)
    try:
        yield uri
    finally:
        mlflow.set_tracking_uri(before)


def _train(folder: Path, learn: set[str]) -> TrainingReport:
    """Train the routing judge and leave it in the folder with its definition."""
    raise NotImplementedError


def _score(folder: Path) -> RunReport:
    from mlflow_assay.sources.mlflow_store import MlflowSource

    judges = pipeline.build_judges([JUDGE, *CODE_JUDGES], paths=[folder / "judges"])
    return pipeline.score(MlflowSource(EXPERIMENT), judges)


def _report(folder: Path, uri: str) -> tuple[Path, JudgeReport]:
    raise NotImplementedError
