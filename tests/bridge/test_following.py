"""Every creation, edit and deletion in MLflow is found, whoever made it, on traces of any age, whatever clocks say."""

from __future__ import annotations

import time

import pytest

HUMAN = {"source_type": "HUMAN", "source_id": "anna"}


def feedback(trace_id: str, name: str = "tone", value: object = True, **more: object) -> str:
    import mlflow
    from mlflow.entities import AssessmentSource

    source = AssessmentSource("HUMAN", "anna")
    return str(mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source, **more).assessment_id)


@pytest.fixture(params=[False, True], ids=["database", "server"])
def bridge(request, make_bridge):
    return make_bridge(server=request.param)


def test_what_is_there_is_found_once(bridge, log_trace):
    ids = {feedback(log_trace()) for _ in range(3)}
    found = bridge.poll()
    assert {r.assessment_id for r in found} == ids
    assert {(r.change, r.revision, r.replaces) for r in found} == {("created", 1, None)}
    assert bridge.poll() == []


def test_the_run_is_described(bridge, log_trace):
    trace_id = log_trace(session="s-1", tags={"agent": "billing", "model": "m-1", "tier": "gold"})
    bridge.following.ingest.subjects._slices = ("tier",)
    feedback(trace_id, rationale="because")
    (revision,) = bridge.poll()
    run = revision.trace
    assert (run.trace_id, run.agent, run.model, run.conversation) == (trace_id, "billing", "m-1", "s-1")
    assert run.slices == {"tier": "gold"}
    assert len(run.root_span_id) == 16 and run.ended_ms is not None and run.started_ms > 0
    assert (revision.rationale, revision.source_type, revision.source_id) == ("because", "HUMAN", "anna")


def test_the_agent_is_the_root_spans_name_where_no_tag_says(bridge, log_trace):
    feedback(log_trace())
    assert bridge.poll()[0].trace.agent == "agent"


def test_an_edit_is_a_second_revision(bridge, log_trace):
    import mlflow
    from mlflow.entities import Feedback

    trace_id = log_trace()
    written = feedback(trace_id)
    (first,) = bridge.poll()
    mlflow.update_assessment(trace_id, written, Feedback(name="tone", value=False, rationale="on second thought"))
    (second,) = bridge.poll()
    assert (second.change, second.revision, second.replaces) == ("edited", 2, first.key)
    assert (second.value, second.rationale) == (False, "on second thought")


def test_an_edit_of_the_rationale_alone_is_found(bridge, log_trace):
    """Counts cannot show it; through a server the sweep does."""
    import mlflow
    from mlflow.entities import Feedback

    trace_id = log_trace()
    written = feedback(trace_id, rationale="short")
    bridge.poll()
    mlflow.update_assessment(trace_id, written, Feedback(name="tone", value=True, rationale="long"))
    assert [r.rationale for r in bridge.poll()] == ["long"]


def test_a_deletion_carries_what_was_last_said(bridge, log_trace):
    import mlflow

    trace_id = log_trace()
    written = feedback(trace_id, rationale="gone soon")
    (first,) = bridge.poll()
    mlflow.delete_assessment(trace_id, written)
    (last,) = bridge.poll()
    assert (last.change, last.revision, last.replaces) == ("deleted", 2, first.key)
    assert (last.value, last.rationale) == (True, "gone soon")
    assert bridge.poll() == []


def test_a_deleted_trace_takes_its_assessments_along(bridge, log_trace):
    from mlflow import MlflowClient

    kept, lost = log_trace(), log_trace()
    for trace_id in (kept, lost):
        feedback(trace_id)
    bridge.poll()
    MlflowClient().delete_traces(bridge.following.experiment_id, trace_ids=[lost])
    assert [(r.trace.trace_id, r.change) for r in bridge.poll()] == [(lost, "deleted")]


def test_an_override_takes_the_overridden_down_and_its_deletion_restores_it(bridge, log_trace):
    import mlflow
    from mlflow.entities import AssessmentSource

    trace_id = log_trace()
    old = feedback(trace_id)
    bridge.poll()
    new = mlflow.override_feedback(
        trace_id=trace_id, assessment_id=old, value=False, source=AssessmentSource("HUMAN", "ben")
    ).assessment_id
    assert {(r.assessment_id, r.change) for r in bridge.poll()} == {(old, "deleted"), (new, "created")}
    mlflow.delete_assessment(trace_id, new)
    assert {(r.assessment_id, r.change, r.revision) for r in bridge.poll()} == {
        (new, "deleted", 2),
        (old, "created", 3),
    }


