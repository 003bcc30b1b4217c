"""Judged and labelled traces at chosen times, written in one go and without spans."""

from __future__ import annotations

import uuid

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, JudgeContract

JUDGE = "resolved"
DAY = 86_400_000
NOW = 20_500 * DAY + DAY // 2  # noon of a UTC day


@pytest.fixture
def contracts():
    return {JUDGE: JudgeContract(JUDGE, "Was the request resolved?", BooleanValue())}


@pytest.fixture
def write(store):
    """write(passed, good, hours_ago=1, agent=…, cost=…) -> trace id; None writes no verdict, or no label."""
    import mlflow
    from mlflow.entities import AssessmentSource, Feedback, TraceInfo, TraceLocation, TraceState
    from mlflow.tracking._tracking_service.utils import _get_store

    experiment = mlflow.set_experiment("test").experiment_id

    def made(passed, good=None, *, hours_ago=1.0, agent="desk", tags=(), cost=None, took_ms=1000, unscored=False):
        trace_id = f"tr-{uuid.uuid4().hex}"
        outcome = "unscored" if unscored else "pass" if passed else "fail"
        facts = {semconv.OUTCOME: outcome, semconv.JUDGE_DIGEST: "d" * 16, semconv.JUDGE_VERSION: "3"}
        judge, person = AssessmentSource("LLM_JUDGE", "j"), AssessmentSource("HUMAN", "ana")
        said = []
        if passed is not None or unscored:
            said.append(Feedback(JUDGE, value=passed, source=judge, metadata=facts, trace_id=trace_id))
        if good is not None:
            said.append(Feedback(JUDGE, value=good, source=person, trace_id=trace_id))
        named = {**dict(tags), **({"agent": agent} if agent else {})}
        info = TraceInfo(
            trace_id,
            TraceLocation.from_experiment_id(experiment),
            int(NOW - hours_ago * 3_600_000),
            TraceState.OK,
            execution_duration=took_ms,
            tags=named,
            trace_metadata={} if cost is None else {"mlflow.trace.cost": f'{{"total_cost": {cost}}}'},
            assessments=said,
        )
        _get_store().start_trace(info)
        return trace_id

    return made
