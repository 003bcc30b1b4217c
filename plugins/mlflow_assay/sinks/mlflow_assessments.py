"""Verdicts as assessments on their traces in MLflow, the system of record. Entry point `mlflow`.

Each verdict carries an assessment id derived from what it is, so writing it again (a retried request, a run
resumed after `kill -9`) cannot double it. On a database URI a batch goes in one transaction through MLflow's
own entities; through a server, and wherever that fast path does not hold, one `mlflow.log_assessment` each.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_assay.errors import SinkError

if TYPE_CHECKING:
    from mlflow.entities import Feedback

__all__ = ["MlflowSink", "assessment_id"]

_logger = logging.getLogger(__name__)
_WRITERS = 8
# The ORM classes behind the fast path are not public; these are the versions its contract test has run on.
_FAST_VERSIONS = ((3, 17), (3, 18))
_LOCKED_WAIT_S = (0.2, 0.5, 1, 2, 4, 8)


def assessment_id(trace_id: str, name: str, digest: str, revision: int, span_id: str | None = None) -> str:
    """A stable id for a verdict: the same verdict of the same judge on the same trace has the same id.

    Args:
        revision: how many verdicts of this name this trace already carries from us.
    """
    basis = "\x1f".join((trace_id, name, digest, str(revision), span_id or ""))
    return "a-" + hashlib.sha256(basis.encode()).hexdigest()[:32]


class MlflowSink:
    """Writes verdicts to the tracking server MLflow is set to.

    Args:
        fast: None uses the one-transaction path where it is known to hold; False never; True is an error
            where it is not available.
    """

    name: ClassVar[str] = "mlflow"

    def __init__(self, fast: bool | None = None) -> None:
        self._store = None if fast is False else _sql_store()
        if fast and self._store is None:
            raise SinkError(
                "The sink 'mlflow' cannot write in one transaction here.",
                valid=f"a database tracking URI and MLflow {_FAST_VERSIONS[0]} to {_FAST_VERSIONS[-1]}",
            )

    @property
    def fast(self) -> bool:
        """Whether batches go in one transaction."""
        return self._store is not None

    def write(self, feedback: Iterable[Feedback]) -> int:
        """Store the verdicts, each under its `trace_id`; one already stored under its id stays as it is.

        Raises:
            SinkError: some could not be stored; names the first and how many.
        """
        batch = list(feedback)
        if self._store is not None and batch:
            try:
                _with_patience(lambda: _bulk(self._store, batch))
                return len(batch)
            except Exception as error:
                # Whatever keeps a private path from working, the public one still may.
                _logger.info("The one-transaction write failed (%s); writing one by one.", error)
        return self._one_by_one(batch)

    def _one_by_one(self, batch: Sequence[Feedback]) -> int:
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="assay-write") as pool:
            failures = [f for f in pool.map(_log_one, batch) if f]
        if failures:
            raise SinkError(f"{len(failures)} of {len(batch)} verdicts were not stored; the first: {failures[0]}")
        return len(batch)


def _log_one(feedback: Feedback) -> str | None:
    """Log one verdict; the reason when it could not be, None when it is stored."""
    import mlflow
    from mlflow.exceptions import MlflowException

    trace_id, wanted = str(feedback.trace_id), feedback.assessment_id
    try:
        _with_patience(lambda: mlflow.log_assessment(trace_id, feedback))
    except MlflowException as error:
        if wanted and _is_stored(trace_id, wanted):
            return None
        return f"{feedback.name} on {trace_id}: {error.message}"
    return None


def _is_stored(trace_id: str, wanted: str) -> bool:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.get_assessment(trace_id, wanted) is not None
    except MlflowException:
        return False


def _with_patience(write: Any) -> Any:
    """Run a write, waiting out another process that holds a SQLite file's lock."""
    for wait in _LOCKED_WAIT_S:
        try:
            return write()
        except Exception as error:
            if "locked" not in str(error).lower():
                raise
            time.sleep(wait)
    return write()


def _sql_store() -> Any:
    """MLflow's SQL store behind a database tracking URI, where the fast path is known to hold; else None."""
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store

    version = tuple(int(part) for part in mlflow.__version__.split(".")[:2])
    if version not in _FAST_VERSIONS or mlflow.get_tracking_uri().startswith(("http", "databricks", "file")):
        return None
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from mlflow.store.tracking.utils.sql_trace_rollups import rollups_enabled
    except ImportError:
        return None
    store = _get_store()
    return store if isinstance(store, SqlAlchemyStore) and not rollups_enabled() else None


def _bulk(store: Any, batch: Sequence[Feedback]) -> None:
    """All verdicts in one transaction, as `create_assessment` would store each of them."""
    from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlTraceInfo

    with store.ManagedSessionMaker(read_only=False) as session:
        trace_ids = sorted({str(f.trace_id) for f in batch})
        columns = (SqlTraceInfo.request_id, SqlTraceInfo.experiment_id, SqlTraceInfo.timestamp_ms)
        found = session.query(*columns).filter(SqlTraceInfo.request_id.in_(trace_ids)).all()
        traces = {row.request_id: row for row in found}
        if len(traces) < len(trace_ids):
            raise SinkError(f"{len(trace_ids) - len(traces)} traces are not in the store any more")
        ids = [f.assessment_id for f in batch if f.assessment_id]
        known = session.query(SqlAssessments.assessment_id).filter(SqlAssessments.assessment_id.in_(ids)).all()
        stored = {row.assessment_id for row in known}
        rows = []
        for feedback in batch:
            if feedback.assessment_id in stored:
                continue
            row = SqlAssessments.from_mlflow_entity(feedback)
            row.experiment_id = traces[str(feedback.trace_id)].experiment_id
            row.trace_timestamp_ms = traces[str(feedback.trace_id)].timestamp_ms
            rows.append(row)
        overridden = [row.overrides for row in rows if row.overrides]
        if overridden:
            old = session.query(SqlAssessments).filter(SqlAssessments.assessment_id.in_(overridden))
            old.update({"valid": False}, synchronize_session=False)
        session.add_all(rows)
