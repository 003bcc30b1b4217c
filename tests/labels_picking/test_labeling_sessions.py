"""MLflow's labeling-session API on open-source stores, through the entry point; and that nothing else changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import mlflow
import pytest


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def question(name="correct", kind="feedback", **more):
    from mlflow.genai import label_schemas

    widget = more.pop("input", None) or label_schemas.InputPassFail("Yes", "No")
    return label_schemas.create_label_schema(name, type=kind, input=widget, **more)


@pytest.fixture
def traces(log_trace):
    return [mlflow.get_trace(log_trace(request=f"request {n}")) for n in range(3)]


@pytest.fixture
def session(traces):
    from mlflow.genai import create_labeling_session

    question()
    return create_labeling_session("week 48", assigned_users=["Ana"], label_schemas=["correct"])


def items(session) -> set[str]:
    from mlflow.genai.review_queues import list_review_queue_items

    return {item.item_id for item in list_review_queue_items(session.labeling_session_id)}


# --- nothing changes until asked ------------------------------------------------------------------------


def test_importing_mlflow_loads_the_door_only():
    """Entry points are read at `import mlflow`; they must bring nothing of ours beyond the doors, nor of others."""
    code = (
        "import sys, json, mlflow\n"
        "ours = sorted(m for m in sys.modules if m.startswith('mlflow_assay'))\n"
        "import mlflow.genai.labeling.stores as stores\n"
        "schemes = sorted(stores._labeling_store_registry._registry)\n"
        "print(json.dumps([ours, schemes, stores._labeling_store_registry._registry['databricks'].__name__]))"
    )
    ours, schemes, databricks = json.loads(python(code))
    labels = ["mlflow_assay.labels", "mlflow_assay.labels.labeling_store"]
    parts = ("", ".canonical", ".dataset", ".identity", ".mlflow_source", ".model")
    datasets = [f"mlflow_assay.datasets{part}" for part in parts]
    assert ours == ["mlflow_assay", *datasets, "mlflow_assay.errors", *labels]
    assert {"sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks"} == set(schemes)
    assert databricks == "DatabricksLabelingStore"


def test_the_door_imports_nothing_beyond_the_standard_library():
    code = (
        "import sys, json\nbefore = set(sys.modules)\nimport mlflow_assay.labels.labeling_store\n"
        "found = {m.split('.')[0] for m in set(sys.modules) - before} - {'mlflow_assay'}\n"
        "print(json.dumps(sorted(found - set(sys.stdlib_module_names))))"
    )
    assert json.loads(python(code)) == []


def test_databricks_keeps_its_own_store():
    from mlflow.genai.labeling.stores import DatabricksLabelingStore, _labeling_store_registry

    assert _labeling_store_registry.get_store_builder("databricks") is DatabricksLabelingStore


def test_label_schemas_and_queues_of_mlflow_work_as_without_us(store):
    """MLflow's own functions do not go through the labeling store on open-source servers, with or without us."""
    from mlflow.genai import label_schemas
    from mlflow.genai.review_queues import create_review_queue, list_review_queues

    mlflow.set_experiment("test")
    made = question("tone")
    assert label_schemas.get_label_schema(schema_id=made.schema_id) == made
    create_review_queue("q", queue_type="custom", schema_ids=[made.schema_id])
    assert [q.name for q in list_review_queues()] == ["q"]
    from mlflow.genai import get_labeling_sessions

    assert get_labeling_sessions() == []


# --- sessions -------------------------------------------------------------------------------------------


def test_a_session_is_a_queue_and_a_run(session):
    from mlflow.genai.review_queues import get_review_queue

    queue = get_review_queue(session.labeling_session_id)
    assert (queue.name, queue.users, len(queue.schema_ids)) == ("week 48", ["ana"], 1)
    assert (session.name, session.assigned_users, session.label_schemas) == ("week 48", ["ana"], ["correct"])
    assert mlflow.get_run(session.mlflow_run_id).info.run_name == "week 48"
    assert (session.agent, session.enable_multi_turn_chat, session.custom_inputs, session.url) == (
        None,
        False,
        None,
        "",
    )


def test_sessions_are_found_again_by_run_and_in_the_list(session):
    from mlflow.genai import create_labeling_session, get_labeling_session, get_labeling_sessions

    other = create_labeling_session("week 49")
    assert {s.name for s in get_labeling_sessions()} == {"week 48", "week 49"}
    assert get_labeling_session(session.mlflow_run_id).labeling_session_id == session.labeling_session_id
    assert get_labeling_session(other.mlflow_run_id).label_schemas == []


def test_a_run_that_is_no_session_is_not_taken_for_one(session):
    from mlflow.genai import get_labeling_session

    with mlflow.start_run() as run:
        pass
    with pytest.raises(mlflow.MlflowException, match="is no labeling session"):
        get_labeling_session(run.info.run_id)


def test_traces_go_into_the_queue_and_are_found_by_the_sessions_run(session, traces):
    session = session.add_traces(traces[:2])
    again = session.add_traces([traces[1].to_json(), traces[2].to_json()])
    assert items(again) == {t.info.trace_id for t in traces}
    found = mlflow.search_traces(run_id=again.mlflow_run_id, return_type="list")
    assert {t.info.trace_id for t in found} == {t.info.trace_id for t in traces}


def test_traces_of_another_experiment_are_refused(session, traces):
    mlflow.set_experiment("other")
    with mlflow.start_span("agent") as span:
        foreign = span.trace_id
    with pytest.raises(mlflow.MlflowException, match=f"1 traces are not in the session's experiment .*{foreign}"):
        session.add_traces([mlflow.get_trace(foreign)])
    assert items(session) == set()


