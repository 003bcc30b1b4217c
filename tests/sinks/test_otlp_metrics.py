"""What the metrics sink counts, decoded from what it pushed."""

from __future__ import annotations

import json
import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from mlflow_assay import semconv
from mlflow_assay.contracts import Delivery
from mlflow_assay.errors import ConfigError, SinkError
from mlflow_assay.sinks import otlp_metrics
from mlflow_assay.sinks.meters import Bounds, gauges_message
from mlflow_assay.sinks.otlp import verdict_span_id
from mlflow_assay.sinks.otlp_metrics import OtlpMetricsSink
from mlflow_assay.testing.bridge_conformance import sample_revision, sample_revisions


def points(body):
    """{metric name: {label values without empty ones: point}} of one push."""
    found = defaultdict(dict)
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                for point in data.data_points:
                    labels = frozenset((a.key, a.value.string_value) for a in point.attributes if a.value.string_value)
                    assert labels not in found[metric.name], "one series, one point"
                    found[metric.name][labels] = point
    return found


def total(body, name, **labels):
    """Sum of a counter's (or count of a histogram's) points that carry these labels."""
    wanted = {(getattr(semconv, key), value) for key, value in labels.items()}
    chosen = [p for label, p in points(body)[name].items() if wanted <= label]
    return sum(p.count if hasattr(p, "bucket_counts") else p.as_int or p.as_double for p in chosen)


@pytest.fixture
def sink(far_end):
    made = OtlpMetricsSink(endpoint=far_end.url, interval_s=3600)
    yield made
    made.close()


def last(far_end):
    return far_end.requests[-1].body


# --- what counts for what -----------------------------------------------------------------------------------


def test_created_less_deleted_is_what_stands_and_an_edit_is_no_new_verdict(far_end, sink):
    sink.deliver([sample_revision(n) for n in (1, 2, 3)])
    sink.deliver([sample_revision(1, value=False, change="edited", revision=2)])
    sink.deliver([sample_revision(2, change="deleted", revision=2)])
    assert total(last(far_end), semconv.M_VERDICTS, CHANGE="created") == 3
    assert total(last(far_end), semconv.M_VERDICTS, CHANGE="edited", OUTCOME="fail") == 1
    assert total(last(far_end), semconv.M_VERDICTS, CHANGE="deleted") == 1


def test_scores_and_judge_costs_are_counted_once_an_assessment(far_end, sink):
    """Neither an edit nor a restored verdict calls a judge."""
    sink.deliver([sample_revision(1)])
    sink.deliver([sample_revision(1, change="edited", revision=2)])
    sink.deliver([sample_revision(1, change="deleted", revision=3)])
    sink.deliver([sample_revision(1, change="created", revision=4)])
    body = last(far_end)
    assert total(body, semconv.M_SCORE) == 1
    assert total(body, semconv.M_JUDGE_CALLS) == 1
    assert total(body, semconv.M_JUDGE_TOKENS, GEN_AI_TOKEN_TYPE="input") == 300
    assert total(body, semconv.M_JUDGE_TOKENS, GEN_AI_TOKEN_TYPE="output") == 20
    assert total(body, semconv.M_JUDGE_COST) == pytest.approx(0.0002)
    assert total(body, semconv.M_JUDGE_LATENCY) == 1
    assert total(body, semconv.M_VERDICTS, CHANGE="created") == 2


def test_a_verdict_from_the_cache_is_a_call_that_cost_nothing(far_end, sink):
    sink.deliver([sample_revision(1, cache_hit=True)])
    assert total(last(far_end), semconv.M_JUDGE_CALLS, CACHE_HIT="true") == 1
    assert total(last(far_end), semconv.M_JUDGE_TOKENS) == 0
    assert total(last(far_end), semconv.M_JUDGE_LATENCY) == 0


def test_unscored_is_counted_by_reason_and_has_no_score(far_end, sink):
    sink.deliver([sample_revision(1, value=None), sample_revision(2, value=None, reason="undecided")])
    body = last(far_end)
    assert total(body, semconv.M_UNSCORED, UNSCORED_REASON="timeout") == 1
    assert total(body, semconv.M_UNSCORED, UNSCORED_REASON="undecided") == 1
    assert total(body, semconv.M_SCORE) == 0
    assert total(body, semconv.M_JUDGE_ERRORS, ERROR_TYPE="timeout") == 1
    assert total(body, semconv.M_JUDGE_ERRORS) == 1, "an undecided judge has not failed"


def test_a_missing_field_is_no_failed_call(far_end, sink):
    sink.deliver([sample_revision(1, value=None, reason="missing_field")])
    assert total(last(far_end), semconv.M_JUDGE_ERRORS) == 0


