"""MLflow's SQL store behind a database tracking URI: the one place that uses its ORM classes.

They are not public, so everything here is gated on the versions its contract tests have run on
(tests/engine/test_mlflow_sink.py, tests/engine/test_sqlstore.py), and every caller falls back to MLflow's
public way where `open_store` returns None. The gain: one query where MLflow sends one a trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Span, Trace, TraceInfo

__all__ = [
    "VERSIONS",
    "add_assessments",
    "assessment_ids",
    "open_store",
    "span_rows",
    "trace_infos",
    "updated_assessments",
    "with_spans",
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
    from mlflow.store.tracking import sqlalchemy_store as theirs
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
    from sqlalchemy.orm import selectinload

    # What `search_traces` makes its infos with: half the time of one object for each tag and metadata row.
    columns, from_rows = (getattr(theirs, n, None) for n in ("_TRACE_INFO_COLUMNS", "_build_trace_infos_from_rows"))
    eager = [selectinload(getattr(SqlTraceInfo, part)) for part in ("tags", "request_metadata", "assessments")]
    found: list[TraceInfo] = []
    with store.ManagedSessionMaker() as session:
        for chunk in _chunks(trace_ids):
            wanted = SqlTraceInfo.request_id.in_(chunk)
            if columns and from_rows:
                found += from_rows(session, session.query(*columns).filter(wanted).all())
            else:
                found += [r.to_mlflow_entity() for r in session.query(SqlTraceInfo).filter(wanted).options(*eager)]
    return found


def with_spans(store: Any, infos: Sequence[TraceInfo]) -> list[Trace]:
    """These traces with their spans, where the database holds all of them; others are absent.

    Args:
        infos: as `trace_infos` or a search gives them.
    """
    from mlflow.entities import Trace, TraceData
    from mlflow.store.tracking.dbmodels.models import SqlSpan as Row
    from mlflow.tracing.constant import SpansLocation, TraceMetadataKey, TraceSizeStatsKey, TraceTagKey

    here = [i for i in infos if i.tags.get(TraceTagKey.SPANS_LOCATION) == SpansLocation.TRACKING_STORE.value]
    found: dict[str, list[tuple[bool, int, str]]] = {info.trace_id: [] for info in here}
    columns = (Row.trace_id, Row.parent_span_id, Row.start_time_unix_nano, Row.content)
    with store.ManagedSessionMaker() as session:
        for chunk in _chunks(list(found)):
            for trace_id, parent, start, content in session.query(*columns).filter(Row.trace_id.in_(chunk)):
                found[trace_id].append((parent is not None, start, content))
    traces: list[Trace] = []
    for info in here:
        spans = sorted(found[info.trace_id], key=lambda span: span[:2])  # the root first, as MLflow has it
        stats = info.trace_metadata.get(TraceMetadataKey.SIZE_STATS)
        whole = len(spans) >= (json.loads(stats).get(TraceSizeStatsKey.NUM_SPANS, 0) if stats else 1)
        if spans and whole and all(content for *_, content in spans):  # an archived trace's contents are emptied
            traces.append(Trace(info, TraceData([_span(content) for *_, content in spans])))
    return traces


def _span(content: str) -> Span:
    from mlflow.entities import span as theirs

    lazy: Any = getattr(theirs, "LazySpan", None)  # parsed when it is looked at
    return lazy.from_stored_content(content) if lazy else theirs.Span.from_dict(json.loads(content))


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