def test_reviewers_can_be_replaced(session):
    assert session.set_assigned_users(["ben", "Cleo"]).assigned_users == ["ben", "cleo"]


def test_deleting_a_session_leaves_labels_on_their_traces(session, traces):
    from mlflow.genai import delete_labeling_session, get_labeling_session, get_labeling_sessions

    session = session.add_traces(traces)
    mlflow.log_feedback(trace_id=traces[0].info.trace_id, name="correct", value=True)
    delete_labeling_session(session)
    assert get_labeling_sessions() == []
    assert len(mlflow.get_trace(traces[0].info.trace_id).info.assessments) == 1
    with pytest.raises(mlflow.MlflowException):
        get_labeling_session(session.mlflow_run_id)


def test_a_queue_deleted_in_the_review_tab_takes_its_session_out_of_the_list(session):
    from mlflow.genai import get_labeling_sessions
    from mlflow.genai.review_queues import delete_review_queue

    delete_review_queue(session.labeling_session_id)
    assert get_labeling_sessions() == []


def test_a_name_that_is_taken_is_refused_and_leaves_no_run(session):
    from mlflow.genai import create_labeling_session

    before = len(mlflow.search_runs(output_format="list"))
    with pytest.raises(mlflow.MlflowException, match="already exists"):
        create_labeling_session("Week 48")
    assert len(mlflow.search_runs(output_format="list")) == before


@pytest.mark.parametrize(
    "asked", [{"agent": "support"}, {"enable_multi_turn_chat": True}, {"custom_inputs": {"tier": "gold"}}]
)
def test_what_review_queues_cannot_do_is_refused_by_name(traces, asked):
    from mlflow.genai import create_labeling_session, get_labeling_sessions

    with pytest.raises(mlflow.MlflowException, match=f"cannot do {next(iter(asked))}"):
        create_labeling_session("x", **asked)
    assert get_labeling_sessions() == []


def test_an_unknown_label_schema_lists_those_there_are(session):
    from mlflow.genai import create_labeling_session
    from mlflow.genai.label_schemas import EXPECTED_FACTS

    with pytest.raises(mlflow.MlflowException, match=r"no label schema 'expected_facts'. It has: .*'correct'"):
        create_labeling_session("x", label_schemas=[EXPECTED_FACTS])


# --- datasets -------------------------------------------------------------------------------------------


def test_expectations_given_in_a_session_reach_a_dataset(session, traces):
    from mlflow.genai.datasets import create_dataset

    session = session.add_traces(traces)
    mlflow.log_expectation(trace_id=traces[1].info.trace_id, name="route", value="billing")
    create_dataset(name="failures", experiment_id=session.experiment_id)
    session.sync(to_dataset="failures")
    session.sync(to_dataset="failures")
    (record,) = _records("failures")
    assert record["expectations"] == {"route": "billing"} and record["inputs"] == {"request": "request 1"}


def _records(name):
    from mlflow.genai.datasets import get_dataset

    return get_dataset(name=name).to_df().to_dict("records")


def test_a_dataset_made_from_traces_can_be_added_and_one_without_is_refused(session, traces):
    from mlflow.genai.datasets import create_dataset

    made = create_dataset(name="made", experiment_id=session.experiment_id)
    made.merge_records(traces)
    one = _records("made")[0]
    assert len(items(session.add_dataset("made", [one["dataset_record_id"]]))) == 1
    assert items(session.add_dataset("made")) == {t.info.trace_id for t in traces}
    bare = create_dataset(name="bare", experiment_id=session.experiment_id)
    bare.merge_records([{"inputs": {"request": "new"}}])
    with pytest.raises(mlflow.MlflowException, match="1 of 1 records of the dataset 'bare' were not made from a trace"):
        session.add_dataset("bare")
    with pytest.raises(mlflow.MlflowException, match="'made' has no record 'dr-0'"):
        session.add_dataset("made", ["dr-0"])


# --- label schemas through the store --------------------------------------------------------------------


def test_the_stores_label_schemas_are_mlflows_own(session):
    from mlflow.genai.label_schemas import InputCategoricalList, InputPassFail
    from mlflow.genai.labeling.stores import _get_labeling_store

    store = _get_labeling_store()
    made = store.create_label_schema(
        "topics", type="feedback", title="Which topics?", input=InputCategoricalList(["a", "b"]), instruction="All."
    )
    assert made.instruction == "Which topics?\nAll." and made.input.multi_select
    assert store.get_label_schema("topics").schema_id == made.schema_id
    with pytest.raises(mlflow.MlflowException, match="already exists"):
        store.create_label_schema("topics", type="feedback", title="topics", input=InputCategoricalList(["a"]))
    changed = store.create_label_schema(
        "topics", type="feedback", title="topics", input=InputCategoricalList(["a", "c"]), overwrite=True
    )
    assert changed.schema_id == made.schema_id and changed.input.options == ["a", "c"]
    with pytest.raises(mlflow.MlflowException, match="cannot change that to expectation"):
        store.create_label_schema(
            "topics", type="expectation", title="t", input=InputPassFail("y", "n"), overwrite=True
        )
    store.delete_label_schema("topics")
    with pytest.raises(mlflow.MlflowException, match="no label schema 'topics'"):
        store.get_label_schema("topics")


def test_every_method_mlflow_asks_of_a_store_is_there():
    """A method added to MLflow's abstract class would make this fail before a user meets it."""
    from mlflow.genai.labeling.stores import AbstractLabelingStore

    from mlflow_assay.labels.labeling_sessions import ReviewQueueLabelingStore

    assert AbstractLabelingStore.__abstractmethods__ <= set(vars(ReviewQueueLabelingStore))
    assert not ReviewQueueLabelingStore.__abstractmethods__