def test_one_first_seen_overridden_is_created_and_deleted(bridge, log_trace):
    import mlflow

    trace_id = log_trace()
    old = feedback(trace_id)
    mlflow.override_feedback(trace_id=trace_id, assessment_id=old, value=False)
    assert [r.change for r in bridge.poll() if r.assessment_id == old] == ["created", "deleted"]


def test_a_late_label_on_an_old_trace_is_found(bridge, log_trace, age_traces):
    trace_id = log_trace()
    age_traces(400)
    log_trace()
    bridge.poll()
    written = feedback(trace_id)
    assert [r.assessment_id for r in bridge.poll()] == [written]


@pytest.mark.parametrize("skew_s", [-7200, 7200, -40 * 86400])
def test_a_writer_with_a_wrong_clock_is_found_and_hides_nobody_else(bridge, log_trace, skew_s):
    import mlflow
    from mlflow.entities import AssessmentSource, Feedback

    first, second = log_trace(), log_trace()
    bridge.poll()
    wrong = int((time.time() + skew_s) * 1000)
    mlflow.log_assessment(
        first,
        Feedback(
            name="tone",
            value=True,
            source=AssessmentSource("CODE", "skewed"),
            create_time_ms=wrong,
            last_update_time_ms=wrong,
        ),
    )
    assert [r.source_id for r in bridge.poll()] == ["skewed"]
    feedback(second)
    assert [r.source_id for r in bridge.poll()] == ["anna"]


def test_a_trace_with_a_wrong_clock_is_found(bridge, log_trace, age_traces):
    """Started in 2031, as its machine believed."""
    trace_id = log_trace()
    age_traces(-5 * 365)
    written = feedback(trace_id)
    assert [r.assessment_id for r in bridge.poll()] == [written]


def test_a_restart_ships_nothing_again(bridge, make_bridge, log_trace):
    for _ in range(3):
        feedback(log_trace())
    assert len(bridge.poll()) == 3
    again = make_bridge()
    again.following.everything()
    assert again.poll() == []


def test_reading_as_database_and_as_server_is_the_same(make_bridge, log_trace):
    """Changing MLFLOW_TRACKING_URI from the database to its server makes no revision of what did not change."""
    import mlflow
    from mlflow.entities import Expectation

    trace_id = log_trace()
    for value in (True, "yes", 1, 1.0, 0.25, "Grüße"):
        feedback(trace_id, name=f"v-{value}", value=value)
    mlflow.log_assessment(trace_id, Expectation(name="expected", value={"a": [1, 2.0]}))
    mlflow.log_feedback(trace_id=trace_id, name="failed", error=ValueError("no"))
    assert len(make_bridge().poll()) == 8
    assert make_bridge(server=True).poll() == []


def test_more_than_a_page_is_read(make_bridge, log_trace):
    from mlflow_assay.bridge.following import Pace

    bridge = make_bridge(server=True, pace=Pace(counts_every_s=0, sweep_every_s=0, busy_share=1.0, page=3, small=4))
    ids = {feedback(log_trace(), name=f"n{i % 3}") for i in range(20)}
    assert {r.assessment_id for r in bridge.poll()} == ids


def test_traces_of_one_millisecond_are_all_read(make_bridge, log_trace, same_time):
    from mlflow_assay.bridge.following import Pace

    bridge = make_bridge(server=True, pace=Pace(counts_every_s=1e9, sweep_every_s=0, busy_share=1.0, page=3))
    ids = {feedback(log_trace()) for _ in range(8)}
    same_time()
    assert bridge.following.everything() == 8
    assert {r.assessment_id for r in bridge.ship()} == ids


