"""MLflow's SQL store behind a database tracking URI: the one place that uses its ORM classes.

They are not public, so everything here is gated on the versions its contract tests have run on
(tests/engine/test_mlflow_sink.py, tests/engine/test_sqlstore.py), and every caller falls back to MLflow's
public way where `open_store` returns None. The gain: one query where MLflow sends one a trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Feedback, TraceInfo

__all__ = [
    "VERSIONS",
    "add_assessments",
    "assessment_ids",
    "open_store",
    "span_rows",
    "trace_infos",
    "updated_assessments",
]

VERSIONS = ((3, 17), (3, 18))
_CHUNK = 500  # SQLite takes at most 999 variables in older builds


def open_store() -> Any:
    """The SQL store of the tracking URI MLflow is set to, or None where these shortcuts do not hold."""
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store

    version = tuple(int(part) for part in mlflow.__version__.split(".")[:2])
    if version not in VERSIONS or mlflow.get_tracking_uri().startswith(("http", "databricks", "file")):
        return None
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from mlflow.store.tracking.utils.sql_trace_rollups import rollups_enabled
    except ImportError:
        return None
    store = _get_store()
    return store if isinstance(store, SqlAlchemyStore) and not rollups_enabled() else None


def trace_infos(store: Any, trace_ids: Sequence[str]) -> list[TraceInfo]:
    """Trace infos with tags, metadata and assessments, in a few queries for all; unknown ids are absent."""
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
    from sqlalchemy.orm import selectinload

    eager = [selectinload(getattr(SqlTraceInfo, part)) for part in ("tags", "request_metadata", "assessments")]
    found: list[TraceInfo] = []
    with store.ManagedSessionMaker() as session:
        for chunk in _chunks(trace_ids):
            rows = session.query(SqlTraceInfo).filter(SqlTraceInfo.request_id.in_(chunk)).options(*eager)
            found += [row.to_mlflow_entity() for row in rows]
    return found


def assessment_ids(store: Any, wanted: Sequence[str]) -> set[str]:
    """Those of the wanted assessment ids that are in the store."""
    from mlflow.store.tracking.dbmodels.models import SqlAssessments

    found: set[str] = set()
    with store.ManagedSessionMaker() as session:
        for chunk in _chunks(wanted):
            rows = session.query(SqlAssessments.assessment_id).filter(SqlAssessments.assessment_id.in_(chunk))
            found |= {row.assessment_id for row in rows}
    return found


def add_assessments(store: Any, batch: Sequence[Feedback]) -> list[str]:
    """Add verdicts in one transaction, as `create_assessment` would store each; stored ids stay as they are.

    Returns:
        Trace ids that are not in the store; nothing is written when there are any.
    """
    from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlTraceInfo

    with store.ManagedSessionMaker(read_only=False) as session:
        trace_ids = sorted({str(f.trace_id) for f in batch})
        columns = (SqlTraceInfo.request_id, SqlTraceInfo.experiment_id, SqlTraceInfo.timestamp_ms)
        traces: dict[str, Any] = {}
        for chunk in _chunks(trace_ids):
            found = session.query(*columns).filter(SqlTraceInfo.request_id.in_(chunk))
            traces |= {row.request_id: row for row in found}
        if gone := [i for i in trace_ids if i not in traces]:
            return gone
        stored: set[str] = set()
        for chunk in _chunks([f.assessment_id for f in batch if f.assessment_id]):
            known = session.query(SqlAssessments.assessment_id).filter(SqlAssessments.assessment_id.in_(chunk))
            stored |= {row.assessment_id for row in known}
        rows = []
        for feedback in batch:
            if feedback.assessment_id in stored:
                continue
            row = SqlAssessments.from_mlflow_entity(feedback)
            row.experiment_id = traces[str(feedback.trace_id)].experiment_id
            row.trace_timestamp_ms = traces[str(feedback.trace_id)].timestamp_ms
            rows.append(row)
        for chunk in _chunks([row.overrides for row in rows if row.overrides]):
            old = session.query(SqlAssessments).filter(SqlAssessments.assessment_id.in_(chunk))
            old.update({"valid": False}, synchronize_session=False)
        session.add_all(rows)
    return []


def updated_assessments(
    store: Any, experiment_id: str, since_ms: int, after: tuple[int, str], limit: int
) -> list[tuple[int, str, str, bool]]:
    """Assessments of an experiment last changed at or after a time, oldest change first.

    Args:
        since_ms: by MLflow's own stamp.
        after: (time, assessment id) of the last one of the page before; (0, "") for the first page.
        limit: at most so many.

    Returns:
        (time of the last change, assessment id, trace id, valid) each.
    """
    from mlflow.store.tracking.dbmodels.models import SqlAssessments as Row
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
    from sqlalchemy import and_, or_

    moment, last = after
    later = or_(
        Row.last_updated_timestamp > moment,
        and_(Row.last_updated_timestamp == moment, Row.assessment_id > last),
    )
    with store.ManagedSessionMaker() as session:
        rows = (
            session.query(Row.last_updated_timestamp, Row.assessment_id, Row.trace_id, Row.valid)
            .join(SqlTraceInfo, SqlTraceInfo.request_id == Row.trace_id)
            .filter(SqlTraceInfo.experiment_id == int(experiment_id))
            .filter(Row.last_updated_timestamp >= since_ms, later)
            .order_by(Row.last_updated_timestamp, Row.assessment_id)
            .limit(limit)
        )
        return [(int(row[0]), str(row[1]), str(row[2]), bool(row[3])) for row in rows]


def span_rows(store: Any, trace_ids: Sequence[str]) -> list[tuple[str, str, str | None, str, str | None, str | None]]:
    """(trace id, span id, parent's id, name, type, model) of these traces' spans by start, without their content."""
    from mlflow.store.tracking.dbmodels.models import SqlSpan as Row

    found: list[tuple[str, str, str | None, str, str | None, str | None]] = []
    columns = (Row.trace_id, Row.span_id, Row.parent_span_id, Row.name, Row.type, Row.model_name)
    with store.ManagedSessionMaker() as session:
        for chunk in _chunks(trace_ids):
            rows = session.query(*columns).filter(Row.trace_id.in_(chunk)).order_by(Row.start_time_unix_nano)
            found += [(str(r[0]), str(r[1]), r[2], str(r[3] or ""), r[4], r[5]) for r in rows]
    return found


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield list(ids[start : start + _CHUNK])
