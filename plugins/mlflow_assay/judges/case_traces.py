"""A definition's case as real MLflow traces in memory: spans, errors, times, usage, expectations, a session."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import (
    AssessmentSource,
    AssessmentSourceType,
    Expectation,
    Span,
    Trace,
    TraceData,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.tracing.constant import SpanAttributeKey, TraceMetadataKey

from mlflow_assay.judges.definition import Case, CaseSpan, CaseTurn

__all__ = ["expectation", "plain_trace", "session_of", "trace_of"]

_START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z: cases have no time of their own
_TURN_NS = 60_000_000_000


def trace_of(case: Case, name: str) -> Trace:
    """The case's trace; for a session-level case its first turn, where the verdict is logged.

    Args:
        case: the case.
        name: distinguishes the traces of one definition's cases; equal names give equal ids.
    """
    return session_of(case, name)[0] if case.turns else _trace(case, case, name, 0)


def session_of(case: Case, name: str) -> tuple[Trace, ...]:
    """The traces of the case's session, oldest first; empty when the case has no turns."""
    return tuple(_trace(case, turn, name, n) for n, turn in enumerate(case.turns))


def plain_trace(name: str, inputs: Any, outputs: Any, expectations: Mapping[str, Any]) -> Trace:
    """A trace of one span with these inputs and outputs: an answer that was not recorded as a trace.

    Args:
        name: distinguishes traces; equal names give equal ids.
        inputs, outputs: of the root span.
        expectations: expected values by name.
    """
    given = {"inputs": inputs, "outputs": outputs, "expectations": dict(expectations)}
    return trace_of(Case.model_validate({"name": name, "kind": "good", "expect": True, **given}), name)


def _trace(case: Case, turn: CaseTurn, name: str, number: int) -> Trace:
    hexes = hashlib.sha256(f"{name}/{number}".encode()).hexdigest()
    trace_id = f"tr-{hexes[:32]}"
    start = _START_NS + number * _TURN_NS
    spans = _spans(turn, trace_id, start)
    return Trace(info=_info(case, spans, turn.spans, trace_id, start, name), data=TraceData(spans=spans))


def _spans(turn: CaseTurn, trace_id: str, start: int) -> list[Span]:
    """Root and its children, one after the other in time; no spans at all for a turn that recorded nothing."""
    if turn.inputs is None and turn.outputs is None and not turn.spans:
        return []
    children, at = [], start
    for number, span in enumerate(turn.spans, 1):
        end = at + int(span.seconds * 1e9)
        children.append(_span(span, trace_id, number, at, end))
        at = end
    root = CaseSpan(name="agent", type="AGENT", inputs=turn.inputs, outputs=turn.outputs, error=None, seconds=0.1)
    return [_span(root, trace_id, 0, start, max(at, start + 100_000_000)), *children]


def _span(span: CaseSpan, trace_id: str, number: int, start: int, end: int) -> Span:
    attributes = {
        SpanAttributeKey.REQUEST_ID: trace_id,
        SpanAttributeKey.SPAN_TYPE: span.type,
        SpanAttributeKey.INPUTS: span.inputs,
        SpanAttributeKey.OUTPUTS: span.outputs,
        **span.attributes,
    }
    failure = {"exception.type": "Error", "exception.message": span.error}
    return Span.from_dict(
        {
            "trace_id": _base64(trace_id.removeprefix("tr-")),
            "span_id": _base64(_span_id(trace_id, number)),
            "parent_span_id": _base64(_span_id(trace_id, 0)) if number else None,
            "name": span.name,
            "start_time_unix_nano": start,
            "end_time_unix_nano": end,
            "status": {"code": "STATUS_CODE_ERROR" if span.error else "STATUS_CODE_OK", "message": span.error or ""},
            "events": [{"name": "exception", "time_unix_nano": end, "attributes": failure}] if span.error else [],
            "attributes": {k: json.dumps(v, ensure_ascii=False) for k, v in attributes.items() if v is not None},
        }
    )


def _span_id(trace_id: str, number: int) -> str:
    return hashlib.sha256(f"{trace_id}/{number}".encode()).hexdigest()[:16]


def _base64(hexes: str) -> str:
    return base64.b64encode(bytes.fromhex(hexes)).decode()


def _info(
    case: Case, spans: Sequence[Span], recorded: Sequence[CaseSpan], trace_id: str, start: int, name: str
) -> TraceInfo:
    failed = any(span.error for span in recorded)
    metadata = {TraceMetadataKey.TRACE_SESSION: name} if case.turns else {}
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id("0"),
        request_time=start // 1_000_000,
        state=TraceState.ERROR if failed else TraceState.OK,
        execution_duration=_duration_ms(spans),
        trace_metadata={**metadata, **_summed(recorded)},
        tags=dict(case.tags),
        assessments=[expectation(key, value, trace_id) for key, value in case.expectations.items()],
    )


def _duration_ms(spans: Sequence[Span]) -> int | None:
    return (spans[0].end_time_ns - spans[0].start_time_ns) // 1_000_000 if spans else None


def _summed(recorded: Sequence[CaseSpan]) -> dict[str, str]:
    """Token usage and cost of the trace, as MLflow sums them up from its spans."""
    found: dict[str, str] = {}
    sums = (
        (SpanAttributeKey.CHAT_USAGE, TraceMetadataKey.TOKEN_USAGE),
        (SpanAttributeKey.LLM_COST, TraceMetadataKey.COST),
    )
    for attribute, key in sums:
        parts = [span.attributes[attribute] for span in recorded if attribute in span.attributes]
        if parts:
            found[key] = json.dumps({k: sum(part[k] for part in parts) for k in parts[0]})
    return found


def expectation(name: str, value: Any, trace_id: str) -> Expectation:
    """An expected value of a trace."""
    source = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="case")
    return Expectation(name=name, value=value, source=source, trace_id=trace_id, create_time_ms=_START_NS // 1_000_000)
