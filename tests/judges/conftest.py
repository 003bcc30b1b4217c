"""Fixtures for judges: the catalogue, a definition's text, and traces from plain data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def catalogue():
    from mlflow_assay.judges.catalogue import Catalogue

    return Catalogue()


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Writes a file below the test's own folder and returns its path."""

    def write(text: str | bytes, name: str = "judge.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def make_trace() -> Callable[..., Any]:
    """A trace in memory from what a definition's case may say: inputs, outputs, spans, tags, expectations."""
    from mlflow_assay.judges.case_traces import trace_of
    from mlflow_assay.judges.definition import Case

    def make(**said: Any) -> Any:
        return trace_of(Case.model_validate({"name": "made", "kind": "good", "expect": "x", **said}), "made")

    return make
