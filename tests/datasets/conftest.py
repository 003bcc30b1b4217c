"""Traces with verdicts and labels, and rows made up for the store's sake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_assay.datasets.model import SPLITS, DatasetRow


@pytest.fixture
def judged(log_trace) -> Callable[..., str]:
    """Logs a trace with a verdict, labels and expectations; call as judged(request, verdict=False, …)."""
    import mlflow
    from mlflow.entities import AssessmentSource

    def log(
        request: Any,
        *,
        verdict: bool | None = None,
        judge: str = "request_resolved",
        labels: dict[str, Any] | None = None,
        by: str = "ann",
        rationale: str | None = None,
        expectations: dict[str, Any] | None = None,
        truth: dict[str, Any] | None = None,
        **trace: Any,
    ) -> str:
        trace_id = log_trace(request, **trace)
        if verdict is not None:
            source = AssessmentSource("CODE", "a-judge")
            mlflow.log_feedback(trace_id=trace_id, name=judge, value=verdict, source=source)
        person = AssessmentSource("HUMAN", by)
        for name, value in (labels or {}).items():
            mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=person, rationale=rationale)
        for name, value in (expectations or {}).items():
            mlflow.log_expectation(trace_id=trace_id, name=name, value=value, source=person)
        for name, value in (truth or {}).items():
            code = AssessmentSource("CODE", "ground truth")
            mlflow.log_expectation(trace_id=trace_id, name=name, value=value, source=code)
        return trace_id

    return log


@pytest.fixture
def rows() -> Callable[..., list[DatasetRow]]:
    """So many rows, all different; call as rows(30, start=5, word="bill")."""

    def make(n: int, start: int = 0, word: str = "question") -> list[DatasetRow]:
        return [
            DatasetRow(
                {"request": f"{word} number {i}", "turn": i},
                {"answer": [i, None, 1.5, "ü"]},
                {"route": SPLITS[i % 3]},
                trace_id=f"tr-{i:032x}",
                session=f"s{i // 2}",
                slice="a" if i % 2 else None,
                split=SPLITS[i % 3],
                group=f"g{i}",
                tags={"k": str(i)},
            )
            for i in range(start, start + n)
        ]

    return make
