"""The worker's own metrics, as pushed and as text."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from mlflow_assay import semconv
from mlflow_assay.contracts import BridgeObserver, BridgeStatus, Delivery, SinkStatus
from mlflow_assay.sinks.worker_metrics import WorkerMetrics
from mlflow_assay.testing.bridge_conformance import sample_revision


@pytest.fixture
def metrics(far_end):
    made = WorkerMetrics(endpoint=far_end.url, interval_s=3600)
    yield made
    made.close()


def told(metrics):
    """{series: value} of the text."""
    lines = [line for line in metrics.prometheus_text().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_it_is_what_the_bridge_tells(metrics):
    assert isinstance(metrics, BridgeObserver)


def test_deliveries_are_counted_by_what_became_of_them(metrics):
    first, second = sample_revision(1), sample_revision(2)
    outcomes = [(first, Delivery("delivered")), (second, Delivery("retry", "down"))]
    metrics.delivered("otlp-span", outcomes, first.changed_ms + 1500)
    found = told(metrics)
    states = {s: found[f'assay_bridge_deliveries_total{{assay_sink="otlp-span",assay_state="{s}"}}'] for s in
              ("delivered", "skipped", "retry", "rejected")}  # fmt: skip
    assert states == {"delivered": 1, "skipped": 0, "retry": 1, "rejected": 0}
    assert found['assay_bridge_delivery_seconds_sum{assay_sink="otlp-span"}'] == 1.5
    assert found['assay_bridge_delivery_seconds_bucket{assay_sink="otlp-span",le="1"}'] == 0
    assert found['assay_bridge_delivery_seconds_bucket{assay_sink="otlp-span",le="2.5"}'] == 1
    assert found['assay_bridge_delivery_seconds_bucket{assay_sink="otlp-span",le="+Inf"}'] == 1


def test_a_clock_ahead_of_ours_is_no_negative_time(metrics):
    revision = sample_revision(1)
    metrics.delivered("x", [(revision, Delivery("delivered"))], revision.changed_ms - 9000)
    assert told(metrics)['assay_bridge_delivery_seconds_sum{assay_sink="x"}'] == 0


def test_the_backlog_is_as_last_told(metrics):
    metrics.backlog(BridgeStatus((SinkStatus("s", pending=5, retrying=2, dead=1, lag_s=40.0),), {"7": 3.0, "8": None}))
    metrics.backlog(BridgeStatus((SinkStatus("s"),), {"7": 1.0}, budget_spent=0.25))
    found = told(metrics)
    assert found['assay_bridge_backlog{assay_sink="s",assay_state="pending"}'] == 0
    assert found['assay_bridge_lag_seconds{assay_sink="s"}'] == 0
    assert found['assay_bridge_watermark_age_seconds{mlflow_experiment_id="7"}'] == 1
    assert found["assay_watch_budget_spent_ratio"] == 0.25
    assert not any('experiment_id="8"' in series for series in found)


def test_traces_gone_through_are_counted(metrics):
    metrics.judged("7", {"judged": 3, "sampled_out": 7})
    metrics.judged("7", {"judged": 1})
    found = told(metrics)
    assert found['assay_watch_traces_total{mlflow_experiment_id="7",assay_state="judged"}'] == 4
    assert found['assay_watch_traces_total{mlflow_experiment_id="7",assay_state="sampled_out"}'] == 7
    assert found['assay_watch_traces_total{mlflow_experiment_id="7",assay_state="filtered"}'] == 0


def test_odd_names_are_escaped(metrics):
    metrics.judged('a "b"\\\n', {"judged": 1})
    assert r'mlflow_experiment_id="a \"b\"\\\n"' in metrics.prometheus_text()


def test_promtool_takes_the_text(metrics):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed: apt-get install prometheus")
    metrics.delivered('sink "x"', [(sample_revision(1), Delivery("delivered"))], sample_revision(1).changed_ms + 10)
    metrics.backlog(BridgeStatus((SinkStatus("s", pending=5),), {"7": 3.0}, budget_spent=0.5))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.prometheus_text(), text=True, capture_output=True, timeout=30
    )
    problems = [p for p in (done.stdout + done.stderr).splitlines() if p]
    assert all("should have" in p or "abbreviated" in p for p in problems), problems


def test_nothing_is_pushed_before_it_starts(far_end):
    made = WorkerMetrics(endpoint=far_end.url)
    made.judged("1", {"judged": 1})
    made.close()
    assert far_end.requests == []
    assert semconv.M_TRACES in semconv.METRICS


def test_a_counter_is_at_0_at_the_far_end_before_it_counts(far_end):
    """Prometheus' increase() would never see the traces judged before the first push."""
    made = WorkerMetrics(endpoint=far_end.url, interval_s=3600)
    made.start()
    made.judged("1", {"judged": 30})
    made.judged("1", {"judged": 3})
    first = ExportMetricsServiceRequest.FromString(far_end.requests[0].body)
    made.close()
    assert len(far_end.requests) == 2, "once at 0, once at the end"
    (metric,) = first.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, [point.as_int or point.as_double for point in metric.sum.data_points]) == (
        semconv.M_TRACES,
        [0, 0, 0],
    )


def test_numbers_kept_for_a_scrape_need_no_endpoint(monkeypatch):
    """An agent's environment may name one that this cannot speak to, such as that of gRPC."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:4317")
    made = WorkerMetrics(push=False)
    made.start()
    made.delivered("s", [(sample_revision(1), Delivery("delivered"))], sample_revision(1).changed_ms)
    assert 'assay_bridge_deliveries_total{assay_sink="s",assay_state="delivered"} 1' in made.prometheus_text()
    made.close()
