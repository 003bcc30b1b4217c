"""The sinks through the shipped collector configuration into real Tempo and Prometheus."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import BridgeStatus, Delivery, SinkStatus
from mlflow_assay.sinks.meters import gauges_message
from mlflow_assay.sinks.otlp import OtlpClient, verdict_span_id
from mlflow_assay.sinks.otlp_event import OtlpEventSink
from mlflow_assay.sinks.otlp_metrics import OtlpMetricsSink
from mlflow_assay.sinks.otlp_span import OtlpSpanSink
from mlflow_assay.sinks.worker_metrics import WorkerMetrics
from mlflow_assay.testing.bridge_conformance import sample_revision

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def batch():
    """Ten verdicts of now under a judge name of this test alone: 7 pass, 2 fail, 1 unscored."""
    name, now = f"judge_{uuid.uuid4().hex[:8]}", int(time.time() * 1000)

    def one(number, value):
        made = sample_revision(number, value=value, name=name, created_ms=now, changed_ms=now, key=uuid.uuid4().hex)
        run = replace(made.trace, trace_id=f"tr-{uuid.uuid4().hex}", root_span_id=uuid.uuid4().hex[:16])
        return replace(made, trace=run, assessment_id=f"a-{uuid.uuid4().hex}")

    return [one(n, value) for n, value in enumerate([True] * 7 + [False] * 2 + [None], start=1)]


def by(stack, query, label):
    return {labels.get(label, ""): value for labels, value in stack.promql(query)}


def series(name, judge, part=""):
    return f'{semconv.prometheus_name(name, part)}{{gen_ai_evaluation_name="{judge}"}}'


def test_verdict_spans_are_found_in_tempo_with_all_they_say(stack, batch):
    """Also through the redaction in front: keys, ids and versions come out as they went in."""
    assert stack.tempo
    sink = OtlpSpanSink(endpoint=stack.otlp_http, tempo=stack.tempo)
    assert {d.state for d in sink.deliver(batch)} == {"delivered"}
    query = f'{{ span.gen_ai.evaluation.name = "{batch[0].name}" && span.gen_ai.operation.name = "evaluation" }}'
    found = stack.eventually(lambda: (f := stack.search(query)) and sum(len(t["spans"]) for t in f) == 10 and f, 90)
    ids = {span["spanID"] for trace in found for span in trace["spans"]}
    assert ids == {verdict_span_id(r) for r in batch}
    assert sink.held(batch) == {r.key: 1 for r in batch}

    bad = f'{{ span.gen_ai.evaluation.name = "{batch[0].name}" && span.gen_ai.evaluation.score.value < 0.5 }}'
    assert {t["traceID"].zfill(32) for t in stack.search(bad)} == {r.trace.otel_trace_id for r in batch[7:9]}

    (span,) = stack.trace(batch[0].trace.otel_trace_id)
    facts = span["attributes"]
    sent = {
        semconv.REVISION_KEY: batch[0].key,
        semconv.ASSESSMENT_ID: batch[0].assessment_id,
        semconv.GEN_AI_AGENT: "support",
        semconv.GEN_AI_CONVERSATION: "c-7",
        semconv.PROMPT_VERSION: "support/3",
        semconv.JUDGE_MODEL: "openai:/gpt-4.1-mini",
        semconv.JUDGE_INPUT_TOKENS: 300,
        semconv.EVALUATION_LABEL: "pass",
    }
    assert {key: facts.get(key) for key in sent} == sent


def test_what_a_judges_name_gives_away_is_masked_on_the_way(stack, batch):
    """The span has no events, and the name is no attribute: redaction must reach it all the same."""
    assert stack.tempo
    named = replace(batch[0], name="mail anna@example.com", rationale="write to bob@example.org, card 4111111111111111")
    assert OtlpSpanSink(endpoint=stack.otlp_http).deliver([named]) == [Delivery("delivered")]
    (span,) = stack.eventually(lambda: stack.trace(named.trace.otel_trace_id), 60)
    assert span["name"].startswith("evaluation mail ")
    for planted in ("anna@example.com", "bob@example.org", "4111111111111111"):
        assert planted not in str(span)


def test_counts_in_prometheus_are_the_verdicts_under_the_names_semconv_gives(stack, batch):
    assert stack.prometheus
    sink = OtlpMetricsSink(endpoint=stack.otlp_http, interval_s=1, prometheus=stack.prometheus)
    assert {d.state for d in sink.deliver(batch)} == {"delivered"}
    outcome = semconv.prometheus_label(semconv.OUTCOME)
    query = f"sum by ({outcome}) ({series(semconv.M_VERDICTS, batch[0].name)})"
    stack.eventually(lambda: by(stack, query, outcome) == {"pass": 7, "fail": 2, "unscored": 1}, 60)
    count = stack.promql(series(semconv.M_SCORE, batch[0].name, "count"))
    assert [value for _, value in count] == [9]
    for name, part in [
        (semconv.M_UNSCORED, ""),
        (semconv.M_JUDGE_CALLS, ""),
        (semconv.M_JUDGE_TOKENS, ""),
        (semconv.M_JUDGE_COST, ""),
        (semconv.M_JUDGE_LATENCY, "count"),
        (semconv.M_JUDGE_ERRORS, ""),
        (semconv.M_SCORE, "bucket"),
    ]:
        found = stack.promql(series(name, batch[0].name, part))
        assert found, name
        expected = {semconv.prometheus_label(label) for label in semconv.METRICS[name].labels}
        assert set(found[0][0]) - {"__name__", "job", "instance", "collector", "le"} - _scope(found) <= expected, name
    assert {k: v for k, v in sink.tally().items() if k[0] == batch[0].name} == {(batch[0].name, "created"): 10}
    sink.close()


def _scope(found):
    return {label for labels, _ in found for label in labels if label.startswith("otel_scope_")}


def test_the_first_fail_is_seen_by_increase(stack, batch):
    """A counter born at 1 would show no increase at all."""
    assert stack.prometheus
    sink = OtlpMetricsSink(endpoint=stack.otlp_http, interval_s=1)
    sink.deliver(batch[:1])
    time.sleep(3)
    sink.deliver(batch[7:8])

    def risen(name, part="", **labels):
        chosen = {"gen_ai_evaluation_name": batch[0].name, **labels}
        selector = ",".join(f'{key}="{value}"' for key, value in chosen.items())
        found = stack.promql(f"sum(increase({semconv.prometheus_name(name, part)}{{{selector}}}[5m]))")
        return found[0][1] if found else 0

    stack.eventually(lambda: risen(semconv.M_VERDICTS, assay_outcome="fail") >= 0.9, 60)
    assert risen(semconv.M_VERDICTS, assay_outcome="pass") >= 0.9, "the very first verdict too"
    assert risen(semconv.M_SCORE, "count") >= 1.8, "and in the histogram"
    sink.close()


def test_an_exemplar_leads_from_prometheus_to_the_trace_in_tempo(stack, batch):
    assert stack.prometheus and stack.tempo
    failed = batch[7]
    OtlpSpanSink(endpoint=stack.otlp_http).deliver([failed])
    sink = OtlpMetricsSink(endpoint=stack.otlp_http, interval_s=1)
    sink.deliver([failed])
    query = series(semconv.M_SCORE, failed.name, "bucket")
    found = stack.eventually(lambda: stack.exemplars(query), 60)
    assert {e["labels"]["trace_id"] for e in found} == {failed.trace.otel_trace_id}
    span_id = found[0]["labels"]["span_id"]
    spans = stack.eventually(lambda: stack.trace(found[0]["labels"]["trace_id"]), 60)
    (verdict,) = [s for s in spans if s.get("spanId", s.get("spanID")) == span_id]
    assert verdict["name"] == f"evaluation {failed.name}"
    sink.close()


def test_every_metric_has_in_prometheus_the_name_semconv_says(stack):
    """Gauges and the worker's own: pushed once each, asked for by name."""
    assert stack.prometheus
    run = uuid.uuid4().hex[:8]
    gauges = [m for m in semconv.METRICS.values() if m.kind == "gauge"]
    client = OtlpClient("metrics", endpoint=stack.otlp_http)
    marked = [(m.name, dict.fromkeys(m.labels, run), 0.5) for m in gauges]
    assert client.post(gauges_message(marked)).accepted
    worker = WorkerMetrics(endpoint=stack.otlp_http, interval_s=1)
    worker.start()
    worker.delivered(run, [(sample_revision(), Delivery("delivered"))], sample_revision().changed_ms + 100)
    worker.judged(run, {"judged": 1})
    worker.backlog(BridgeStatus((SinkStatus(run, pending=3),), {run: 1.0}, budget_spent=0.5))
    names = [semconv.prometheus_name(m.name) for m in gauges]
    names += [semconv.prometheus_name(n) for n in (semconv.M_TRACES, semconv.M_DELIVERIES)]
    names += [semconv.prometheus_name(semconv.M_DELIVERY, part) for part in ("bucket", "sum", "count")]
    stack.eventually(lambda: all(stack.promql(name) for name in names), 60)
    for metric in gauges:
        values = [v for labels, v in stack.promql(semconv.prometheus_name(metric.name)) if run in labels.values()]
        assert values or not metric.labels, metric.name
    worker.close()


def test_events_pass_the_collector(stack, batch):
    """It counts them (no log store in this stack), one by one."""
    assert stack.prometheus
    found = OtlpEventSink(endpoint=stack.otlp_http).deliver(batch)
    assert {d.state for d in found} == {"delivered"}, found[0].detail
    query = f'sum(gen_ai_evaluation_events_total{{gen_ai_evaluation_name="{batch[0].name}"}})'
    stack.eventually(lambda: [v for _, v in stack.promql(query) if v == 10], 60)
