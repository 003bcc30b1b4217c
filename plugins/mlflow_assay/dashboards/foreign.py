"""Metrics of other programs that the boards show: the collector's, Tempo's and Prometheus' own.

They are read off running servers (tests/stack), not off documentation, and each is asked for in the tests.
"""

from __future__ import annotations

from typing import Final, Literal

from mlflow_assay.semconv import ENVIRONMENT, Metric

__all__ = ["FOREIGN", "known"]

_RED: Final = ("service.name", "span.name", "span.kind", "status.code", "gen_ai.operation.name", "gen_ai.agent.name")
_DURATIONS: Final = (*_RED, "gen_ai.request.model", "gen_ai.tool.name", ENVIRONMENT)
_CALLS: Final = (*_DURATIONS, "error.type")

Kind = Literal["counter", "gauge", "histogram"]


def _metric(name: str, kind: Kind, unit: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, kind, unit, labels, text)


# Keyed by the name in Prometheus without a histogram's part.
FOREIGN: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        _metric("traces_span_metrics_calls_total", "counter", "{span}", _CALLS, "Spans, by the collector."),
        _metric("traces_span_metrics_duration_seconds", "histogram", "s", _DURATIONS, "Spans' durations."),
        _metric("otelcol_receiver_accepted_spans_total", "counter", "{span}", ("receiver",), "Spans taken in."),
        _metric("otelcol_receiver_refused_spans_total", "counter", "{span}", ("receiver",), "Spans refused."),
        _metric("otelcol_exporter_sent_spans_total", "counter", "{span}", ("exporter",), "Spans sent."),
        _metric("otelcol_exporter_send_failed_spans_total", "counter", "{span}", ("exporter",), "Spans not sent."),
        _metric("otelcol_exporter_queue_size", "gauge", "{batch}", ("exporter",), "Items in a sending queue."),
        _metric("otelcol_exporter_queue_capacity", "gauge", "{batch}", ("exporter",), "Room of a sending queue."),
        _metric("otelcol_process_memory_rss_bytes", "gauge", "By", (), "The collector's memory."),
        _metric(
            "otelcol_processor_tail_sampling_global_count_traces_sampled_total",
            "counter",
            "{trace}",
            ("sampled",),
            "Traces decided on by tail sampling.",
        ),
        _metric("tempo_distributor_spans_received_total", "counter", "{span}", ("tenant",), "Spans Tempo took in."),
        _metric(
            "tempo_discarded_spans_total", "counter", "{span}", ("reason",), "Spans Tempo refused, with the reason."
        ),
        _metric("prometheus_tsdb_head_series", "gauge", "{series}", (), "Series in Prometheus' head block."),
        _metric("prometheus_tsdb_head_samples_appended_total", "counter", "{sample}", (), "Samples taken in."),
        _metric("up", "gauge", "1", ("job", "instance"), "Whether a scrape target answers."),
    )
}


def known(name: str) -> Metric:
    """A foreign metric by its name in Prometheus.

    Raises:
        KeyError: it is not in the table: put it there, with the labels it really has.
    """
    return FOREIGN[name]
