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

from mlflow_assay import sqlstore
from mlflow_assay.errors import SinkError

if TYPE_CHECKING:
    from mlflow.entities import Feedback

__all__ = ["MlflowSink", "assessment_id"]

_logger = logging.getLogger(__name__)
_WRITERS = 8
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
        self._store = None if fast is False else sqlstore.open_store()
        if fast and self._store is None:
            raise SinkError(
                "The sink 'mlflow' cannot write in one transaction here.",
                valid=f"a database tracking URI and MLflow {sqlstore.VERSIONS[0]} to {sqlstore.VERSIONS[-1]}",
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
                if not _with_patience(lambda: sqlstore.add_assessments(self._store, batch)):
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
