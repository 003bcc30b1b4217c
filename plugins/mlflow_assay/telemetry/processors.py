"""The span processors that take the place of MLflow's two while telemetry is configured.

MLflow has no door for exporters (`tracing/provider.py` says so in a TODO). It builds its span processors afresh
whenever its tracing starts anew (`set_tracking_uri`, `set_destination`, `reset`), each time by these two class names;
so it is given subclasses under these names, once, and every later start uses them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from mlflow.tracing.export.genai_semconv.translator import translate_span_to_genai
from mlflow.tracing.processor import mlflow_v3, otel
from mlflow.tracing.trace_manager import InMemoryTraceManager
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status, format_span_id

from mlflow_assay import semconv
from mlflow_assay.recent import Recent
from mlflow_assay.telemetry.facts import Facts, call_cost, facts_of
from mlflow_assay.telemetry.spans import masked, replaced, standard_operation, typed, with_error_type
from mlflow_assay.telemetry.store import mask_span, mask_trace

if TYPE_CHECKING:
    from mlflow_assay.telemetry.settings import Settings

__all__ = ["AssayMlflowProcessor", "AssayOtelProcessor", "MaskingExporter", "install", "is_tested"]

_log = logging.getLogger(__name__)
_TESTED = ((3, 17), (3, 18))
_REMEMBERED = 4096  # traces MLflow may have let go of before their export is built

_settings: Settings | None = None
_running: list[AssayOtelProcessor] = []


def is_tested() -> bool:
    """Whether this MLflow is one the processors were tried with."""
    import mlflow

    return tuple(int(part) for part in mlflow.__version__.split(".")[:2]) in _TESTED


def install(settings: Settings) -> None:
    """Put the processors in MLflow's place; tracing that has started already starts anew with them."""
    import mlflow
    from mlflow.tracing import provider

    global _settings
    _settings = settings
    otel.OtelSpanProcessor = AssayOtelProcessor
    mlflow_v3.MlflowV3SpanProcessor = AssayMlflowProcessor
    if provider.provider.once._done:
        mlflow.tracing.disable()
        mlflow.tracing.enable()


class _Remembered:
    """Facts of traces that ended, for spans whose export is built after MLflow forgot the trace."""

    def __init__(self) -> None:
        self._held: Recent[int, Facts] = Recent(_REMEMBERED)
        self._lock = Lock()

    def put(self, trace_id: int, facts: Facts) -> None:
        with self._lock:
            self._held[trace_id] = facts

    def get(self, trace_id: int) -> Facts:
        with self._lock:
            return self._held.get(trace_id) or Facts()


_remembered = _Remembered()


def _facts(span: ReadableSpan, settings: Settings) -> Facts:
    manager = InMemoryTraceManager.get_instance()
    trace_id = manager.get_mlflow_trace_id_from_otel_id(span.context.trace_id)
    if trace_id is not None:
        with manager.get_trace(trace_id) as trace:
            if trace is not None:
                return facts_of(trace, settings)
    return _remembered.get(span.context.trace_id)


class AssayOtelProcessor(otel.OtelSpanProcessor):
    """Builds the copy that is exported: typed, enriched, by the GenAI conventions; masked in the export thread."""

    def __init__(self, span_exporter: SpanExporter, export_metrics: bool) -> None:
        if _settings is None:
            raise RuntimeError("telemetry.configure was not called")
        self._settings = _settings
        super().__init__(MaskingExporter(_exporter(_settings), _settings), export_metrics and _settings.span_metrics)
        for former in _running:
            former.shutdown()  # sends what it still holds
        _running[:] = [self]

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the copy of a span that has ended."""
        if self._export_metrics:
            self.record_metrics_for_span(span)
        BatchSpanProcessor.on_end(self, self._copy(span))

    def _copy(self, span: ReadableSpan) -> ReadableSpan:
        facts = _facts(span, self._settings)
        added = {**facts.everywhere, **with_error_type(span)}
        if span.parent is None:
            added |= facts.root
        read = {key: value for key, value in typed(span).items() if value is not None}
        paid = call_cost(lambda key: otel_attribute(span, key))
        if paid is not None:
            added[semconv.COST] = paid
        agent = facts.agents.get(format_span_id(span.context.span_id), facts.agent)
        if agent and semconv.GEN_AI_AGENT not in read:
            added[semconv.GEN_AI_AGENT] = agent
        read_span = replaced(span, attributes=read)
        copy = standard_operation(translate_span_to_genai(read_span), read_span)
        said = dict(copy.attributes or {})
        # What the application set by itself stands; the conventions' own names come from the translation.
        return replaced(copy, attributes={**added, **said})


def otel_attribute(span: ReadableSpan, key: str) -> Any:
    """One of MLflow's attributes, read from its JSON."""
    from mlflow.tracing.utils import get_otel_attribute

    return get_otel_attribute(span, key)


class AssayMlflowProcessor(mlflow_v3.MlflowV3SpanProcessor):
    """Masks MLflow's own copy where told, and remembers a trace's facts for the export."""

    def __init__(self, span_exporter: SpanExporter, export_metrics: bool, use_batch_processor: bool = False) -> None:
        if _settings is None:
            raise RuntimeError("telemetry.configure was not called")
        self._settings = _settings
        super().__init__(span_exporter, export_metrics and _settings.span_metrics, use_batch_processor)

    def on_end(self, span: ReadableSpan) -> None:
        """Store a span that has ended."""
        if span.parent is None:
            _remembered.put(span.context.trace_id, _facts(span, self._settings))
        if self._settings.redact_mlflow and self._settings.redactor is not None:
            span = mask_span(span, self._settings.redactor)
            if span.parent is None:
                mask_trace(span, self._settings)
        super().on_end(span)


class MaskingExporter(SpanExporter):
    """Masks each span, then hands it on. A span that cannot be masked leaves empty: its times and ids alone."""

    def __init__(self, inner: SpanExporter, settings: Settings) -> None:
        self._inner, self._settings = inner, settings

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the masked copies."""
        return self._inner.export([self._safe(span) for span in spans])

    def _safe(self, span: ReadableSpan) -> ReadableSpan:
        try:
            return masked(span, self._settings.redactor, content=self._settings.content)
        except Exception as error:
            _log.warning("A span could not be redacted (%s) and is exported empty.", type(error).__name__)
            return replaced(
                span,
                name="redaction failed",
                attributes={},
                events=(),
                links=(),
                status=Status(span.status.status_code),
            )

    def shutdown(self) -> None:
        """Let go of the connection."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is held here."""
        return bool(self._inner.force_flush(timeout_millis))


def _exporter(settings: Settings) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=settings.endpoint,
        headers=dict(settings.headers),
        timeout=settings.timeout_s,
        compression=Compression.Gzip,
    )
