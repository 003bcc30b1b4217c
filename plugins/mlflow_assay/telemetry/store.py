"""Masks MLflow's own copy of a trace before it is stored: spans, and what MLflow keeps of the trace as a whole."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from mlflow.tracing.trace_manager import InMemoryTraceManager
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Status, format_span_id

from mlflow_assay.telemetry.facts import user_hash
from mlflow_assay.telemetry.spans import masked, replaced

if TYPE_CHECKING:
    from mlflow_assay.redaction import Redactor
    from mlflow_assay.telemetry.settings import Settings

__all__ = ["mask_span", "mask_trace"]

_log = logging.getLogger(__name__)
_USER = "mlflow.trace.user"
_KEPT_ON_FAILURE = ("mlflow.traceRequestId", "mlflow.experimentId", "mlflow.spanType")


def mask_span(span: ReadableSpan, redactor: Redactor) -> ReadableSpan:
    """The masked span; MLflow's live span of the same id becomes the same, since that one is stored."""
    try:
        safe = masked(span, redactor)
    except Exception as error:
        _log.warning("A span could not be redacted (%s) and is stored empty.", type(error).__name__)
        kept = {key: value for key, value in (span.attributes or {}).items() if key in _KEPT_ON_FAILURE}
        status = Status(span.status.status_code)
        safe = replaced(span, name="redaction failed", attributes=kept, events=(), links=(), status=status)
    manager = InMemoryTraceManager.get_instance()
    trace_id = manager.get_mlflow_trace_id_from_otel_id(span.context.trace_id)
    live = manager.get_span_from_id(trace_id, format_span_id(span.context.span_id)) if trace_id else None
    if live is not None:
        for part in ("_name", "_attributes", "_events", "_links", "_status"):
            setattr(live._span, part, getattr(safe, part))
        live._links = [_masked_link(link, redactor) for link in live._links]  # MLflow keeps its own beside the span's
    return safe


def _masked_link(link: Any, redactor: Redactor) -> Any:
    return dataclasses.replace(link, attributes=redactor.redact(link.attributes).value)


def mask_trace(root: ReadableSpan, settings: Settings) -> None:
    """Mask tags, metadata, previews, the client's request id and assessments made while the trace ran."""
    manager = InMemoryTraceManager.get_instance()
    trace_id = manager.get_mlflow_trace_id_from_otel_id(root.context.trace_id)
    if trace_id is None or settings.redactor is None:
        return
    with manager.get_trace(trace_id) as trace:
        if trace is not None:
            _mask_info(trace.info, settings.redactor, settings.user_key)


def _mask_info(info: Any, redactor: Redactor, user_key: str | None) -> None:
    user = info.trace_metadata.get(_USER)
    for held in (info.tags, info.trace_metadata):
        safe = _texts(redactor.redact(dict(held)).value)
        held.clear()
        held.update(safe)
    if user and user_key:
        info.trace_metadata[_USER] = user_hash(user, user_key)
    for name in ("client_request_id", "request_preview", "response_preview"):
        if said := getattr(info, name):
            setattr(info, name, redactor.text(said))
    for assessment in info.assessments or ():
        _mask_assessment(assessment, redactor)


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _mask_assessment(assessment: Any, redactor: Redactor) -> None:
    if assessment.rationale:
        assessment.rationale = redactor.text(assessment.rationale)
    if assessment.metadata:
        assessment.metadata = _texts(redactor.redact(dict(assessment.metadata)).value)
    value = assessment.feedback or assessment.expectation
    if value is not None:
        value.value = redactor.redact(value.value).value
