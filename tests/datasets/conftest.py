"""Traces with verdicts and labels, and rows made up for the store's sake."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_assay.contracts import DatasetStore
from mlflow_assay.datasets.model import SPLITS, DatasetRow
from mlflow_assay.datasets.store import open_store

sys.path.insert(0, str(Path(__file__).parent))

from dataset_servers import SERVERS


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


@pytest.fixture(
    scope="module", params=["file", "memory", *(pytest.param(s, marks=pytest.mark.integration) for s in SERVERS)]
)
def base_url(request, tmp_path_factory) -> Iterator[str]:
    """The URL of an empty place in each kind of store there is; real servers are started for it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "file":
        yield str(folder / "datasets")
    elif request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}"
    else:
        with SERVERS[request.param](folder) as environment, pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            yield f"{request.param}://tests/datasets"


@pytest.fixture
def url(base_url) -> str:
    """A place of its own for each test."""
    return f"{base_url}/{uuid.uuid4().hex}"


@pytest.fixture
def kept(url) -> DatasetStore:
    """An empty store."""
    return open_store(url)