def test_people_cost_no_tokens_and_their_labels_are_told_apart(far_end, sink):
    sink.deliver(sample_revisions())
    body = last(far_end)
    assert total(body, semconv.M_VERDICTS, SOURCE_TYPE="human", ASSESSMENT_KIND="feedback") == 1
    assert total(body, semconv.M_VERDICTS, ASSESSMENT_KIND="expectation", OUTCOME="unknown") == 1
    assert total(body, semconv.M_VERDICTS) == len(sample_revisions())


@pytest.mark.parametrize(("score", "bound"), [(0.0, 0.0), (0.05, 0.1), (0.1, 0.1), (0.65, 0.7), (1.0, 1.0), (4, 4.0)])
def test_the_score_histogram_has_steps_of_a_tenth_and_sees_other_scales(far_end, sink, score, bound):
    sink.deliver([sample_revision(1, score=score)])
    (point,) = points(last(far_end))[semconv.M_SCORE].values()
    assert point.explicit_bounds[list(point.bucket_counts).index(1)] == bound


def test_every_series_carries_exactly_the_declared_labels(far_end, sink):
    sink.deliver(sample_revisions())
    for request in far_end.requests:
        for scope in ExportMetricsServiceRequest.FromString(request.body).resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                declared = semconv.METRICS[metric.name]
                data = getattr(metric, metric.WhichOneof("data"))
                assert metric.unit == declared.unit
                assert all({a.key for a in p.attributes} == set(declared.labels) for p in data.data_points)


def test_counters_are_cumulative_and_monotonic_and_the_worker_is_named(far_end, sink):
    sink.deliver([sample_revision()])
    (resource,) = ExportMetricsServiceRequest.FromString(last(far_end)).resource_metrics
    names = {a.key for a in resource.resource.attributes}
    assert {"service.name", "service.instance.id"} <= names
    for metric in resource.scope_metrics[0].metrics:
        data = getattr(metric, metric.WhichOneof("data"))
        assert data.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
        assert metric.WhichOneof("data") == "histogram" or data.is_monotonic


# --- births, exemplars, resends ------------------------------------------------------------------------------


def test_every_series_is_pushed_at_zero_before_it_counts(far_end, sink):
    """Prometheus' increase() never sees a series that is born at 1."""
    sink.deliver([sample_revision(1, value=False)])
    seeded, counted = (points(r.body) for r in far_end.requests)
    for name, series in counted.items():
        for labels, point in series.items():
            before = seeded[name][labels]
            assert (before.count if hasattr(before, "bucket_counts") else before.as_int + before.as_double) == 0
            assert before.time_unix_nano < point.time_unix_nano


def test_the_other_outcomes_begin_at_zero_too(far_end, sink):
    """So the first fail is an increase, and a rate of fails is 0 and not nothing."""
    sink.deliver([sample_revision(1)])
    outcomes = {dict(labels)[semconv.OUTCOME] for labels in points(last(far_end))[semconv.M_VERDICTS]}
    assert outcomes == {"pass", "fail", "unscored"}
    sink.deliver([sample_revision(2, value=False)])
    assert len(far_end.requests) == 3, "the first fail needed no new birth"


def test_exemplars_lead_to_the_verdicts_span_in_the_evaluated_trace(far_end, sink):
    revision = sample_revision(5)
    sink.deliver([revision])
    for name in (semconv.M_SCORE, semconv.M_VERDICTS, semconv.M_JUDGE_LATENCY):
        found = [e for p in points(last(far_end))[name].values() for e in p.exemplars]
        ids = {(e.trace_id.hex(), e.span_id.hex()) for e in found}
        assert ids == {(f"{5:032x}", verdict_span_id(revision))}, name


def test_a_push_that_failed_is_not_counted_twice_when_it_comes_again(far_end, sink):
    far_end.script = [200, 503]  # the births arrive, the counts do not
    assert sink.deliver([sample_revision(1)])[0].state == "retry"
    assert sink.deliver([sample_revision(1)]) == [Delivery("delivered")]
    assert total(last(far_end), semconv.M_VERDICTS) == 1
    assert total(last(far_end), semconv.M_SCORE) == 1


def test_births_that_failed_leave_nothing_counted(far_end, sink):
    far_end.script = [503]
    assert sink.deliver([sample_revision(1)])[0].state == "retry"
    assert sink.deliver([sample_revision(1)]) == [Delivery("delivered")]
    assert total(last(far_end), semconv.M_VERDICTS) == 1


def test_a_revision_that_comes_again_is_acknowledged_and_not_counted_again(far_end, sink):
    for _ in range(3):
        assert sink.deliver([sample_revision(1)]) == [Delivery("delivered")]
    assert total(last(far_end), semconv.M_VERDICTS) == 1


def test_refused_data_points_are_tried_again(far_end, sink):
    partial = ExportMetricsPartialSuccess(rejected_data_points=2, error_message="too many series")
    far_end.body = ExportMetricsServiceResponse(partial_success=partial).SerializeToString()
    (found,) = sink.deliver([sample_revision(1)])
    assert (found.state, found.detail) == ("retry", "2 data points were refused: too many series")


