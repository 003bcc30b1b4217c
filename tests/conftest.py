"""Shared fixtures: a fresh MLflow on SQLite for each test, quick traces, and no way out to the network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DO_NOT_TRACK": "true",
    }
)
for _variable in ("OPENAI_API_KEY", "ASSAY_JUDGE_MODEL", "ASSAY_JUDGE_BASE_URL", "ASSAY_JUDGES_PATH"):
    os.environ.pop(_variable, None)

import hypothesis  # noqa: E402 - the environment must be set before MLflow is imported
import pytest  # noqa: E402
from assay_stack.fixtures import (  # noqa: E402, F401 - native servers, for any test
    collector_binary,
    compose_config,
    fresh_stack,
    mlflow_server,
    stack,
)

# First calls import SciPy; on a loaded machine that is no failure of the property.
hypothesis.settings.register_profile("assay", deadline=None)
hypothesis.settings.load_profile("assay")

ROOT = Path(__file__).parents[1]
SLOW = [line for line in (ROOT / "tests" / "slow.txt").read_text().splitlines() if line and not line.startswith("#")]


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what slow.txt lists."""
    listed = tuple(f"tests/{line}" for line in SLOW)
    for item in items:
        if item.nodeid.startswith(listed):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some libraries set COLUMNS when they are imported; tables are then cut in whatever test comes next."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite store, made once a worker; tests get copies."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = tmp_path_factory.mktemp("store") / "empty.db"
    store = SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "artifacts"))
    store.engine.dispose()
    return path


@pytest.fixture
def store(tmp_path: Path, _empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh MLflow tracking URI; the process is set to it for the test."""
    import mlflow

    path = tmp_path / "mlflow.db"
    shutil.copy(_empty_store, path)
    uri = f"sqlite:///{path}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("ASSAY_CACHE_URL", f"sqlite:///{tmp_path}/verdicts.db")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.tracing.reset()
    mlflow.set_tracking_uri(before)
    os.environ.pop(
        "MLFLOW_EXPERIMENT_ID", None
    )  # set_experiment sets it for subprocesses; it is of a store that is gone


@pytest.fixture
def log_trace(store: str) -> Callable[..., str]:
    """Writes one small trace and returns its id; call as log_trace(request=…, answer=…, …)."""
    import mlflow

    mlflow.set_experiment("test")

    def log(
        request: Any = "My bill is wrong",
        answer: Any = "Let me look at it, please wait.",
        *,
        tools: tuple[str, ...] = ("get_invoice",),
        session: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        with mlflow.start_span("agent", span_type="AGENT") as root:
            root.set_inputs(None if request is None else {"request": request})
            if session or tags:
                metadata = {"mlflow.trace.session": session} if session else {}
                mlflow.update_current_trace(metadata=metadata, tags=tags or {})
            for tool in tools:
                with mlflow.start_span(tool, span_type="TOOL") as span:
                    span.set_inputs({"customer": "C1"})
                    span.set_outputs({"ok": True})
            if answer is not None:
                root.set_outputs({"answer": answer})
            return str(root.trace_id)

    return log


@pytest.fixture
def shared_data() -> Path:
    """The folder of real labelled runs beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real labelled runs (../shared/data) are not on this machine")
    return folder
