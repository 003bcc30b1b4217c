"""Traces and verdicts made in memory, as MLflow would hand them out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlflow_assay import semconv

START = 1_793_520_000_000  # 2026-11-01T08:00:00Z
DAY = 86_400_000

_ids = itertools.count(1)


def _assessment_id() -> str:
    return f"a-{next(_ids):08d}"


def verdict(
    value: Any = None,
    *,
    judge: str = "resolved",
    outcome: str | None = None,
    reason: str | None = None,
    kind: str = "LLM_JUDGE",
    by: str = "openai:/judge",
    at: int = 0,
    **more: Any,
) -> Any:
    """One feedback; `at` is its creation time in ms after START; `more` goes to Feedback."""
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.entities.assessment_error import AssessmentError

    metadata = dict(more.pop("metadata", {}))
    if outcome:
        metadata[semconv.OUTCOME] = outcome
    if reason:
        metadata[semconv.UNSCORED_REASON] = reason
    error = more.pop("error", None) or (reason if value is None else None)
    found = Feedback(
        name=judge,
        value=value,
        error=AssessmentError(error_code=error) if error else None,
        source=AssessmentSource(source_type=kind, source_id=by),
        metadata=metadata,
        create_time_ms=START + at,
        last_update_time_ms=START + at,
        **more,
    )
    found.assessment_id = _assessment_id()
    return found


def label(value: Any, *, judge: str = "resolved", by: str = "dana", **more: Any) -> Any:
    """One feedback by a person."""
    return verdict(value, judge=judge, kind="HUMAN", by=by, **more)


def trace(
    number: int,
    assessments: Sequence[Any] = (),
    *,
    session: str | None = None,
    tags: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    at: int | None = None,
    request: str | None = None,
    state: str = "OK",
    duration: int | None = 1000,
) -> Any:
    """The `number`-th trace, an hour after the one before unless `at` (ms after START) says otherwise."""
    from mlflow.entities import Trace, TraceData, TraceInfo, TraceLocation, TraceState

    held = {**(metadata or {}), **({"mlflow.trace.session": session} if session else {})}
    info = TraceInfo(
        trace_id=f"tr-{number:032x}",
        trace_location=TraceLocation.from_experiment_id("7"),
        request_time=START + (number * 3_600_000 if at is None else at),
        state=TraceState(state),
        request_preview=request,
        execution_duration=duration,
        trace_metadata=held,
        tags=tags or {},
        assessments=list(assessments),
    )
    return Trace(info, TraceData(spans=[]))


@pytest.fixture
def make() -> Any:
    """The makers above by name: make.trace, make.verdict, make.label."""

    class Make:
        pass

    made = Make()
    made.trace, made.verdict, made.label, made.START, made.DAY = trace, verdict, label, START, DAY
    return made


@pytest.fixture
def build() -> Callable[..., Any]:
    """A report of traces in memory; options go to ReportRequest."""
    from mlflow_assay.report import data
    from mlflow_assay.testing import ListSource

    def _build(traces: Sequence[Any], contracts: dict[str, Any] | None = None, **options: Any) -> Any:
        request = data.ReportRequest(**{"experiment": "support", "experiment_id": "7", **options})
        return data.build(ListSource(traces), request, contracts or {})

    return _build


@pytest.fixture
def full(make: Any, build: Callable[..., Any]) -> Any:
    """A report with everything in it: two judges, labels, unscored, sessions, a breakdown, hostile text."""
    traces = []
    for i in range(60):
        good = i % 4 != 0
        given = [
            make.verdict(
                good,
                outcome="pass" if good else "fail",
                rationale="<script>alert('rationale')</script> it was not solved" if not good else None,
                metadata={
                    semconv.JUDGE_DIGEST: "a" * 16 if i < 30 else "b" * 16,
                    semconv.JUDGE_VERSION: "1" if i < 30 else "2",
                    "mlflow.assessment.judgeCost": "0.001",
                    "mlflow.assessment.judgeInputTokens": "100",
                    "mlflow.assessment.judgeOutputTokens": "10",
                    semconv.LATENCY_MS: "800.0",
                },
            ),
            make.verdict("good", judge="tone", kind="CODE", by="tone", outcome="pass")
            if i % 5
            else make.verdict(None, judge="tone", reason="timeout", outcome="unscored"),
        ]
        if i % 2:
            given.append(make.label(good or i % 6 == 0))
        if i % 10 == 0:
            given.append(make.label(True, judge="thumbs"))
        traces.append(
            make.trace(
                i,
                given,
                session=f"s-{i // 2}",
                tags={"agent": "<b>billing</b>" if i % 3 else "account"},
                at=i * make.DAY // 5,
                request='{"question": "<img src=x onerror=alert(1)> where is my bill?"}',
            )
        )
    return build(traces, ui_url="http://mlflow.example:5000", by=("tag:agent",))