def test_it_keeps_pushing_while_nothing_happens_and_once_more_when_closed(far_end):
    """Prometheus forgets a pushed series after five minutes of silence."""
    sink = OtlpMetricsSink(endpoint=far_end.url, interval_s="0.05")
    sink.deliver([sample_revision(1)])
    deadline = time.monotonic() + 10
    while len(far_end.requests) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    sink.close()
    assert len(far_end.requests) >= 5
    assert total(last(far_end), semconv.M_VERDICTS) == 1
    count = len(far_end.requests)
    time.sleep(0.15)
    assert len(far_end.requests) == count


def test_a_sink_never_used_pushes_nothing(far_end):
    OtlpMetricsSink(endpoint=far_end.url).close()
    assert far_end.requests == []


# --- bounds, tally, gauges -----------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1, max_size=8), max_size=400))
def test_label_sets_are_bounded_whatever_comes(values):
    bounds = Bounds()
    found = {bounds.of(semconv.M_LAG, {semconv.SINK: value}) for value in values}
    assert len(found) <= 51
    if len(set(values)) > 50:
        assert (semconv.M_LAG, (semconv.OVERFLOW,)) in found


def test_values_already_known_keep_their_own_series_after_the_limit():
    bounds = Bounds()
    first = bounds.of(semconv.M_LAG, {semconv.SINK: "s0"})
    for n in range(100):
        bounds.of(semconv.M_LAG, {semconv.SINK: f"s{n}"})
    assert bounds.of(semconv.M_LAG, {semconv.SINK: "s0"}) == first
    assert bounds.of(semconv.M_LAG, {semconv.SINK: "late"}) == (semconv.M_LAG, (semconv.OVERFLOW,))


def test_the_series_of_a_metric_are_bounded_where_labels_multiply():
    bounds = Bounds()
    names, agents = [f"j{n}" for n in range(150)], [f"a{n}" for n in range(80)]
    labels = [{semconv.EVALUATION_NAME: name, semconv.GEN_AI_AGENT: agent} for name in names for agent in agents]
    found = [bounds.of(semconv.M_SCORE, each) for each in labels]
    assert len(labels) == 12_000 and len(set(found)) == 5_001
    assert set(found[5_000:]) == {(semconv.M_SCORE, (semconv.OVERFLOW,) * len(semconv.METRICS[semconv.M_SCORE].labels))}
    assert bounds.of(semconv.M_SCORE, labels[0]) == found[0], "those there are stay"


def test_what_was_counted_and_not_acknowledged_is_known_again_after_any_number_of_others(far_end, monkeypatch):
    """Else a long outage with a large backlog would be counted twice at its end."""
    monkeypatch.setattr(otlp_metrics, "_REMEMBERED", 5)
    sink = OtlpMetricsSink(endpoint=far_end.url, interval_s=3600)
    assert sink.deliver([sample_revision(0)])[0].state == "delivered"  # its series are there
    far_end.status = 503
    refused = [sample_revision(number) for number in range(1, 11)]
    assert {d.state for d in sink.deliver(refused)} == {"retry"}
    far_end.status = 200
    sink.deliver([sample_revision(number) for number in range(11, 31)])
    assert {d.state for d in sink.deliver(refused)} == {"delivered"}
    assert total(last(far_end), semconv.M_VERDICTS) == 31
    assert (len(sink._counted), len(sink._unsure)) == (5, 0)
    sink.close()


def test_prometheus_is_asked_what_was_counted(far_end):
    row = {"metric": {"gen_ai_evaluation_name": "tone", "assay_change": "created"}, "value": [0, "41"]}
    far_end.body = json.dumps({"status": "success", "data": {"result": [row]}}).encode()
    sink = OtlpMetricsSink(endpoint=far_end.url, prometheus=far_end.url)
    assert sink.tally() == {("tone", "created"): 41}
    assert b"max_over_time%28gen_ai_evaluation_verdicts_total%5B30d%5D%29" in last(far_end)


def test_without_a_prometheus_there_is_nobody_to_ask(far_end):
    with pytest.raises(SinkError, match=r"cannot be asked.*prometheus=http"):
        OtlpMetricsSink(endpoint=far_end.url).tally()


def test_gauges_are_what_was_given_and_nothing_else():
    labels = {semconv.EVALUATION_NAME: "tone", semconv.WINDOW: "24h"}
    found = points(gauges_message([(semconv.M_KPI_RAW, labels, 0.75)]))
    assert {name: [p.as_double for p in series.values()] for name, series in found.items()} == {"assay.kpi.raw": [0.75]}


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_an_interval_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="interval_s must be a number above 0"):
        OtlpMetricsSink(interval_s=value)
