"""Pipeline health: does every verdict arrive, and does the machinery have room. Entry point `pipeline-health`."""

from __future__ import annotations

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Query, Tile, bars, numbers, trend
from mlflow_assay.dashboards.promql import by, histogram_quantile, increase, rate, series, where
from mlflow_assay.semconv import (
    EXPERIMENT_ID,
    M_BACKLOG,
    M_DELIVERIES,
    M_DELIVERY,
    M_LAG,
    M_WATERMARK_AGE,
    SINK,
    STATE,
    prometheus_label,
)

_SINK, _STATE, _EXPERIMENT = (prometheus_label(name) for name in (SINK, STATE, EXPERIMENT_ID))
_NO_WORKER = "No worker reports: is `assay watch` running?"
_NO_COLLECTOR = "The collector's own metrics are not scraped."


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
            Section("The bridge", [lag(), dead(), reading(), backlog(), deliveries(), delivery_time()]),
            Section("The collector", [accepted(), exported(), queues(), sampled(), memory()]),
            Section("Tempo and Prometheus", [up(), tempo_in(), tempo_refused(), head_series(), samples()]),
        ],
    )


def lag() -> Tile:
    """How far behind."""
    return trend(
        "Lag of each sink",
        "Age of the oldest verdict not yet delivered; 0 when none waits.",
        [Query(by(series(M_LAG), SINK, function="max"), f"{{{{{_SINK}}}}}")],
        unit="s",
        width=10,
        empty=_NO_WORKER,
    )


def dead() -> Tile:
    """Dead letters."""
    return numbers(
        "Dead letters",
        "Verdicts a sink refused for good. `assay bridge dead` says why; `assay bridge replay` sends them again.",
        [Query(by(series(M_BACKLOG, where(STATE, "dead")), SINK, function="max"), f"{{{{{_SINK}}}}}")],
        unit="short",
        width=7,
        height=8,
        empty=_NO_WORKER,
        show="value_and_name",
        steps=((None, "#3274d9"), (1, "#c4162a")),
    )


def reading() -> Tile:
    """Is MLflow being read."""
    return numbers(
        "MLflow last read",
        "Time since the worker last read each experiment.",
        [Query(by(series(M_WATERMARK_AGE), EXPERIMENT_ID, function="min"), f"experiment {{{{{_EXPERIMENT}}}}}")],
        unit="s",
        width=7,
        height=8,
        empty=_NO_WORKER,
        show="value_and_name",
        steps=((None, "#3274d9"), (600, "#e0752d")),
    )


def backlog() -> Tile:
    """What waits."""
    return trend(
        "Waiting in the outbox",
        "Verdicts not delivered, by sink and state: pending, retrying or dead.",
        [Query(by(series(M_BACKLOG), SINK, STATE, function="max"), f"{{{{{_SINK}}}}} {{{{{_STATE}}}}}")],
        unit="short",
        width=8,
        empty=_NO_WORKER,
        stacked=True,
    )


def deliveries() -> Tile:
    """What became of deliveries."""
    return trend(
        "Deliveries per second",
        "By sink and outcome. Retries that do not end say the far end is down; nothing is lost meanwhile.",
        [Query(by(rate(M_DELIVERIES), SINK, STATE), f"{{{{{_SINK}}}}} {{{{{_STATE}}}}}")],
        unit="ops",
        width=8,
        empty=_NO_WORKER,
    )


def delivery_time() -> Tile:
    """From MLflow to the far end."""
    return trend(
        "From MLflow to the far end",
        "From an assessment's change to its acknowledgement; 50 and 99 in 100 are faster.",
        [
            Query(histogram_quantile(0.5, M_DELIVERY, SINK), f"{{{{{_SINK}}}}} 50 %"),
            Query(histogram_quantile(0.99, M_DELIVERY, SINK), f"{{{{{_SINK}}}}} 99 %"),
        ],
        unit="s",
        width=8,
        empty="Nothing was delivered in this time range.",
    )


