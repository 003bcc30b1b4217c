"""`assay watch` and `assay bridge` from the outside: processes, exit codes, redaction, health, no secret in the log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.cli.bridge import bridge
from mlflow_assay.cli.bridge_options import make_sinks, parse_sink
from mlflow_assay.cli.watch import watch
from mlflow_assay.errors import AssayError, ConfigError
from mlflow_assay.testing import FarEnd

from .conftest import eventually

SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD"


def note(trace_id: str, **more: object) -> str:
    import mlflow
    from mlflow.entities import AssessmentSource

    facts = {"name": "tone", "value": True, "source": AssessmentSource("HUMAN", "anna@example.com"), **more}
    return str(mlflow.log_feedback(trace_id=trace_id, **facts).assessment_id)


def run(command, *arguments: str) -> dict:
    done = CliRunner().invoke(command, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return {"code": done.exit_code, "out": done.stdout, "err": done.stderr}


@pytest.fixture
def once(outbox_url, tmp_path):
    """Runs `assay watch --once` into a file of lines; gives those lines."""

    def go(*more: str) -> list[dict]:
        lines = tmp_path / "lines.jsonl"
        run(
            watch,
            "-e",
            "test",
            "--sink",
            f"jsonl,path={lines}",
            "--outbox",
            outbox_url,
            "--once",
            "--settle",
            "0",
            *more,
        )
        return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []

    return go


def test_once_judges_ships_and_a_second_time_does_nothing(once, log_trace):
    for _ in range(3):
        note(log_trace())
    assert len(once("-j", "latency_limit")) == 6
    assert len(once("-j", "latency_limit")) == 6


def test_redaction_masks_what_leaves_and_what_is_kept(once, log_trace, outbox_url):
    from pathlib import Path

    note(
        log_trace(session="anna@example.com"),
        rationale=f"Card 4111 1111 1111 1111, key {SECRET}",
        metadata={"contact": "call +49 30 901820 or anna@example.com"},
    )
    (line,) = once("--redact")
    kept = b"".join(p.read_bytes() for p in Path(outbox_url.removeprefix("sqlite:///")).parent.glob("outbox.db*"))
    for planted in ("anna@example.com", "4111 1111 1111 1111", SECRET, "901820"):
        assert planted not in json.dumps(line)
        assert planted.encode() not in kept
    assert line["value"] is True and line["trace"]["trace_id"].startswith("tr-")


def test_reconcile_says_what_is_missing_and_repairs_it(once, log_trace, outbox_url, tmp_path):
    for _ in range(3):
        note(log_trace())
    once()
    lines = tmp_path / "lines.jsonl"
    held = lines.read_text().splitlines(keepends=True)
    sink = f"jsonl,path={lines}"
    clean = run(bridge, "reconcile", "-e", "test", "--sink", sink, "--outbox", outbox_url, "--json")
    assert clean["code"] == 0 and json.loads(clean["out"])["clean"]
    lines.write_text("".join([held[0], held[0], held[1]]))
    found = run(bridge, "reconcile", "-e", "test", "--sink", sink, "--outbox", outbox_url, "--json", "--repair")
    (check,) = json.loads(found["out"])["sinks"]
    assert found["code"] == 1
    assert (check["missing_count"], check["duplicates"], check["requeued"]) == (1, 1, 1)
    once()
    assert len({json.loads(line)["key"] for line in lines.read_text().splitlines()}) == 3


def test_what_is_not_in_the_outbox_yet_is_said(once, log_trace, outbox_url):
    once()
    late = note(log_trace())
    found = run(bridge, "reconcile", "-e", "test", "--outbox", outbox_url, "--json")
    assert json.loads(found["out"])["mlflow"][0]["unknown"] == [late]
    assert found["code"] == 1


def test_where_gauges_cannot_be_pushed_it_still_says_how_things_stand(log_trace, outbox_url):
    """Else the one thing told of a wrong endpoint would be the gauges, and not the verdicts that wait."""
    note(log_trace())
    with FarEnd(status=404) as far_end:
        where = ("-e", "test", "--otlp-endpoint", far_end.url, "--outbox", outbox_url)
        done = run(watch, *where, "--once", "--timeout-once", "0")
    assert done["code"] == 1
    assert "otlp-span: 0 delivered, 1 to go" in done["out"]
    assert "Not everything was delivered" in done["err"]


def test_dead_letters_are_listed_and_replayed(once, log_trace, outbox_url):
    from mlflow_assay.bridge.database import Database
    from mlflow_assay.bridge.deliveries import Deliveries
    from mlflow_assay.contracts import Delivery

    once()
    note(log_trace())
    run(
        watch,
        "-e",
        "test",
        "--sink",
        "jsonl,path=/nowhere/at/all.jsonl",
        "--outbox",
        outbox_url,
        "--once",
        "--timeout-once",
        "0",
    )
    sending = Deliveries(Database(outbox_url))
    claimed = sending.claim("jsonl", "me", 10, 60)
    sending.settle("jsonl", "me", [(one, Delivery("rejected", "no such folder")) for one in claimed])
    sending.database.close()
    (letter,) = json.loads(run(bridge, "dead", "--outbox", outbox_url, "--json")["out"])
    assert letter["reason"] == "no such folder"
    assert "no such folder" in run(bridge, "dead", "--outbox", outbox_url)["out"]
    assert json.loads(run(bridge, "replay", "--sink", "jsonl", "--outbox", outbox_url, "--json")["out"]) == {
        "replayed": 1
    }
    assert len(once()) == 1
    (status,) = json.loads(run(bridge, "status", "--outbox", outbox_url, "--json")["out"])["sinks"]
    assert (status["delivered"], status["dead"]) == (1, 0)


def test_undelivered_is_an_exit_code(log_trace, outbox_url):
    note(log_trace())
    sink = "otlp-event,endpoint=http://127.0.0.1:1"
    done = run(watch, "-e", "test", "--sink", sink, "--outbox", outbox_url, "--once", "--timeout-once", "1", "--json")
    assert done["code"] == 1
    (status,) = json.loads(done["out"])["sinks"]
    assert status["retrying"] == 1 and status["oldest_error"]


def test_mistakes_are_said_before_anything_is_done(store, log_trace, outbox_url):
    log_trace()
    for arguments, said in (
        ([], "nothing to do"),
        (["--sink", "jsnol"], "Did you mean 'jsonl'"),
        (["--sink", "jsonl,colour=red"], "has no option 'colour'"),
        (["--sink", "jsonl,path"], "cannot be read"),
        (["--sink", "jsonl", "--sink", "jsonl"], "Two sinks are named 'jsonl'"),
        (["--sink", "jsonl", "--max-calls", "3"], "no --judge was named"),
    ):
        with pytest.raises(AssayError, match=said):
            run(watch, "-e", "test", "--outbox", outbox_url, "--once", *arguments)
    with pytest.raises(AssayError, match="There is no outbox at"):
        run(bridge, "status", "--outbox", "sqlite:////nowhere/outbox.db")


def test_an_outbox_of_another_mlflow_is_refused(once, log_trace, store, tmp_path, _empty_store, monkeypatch):
    """Its experiment 1 is not ours: everything there would seem deleted."""
    import shutil

    import mlflow

    note(log_trace())
    assert len(once()) == 1
    shutil.copy(_empty_store, tmp_path / "other.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    mlflow.set_experiment("test")
    with pytest.raises(ConfigError, match="used with another MLflow"):
        once()


def test_each_option_is_a_field_of_the_request_and_each_field_an_option():
    from dataclasses import fields

    from mlflow_assay.cli.watch_request import Request

    options = [parameter.name for parameter in watch.params]
    assert sorted(options) == sorted(field.name for field in fields(Request))


@pytest.mark.parametrize("command", [watch, bridge])
def test_help_states_what_each_installed_sink_promises_and_imports_nothing_heavy(command):
    """A stranger's sink too, and one that says nothing is still at least once."""
    from mlflow_assay import registry

    code = f"from mlflow_assay.cli import assay; assay([{command.name!r}, '--help'], standalone_mode=False)"
    code += (
        "\nimport sys; print('heavy', sorted({'mlflow', 'requests', 'opentelemetry', 'sqlalchemy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "heavy []"
    words = " ".join(told.split())
    for name in registry.available("bridge_sinks"):
        assert f"{name} {registry.load('bridge_sinks', name).guarantee}" in words
    assert "at least once" in words and "promise ends where the endpoint acknowledges" in words


def test_sinks_on_the_command_line():
    assert parse_sink("jsonl,path=a=b.jsonl,as=lines") == ("lines", "jsonl", {"path": "a=b.jsonl"})
    made = make_sinks([], "http://127.0.0.1:4318", False)
    assert list(made) == ["otlp-span", "otlp-event", "otlp-metrics"]
    for sink in made.values():
        sink.close()
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_sink("jsonl,=x")


@pytest.mark.integration
@pytest.mark.slow
def test_the_worker_serves_its_health_on_loopback_logs_no_secret_and_ends_on_sigterm(
    log_trace, store, outbox_url, tmp_path, key_server
):
    note(log_trace())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key_server.mode = "500"
    sinks = ["--sink", f"langfuse,host={key_server.url},public_key=pk-1,secret_key={SECRET}"]
    sinks += ["--sink", f"jsonl,path={tmp_path}/lines.jsonl"]
    code = "from mlflow_assay.cli import main; main()"
    arguments = ["watch", "-e", "test", *sinks, "--poll", "0.1", "--outbox", outbox_url, "--health-port", str(port)]
    command = [sys.executable, "-c", code, *arguments]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [*command, "--log-format", "json"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "MLFLOW_TRACKING_URI": store},
        )

    def ask(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    try:
        eventually(lambda: ask("/healthz") == "ok\n", 60)
        eventually(lambda: (tmp_path / "lines.jsonl").exists() and (tmp_path / "lines.jsonl").read_text(), 60)
        eventually(lambda: '"retrying": 1' in ask("/status"), 60)
        metrics = ask("/metrics")
        assert 'assay_bridge_backlog{assay_sink="jsonl",assay_state="pending"} 0' in metrics
        assert 'assay_sink="langfuse"' in metrics
        assert 'assay_bridge_deliveries_total{assay_sink="jsonl",assay_state="delivered"} 1' in metrics
        assert f'{semconv.prometheus_name(semconv.M_DELIVERY, "count")}{{assay_sink="jsonl"}} 1' in metrics
        with socket.socket() as elsewhere:
            elsewhere.settimeout(2)
            assert elsewhere.connect_ex((_own_address(), port)) != 0 or _own_address().startswith("127.")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0
    finally:
        worker.kill()
        worker.wait()
    text = (tmp_path / "log").read_text()
    assert SECRET not in text and SECRET not in metrics
    assert all(json.loads(line)["message"] for line in text.splitlines() if line.startswith("{"))
    assert "stopped" in text


def _own_address() -> str:
    return socket.gethostbyname(socket.gethostname())
