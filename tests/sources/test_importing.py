from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from mlflow_assay import semconv
from mlflow_assay.errors import IncompleteError, InputError, StoreError
from mlflow_assay.sources import mlflow_spans
from mlflow_assay.sources.importing import import_runs, plan
from mlflow_assay.sources.otlp_json import OtlpJsonImporter
from mlflow_assay.sources.tau2 import Tau2Importer

TRACE, OTHER = "5b8aa5a2d2c872e8321cf37308d69df2", "0af7651916cd43dd8448eb211c80319c"
ROOT, CHILD, LATE = "051581bf3cb55c13", "b7ad6b7169203331", "c7ad6b7169203332"


def bring(*paths, importer=None, experiment="runs", verdicts=False, progress=lambda n: None):
    importer = importer or Tau2Importer()
    planned = plan(importer, paths, verdicts=verdicts)
    return import_runs(importer, paths, planned, experiment, progress=progress)


def bring_otlp(*paths, **more):
    return bring(*paths, importer=OtlpJsonImporter(), **more)


def stored(experiment="runs"):
    import mlflow

    found = mlflow.get_experiment_by_name(experiment)
    return mlflow.search_traces(locations=[found.experiment_id], return_type="list") if found else []


def values(trace):
    return {a.name: a.value for a in trace.info.assessments}


# --- what arrives ---------------------------------------------------------------------------------------


def test_a_run_arrives_whole(store, simulation_file):
    done = bring(simulation_file)
    trace = stored()[0]

    assert (done.traces_new, done.spans_new, dict(done.new)) == (1, 10, {"expectation": 2, "feedback": 1})
    assert len(trace.data.spans) == 10
    assert (trace.info.request_time, trace.info.execution_duration) == (1_740_823_200_000, 8000)
    assert (trace.info.request_preview, trace.info.response_preview) == (
        "The lamp is dark.",
        "Please press the switch.",
    )
    assert trace.info.trace_metadata["mlflow.trace.session"] == "run-1"
    assert trace.info.client_request_id == "run-1"
    assert {trace.info.tags[k] for k in ("domain", "task", "model", "agent")} == {
        "lamps",
        "lamp-off",
        "gpt-tiny",
        "llm_agent",
    }
    assert (trace.info.tags[semconv.SOURCE_FORMAT], trace.info.tags[semconv.SOURCE_ID]) == ("tau2", "run-1")
    assert values(trace)["task_success"] is True


def test_tokens_and_cost_are_the_agents_and_recorded(store, simulation_file):
    bring(simulation_file)
    info = stored()[0].info

    assert info.token_usage == {"input_tokens": 250, "output_tokens": 15, "total_tokens": 265}
    assert info.cost["total_cost"] == pytest.approx(0.003)


def test_a_cost_that_was_not_recorded_is_not_0_and_not_guessed(store, write, simulations):
    """MLflow would put a list price on a known model's tokens."""
    simulations["info"]["agent_info"]["llm"] = "gpt-4o-mini"
    for message in simulations["simulations"][0]["messages"]:
        message["cost"] = 0.0
    bring(write(simulations))

    assert stored()[0].info.cost is None


def test_mlflows_own_readers_see_request_reply_tools_and_errors(store, simulation_file):
    from mlflow.genai.utils import trace_utils

    bring(simulation_file)
    trace = stored()[0]

    assert trace_utils.extract_request_from_trace(trace) == "The lamp is dark."
    assert trace_utils.extract_response_from_trace(trace) == "Please press the switch."
    tools = trace_utils.extract_tools_called_from_trace(trace)
    assert [(t.name, t.exception) for t in tools] == [
        ("find_lamp", None),
        ("find_plug", "Error: Error: no plug in hall"),
    ]


def test_texts_of_two_megabytes_arrive_unshortened(store, write, simulations):
    long = "long 漢字 " * 200_000
    simulations["simulations"][0]["messages"][1]["content"] = long
    bring(write(simulations))

    assert stored()[0].data.spans[0].inputs["messages"][0]["content"] == long


def test_an_unscored_verdict_is_an_error_not_a_fail(store, judge_file, entry):
    bring(judge_file(entry(verdict="unknown")), verdicts=True)
    verdict = next(a for a in stored()[0].info.assessments if a.name == "lamp_check_v2")

    assert (verdict.value, verdict.error.error_code) == (None, "off_menu")
    assert verdict.metadata[semconv.RAW_VALUE] == "unknown"


# --- once, and only once --------------------------------------------------------------------------------


def test_importing_again_adds_nothing(store, simulation_file, judge_file, entry):
    files = (simulation_file, judge_file(entry(), entry(run="run-10")))
    first = bring(*files, verdicts=True)
    again = bring(*files, verdicts=True)

    assert (first.traces_new, first.spans_new) == (3, 28)
    assert (again.traces_new, again.spans_new, again.traces_there, again.spans_there) == (0, 0, 3, 28)
    assert (dict(again.new), dict(again.there)) == ({}, {"expectation": 2, "feedback": 3, "verdict": 2})
    assert len(stored()) == 3
    assert sum(len(t.info.assessments) for t in stored()) == 7


