"""The shortcuts into MLflow's SQL store: the same answers as its public way, and None where they do not hold."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.tracing.client import TracingClient

from mlflow_assay import sqlstore
from mlflow_assay.sources.mlflow_store import load_ids, missing_assessments


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
