"""Recorded spans and assessments as MLflow's own entities."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.sources.recorded import RecordedAssessment, RecordedRun, RecordedSpan, digest

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Span, TraceInfo

__all__ = ["to_assessment", "to_info", "to_spans"]


def to_spans(run: RecordedRun, trace_id: str) -> list[Span]:
    """The run's spans in the trace `tr-<trace_id>`; spans that are MLflow's already stay as they are."""
    return [_span(span, trace_id) if isinstance(span, RecordedSpan) else span for span in run.spans]


def _span(span: RecordedSpan, trace_id: str) -> Span:
    from mlflow.entities import Span
    from mlflow.tracing.utils import dump_span_attribute_value

    return Span.from_dict(
        {
            "trace_id": _base64(trace_id),
            "span_id": _base64(span.span_id),
            "parent_span_id": _base64(span.parent_id) if span.parent_id else None,
            "name": span.name,
            "start_time_unix_nano": span.start_ns,
            "end_time_unix_nano": span.end_ns,
            "status": {
                "code": "STATUS_CODE_ERROR" if span.error is not None else "STATUS_CODE_OK",
                "message": span.error or "",
            },
            "attributes": {k: dump_span_attribute_value(v) for k, v in _attributes(span, trace_id).items()},
            "events": [_exception(span)] if span.error is not None else [],
        }
    )


def _attributes(span: RecordedSpan, trace_id: str) -> dict[str, Any]:
    from mlflow.tracing.constant import SpanAttributeKey

    known = {
        SpanAttributeKey.INPUTS: span.inputs,
        SpanAttributeKey.OUTPUTS: span.outputs,
        SpanAttributeKey.MODEL: span.model,
        SpanAttributeKey.CHAT_USAGE: _usage(span.input_tokens, span.output_tokens),
        SpanAttributeKey.LLM_COST: _cost(span),
    }
    return {
        SpanAttributeKey.REQUEST_ID: f"tr-{trace_id}",
        SpanAttributeKey.SPAN_TYPE: span.type,
        **{key: value for key, value in known.items() if value is not None},
        **span.attributes,
    }


def _usage(input_tokens: int | None, output_tokens: int | None) -> dict[str, int] | None:
    if input_tokens is None and output_tokens is None:
        return None
    known = {"input_tokens": input_tokens or 0, "output_tokens": output_tokens or 0}
    return {**known, "total_tokens": sum(known.values())}


def _cost(span: RecordedSpan) -> dict[str, float] | None:
    """The recorded cost. An empty one keeps MLflow from putting a list price where none was recorded."""
    if span.cost_usd is not None:
        return {"total_cost": span.cost_usd}
    return {} if span.model is not None else None


def _exception(span: RecordedSpan) -> dict[str, Any]:
    """The event by which MLflow shows an error, and by which its judges of tool use see one."""
    return {
        "name": "exception",
        "time_unix_nano": span.end_ns,
        "attributes": {"exception.type": "Error", "exception.message": span.error},
    }


def to_info(run: RecordedRun, trace_id: str, experiment_id: str, assessments: list[Assessment]) -> TraceInfo:
    """The trace's record: times of the root, tags, session, token and cost totals, assessments with it."""
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.constant import TraceTagKey

    root = next(s for s in run.spans if isinstance(s, RecordedSpan) and s.parent_id is None)
    start, end = root.start_ns // 1_000_000, root.end_ns // 1_000_000
    return TraceInfo(
        trace_id=f"tr-{trace_id}",
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=start,
        execution_duration=end - start,
        state=TraceState.ERROR if root.error is not None else TraceState.OK,
        client_request_id=run.id,
        trace_metadata=_metadata(run),
        tags={
            **run.tags,
            TraceTagKey.TRACE_NAME: root.name,
            semconv.SOURCE_FORMAT: run.format,
            semconv.SOURCE_ID: run.id,
        },
        assessments=assessments,
    )


def _metadata(run: RecordedRun) -> dict[str, str]:
    from mlflow.tracing.constant import TraceMetadataKey

    metadata = {TraceMetadataKey.TRACE_SESSION: run.session_id} if run.session_id else {}
    costs = [s.cost_usd for s in run.spans if isinstance(s, RecordedSpan) and s.cost_usd is not None]
    # Said outright, since MLflow's own sum puts what it does not know at 0.
    total = {"input_cost": None, "output_cost": None, "total_cost": math.fsum(costs) if costs else None}
    return {**metadata, TraceMetadataKey.COST: json.dumps(total)}


def to_assessment(recorded: RecordedAssessment, trace_id: str) -> Assessment:
    """The assessment, with an id of its own making, so that sending it twice cannot double it."""
    from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback

    common: dict[str, Any] = {
        "name": recorded.name,
        "source": AssessmentSource(source_type=recorded.source_type, source_id=recorded.source_id),
        "trace_id": f"tr-{trace_id}",
        "metadata": {**recorded.metadata, semconv.SOURCE_ID: recorded.id},
    }
    if recorded.kind == "expectation":
        made: Assessment = Expectation(value=recorded.value, **common)
    elif recorded.unscored:
        reason, detail = recorded.unscored
        error = AssessmentError(error_code=reason.value, error_message=detail)
        made = Feedback(error=error, rationale=recorded.rationale, **common)
    else:
        made = Feedback(value=recorded.value, rationale=recorded.rationale, **common)
    made.assessment_id = f"a-{digest([trace_id, recorded.id])}{digest([recorded.id, trace_id])}"
    return made


def _base64(hex_digits: str) -> str:
    return base64.b64encode(bytes.fromhex(hex_digits)).decode()
