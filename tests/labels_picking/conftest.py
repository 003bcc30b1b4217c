"""Judged traces in a fresh store: the verdicts are written as the engine writes them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import CategoricalValue, JudgeContract

JUDGE = "resolved"


@pytest.fixture
def contracts() -> dict[str, JudgeContract]:
    value = CategoricalValue(("yes", "no", "cannot_tell"), ("yes",), ("cannot_tell",))
    return {JUDGE: JudgeContract(JUDGE, "Was the request resolved?", value)}


@pytest.fixture
def judged(store) -> Callable[..., list[str]]:
    """Traces with verdicts: judged(passes=6, fails=3, unscored=1) gives their ids in that order.

    Written with their verdicts in one go, without spans, since a draw reads none.
    """
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store

    experiment = mlflow.set_experiment("test").experiment_id

    def make(
        passes: int = 0,
        fails: int = 0,
        unscored: int = 0,
        *,
        confidence: float | None = None,
        tags: dict[str, str] | None = None,
        session: str | None = None,
        **metadata: str,
    ) -> list[str]:
        said = [True] * passes + [False] * fails + [None] * unscored
        ids = []
        for n, passed in enumerate(said):
            given = confidence if confidence is not None else round(0.5 + 0.4 * n / len(said), 3)
            ids.append(_write(_get_store(), experiment, passed, given, tags or {}, metadata, session))
        return ids

    return make


_CLOCK = itertools.count(1_790_000_000_000)


def _write(store, experiment: str, passed: bool | None, confidence: float, tags, metadata, session=None) -> str:
    from mlflow.entities import AssessmentSource, Feedback, TraceInfo, TraceLocation, TraceState

    trace_id = f"tr-{uuid.uuid4().hex}"
    outcome = "unscored" if passed is None else "pass" if passed else "fail"
    found = {semconv.OUTCOME: outcome, semconv.JUDGE_DIGEST: "d" * 16, semconv.CONFIDENCE: str(confidence)}
    verdict = Feedback(
        name=JUDGE,
        value="cannot_tell" if passed is None else "yes" if passed else "no",
        source=AssessmentSource(source_type="LLM_JUDGE", source_id="judge"),
        metadata={**found, **metadata},
        trace_id=trace_id,
    )
    location = TraceLocation.from_experiment_id(experiment)
    info = TraceInfo(trace_id, location, next(_CLOCK), TraceState.OK, tags=dict(tags), assessments=[verdict])
    if session is not None:
        info.trace_metadata = {"mlflow.trace.session": session}
    store.start_trace(info)
    return trace_id


@pytest.fixture
def label() -> Callable[..., None]:
    """A person's label on a trace, as MLflow's review tab writes it."""
    import mlflow
    from mlflow.entities import AssessmentSource

    def write(trace_id: str, value: object, by: str = "ana", name: str = JUDGE) -> None:
        source = AssessmentSource(source_type="HUMAN", source_id=by)
        mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source)

    return write


@pytest.fixture
def tags_of() -> Callable[[str], dict[str, str]]:
    from mlflow.tracing.client import TracingClient

    return lambda trace_id: dict(TracingClient().get_trace_info(trace_id).tags)
