"""The same through HTTP: picking and labeling sessions against an `mlflow server` started by the test."""

from __future__ import annotations

import pytest

from mlflow_assay.labels import queues
from mlflow_assay.labels.designs import draws_of, frames_of
from mlflow_assay.labels.exchange import import_csv
from mlflow_assay.labels.pick import PickRequest, pick
from mlflow_assay.labels.picking import Share

pytestmark = [pytest.mark.integration, pytest.mark.slow]
JUDGE = "resolved"


@pytest.fixture
def store(tmp_path, _empty_store, monkeypatch, mlflow_server):
    """In place of the SQLite store: a real server with one worker; MLflow is set to it."""
    import mlflow

    before = mlflow.get_tracking_uri()
    with mlflow_server(tmp_path, database=_empty_store) as uri:
        try:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            mlflow.set_tracking_uri(uri)
            yield uri
        finally:
            mlflow.set_tracking_uri(before)


def _in(queue) -> set[str]:
    return {item.item_id for item in queues.items_of(queue.queue_id)}


def test_queues_draws_labels_and_sessions_work_through_a_server(store, judged, contracts, tmp_path):
    """One server for all of it, since starting one is what takes long."""
    import mlflow
    from mlflow.genai import create_labeling_session, delete_labeling_session, get_labeling_sessions
    from mlflow.genai.label_schemas import InputPassFail, create_label_schema
    from mlflow.tracing.client import TracingClient

    ids = judged(passes=6, fails=4)
    experiment = mlflow.get_experiment_by_name("test")
    request = PickRequest("test", JUDGE, "Woche 48 – Ännas", Share(6), experts=("ana", "ben"), overlap=2)
    result = pick(request, contracts)
    found = queues.find_queues(experiment.experiment_id)
    ana, ben = found["woche 48 – ännas (ana)"], found["woche 48 – ännas (ben)"]
    assert _in(ana) | _in(ben) == set(result.new) and len(_in(ana) & _in(ben)) == 2
    assert [q.url for q in result.queues] == [
        f"{store}/#/experiments/{experiment.experiment_id}/review-queue?selectedQueueId={q.queue_id}"
        for q in (ana, ben)
    ]
    draw = draws_of(TracingClient().get_trace_info(result.new[0]).tags)[JUDGE]
    assert draw.probability == draw.drawn / draw.size and draw.queue == "Woche 48 – Ännas"
    assert [f.queue for f in frames_of(mlflow.get_experiment_by_name("test").tags, JUDGE)] == ["Woche 48 – Ännas"]
    assert pick(request, contracts).new == ()

    sheet = tmp_path / "labels.csv"
    sheet.write_text(f"trace_id,value,rationale\n{result.new[0]},yes,Prüfung bestanden\n", encoding="utf-8")
    assert import_csv(sheet, "test", contracts, name=JUDGE, by="ana").written == 1
    assert import_csv(sheet, "test", contracts, name=JUDGE, by="ana").already == 1
    assert pick(request, contracts, dry_run=True).answered == 1

    create_label_schema("tone", type="feedback", input=InputPassFail("Kind", "Rude"))
    session = create_labeling_session("session", assigned_users=["ana"], label_schemas=["tone"])
    with mlflow.start_span("agent") as span:
        span.set_inputs({"request": "x"})
    session = session.add_traces([mlflow.get_trace(span.trace_id, flush=True)])
    assert [s.name for s in get_labeling_sessions()] == ["session"]
    linked = mlflow.search_traces(run_id=session.mlflow_run_id, return_type="list")
    assert [t.info.trace_id for t in linked] == [span.trace_id] and span.trace_id not in ids
    assert session.url.startswith(f"{store}/#/experiments/")
    delete_labeling_session(session)
    assert get_labeling_sessions() == []
