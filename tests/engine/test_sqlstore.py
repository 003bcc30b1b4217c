"""The shortcuts into MLflow's SQL store: the same answers as its public way, and None where they do not hold."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.tracing.client import TracingClient

from mlflow_assay import sqlstore
from mlflow_assay.sources import mlflow_store
from mlflow_assay.sources.mlflow_store import MlflowSource, load_ids, missing_assessments


def test_infos_are_those_mlflow_gives(log_trace):
    ids = [log_trace(request=f"question {i}", session="s", tags={"k": str(i)}) for i in range(3)]
    mlflow.log_feedback(trace_id=ids[1], name="looks_right", value=True)
    theirs = {i.trace_id: i.to_dict() for i in TracingClient().store.batch_get_trace_infos(ids)}
    ours = {i.trace_id: i.to_dict() for i in sqlstore.trace_infos(sqlstore.open_store(), ids)}
    assert ours == theirs


def test_traces_are_loaded_in_the_order_asked_for_with_their_spans(log_trace):
    ids = [log_trace(request=f"question {i}") for i in range(3)][::-1]
    assert [t.info.trace_id for t in load_ids(ids)] == ids
    assert [t.to_dict() for t in load_ids(ids)] == [mlflow.get_trace(i).to_dict() for i in ids]


@pytest.mark.parametrize("versions", [sqlstore.VERSIONS, ((0, 0),)])
def test_what_is_missing_is_found_with_and_without_the_shortcut(monkeypatch, log_trace, versions):
    trace_id = log_trace()
    stored = mlflow.log_feedback(trace_id=trace_id, name="looks_right", value=True).assessment_id
    monkeypatch.setattr(sqlstore, "VERSIONS", versions)
    assert (sqlstore.open_store() is None) == (versions == ((0, 0),))
    assert missing_assessments([(trace_id, stored), (trace_id, "a-gone")]) == [(trace_id, "a-gone")]


def test_more_ids_than_one_query_takes(log_trace):
    trace_id = log_trace()
    unknown = [f"tr-{i:032x}" for i in range(2100)]
    assert [i.trace_id for i in sqlstore.trace_infos(sqlstore.open_store(), [*unknown, trace_id])] == [trace_id]


def test_infos_are_the_same_where_mlflow_has_no_short_way_of_its_own(monkeypatch, log_trace):
    from mlflow.store.tracking import sqlalchemy_store

    ids = [log_trace(request=f"question {i}", session="s", tags={"k": str(i)}) for i in range(2)]
    mlflow.log_feedback(trace_id=ids[1], name="looks_right", value=True)
    short = [i.to_dict() for i in sqlstore.trace_infos(sqlstore.open_store(), ids)]
    monkeypatch.delattr(sqlalchemy_store, "_build_trace_infos_from_rows")
    long = [i.to_dict() for i in sqlstore.trace_infos(sqlstore.open_store(), ids)]
    assert {i["trace_id"]: i for i in short} == {i["trace_id"]: i for i in long}


def test_a_trace_not_all_of_whose_spans_are_there_is_left_to_mlflow(log_trace):
    from mlflow.store.tracking.dbmodels.models import SqlSpan

    whole, part = log_trace(), log_trace()
    store = sqlstore.open_store()
    with store.ManagedSessionMaker(read_only=False) as session:
        session.query(SqlSpan).filter(SqlSpan.trace_id == part, SqlSpan.parent_span_id.isnot(None)).delete()
    infos = sqlstore.trace_infos(store, [whole, part])
    assert [t.info.trace_id for t in sqlstore.with_spans(store, infos)] == [whole]
    assert [len(t.data.spans) for t in load_ids([whole, part])] == [2, 0]


@pytest.mark.parametrize("same_time", [False, True])
def test_every_trace_is_read_once_in_order_however_often_the_search_starts_anew(monkeypatch, log_trace, same_time):
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo

    ids = [log_trace(request=f"question {i}") for i in range(23)]
    with sqlstore.open_store().ManagedSessionMaker(read_only=False) as session:
        for i, trace_id in enumerate(ids):
            moment = 1000 if same_time else 1000 + i // 5  # five at a time
            session.query(SqlTraceInfo).filter(SqlTraceInfo.request_id == trace_id).update({"timestamp_ms": moment})
    expected = [i.trace_id for i in MlflowSource("test").infos()]
    monkeypatch.setattr(mlflow_store, "_PAGE", 3)
    for pages in (1, 2, 25):
        monkeypatch.setattr(mlflow_store, "_PAGES", pages)
        assert [i.trace_id for i in MlflowSource("test").infos()] == expected
        assert [i.trace_id for i in MlflowSource("test", max_traces=8).infos()] == expected[:8]
        assert len(list(MlflowSource("test", since_ms=1002).infos())) == (0 if same_time else 13)
    assert sorted(expected) == sorted(ids)