@pytest.mark.parametrize("together", [True, False])
def test_a_second_judges_file_adds_only_its_verdicts(store, judge_file, entry, together):
    one = judge_file(entry(judge="a_v1"), entry("run-10", judge="a_v1"), name="a.json")
    two = judge_file(entry("run-10", "fail", judge="b_v1"), entry(judge="b_v1", verdict="fail"), name="b.json")
    if together:
        done = bring(one, two, verdicts=True)
        assert (done.traces_new, done.new["verdict"], done.new["feedback"]) == (2, 4, 2)
    else:
        bring(one, verdicts=True)
        done = bring(two, verdicts=True)
        assert (done.traces_new, done.spans_new, dict(done.new)) == (0, 0, {"verdict": 2})
    assert [values(t) for t in stored()] == [{"task_success": False, "a_v1": True, "b_v1": False}] * 2


def test_verdicts_come_only_when_asked_for_and_may_come_later(store, judge_file, entry):
    path = judge_file(entry())
    bring(path)
    assert values(stored()[0]) == {"task_success": False}

    assert dict(bring(path, verdicts=True).new) == {"verdict": 1}
    assert values(stored()[0]) == {"task_success": False, "lamp_check_v2": True}


def test_two_experiments_may_hold_the_same_run(store, simulation_file):
    bring(simulation_file)
    done = bring(simulation_file, experiment="more runs")

    assert (done.traces_new, len(stored()), len(stored("more runs"))) == (1, 1, 1)


def test_an_import_that_was_cut_short_is_finished_by_the_next(store, simulation_file):
    """Spans without the trace's record, which is written last, are not taken for a whole trace."""
    import mlflow
    from mlflow.tracing.client import TracingClient

    experiment = mlflow.create_experiment("runs")
    run = next(Tau2Importer().runs(simulation_file))
    whole = bring(simulation_file)
    trace_id = stored()[0].info.trace_id.removeprefix("tr-")
    mlflow.MlflowClient().delete_traces(experiment, trace_ids=[f"tr-{trace_id}"])
    TracingClient().log_spans(experiment, mlflow_spans.to_spans(run, trace_id)[:4])

    done = bring(simulation_file)

    assert (done.traces_new, done.traces_there) == (1, 0)
    assert len(stored()[0].data.spans) == whole.spans_new
    assert values(stored()[0])["task_success"] is True


# --- completeness ---------------------------------------------------------------------------------------


def test_a_trace_that_is_lost_is_reported(store, simulation_file):
    import mlflow

    def lose(_):
        for trace in stored():
            mlflow.MlflowClient().delete_traces(trace.info.experiment_id, trace_ids=[trace.info.trace_id])

    with pytest.raises(IncompleteError, match=r"1 missing\. Found: trace tr-.*Run the same command again"):
        bring(simulation_file, progress=lose)


def test_an_assessment_that_is_lost_is_reported(store, simulation_file):
    import mlflow

    def lose(_):
        for trace in stored():
            for a in trace.info.assessments:
                if a.name == "task_success":
                    mlflow.delete_assessment(trace.info.trace_id, a.assessment_id)

    with pytest.raises(IncompleteError, match="assessment 'task_success' of tr-"):
        bring(simulation_file, progress=lose)


def test_spans_that_are_lost_are_counted(store, simulation_file):
    import sqlite3

    def lose(_):
        with sqlite3.connect(store.removeprefix("sqlite:///")) as db:
            db.execute("DELETE FROM spans WHERE name LIKE 'find_%'")

    with pytest.raises(IncompleteError, match="2 spans of tr-"):
        bring(simulation_file, progress=lose)


# --- OTLP -----------------------------------------------------------------------------------------------


def test_genai_and_mlflow_attributes_are_both_understood(store, write, export, span):
    genai = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "my-own-model",
        "gen_ai.usage.input_tokens": {"intValue": "100"},
        "gen_ai.usage.output_tokens": {"intValue": "20"},
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]),
        "gen_ai.conversation.id": "talk-1",
        "mlflow.llm.cost": '{"total_cost": 0.25}',
    }
    own = {"mlflow.spanType": '"AGENT"', "mlflow.spanInputs": '{"q": "hello"}', "mlflow.spanOutputs": '"bye"'}
    bring_otlp(
        write([export(span(TRACE, ROOT, attributes=own), span(TRACE, CHILD, ROOT, attributes=genai))], lines=True)
    )
    trace = stored()[0]
    root, chat = sorted(trace.data.spans, key=lambda s: s.parent_id or "")

    assert (root.span_type, root.inputs, root.outputs) == ("AGENT", {"q": "hello"}, "bye")
    assert (chat.span_type, chat.model_name) == ("CHAT_MODEL", "my-own-model")
    assert (trace.info.token_usage["total_tokens"], trace.info.cost["total_cost"]) == (120, 0.25)
    assert trace.info.trace_metadata["mlflow.trace.session"] == "talk-1"
    assert (trace.info.tags["service.name"], trace.info.tags[semconv.SOURCE_FORMAT]) == ("shop", "otlp-json")
    assert trace.info.request_time == 1_740_823_200_000