def test_since_leaves_older_traces_out(make_bridge, log_trace, age_traces):
    from mlflow_assay.bridge.following import Pace

    old = log_trace()
    age_traces(30)
    new = log_trace()
    for trace_id in (old, new):
        feedback(trace_id)
    pace = Pace(counts_every_s=0, sweep_every_s=0, busy_share=1.0, since_ms=int((time.time() - 86400) * 1000))
    for server in (False, True):
        bridge = make_bridge(server=server, pace=pace)
        bridge.following.poll()
    assert [r.trace.trace_id for r in bridge.ship()] == [new]


def test_another_experiment_is_left_alone(bridge, log_trace):
    import mlflow

    mlflow.set_experiment("other")
    with mlflow.start_span("x") as span:
        pass
    feedback(span.trace_id)
    mlflow.set_experiment("test")
    assert bridge.poll() == []


def test_the_watermark_is_behind_a_stamp_from_the_future(make_bridge, log_trace):
    import mlflow
    from mlflow.entities import AssessmentSource, Feedback

    from mlflow_assay.bridge.following import WATERMARK

    bridge = make_bridge()
    ahead = int((time.time() + 3600) * 1000)
    mlflow.log_assessment(
        log_trace(),
        Feedback(
            name="tone",
            value=True,
            source=AssessmentSource("CODE", "x"),
            create_time_ms=ahead,
            last_update_time_ms=ahead,
        ),
    )
    bridge.poll()
    assert int(bridge.outbox.mark(bridge.following.experiment_id, WATERMARK)) <= time.time() * 1000


@pytest.fixture
def age_traces(store):
    """Moves all traces so many days into the past, as if they had been recorded then."""
    import sqlite3

    def age(days: float) -> None:
        connection = sqlite3.connect(store.removeprefix("sqlite:///"))
        less = int(days * 86_400_000)
        connection.execute("UPDATE trace_info SET timestamp_ms = timestamp_ms - ?", (less,))
        connection.execute("UPDATE assessments SET trace_timestamp_ms = trace_timestamp_ms - ?", (less,))
        connection.commit()
        connection.close()

    return age


@pytest.fixture
def same_time(store):
    """Gives all traces the same start."""
    import sqlite3

    def level() -> None:
        connection = sqlite3.connect(store.removeprefix("sqlite:///"))
        connection.execute("UPDATE trace_info SET timestamp_ms = (SELECT MAX(timestamp_ms) FROM trace_info)")
        connection.execute("UPDATE assessments SET trace_timestamp_ms = (SELECT MAX(timestamp_ms) FROM trace_info)")
        connection.commit()
        connection.close()

    return level


def test_counts_alone_find_creation_edit_of_the_value_and_deletion_on_any_trace(make_bridge, log_trace, age_traces):
    """Between two sweeps; through a server there is nothing else for old traces."""
    import mlflow
    from mlflow.entities import Feedback

    from mlflow_assay.bridge.following import Pace

    trace_ids = [log_trace() for _ in range(3)]
    age_traces(90)
    bridge = make_bridge(server=True, pace=Pace(counts_every_s=0, sweep_every_s=1e9, busy_share=1.0))
    written = [feedback(trace_id) for trace_id in trace_ids]
    assert len(bridge.poll()) == 3
    later = feedback(trace_ids[0], name="late")
    assert [r.assessment_id for r in bridge.poll()] == [later]
    mlflow.update_assessment(trace_ids[1], written[1], Feedback(name="tone", value=False))
    assert [(r.assessment_id, r.change) for r in bridge.poll()] == [(written[1], "edited")]
    mlflow.delete_assessment(trace_ids[2], written[2])
    assert [(r.assessment_id, r.change) for r in bridge.poll()] == [(written[2], "deleted")]


def test_counts_that_cannot_agree_are_not_read_again_and_again(make_bridge, log_trace, store):
    """A trace that moved in time after it was assessed: MLflow's own counts keep the old time."""
    import sqlite3

    from mlflow_assay.bridge.following import Pace

    feedback(log_trace())
    bridge = make_bridge(server=True, pace=Pace(counts_every_s=0, sweep_every_s=1e9, busy_share=1.0))
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute("UPDATE trace_info SET timestamp_ms = timestamp_ms - 86400000")
    connection.commit()
    for _ in range(3):
        bridge.poll()
    asked = []
    bridge.following.reads.page = lambda *a, **k: asked.append(a)
    bridge.following.poll()
    assert asked == []
