"""The real telecom runs, judged and shipped through the shipped collector: counts agree everywhere.

Assessments in MLflow = verdict spans in Tempo by TraceQL = increase of the counter in Prometheus = evaluations that
Datadog's own test agent received; then again after edits, deletions and late labels.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.cli.bridge import bridge
from mlflow_assay.cli.watch import watch

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def agent(tmp_path):
    """Datadog's test agent, as the sinks' own tests start it."""
    path = Path(__file__).parents[1] / "sinks" / "datadog_agent.py"
    spec = importlib.util.spec_from_file_location("assay_test_datadog_agent", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.running_agent(tmp_path / "agent.log") as running:
        yield running


@pytest.fixture
def telecom(store, shared_data):
    """The 40 simulated telecom runs of one agent, with their ground truth."""
    from mlflow_assay.cli.traces import traces

    path = shared_data / "tau2_telecom" / "gpt41_telecom.json.gz"
    done = CliRunner().invoke(traces, ["import", "--format", "tau2", str(path), "--experiment", "telecom", "--json"])
    assert done.exit_code == 0, done.output
    return "telecom"


@pytest.fixture
def commands(fresh_stack, agent, outbox_url, tmp_path, monkeypatch):
    """`assay watch --once` and `assay bridge reconcile` with every sink that can be checked here."""
    monkeypatch.setenv("DD_API_KEY", "not-a-key")
    fresh_stack.up()
    sinks = [
        f"otlp-span,endpoint={fresh_stack.otlp_http},tempo={fresh_stack.tempo}",
        f"otlp-metrics,endpoint={fresh_stack.otlp_http},prometheus={fresh_stack.prometheus}",
        f"otlp-event,endpoint={fresh_stack.otlp_http}",
        f"datadog,url={agent.url}/evp_proxy/v2,ml_app=telecom",
        f"jsonl,path={tmp_path}/lines.jsonl",
    ]
    options = [part for sink in sinks for part in ("--sink", sink)]

    def run(command, *arguments):
        done = CliRunner().invoke(command, [*arguments, *options, "--outbox", outbox_url, "--json"])
        assert isinstance(done.exception, SystemExit | None), done.exception
        return json.loads(done.stdout), done.exit_code

    judges = ["-j", "repeated_steps", "-j", "latency_limit", "-j", "token_limit"]
    return (
        lambda: run(watch, "-e", "telecom", "--once", "--settle", "0", "--timeout-once", "60", *judges),
        lambda: run(bridge, "reconcile", "-e", "telecom"),
    )


def standing(experiment: str) -> Counter:
    """What stands in MLflow, by name."""
    import mlflow

    location = mlflow.get_experiment_by_name(experiment).experiment_id
    traces = mlflow.search_traces(locations=[location], return_type="list", include_spans=False)
    return Counter(a.name for t in traces for a in t.info.assessments if a.valid is not False)


def in_tempo(stack, names) -> Counter:
    """Net verdict spans by name: created less deleted.

    One query a name and change: where the spans of a trace lie in several blocks, Tempo's search gives the span set
    with the most matches, not all of them.
    """

    def count(name: str, change: str) -> int:
        same = f'span.{semconv.EVALUATION_NAME} = "{name}" && span.{semconv.CHANGE} = "{change}"'
        found = stack.search(f'{{ span.gen_ai.operation.name = "evaluation" && {same} }}')
        return sum(len(trace["spans"]) for trace in found)

    return +Counter({name: count(name, "created") - count(name, "deleted") for name in names})


def in_prometheus(stack) -> Counter:
    """Net increase of the counter by name: created less deleted. A worker that starts anew counts from 0 again."""
    from mlflow_assay.sinks.otlp_metrics import OtlpMetricsSink

    sink = OtlpMetricsSink(endpoint=stack.otlp_http, prometheus=stack.prometheus)
    net = Counter()
    try:
        for (name, change), count in sink.tally().items():
            net[name] += count * {"created": 1, "deleted": -1}.get(change, 0)
    finally:
        sink.close()
    return +net


def agrees(found: Counter, expected: Counter) -> bool:
    """True, or an error that shows both."""
    assert found == expected, f"too many {dict(found - expected)}, too few {dict(expected - found)}"
    return True


def test_counts_agree_everywhere(fresh_stack, agent, telecom, commands, tmp_path):
    import mlflow
    from mlflow.entities import AssessmentSource, Feedback

    watch_once, reconcile = commands
    status, code = watch_once()
    assert code == 0, status
    expected = standing(telecom)
    assert expected["repeated_steps"] == expected["latency_limit"] == expected["token_limit"] == 40

    fresh_stack.eventually(lambda: agrees(in_tempo(fresh_stack, expected), expected), 120)
    fresh_stack.eventually(lambda: agrees(in_prometheus(fresh_stack), expected), 60)
    delivered = {sink["sink"]: sink for sink in status["sinks"]}
    received = Counter(metric["label"] for metric in agent.evaluations())
    assert sum(received.values()) == delivered["datadog"]["delivered"]
    assert {name: received[name] for name in ("repeated_steps", "latency_limit", "token_limit")} == dict.fromkeys(
        ("repeated_steps", "latency_limit", "token_limit"), 40
    )
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert Counter(line["name"] for line in lines) == expected

    # A person labels, changes her mind, and takes something back.
    location = mlflow.get_experiment_by_name(telecom).experiment_id
    traces = mlflow.search_traces(locations=[location], return_type="list", include_spans=False, max_results=10)
    anna = AssessmentSource("HUMAN", "anna")
    made = [
        mlflow.log_feedback(trace_id=t.info.trace_id, name="resolved", value=True, source=anna).assessment_id
        for t in traces
    ]
    assert watch_once()[1] == 0
    mlflow.update_assessment(traces[0].info.trace_id, made[0], Feedback(name="resolved", value=False))
    mlflow.delete_assessment(traces[1].info.trace_id, made[1])
    gone = next(a for a in traces[2].info.assessments if a.name == "token_limit")
    mlflow.delete_assessment(traces[2].info.trace_id, gone.assessment_id)
    assert watch_once()[1] == 0

    expected = standing(telecom)
    assert expected["resolved"] == 9 and expected["token_limit"] == 40, "the judge owed that one again"
    fresh_stack.eventually(lambda: agrees(in_tempo(fresh_stack, expected), expected), 120)
    fresh_stack.eventually(lambda: agrees(in_prometheus(fresh_stack), expected), 60)

    found, code = reconcile()
    checks = {check["sink"]: check for check in found["sinks"]}
    assert found["mlflow"][0]["clean"], found["mlflow"]
    assert (checks["otlp-span"]["how"], checks["otlp-span"]["missing_count"], checks["otlp-span"]["duplicates"]) == (
        "held",
        0,
        0,
    )
    assert (checks["otlp-metrics"]["how"], checks["otlp-metrics"]["differences"]) == ("counted", [])
    assert (checks["jsonl"]["missing_count"], checks["jsonl"]["duplicates"]) == (0, 0)
    assert code == 0 and found["clean"], found


def test_collector_and_tempo_killed(fresh_stack, log_trace, outbox_url, tmp_path):
    """`kill -9` of both while verdicts are written: with both back, nothing is missing and nothing doubled."""
    import mlflow
    from mlflow.entities import AssessmentSource

    fresh_stack.up()
    sink = f"otlp-span,endpoint={fresh_stack.otlp_http},tempo={fresh_stack.tempo},timeout_s=5"
    common = ["-e", "test", "--sink", sink, "--outbox", outbox_url, "--json"]

    def run(command, *arguments):
        done = CliRunner().invoke(command, [*arguments, *common])
        assert isinstance(done.exception, SystemExit | None), done.exception
        return json.loads(done.stdout), done.exit_code

    def write(count: int) -> None:
        for _ in range(count):
            mlflow.log_feedback(trace_id=log_trace(), name="tone", value=True, source=AssessmentSource("HUMAN", "anna"))

    write(5)
    assert run(watch, "--once", "--timeout-once", "30")[1] == 0
    fresh_stack.service("collector").kill()
    write(5)
    status, code = run(watch, "--once", "--timeout-once", "2")
    assert (code, status["sinks"][0]["retrying"]) == (1, 5)
    fresh_stack.service("tempo").kill()
    fresh_stack.service("collector").start()
    write(5)
    assert run(watch, "--once", "--timeout-once", "30")[1] == 0, "the collector keeps them on its disk"
    fresh_stack.service("collector").kill()
    fresh_stack.service("collector").start()
    fresh_stack.service("tempo").start()
    fresh_stack.eventually(lambda: agrees(in_tempo(fresh_stack, ["tone"]), Counter({"tone": 15})), 150)
    fresh_stack.eventually(lambda: run(bridge, "reconcile")[1] == 0, 60)
    (check,) = run(bridge, "reconcile")[0]["sinks"]
    assert (check["delivered"], check["found"], check["missing_count"], check["duplicates"]) == (15, 15, 0, 0)