def test_a_trace_spread_over_lines_and_files_is_one_trace(store, write, export, span):
    one = write([export(span(TRACE, CHILD, ROOT)), export(span(OTHER, ROOT))], "a.jsonl", lines=True)
    two = write([export(span(TRACE, ROOT), service="front")], "b.jsonl", lines=True)
    done = bring_otlp(one, two)

    assert (done.traces_new, done.spans_new) == (2, 3)
    assert sorted(len(t.data.spans) for t in stored()) == [1, 2]


def test_a_later_import_adds_only_the_spans_that_are_new(store, write, export, span):
    one = write([export(span(TRACE, ROOT), span(TRACE, CHILD, ROOT))], "a.jsonl", lines=True)
    bring_otlp(one)
    two = write([export(span(TRACE, ROOT), span(TRACE, LATE, CHILD))], "b.jsonl", lines=True)
    done = bring_otlp(one, two)

    assert (done.traces_new, done.traces_there, done.spans_new, done.spans_there) == (0, 1, 1, 2)
    assert {s.span_id for s in stored()[0].data.spans} == {ROOT, CHILD, LATE}


def test_a_trace_another_experiment_holds_is_left_there_and_reported(store, write, export, span):
    path = write([export(span(TRACE, ROOT))], lines=True)
    bring_otlp(path)
    done = bring_otlp(path, experiment="other")

    assert (done.elsewhere, done.traces_new, done.spans_new, stored("other")) == ([f"tr-{TRACE}"], 0, 0, [])


def test_a_broken_line_leaves_nothing_half_imported(store, write, export, span):
    good = write([export(span(TRACE, ROOT))], "a.jsonl", lines=True)
    bad = write([export(span(OTHER, ROOT)), {"resourceSpans": 1}], "b.jsonl", lines=True)

    with pytest.raises(InputError, match=r"b\.jsonl:2"):
        bring_otlp(good, bad)
    assert stored() == []


# --- stores that do not answer --------------------------------------------------------------------------


def test_a_deleted_experiment_says_how_to_get_it_back(store, simulation_file):
    import mlflow

    mlflow.delete_experiment(mlflow.create_experiment("runs"))

    with pytest.raises(StoreError, match=r"'runs' has been deleted.*mlflow experiments restore -x"):
        bring(simulation_file)


def test_an_unreachable_server_is_reported_at_once(store, simulation_file):
    import mlflow

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
    started = time.monotonic()

    with pytest.raises(StoreError, match="does not answer"):
        bring(simulation_file)
    assert time.monotonic() - started < 30


def test_a_locked_database_is_a_clear_error(store, simulation_file):
    import sqlite3

    import mlflow

    mlflow.set_experiment("runs")
    path = store.removeprefix("sqlite:///")
    holder = sqlite3.connect(path)
    mlflow.set_tracking_uri(f"{store}?timeout=0.2")  # MLflow's own wait is five seconds
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match=r"locked.*Run the same command again"):
            bring(simulation_file)
    finally:
        holder.rollback()
        holder.close()


@pytest.fixture
def server(store):
    """A real MLflow server over the test's SQLite file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).read()  # noqa: S310 - our own server
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
        else:
            pytest.fail("the MLflow server did not start in two minutes")
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
@pytest.mark.integration
def test_through_a_server_the_same_arrives(server, simulation_file, judge_file, entry, write, export, span):
    import mlflow

    mlflow.set_tracking_uri(server)
    files = (simulation_file, judge_file(entry(), entry("run-10", "unknown")))
    first, again = bring(*files, verdicts=True), bring(*files, verdicts=True)
    lines = [export(span(TRACE, ROOT), service="front"), export(span(TRACE, CHILD, ROOT), service="back")]
    otlp = bring_otlp(write(lines, "t.jsonl", lines=True), experiment="otlp")

    assert (first.traces_new, first.spans_new, dict(first.new)) == (
        3,
        28,
        {"expectation": 2, "feedback": 3, "verdict": 2},
    )
    assert (again.traces_new, again.spans_new, dict(again.new)) == (0, 0, {})
    found = {t.info.client_request_id: t for t in stored()}
    assert (found["run-1"].info.request_time, found["run-1"].info.execution_duration) == (1_740_823_200_000, 8000)
    assert found["run-1"].info.cost["total_cost"] == pytest.approx(0.003)
    assert values(found["run-10"]) == {"task_success": False, "lamp_check_v2": None}
    assert (otlp.traces_new, otlp.spans_new) == (1, 2)
    assert stored("otlp")[0].info.tags["service.name"] in ("front", "back")
