"""Metrics of `semconv.METRICS`, pushed over OTLP when asked and every few seconds.

OpenTelemetry's own SDK does the counting (views for the buckets, exemplars of the current trace, cumulative
temporality). Added here: every series starts at 0 (histograms too), labels are the declared ones with a bounded
number of values each, and a push says whether it arrived.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.sinks import otlp
from mlflow_assay.sinks.http import Reply, number

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["Bounds", "Meters", "Point", "exposition", "gauges_message", "interval"]

_logger = logging.getLogger(__name__)
_DEFAULT_INTERVAL_S = 15.0  # Prometheus forgets a pushed series after 5 minutes, and rate() needs two points
_LIMITS = {semconv.EVALUATION_NAME: 200, semconv.GEN_AI_AGENT: 100, semconv.JUDGE_VERSION: 200}
_LIMIT = 50  # values of any other label
_SERIES = 5_000  # of one metric in a process that runs for months: labels within their limits still multiply
_SERIES_AT_ONCE = 50_000  # in one message of gauges, which is forgotten when it is sent

Point = tuple[str, tuple[str, ...]]  # metric name and label values in the declared order: one series


def interval(given: float | str | None) -> float:
    """Seconds between two pushes: as given, else `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds), else 15."""
    if given is not None:
        return number("interval_s", given)
    told = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL")
    return number("OTEL_METRIC_EXPORT_INTERVAL", told) / 1000 if told else _DEFAULT_INTERVAL_S


class Bounds:
    """Keeps label sets bounded: the first values of each label stay, all further ones become `semconv.OVERFLOW`.

    Args:
        series: series of one metric at most; all further ones become a single one, every label of it OVERFLOW.
    """

    def __init__(self, series: int = _SERIES) -> None:
        self._seen: dict[str, set[str]] = {}
        self._series: dict[str, set[tuple[str, ...]]] = {}
        self._most = series

    def of(self, name: str, labels: Mapping[str, Any]) -> Point:
        """The series of a metric for these labels; one that is absent or None is empty."""
        values = tuple(self._value(label, labels.get(label)) for label in semconv.METRICS[name].labels)
        series = self._series.setdefault(name, set())
        if values not in series and len(series) >= self._most:
            return name, (semconv.OVERFLOW,) * len(values)
        series.add(values)
        return name, values

    def _value(self, label: str, value: Any) -> str:
        text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        seen = self._seen.setdefault(label, set())
        if text and text not in seen:
            if len(seen) >= _LIMITS.get(label, _LIMIT):
                return semconv.OVERFLOW
            seen.add(text)
        return text


class Meters:
    """A set of metrics and their push. Safe for several threads.

    Args:
        client: where to push; None keeps the numbers for `text` only.
        every_s: seconds between two pushes once `start` was called.
    """

    def __init__(self, client: otlp.OtlpClient | None, every_s: float) -> None:
        self._client, self._every = client, every_s
        self._book = _Book()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.bounds = Bounds()

    def missing(self, points: Iterable[Point]) -> list[Point]:
        """Those of the series that have not been started."""
        with self._lock:
            return [point for point in dict.fromkeys(points) if point not in self._book.known]

    def seed(self, points: Iterable[Point]) -> None:
        """Start series at 0; push before counting, or Prometheus' increase() never sees the first count."""
        with self._lock:
            for point in points:
                self._book.seed(point)

    def record(self, point: Point, value: float, context: Context | None = None) -> None:
        """Add to a counter, observe in a histogram or set a gauge; `context` is what exemplars lead to."""
        with self._lock:
            self._book.record(point, value, context)

    def push(self) -> Reply:
        """Send everything as it stands now."""
        if self._client is None:
            return Reply(None, problem="no endpoint was named")
        with self._lock:
            return self._client.post(self._book.message())

    def text(self) -> str:
        """Everything as it stands now, in Prometheus' text format 0.0.4."""
        with self._lock:
            message = self._book.message()
        return exposition(message)

    def locked(self, work: Callable[[], Any]) -> Any:
        """Run something that no push may come between."""
        with self._lock:
            return work()

    @property
    def started(self) -> bool:
        """Whether it pushes by itself."""
        return self._thread is not None

    def start(self) -> None:
        """Push regularly from now on, in a thread that does not keep the process alive; nothing without a client."""
        if self._client is not None and self._thread is None:
            self._thread = threading.Thread(target=self._regularly, name="assay-metrics", daemon=True)
            self._thread.start()

    def _regularly(self) -> None:
        fine = True
        while not self._stop.wait(self._every):
            reply = self.push()
            if fine and not reply.accepted:
                _logger.warning("Metrics could not be pushed (will go on trying): %s", reply.problem)
            fine = reply.accepted

    def close(self) -> None:
        """A last push, then let go of the connection."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)
            self.push()
        if self._client is not None:
            self._client.close()


class _Book:
    """The SDK's instruments behind declared series."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider, TraceBasedExemplarFilter
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

        views = [
            View(instrument_name=metric.name, aggregation=ExplicitBucketHistogramAggregation(_bounds(metric)))
            for metric in semconv.METRICS.values()
            if metric.kind == "histogram"
        ]
        self._reader = InMemoryMetricReader()
        provider = MeterProvider(
            [self._reader],
            otlp.resource(),
            exemplar_filter=TraceBasedExemplarFilter(),
            shutdown_on_exit=False,
            views=views,
        )
        self._meter = provider.get_meter(otlp.SCOPE, schema_url=semconv.SCHEMA_URL)
        self._instruments: dict[str, Any] = {}
        self.known: set[Point] = set()
        self._empty: dict[Point, None] = {}  # histogram series without an observation yet

    def seed(self, point: Point) -> None:
        if point in self.known:
            return
        self.known.add(point)
        kind = semconv.METRICS[point[0]].kind
        if kind == "counter":
            self._instrument(point[0]).add(0, _labels(point))
        elif kind == "histogram":
            self._empty[point] = None

    def record(self, point: Point, value: float, context: Any) -> None:
        self.known.add(point)
        self._empty.pop(point, None)
        instrument, labels = self._instrument(point[0]), _labels(point)
        kind = semconv.METRICS[point[0]].kind
        if kind == "counter":
            instrument.add(value, labels, context)
        elif kind == "histogram":
            instrument.record(value, labels, context)
        else:
            instrument.set(value, labels)

    def _instrument(self, name: str) -> Any:
        if name not in self._instruments:
            metric = semconv.METRICS[name]
            make = getattr(self._meter, f"create_{metric.kind}")
            self._instruments[name] = make(name, unit=metric.unit, description=metric.help)
        return self._instruments[name]

    def message(self) -> bytes:
        """An ExportMetricsServiceRequest of all series, those without an observation included."""
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        data = self._reader.get_metrics_data()
        request: Any = ExportMetricsServiceRequest() if data is None else encode_metrics(data)
        _add_empty(request, self._empty)
        return bytes(request.SerializeToString())


def _bounds(metric: semconv.Metric) -> tuple[float, ...]:
    return semconv.SECONDS_BOUNDS if metric.unit == "s" else semconv.SCORE_BOUNDS


def _labels(point: Point) -> dict[str, str]:
    return dict(zip(semconv.METRICS[point[0]].labels, point[1], strict=True))


def _add_empty(request: Any, points: Iterable[Point]) -> None:
    """Histogram series of count 0, which the SDK has no way to make."""
    from opentelemetry.proto.metrics.v1 import metrics_pb2 as proto

    by_name: dict[str, Any] = {}
    now = time.time_ns()
    for point in points:
        metric = semconv.METRICS[point[0]]
        found = by_name.setdefault(
            metric.name, proto.Metric(name=metric.name, unit=metric.unit, description=metric.help)
        )
        found.histogram.aggregation_temporality = proto.AGGREGATION_TEMPORALITY_CUMULATIVE
        bounds = _bounds(metric)
        found.histogram.data_points.add(
            attributes=otlp.attributes(_labels(point)),
            start_time_unix_nano=now,
            time_unix_nano=now,
            count=0,
            sum=0.0,
            bucket_counts=[0] * (len(bounds) + 1),
            explicit_bounds=bounds,
        )
    if by_name:
        _scope_metrics(request).extend(by_name.values())


def _scope_metrics(request: Any) -> Any:
    if not request.resource_metrics:
        request.resource_metrics.add(resource=otlp.proto_resource(), schema_url=semconv.SCHEMA_URL)
    scopes = request.resource_metrics[0].scope_metrics
    if not scopes:
        scopes.add(scope=otlp.proto_scope(), schema_url=semconv.SCHEMA_URL)
    return scopes[0].metrics


def gauges_message(
    points: Iterable[tuple[str, Mapping[str, Any], float]],
    gone: Iterable[tuple[str, Mapping[str, Any]]] = (),
    instance: str | None = None,
) -> bytes:
    """An ExportMetricsServiceRequest of gauges as they are now.

    Args:
        points: metric name (of `semconv.METRICS`), labels and value of each.
        gone: metric name and labels of those that hold no longer: sent as "no recorded value", at which Prometheus
            ends the series at once; else it would answer with the last value for another five minutes.
        instance: `service.instance.id` of what is sent; None is this process' own.
    """
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    book, bounds = _Book(), Bounds(_SERIES_AT_ONCE)
    for name, labels, value in points:
        book.record(bounds.of(name, labels), value, None)
    request: Any = ExportMetricsServiceRequest.FromString(book.message())
    ended = Bounds(_SERIES_AT_ONCE)
    _add_ended(request, [point for point in (ended.of(*each) for each in gone) if point not in book.known])
    for resource in request.resource_metrics if instance is not None else ():
        for attribute in resource.resource.attributes:
            if attribute.key == semconv.SERVICE_INSTANCE:
                attribute.value.string_value = instance
    return bytes(request.SerializeToString())


def _add_ended(request: Any, points: Iterable[Point]) -> None:
    """Gauge series that end here."""
    from opentelemetry.proto.metrics.v1 import metrics_pb2 as proto

    now = time.time_ns()
    for point in points:
        if semconv.OVERFLOW in point[1]:
            continue  # stands for several series, of which others may still hold
        metrics = _scope_metrics(request)
        found = next((metric for metric in metrics if metric.name == point[0]), None)
        if found is None:
            declared = semconv.METRICS[point[0]]
            found = metrics.add(name=declared.name, unit=declared.unit, description=declared.help)
        found.gauge.data_points.add(
            attributes=otlp.attributes(_labels(point)),
            time_unix_nano=now,
            flags=proto.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
        )


def exposition(message: bytes) -> str:
    """An ExportMetricsServiceRequest of `semconv.METRICS` in Prometheus' text format 0.0.4.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request: Any = ExportMetricsServiceRequest.FromString(message)
    families: dict[str, list[str]] = {}
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                lines = families.setdefault(metric.name, _head(semconv.METRICS[metric.name]))
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    lines.extend(_lines(semconv.METRICS[metric.name], point))
    return "".join(line + "\n" for lines in families.values() for line in lines)


def _head(metric: semconv.Metric) -> list[str]:
    name = semconv.prometheus_name(metric.name)
    return [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]


def _lines(metric: semconv.Metric, point: Any) -> Iterator[str]:
    labels = {semconv.prometheus_label(a.key): a.value.string_value for a in point.attributes}
    if metric.kind != "histogram":
        value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
        yield f"{semconv.prometheus_name(metric.name)}{_braced(labels)} {value}"
        return
    name, below = semconv.prometheus_name(metric.name, "bucket"), 0
    bounds = [f"{bound:g}" for bound in point.explicit_bounds] + ["+Inf"]
    for bound, count in zip(bounds, point.bucket_counts, strict=True):
        below += count
        yield f"{name}{_braced({**labels, 'le': bound})} {below}"
    yield f"{semconv.prometheus_name(metric.name, 'sum')}{_braced(labels)} {point.sum}"
    yield f"{semconv.prometheus_name(metric.name, 'count')}{_braced(labels)} {point.count}"


def _braced(labels: Mapping[str, str]) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    shown = {key: "".join(escapes.get(c, c) for c in value) for key, value in labels.items() if value}
    return "{" + ",".join(f'{key}="{value}"' for key, value in shown.items()) + "}" if shown else ""
