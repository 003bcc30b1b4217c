"""`assay receive` as a process: started, killed, started again; against a file store and a real MLflow server."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

JUDGED = {"gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 0.75}
MAIN = [sys.executable, "-c", "from mlflow_assay.cli import main; main()", "receive"]

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def start(tmp_path):
    """A function that starts the command and gives it with its address."""
    processes = []

    def run(*arguments, **environment):
        process = subprocess.Popen(
            [*MAIN, "--port", "0", "--json", "--inbox", str(tmp_path / "inbox.db"), *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)["url"]

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(20)


def log_json(trace_id, attributes, **record):
    """One evaluation event as OTLP/JSON."""
    held = [
        {"key": key, "value": {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}}
        for key, value in attributes.items()
    ]
    event = "gen_ai.evaluation.result"
    one = {"eventName": event, "traceId": trace_id.removeprefix("tr-"), "attributes": held, **record}
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [one]}]}]}).encode()


def send(url, body):
    """Post OTLP/JSON; the answer, or an OSError where there is none."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{url}/v1/logs", data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.load(answer)


def assessments(trace_id):
    from mlflow.tracing.client import TracingClient

    return TracingClient().get_trace_info(trace_id).assessments


def until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)
    return found


def test_it_stores_stops_on_sigterm_and_says_its_state(start, log_trace, tmp_path):
    trace_id = log_trace()
    process, url = start("--experiment", "test")
    assert url.startswith("http://127.0.0.1:")
    assert send(url, log_json(trace_id, JUDGED)) == {}
    until(lambda: assessments(trace_id))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "1 accepted" in said
    assert "1 stored" in said
    status = subprocess.run(
        [*MAIN, "--status", "--json", "--inbox", str(tmp_path / "inbox.db")], capture_output=True, text=True
    )
    assert json.loads(status.stdout) == {"waiting": 0, "given_up": {}}


def test_wrong_settings_end_with_one_clear_message(log_trace, tmp_path):
    log_trace()
    for arguments, message in (
        (["--status", "--inbox", str(tmp_path / "none.db")], "There is no inbox"),
        (["--host", "0.0.0.0", "--inbox", str(tmp_path / "i.db")], "without a token"),  # noqa: S104
        (["--keep", "soon", "--inbox", str(tmp_path / "i.db")], "is no time"),
        (["--experiment", "nowhere", "--inbox", str(tmp_path / "i.db")], "There is no experiment 'nowhere'"),
    ):
        done = subprocess.run([*MAIN, *arguments], capture_output=True, text=True, timeout=60)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_nothing_acknowledged_is_lost_or_doubled_when_it_is_killed_again_and_again(start, log_trace):
    """kill -9 at random moments under load; the client sends again what was not acknowledged, as exporters do."""
    randomness, acknowledged, lock = random.Random(7), set(), threading.Lock()  # noqa: S311
    traces = [log_trace() for _ in range(5)]
    address = [""]
    todo = [(trace, f"e{number}") for number in range(60) for trace in traces]
    finished = threading.Event()

    def client():
        for trace_id, name in todo:
            body = log_json(trace_id, {**JUDGED, "gen_ai.evaluation.name": name}, timeUnixNano="1795300000000000000")
            while True:
                try:
                    send(address[0], body)
                    break
                except (OSError, ValueError):
                    time.sleep(0.05)
            with lock:
                acknowledged.add((trace_id, name))
        finished.set()

    process, address[0] = start()
    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    for _ in range(4):
        time.sleep(randomness.uniform(0.2, 1.2))
        process.kill()
        process.wait(20)
        process, address[0] = start()
    assert finished.wait(120)
    assert len(acknowledged) == len(todo)
    expected = {name for _, name in todo}
    until(lambda: all(len(assessments(trace)) >= len(expected) for trace in traces))
    for trace in traces:
        names = [made.name for made in assessments(trace)]
        assert sorted(names) == sorted(expected)


def test_it_works_through_a_real_mlflow_server(start, tmp_path, _empty_store, monkeypatch, mlflow_server):
    """Unknown traces and duplicates are told apart from an outage by the server's own answers."""
    import mlflow

    before = mlflow.get_tracking_uri()
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", database=_empty_store) as uri:
        try:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment("over http")
            with mlflow.start_span("agent") as span:
                span.set_inputs({"q": 1})
            mlflow.flush_trace_async_logging()
            known, unknown = span.trace_id, "tr-" + "7a" * 16
            _, url = start("--keep", "1s")
            for _ in range(2):
                send(url, log_json(known, JUDGED))
                send(url, log_json(unknown, JUDGED))
            until(lambda: assessments(known))
            health = until(lambda: _health(url) if _health(url).get("given up") else None)
            assert (health["stored"], health["waiting"], health["duplicates"]) == (1, 0, 2)
            assert len(assessments(known)) == 1
        finally:
            mlflow.tracing.reset()
            mlflow.set_tracking_uri(before)


def _health(url):
    with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310
        return json.load(answer)
