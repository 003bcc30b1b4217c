"""`assay env`: what it prints is what the shell, a .env reader, Compose and Kubernetes understand; and --check."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from mlflow_assay.cli import assay
from mlflow_assay.errors import ConfigError
from mlflow_assay.telemetry.check import _said

ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("OTEL_", "DD_", "ASSAY_"))]:
        monkeypatch.delenv(name)


def run(*arguments, **environment):
    done = CliRunner().invoke(assay, ["env", *arguments], env=environment, catch_exceptions=True)
    if isinstance(done.exception, ConfigError):
        raise done.exception
    return done


def as_json(*arguments):
    return json.loads(run(*arguments, "--json").output)["variables"]


def test_it_sets_dual_export_over_http_with_the_conventions():
    assert as_json("--endpoint", "http://127.0.0.1:4318", "--service", "support", "--environment", "prod") == {
        ENDPOINT: "http://127.0.0.1:4318/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "MLFLOW_ENABLE_OTLP_EXPORTER": "true",
        "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT": "true",
        "MLFLOW_ENABLE_OTEL_GENAI_SEMCONV": "true",
        "OTEL_SERVICE_NAME": "support",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod",
    }


def test_the_base_endpoint_is_never_set_since_it_turns_on_mlflows_metrics():
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in as_json("--endpoint", "http://127.0.0.1:4318")


def test_datadog_takes_its_intake_and_the_key_by_reference():
    made = as_json("--datadog", "--site", "datadoghq.eu", "--service", "support")
    assert made[ENDPOINT] == "https://otlp.datadoghq.eu/v1/traces"
    assert made[HEADERS] == "dd-api-key=${DD_API_KEY},dd-otlp-source=llmobs"
    assert made["OTEL_RESOURCE_ATTRIBUTES"] == "dd_llmobs_enabled=true"


ARGUMENTS = ["--endpoint", "http://h:4318", "--service", "it's $HOME", "--header", "x-key=$MY_KEY", "--sample", "0.1"]


def test_a_shell_reads_it_and_fills_in_the_key():
    script = run(*ARGUMENTS).output
    show = f"import os, json; print(json.dumps([os.environ[k] for k in ('OTEL_SERVICE_NAME', {HEADERS!r})]))"
    done = subprocess.run(
        ["sh", "-c", f'{script}\n"$0" -c "$1"', sys.executable, show],
        env={**os.environ, "MY_KEY": "abc"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["it's $HOME", "x-key=abc"]


def test_the_other_forms_say_the_same():
    dotenv = dict(line.split("=", 1) for line in run(*ARGUMENTS, "--format", "dotenv").output.splitlines())
    assert dotenv[HEADERS] == '"x-key=${MY_KEY}"'
    compose = yaml.safe_load(run(*ARGUMENTS, "--format", "compose").output)["environment"]
    assert compose[HEADERS] == "x-key=${MY_KEY:?set MY_KEY}"
    assert compose["ASSAY_JUDGE_SAMPLE"] == "0.1"
    assert compose["OTEL_SERVICE_NAME"] == "it's $$HOME"
    entries = yaml.safe_load(run(*ARGUMENTS, "--format", "kubernetes").output)["env"]
    named = {entry["name"]: entry for entry in entries}
    assert named["MY_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "assay", "key": "my-key"}
    assert named[HEADERS]["value"] == "x-key=$(MY_KEY)"
    assert [entry["name"] for entry in entries].index("MY_KEY") < [e["name"] for e in entries].index(HEADERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No OpenTelemetry endpoint is set"),
        (["--endpoint", "host:4318"], r"no http\(s\) URL"),
        (["--endpoint", "http://h:4317"], "port of OTLP over gRPC"),
        (["--endpoint", "http://h:4318", "--datadog"], "an endpoint of its own"),
        (["--endpoint", "http://h:4318", "--header", "authorization=Bearer abc"], "holds a secret"),
        (["--endpoint", "http://h:4318", "--header", "x"], "NAME=VALUE"),
        (["--endpoint", "http://h:4318", "--header", "x=$1 y"], "refers to no variable"),
        (["--datadog", "--site", "a b/"], "no Datadog site"),
        (["--endpoint", "http://h:4318", "--redaction", "none.yaml"], "cannot be read"),
        (["--endpoint", "http://h:4318", "--header", "x-key=$UNSET_KEY", "--check"], "UNSET_KEY is not set"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_a_refused_secret_is_not_repeated():
    with pytest.raises(ConfigError) as raised:
        run("--endpoint", "http://h:4318", "--header", "authorization=Bearer abc123secret")
    assert "abc123secret" not in str(raised.value)


def test_check_sends_a_span_with_the_headers_and_says_it_was_taken(receiver):
    done = run("--endpoint", receiver.url, "--service", "s", "--header", "x-key=$MY_KEY", "--check", MY_KEY="abc")
    assert done.exit_code == 0, done.output
    assert "took a span" in done.output
    assert "abc" not in done.output
    span = receiver.spans["assay check"]
    assert span["trace_id"] in done.output
    assert span["attributes"] == {"assay.check": True, "sampling.keep": True}, "nothing that makes it an agent's"
    assert span["resource"]["service.name"] == "s"
    assert receiver.requests[0][1]["x-key"] == "abc"


@pytest.mark.parametrize(
    ("status", "said"), [(401, "key or token"), (404, "under this path"), (503, "trouble of its own"), (302, "refused")]
)
def test_check_says_why_it_was_not_taken(receiver, status, said):
    receiver.status = status
    done = run("--endpoint", receiver.url, "--check")
    assert done.exit_code == 1
    assert said in done.output
    found = json.loads(run("--endpoint", receiver.url, "--check", "--json").output)
    assert (found["taken"], found["status"]) == (False, status)


def test_check_says_when_nothing_listens():
    done = run("--endpoint", "http://127.0.0.1:9", "--check")
    assert (done.exit_code, "nothing listens there" in done.output) == (1, True)


def test_an_answer_that_refuses_the_span_or_is_a_web_page_is_no_success():
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    answer.partial_success.error_message = "too old"
    assert _said(200, "application/x-protobuf", answer.SerializeToString(), "t").detail.endswith("refused: too old")
    assert not _said(200, "text/html; charset=utf-8", b"<html>", "t").taken
    assert _said(202, "application/json", b"\xff{}", "t").taken
