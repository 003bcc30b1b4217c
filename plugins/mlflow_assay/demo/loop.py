"""The whole loop of the demo, in the order a team would go through it.

Agent, customers and expert are simulated by code, and no model is called. What is real: the traces are MLflow's,
the judge is trained on the expert's labels and never sees the truth, its verdicts are stored on the traces, and
the intervals are computed from them. The truth, known only because it is simulated, is shown beside the
estimate at the end and used for nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlflow_assay import pipeline
from mlflow_assay.demo import EXPERIMENT, improving
from mlflow_assay.demo.sections import comparison_section, dataset_section, prompt_section
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Feedback

    from mlflow_assay.contracts import Label
    from mlflow_assay.demo.improving import FailureSet
    from mlflow_assay.engine.report import RunReport
    from mlflow_assay.judges.local import TrainingReport
    from mlflow_assay.optimizers.report import OptimizationReport
    from mlflow_assay.report.model import JudgeReport, Section
    from mlflow_assay.trust.compare import Comparison

__all__ = ["EXPERIMENT", "FAST_ENOUGH", "JUDGE", "LoopResult", "play"]

JUDGE = "routing_accuracy"
FAST_ENOUGH = """\
# A judge is one YAML file. This one uses a judge that is code and sets its limit; no model is asked.
name: fast_enough
purpose: Does the customer get an answer within ten seconds?
value: {type: categorical, options: [within, exceeded], good: [within]}
uses: latency_limit
with: {seconds: 10}
"""
_MARKER = ".made-by-assay-demo"
_AFTER = {
    True: "Old and new prompt answer the same new requests; the expert judges every answer",
    False: "Nothing was proven, so the old prompt stays; no new requests are played",
}
UI_URL = "http://127.0.0.1:5000"  # where `mlflow ui` answers by default
_FIELDS = ("first_user_message", "tag:agent", "tools_called?", "final_answer?")


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
        failures: the dataset made of the labelled requests.
        optimized: the optimization of the prompt on it, and what the gate decided.
        fix: the accepted prompt against the first one on the same new requests, by the expert's labels; None where
            none was accepted.
        promoted: the prompt version that went into production; None where nothing was proven.
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
    failures: FailureSet
    optimized: OptimizationReport
    fix: Comparison | None
    promoted: int | None
    page: Path


def play(folder: Path, display: Display, *, requests: int = 500, labels: int = 240, seed: int = 7) -> LoopResult:
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
        learn = _first_half(thumbs, {turn.trace_id: turn.session_id for turn in traffic.turns})
        training = _train(folder / "judges", learn)
        display.stage("4  The judge, and one that is code, go over all traces")
        report = _score(folder, display.steps("verdicts"))
        display.stage("5  The labelled failures become a versioned dataset, split by session")
        failures = improving.build_dataset(folder, seed)
        display.stage("6  The prompt is optimized on one part, without a model, and tested on cases it never saw")
        optimized = improving.improve(folder, failures, traffic.prompt_uri, seed, display)
        display.stage(f"7  {_AFTER[optimized.accepted]}")
        fix = improving.verify(traffic.prompt_uri, requests // 3, seed + 1, display) if optimized.accepted else None
        promoted = improving.promote(fix)
        display.stage("8  How prevalent is the fault, and did the fix help? The report")
        sections = (dataset_section(failures), prompt_section(optimized, promoted))
        page, judged = _report(folder, (*sections, comparison_section(fix)) if fix else sections)
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
        failures=failures,
        optimized=optimized,
        fix=fix,
        promoted=promoted,
        page=page,
    )


@contextmanager
def _own_store(folder: Path) -> Iterator[str]:
    """MLflow set to a store inside the folder, and back afterwards."""
    import mlflow

    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    if any(folder.iterdir()) and not marker.exists():
        raise ConfigError(
            f"The folder {str(folder)!r} is not empty and was not made by the demo, which would replace what is in it.",
            fix="Give a new or an empty folder with --out.",
        )
    marker.write_text("Made by `assay demo`, which replaces the store in this folder.\n", encoding="utf-8")
    for old in folder.glob("mlflow.db*"):
        old.unlink()
    shutil.rmtree(folder / "datasets", ignore_errors=True)
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
    """Train the routing judge on these traces' labels and leave it in the folder with its definition."""
    from mlflow_assay.judges.local import Options, of_traces, save_with_definition, train
    from mlflow_assay.sources.mlflow_store import MlflowSource, load_ids

    said = of_traces(MlflowSource(EXPERIMENT).infos(), JUDGE)
    known = replace(said, passed={i: passed for i, passed in said.passed.items() if i in learn})
    purpose = "Did the router send the request to the desk that can answer it?"
    judge = train(load_ids(sorted(learn)), known, name=JUDGE, options=Options(_FIELDS, purpose=purpose))
    save_with_definition(judge, folder)
    return judge.report


def _score(folder: Path, told: Callable[[int, int], None]) -> RunReport:
    from mlflow_assay.sources.mlflow_store import MlflowSource

    (folder / "judges" / "fast_enough.yaml").write_text(FAST_ENOUGH, encoding="utf-8")
    judges = pipeline.build_judges([JUDGE, "fast_enough"], paths=[folder / "judges"])
    return pipeline.score(MlflowSource(EXPERIMENT), judges, progress=lambda plan: _Counted(told, plan.total))


class _Counted:
    """Verdicts stored, told as (done, of)."""

    def __init__(self, told: Callable[[int, int], None], total: int) -> None:
        self._told, self._total, self._done = told, total, 0

    def advance(self, feedback: Feedback) -> None:
        """One more verdict is stored."""
        self._done += 1
        self._told(self._done, self._total)


def _report(folder: Path, sections: tuple[Section, ...]) -> tuple[Path, JudgeReport]:
    from mlflow_assay.report.data import ReportRequest
    from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment

    request = ReportRequest(
        experiment=EXPERIMENT,
        experiment_id=str(find_experiment(EXPERIMENT).experiment_id),
        title="Telecom support agent (simulated)",
        by=("tag:agent",),
        ui_url=UI_URL,
        sections=sections,
    )
    page = folder / "report.html"
    data = pipeline.report(MlflowSource(EXPERIMENT), request, page, paths=[folder / "judges"])
    return page, next(judge for judge in data.judges if judge.name == JUDGE)


def _first_half(thumbs: Sequence[Label], session_of: Mapping[str, str]) -> set[str]:
    """Every other labelled session, whole: what the judge learns from and what checks it share no session."""
    sessions = list(dict.fromkeys(session_of[thumb.trace_id] for thumb in thumbs))
    chosen = set(sessions[::2])
    return {thumb.trace_id for thumb in thumbs if session_of[thumb.trace_id] in chosen}
