"""Real agent runs from MLflow to everywhere: what stands in MLflow is what every far end has, told apart by nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.entities import AssessmentSource, Feedback

from mlflow_assay import semconv
from mlflow_assay.cli import assay

sys.path.insert(0, str(Path(__file__).parents[1] / "sinks"))
from datadog_agent import running_agent

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def telecom(store, shared_data):
    """114 recorded runs of a telecom agent with a judge's verdict and the ground truth on each."""
    file = shared_data / "tau2_telecom" / "telecom_judge_triage.json.gz"
    arguments = ["traces", "import", "--format", "tau2", str(file), "--experiment", "telecom", "--with-verdicts"]
    done = CliRunner().invoke(assay, arguments)
    assert done.exit_code == 0, done.output
    return store


@pytest.fixture
def far_ends(fresh_stack, tmp_path):
    with running_agent(tmp_path / "agent.log") as datadog:
        fresh_stack.up()
        yield fresh_stack, datadog


def command(stack, datadog, tmp_path, *arguments, experiment="telecom"):
    """`assay …` with all sinks, in a process of its own as a user runs it."""
    sinks = [
        f"otlp-span,endpoint={stack.otlp_http},tempo={stack.tempo}",
        f"otlp-metrics,endpoint={stack.otlp_http},prometheus={stack.prometheus}",
        f"otlp-event,endpoint={stack.otlp_http}",
        f"datadog,url={datadog.url}/evp_proxy/v2,ml_app=telecom",
        f"jsonl,path={tmp_path}/revisions.jsonl",
    ]
    named = [part for sink in sinks for part in ("--sink", sink)]
    call = [
        sys.executable,
        "-c",
        "from mlflow_assay.cli import main; main()",
        *arguments,
        "-e",
        experiment,
        *named,
        "--json",
    ]
    outbox = ["--outbox", f"sqlite:///{tmp_path}/outbox.db"]
    done = subprocess.run([*call, *outbox], capture_output=True, text=True, timeout=300, env=os.environ.copy())
    return done.returncode, done.stdout, done.stderr


def ship(stack, datadog, tmp_path, *arguments, experiment="telecom"):
    code, out, err = command(stack, datadog, tmp_path, "watch", "--once", *arguments, experiment=experiment)
    assert code == 0, err
    return json.loads(out)


def assessments(name="telecom"):
    """All that stands in MLflow, (trace id, assessment)."""
    traces = mlflow.search_traces(
        locations=[mlflow.get_experiment_by_name(name).experiment_id], return_type="list", include_spans=False
    )
    return [(t.info.trace_id, a) for t in traces for a in t.info.assessments if a.valid is not False]


def found_in_tempo(stack, change):
    """Verdict spans of a change found by TraceQL."""
    query = f'{{ span.gen_ai.operation.name = "evaluation" && span.{semconv.CHANGE} = "{change}" }}'
    return sum(len(trace["spans"]) for trace in stack.search(query, limit=1000))


def spans_in_tempo(stack, experiment="telecom"):
    """Verdict spans of all traces, by change: searching, Tempo shows spans that came later only after it compacted."""
    ids = {trace_id.removeprefix("tr-") for trace_id, _ in assessments(experiment)}
    spans = [span["attributes"] for trace_id in ids for span in stack.trace(trace_id)]
    return Counter(s[semconv.CHANGE] for s in spans if s.get(semconv.GEN_AI_OPERATION) == "evaluation")


def counted(stack):
    """What the verdict counters say, by change."""
    label = semconv.prometheus_label(semconv.CHANGE)
    found = stack.promql(f"sum by ({label}) (max_over_time({semconv.prometheus_name(semconv.M_VERDICTS)}[1h]))")
    return Counter({labels[label]: round(value) for labels, value in found if value})


def lines(tmp_path):
    read = [json.loads(line) for line in (tmp_path / "revisions.jsonl").read_text().splitlines()]
    assert len({line["key"] for line in read}) == len(read)
    return Counter(line["change"] for line in read)


def agree(stack, expected, timeout=90, experiment="telecom"):
    """Tempo and Prometheus come to say what is expected."""

    def both():
        found = (spans_in_tempo(stack, experiment), counted(stack))
        assert found == (expected, expected), found
        return True

    stack.eventually(both, timeout)


def test_counts_agree_everywhere_also_after_edits_deletions_and_late_labels(telecom, far_ends, tmp_path):
    stack, datadog = far_ends
    standing = assessments()
    feedback = [a for _, a in standing if a.feedback is not None]
    assert len(feedback) >= 228

    ship(stack, datadog, tmp_path)
    everything = Counter(created=len(standing))
    agree(stack, everything)
    stack.eventually(lambda: found_in_tempo(stack, "created") == len(standing))
    assert lines(tmp_path) == everything
    assert len(datadog.evaluations()) == len(feedback)

    # A verdict changes, one goes, a person speaks late.
    (first, edited), (second, deleted), *_ = [(t, a) for t, a in standing if a.name == "quick_triage_v1"]
    changed = Feedback(edited.name, value=edited.value, rationale="on second thoughts", source=edited.source)
    mlflow.update_assessment(first, edited.assessment_id, changed)
    mlflow.delete_assessment(second, deleted.assessment_id)
    mlflow.log_feedback(trace_id=second, name="late", value=False, source=AssessmentSource("HUMAN", "ana"))

    ship(stack, datadog, tmp_path)
    everything += Counter(created=1, edited=1, deleted=1)
    agree(stack, everything)
    stack.eventually(lambda: (found_in_tempo(stack, "edited"), found_in_tempo(stack, "deleted")) == (1, 1))
    assert lines(tmp_path) == everything
    assert everything["created"] - everything["deleted"] == len(assessments())
    assert len(datadog.evaluations()) == len(feedback) + 3

    code, out, err = command(stack, datadog, tmp_path, "bridge", "reconcile")
    report = json.loads(out)
    assert (code, report["clean"]) == (0, True), (out, err)


def test_the_demo_judged_by_the_worker_itself_arrives_everywhere(store, far_ends, tmp_path):
    """One command judges what nobody has judged yet and ships it."""
    from mlflow_assay.demo import runner

    stack, datadog = far_ends
    run = runner.run("demo", requests=40, seed=7, days=2, now=datetime.now(timezone.utc))
    judges = ("-j", "repeated_steps", "-j", "latency_limit", "--settle", "0")
    ship(stack, datadog, tmp_path, *judges, experiment="demo")
    standing = assessments("demo")
    assert {a.name for _, a in standing} >= {"repeated_steps", "latency_limit"}
    assert len(standing) >= 2 * len(run.trace_ids)
    everything = Counter(created=len(standing))
    agree(stack, everything, experiment="demo")
    assert lines(tmp_path) == everything
    assert len(datadog.evaluations()) == sum(a.feedback is not None for _, a in standing)
    for trace_id, _ in standing[:5]:  # beside each verdict the run it is about can be named without a join
        (span, *_) = stack.trace(trace_id.removeprefix("tr-"))
        assert span["attributes"][semconv.GEN_AI_AGENT] not in ("", semconv.UNKNOWN)