def accepted() -> Tile:
    """Spans in."""
    return trend(
        "Spans into the collector",
        "Accepted and refused per second. Refused: memory is short, or the sender is broken.",
        [
            Query(by(rate("otelcol_receiver_accepted_spans_total"), "receiver"), "accepted {{receiver}}"),
            Query(by(rate("otelcol_receiver_refused_spans_total"), "receiver"), "refused {{receiver}}"),
        ],
        unit="ops",
        width=8,
        empty=_NO_COLLECTOR,
    )


def exported() -> Tile:
    """Spans out."""
    return trend(
        "Spans out of the collector",
        "Sent and failed per second, by exporter.",
        [
            Query(by(rate("otelcol_exporter_sent_spans_total"), "exporter"), "sent {{exporter}}"),
            Query(by(rate("otelcol_exporter_send_failed_spans_total"), "exporter"), "failed {{exporter}}"),
        ],
        unit="ops",
        width=8,
        empty=_NO_COLLECTOR,
    )


def queues() -> Tile:
    """How full the sending queues are."""
    size = by(series("otelcol_exporter_queue_size"), "exporter", function="max")
    room = by(series("otelcol_exporter_queue_capacity"), "exporter", function="max")
    return trend(
        "Sending queues, how full",
        "Size over capacity. Full queues drop: the far end is down or too slow.",
        [Query(f"{size} / {room}", "{{exporter}}")],
        unit="percentunit",
        width=8,
        empty=_NO_COLLECTOR,
        high=1,
        threshold=0.8,
    )


def sampled() -> Tile:
    """Tail sampling."""
    name = "otelcol_processor_tail_sampling_global_count_traces_sampled_total"
    return trend(
        "Tail sampling: traces kept and dropped",
        "Per second. Errors, slow runs and runs chosen for judging are always kept.",
        [Query(by(rate(name), "sampled"), "kept: {{sampled}}")],
        unit="ops",
        width=12,
        height=7,
        empty="No trace was decided on in this time range.",
        stacked=True,
    )


def memory() -> Tile:
    """The collector's memory."""
    return trend(
        "The collector's memory",
        "Resident set. Near its limit the collector refuses spans.",
        [Query(f"max({series('otelcol_process_memory_rss_bytes')})", "resident")],
        unit="bytes",
        width=12,
        height=7,
        empty=_NO_COLLECTOR,
    )


def up() -> Tile:
    """Who answers."""
    return numbers(
        "Scrape targets",
        "Whether Prometheus reaches each: up or down.",
        [Query(by(series("up"), "job", function="min"), "{{job}}")],
        unit="short",
        width=8,
        height=7,
        empty="Prometheus scrapes nothing.",
        words={"1": "up", "0": "DOWN"},
        show="value_and_name",
        steps=((None, "#c4162a"), (1, "#3274d9")),
    )


def tempo_in() -> Tile:
    """Spans into Tempo."""
    return trend(
        "Spans into Tempo",
        "Received per second.",
        [Query(by(rate("tempo_distributor_spans_received_total")), "received")],
        unit="ops",
        width=8,
        height=7,
        empty="Tempo is not scraped.",
    )


def tempo_refused() -> Tile:
    """Spans Tempo refused."""
    return bars(
        "Spans Tempo refused in this time range",
        "By Tempo's reason.",
        [Query(by(increase("tempo_discarded_spans_total"), "reason"), "{{reason}}", instant=True)],
        unit="short",
        width=8,
        height=7,
        empty="Tempo refused nothing.",
    )


def head_series() -> Tile:
    """Cardinality."""
    return trend(
        "Series in Prometheus",
        "Label sets of the bridge are bounded; growth without end comes from elsewhere.",
        [Query(f"max({series('prometheus_tsdb_head_series')})", "series")],
        unit="short",
        width=12,
        height=7,
        empty="Prometheus does not scrape itself.",
    )


def samples() -> Tile:
    """Samples into Prometheus."""
    return trend(
        "Samples into Prometheus",
        "Per second.",
        [Query(by(rate("prometheus_tsdb_head_samples_appended_total")), "samples")],
        unit="ops",
        width=12,
        height=7,
        empty="Prometheus does not scrape itself.",
    )
