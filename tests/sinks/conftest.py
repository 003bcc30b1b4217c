from __future__ import annotations

import os

import pytest

from mlflow_assay.testing import FarEnd


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OTEL_", "DD_", "LANGFUSE_", "PHOENIX_", "ASSAY_SEMCONV")):
            monkeypatch.delenv(name)


@pytest.fixture
def far_end():
    with FarEnd() as server:
        yield server
