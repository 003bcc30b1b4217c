"""Pipeline health: does every verdict arrive, and does the machinery have room. Entry point `pipeline-health`."""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import bad_below, bad_from, bars, numbers, slow_from, trend
from mlflow_assay.dashboards.promql import where
from mlflow_assay.dashboards.queries import Query, grown, highest, lowest, per_second, quantiles
from mlflow_assay.semconv import (
    EXPERIMENT_ID,
    M_BACKLOG,
    M_DELIVERIES,
    M_DELIVERY,
    M_LAG,
    M_WATERMARK_AGE,
    SINK,
    STATE,
)

_NO_WORKER: Final = "No worker reports: is `assay watch` running?"
_NO_COLLECTOR: Final = "The collector's own metrics are not scraped."
_NO_SELF_SCRAPE: Final = "Prometheus does not scrape itself."
_DECIDED: Final = "otelcol_processor_tail_sampling_global_count_traces_sampled_total"
_QUEUED, _ROOM = (highest(f"otelcol_exporter_queue_{what}", "exporter").expr for what in ("size", "capacity"))

BRIDGE = [
    trend(
        "Lag of each sink",
        "Age of the oldest verdict not yet delivered; 0 when none waits.",
        highest(M_LAG, SINK),
        unit="s",
        width=10,
        empty=_NO_WORKER,
    ),
    numbers(
        "Dead letters",
        "Verdicts a sink refused for good. `assay bridge dead` says why; `assay bridge replay` sends them again.",
        highest(M_BACKLOG, SINK, match=where(STATE, "dead")),
        unit="short",
        width=7,
        height=8,
        empty=_NO_WORKER,
        show="value_and_name",
        steps=bad_from(1),
    ),
    numbers(
        "MLflow last read",
        "Time since the worker last read each experiment.",
        lowest(M_WATERMARK_AGE, EXPERIMENT_ID, legend="experiment {}"),
        unit="s",
        width=7,
        height=8,
        empty=_NO_WORKER,
        show="value_and_name",
        steps=slow_from(600),
    ),
    trend(
        "Waiting in the outbox",
        "Verdicts not delivered, by sink and state: pending, retrying or dead.",
        highest(M_BACKLOG, SINK, STATE),
        unit="short",
        width=8,
        empty=_NO_WORKER,
        stacked=True,
    ),
    trend(
        "Deliveries per second",
        "By sink and outcome. Retries that do not end say the far end is down; nothing is lost meanwhile.",
        per_second(M_DELIVERIES, SINK, STATE),
        unit="ops",
        width=8,
        empty=_NO_WORKER,
    ),
    trend(
        "From MLflow to the far end",
        "From an assessment's change to its acknowledgement; 50 and 99 in 100 are faster.",
        *quantiles(M_DELIVERY, SINK, of=(0.5, 0.99)),
        unit="s",
        width=8,
        empty="Nothing was delivered in this time range.",
    ),
]

COLLECTOR = [
    trend(
        "Spans into the collector",
        "Accepted and refused per second. Refused: memory is short, or the sender is broken.",
        per_second("otelcol_receiver_accepted_spans_total", "receiver", legend="accepted {}"),
        per_second("otelcol_receiver_refused_spans_total", "receiver", legend="refused {}"),
        unit="ops",
        width=8,
        empty=_NO_COLLECTOR,
    ),
    trend(
        "Spans out of the collector",
        "Sent and failed per second, by exporter.",
        per_second("otelcol_exporter_sent_spans_total", "exporter", legend="sent {}"),
        per_second("otelcol_exporter_send_failed_spans_total", "exporter", legend="failed {}"),
        unit="ops",
        width=8,
        empty=_NO_COLLECTOR,
    ),
    trend(
        "Sending queues, how full",
        "Size over capacity. Full queues drop: the far end is down or too slow.",
        Query(f"{_QUEUED} / {_ROOM}", "{{exporter}}"),
        unit="percentunit",
        width=8,
        empty=_NO_COLLECTOR,
        high=1,
        threshold=0.8,
    ),
    trend(
        "Tail sampling: traces kept and dropped",
        "Per second. Errors, slow runs and runs chosen for judging are always kept.",
        per_second(_DECIDED, "sampled", legend="kept: {}"),
        unit="ops",
        width=12,
        height=7,
        empty="No trace was decided on in this time range.",
        stacked=True,
    ),
    trend(
        "The collector's memory",
        "Resident set. Near its limit the collector refuses spans.",
        highest("otelcol_process_memory_rss_bytes", legend="resident"),
        unit="bytes",
        width=12,
        height=7,
        empty=_NO_COLLECTOR,
    ),
]

STORES = [
    numbers(
        "Scrape targets",
        "Whether Prometheus reaches each: up or down.",
        lowest("up", "job"),
        unit="short",
        width=8,
        height=7,
        empty="Prometheus scrapes nothing.",
        words={"1": "up", "0": "DOWN"},
        show="value_and_name",
        steps=bad_below(1),
    ),
    trend(
        "Spans into Tempo",
        "Received per second.",
        per_second("tempo_distributor_spans_received_total", legend="received"),
        unit="ops",
        width=8,
        height=7,
        empty="Tempo is not scraped.",
    ),
    bars(
        "Spans Tempo refused in this time range",
        "By Tempo's reason.",
        grown("tempo_discarded_spans_total", "reason"),
        unit="short",
        width=8,
        height=7,
        empty="Tempo refused nothing.",
    ),
    trend(
        "Series in Prometheus",
        "Label sets of the bridge are bounded; growth without end comes from elsewhere.",
        highest("prometheus_tsdb_head_series", legend="series"),
        unit="short",
        width=12,
        height=7,
        empty=_NO_SELF_SCRAPE,
    ),
    trend(
        "Samples into Prometheus",
        "Per second.",
        per_second("prometheus_tsdb_head_samples_appended_total", legend="samples"),
        unit="ops",
        width=12,
        height=7,
        empty=_NO_SELF_SCRAPE,
    ),
]


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-pipeline-health",
        title="Agent quality: pipeline health",
        description="Outbox, retries, dead letters, the collector's queues and drops, sampling, Tempo and Prometheus.",
        audience="platform",
        since="now-6h",
        refresh="1m",
        sections=[
            Section("The bridge", BRIDGE),
            Section("The collector", COLLECTOR),
            Section("Tempo and Prometheus", STORES),
        ],
    )
