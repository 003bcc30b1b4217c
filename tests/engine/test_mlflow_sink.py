"""The MLflow sink: the one-transaction path stores what `log_assessment` would, and nothing twice."""

from __future__ import annotations

import sqlite3
import threading
import time

import mlflow
import pytest
from mlflow.entities import AssessmentSource, Feedback
from mlflow.entities.assessment_error import AssessmentError

from mlflow_assay.errors import SinkError
from mlflow_assay.sinks.mlflow_assessments import MlflowSink, assessment_id


def feedback(trace_id, revision=0, **more):
    made = Feedback(
        name="looks_right",
        source=AssessmentSource("LLM_JUDGE", "openai:/fake"),
        metadata={"assay.outcome": "pass", "mlflow.assessment.judgeCost": 0.001},
        trace_id=trace_id,
        create_time_ms=1_700_000_000_000,
        last_update_time_ms=1_700_000_000_000,
        **more,
    )
    made.assessment_id = assessment_id(trace_id, made.name, "d", revision)
    return made


CASES = [
    {"value": True, "rationale": "because"},
    {"value": "yes", "span_id": "00f067aa0ba902b7"},
    {"value": 0.5},
    {"value": 3},
    {"error": AssessmentError("timeout", "no answer")},
    {"value": {"a": 1}, "rationale": "ü\u2603" * 100},
]


def rows(store: str, trace_id: str):
    with sqlite3.connect(store.removeprefix("sqlite:///")) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("select * from assessments where trace_id = ?", (trace_id,)).fetchall()
    return [dict(row) for row in found]


@pytest.mark.parametrize("case", CASES)
def test_the_fast_path_stores_the_row_log_assessment_stores(store, log_trace, case):
    slow_trace, fast_trace = log_trace(), log_trace()
    assert MlflowSink(fast=True).write([feedback(fast_trace, **case)]) == 1
    assert MlflowSink(fast=False).write([feedback(slow_trace, **case)]) == 1
    (slow,), (fast,) = rows(store, slow_trace), rows(store, fast_trace)
    own = ("assessment_id", "trace_id", "trace_timestamp_ms")
    assert {k: v for k, v in fast.items() if k not in own} == {k: v for k, v in slow.items() if k not in own}
    assert fast["trace_timestamp_ms"] == mlflow.get_trace(fast_trace).info.timestamp_ms


@pytest.mark.parametrize("fast", [True, False])
def test_writing_again_stores_nothing_twice(store, log_trace, fast):
    trace_id = log_trace()
    for _ in range(3):
        assert MlflowSink(fast=fast).write([feedback(trace_id, value=True)]) == 1
    assert len(rows(store, trace_id)) == 1


@pytest.mark.parametrize("fast", [True, False])
def test_an_overridden_verdict_stays_but_is_not_valid(store, log_trace, fast):
    trace_id = log_trace()
    sink = MlflowSink(fast=fast)
    old, new = feedback(trace_id, value=False), feedback(trace_id, 1, value=True)
    new.overrides = old.assessment_id
    sink.write([old])
    sink.write([new])
    assert {r["assessment_id"]: bool(r["valid"]) for r in rows(store, trace_id)} == {
        old.assessment_id: False,
        new.assessment_id: True,
    }


@pytest.mark.parametrize("fast", [True, False])
def test_a_trace_that_is_gone_is_an_error_that_names_it(store, log_trace, fast):
    gone = "tr-" + "0" * 32
    with pytest.raises(SinkError, match=f"1 of 2 verdicts were not stored.*{gone}"):
        MlflowSink(fast=fast).write([feedback(log_trace(), value=True), feedback(gone, value=True)])


def test_a_locked_sqlite_file_is_waited_for(store, log_trace):
    trace_id = log_trace()
    sink = MlflowSink()
    lock = sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    lock.execute("begin exclusive")

    def release():
        time.sleep(1.0)
        lock.execute("rollback")
        lock.close()

    thread = threading.Thread(target=release)
    thread.start()
    assert sink.write([feedback(trace_id, value=True)]) == 1
    thread.join()
    assert len(rows(store, trace_id)) == 1
