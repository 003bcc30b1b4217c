"""Copies of ended spans with other contents: typed, enriched, masked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status, StatusCode

from mlflow_assay import semconv

if TYPE_CHECKING:
    from mlflow_assay.redaction import Redactor

__all__ = ["CONTENT", "masked", "replaced", "standard_operation", "typed", "with_error_type"]

# Sensitive by the conventions; opt-in there, on in MLflow.
CONTENT = frozenset(
    {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        semconv.GEN_AI_TOOL_ARGUMENTS,
        semconv.GEN_AI_TOOL_RESULT,
        "mlflow.spanInputs",
        "mlflow.spanOutputs",
    }
)
_OPERATIONS = frozenset(
    {
        *("chat", "create_agent", "embeddings", "execute_tool", "generate_content"),
        *("invoke_agent", "invoke_workflow", "retrieval", "text_completion"),
    }
)
_MEANT = {"RETRIEVER": "retrieval", "WORKFLOW": "invoke_workflow"}
_SAYS_CONTENT = frozenset({"exception.message", "exception.stacktrace"})


def replaced(span: ReadableSpan, **changes: Any) -> ReadableSpan:
    """A copy of an ended span with some of its parts exchanged."""
    parts = {
        "name": span.name,
        "context": span.context,
        "parent": span.parent,
        "resource": span.resource,
        "attributes": span.attributes,
        "events": span.events,
        "links": span.links,
        "kind": span.kind,
        "instrumentation_scope": span.instrumentation_scope,
        "status": span.status,
        "start_time": span.start_time,
        "end_time": span.end_time,
    }
    return ReadableSpan(**{**parts, **changes})


def typed(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes with the types they were set with.

    MLflow writes every attribute of its own spans as JSON; those it knows by name it reads back itself, the others
    would leave as quoted text. Spans bridged from other instrumentations carry a scope of their own and stay.
    """
    attributes = dict(span.attributes or {})
    scope = span.instrumentation_scope
    if scope is None or not scope.name.startswith("mlflow"):
        return attributes
    return {key: value if key.startswith("mlflow.") else _read(value) for key, value in attributes.items()}


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        said = json.loads(value)
    except ValueError:
        return value
    if isinstance(said, (bool, int, float, str)):
        return said
    same = isinstance(said, list) and said and len({type(item) for item in said}) == 1
    return tuple(said) if same and isinstance(said[0], (bool, int, float, str)) else value


def standard_operation(copy: ReadableSpan, before: ReadableSpan) -> ReadableSpan:
    """The translated span with an operation of the conventions or none.

    MLflow hands on its own span types where the conventions have no operation, and names the span after them: every
    untyped span would be called `UNKNOWN`. An operation the application itself had set stands.
    """
    attributes = dict(copy.attributes or {})
    said = attributes.get(semconv.GEN_AI_OPERATION)
    if said is None or said in _OPERATIONS:
        return copy
    own, meant = (before.attributes or {}).get(semconv.GEN_AI_OPERATION), _MEANT.get(str(said))
    if own in _OPERATIONS:
        return replaced(copy, name=before.name, attributes={**attributes, semconv.GEN_AI_OPERATION: own})
    if meant is None:
        del attributes[semconv.GEN_AI_OPERATION]
        return replaced(copy, name=before.name, attributes=attributes)
    return replaced(copy, name=f"{meant} {before.name}", attributes={**attributes, semconv.GEN_AI_OPERATION: meant})


def with_error_type(span: ReadableSpan) -> dict[str, str]:
    """`error.type` of a failed span: its last exception's type, `_OTHER` where it recorded none."""
    if span.status.status_code is not StatusCode.ERROR:
        return {}
    types = [(event.attributes or {}).get("exception.type") for event in span.events if event.name == "exception"]
    return {semconv.ERROR_TYPE: str(types[-1])} if types and types[-1] else {semconv.ERROR_TYPE: "_OTHER"}


def masked(span: ReadableSpan, redactor: Redactor | None, *, content: bool = True) -> ReadableSpan:
    """A copy that may leave: masked in every part, with `assay.redacted` saying how often; without content if told."""
    attributes: Mapping[str, Any] = span.attributes or {}
    events, status = list(span.events), span.status
    if not content:
        attributes = {key: value for key, value in attributes.items() if key not in CONTENT}
        events = [_event(e, {k: v for k, v in (e.attributes or {}).items() if k not in _SAYS_CONTENT}) for e in events]
        status = Status(status.status_code)
    if redactor is None:
        return replaced(span, attributes=attributes, events=events, status=status)
    out = redactor.redact(
        {
            "name": span.name,
            "attributes": dict(attributes),
            "events": [[event.name, dict(event.attributes or {})] for event in events],
            "links": [dict(link.attributes or {}) for link in span.links],
            "status": status.description,
        }
    )
    if not out.counts:
        return replaced(span, attributes=attributes, events=events, status=status)
    said = out.value
    return replaced(
        span,
        name=said["name"],
        attributes={**said["attributes"], semconv.REDACTED: sum(out.counts.values())},
        events=[_event(e, attributes, name) for e, (name, attributes) in zip(events, said["events"], strict=True)],
        links=[Link(link.context, attributes) for link, attributes in zip(span.links, said["links"], strict=True)],
        status=Status(status.status_code, said["status"]) if said["status"] else status,
    )


def _event(event: Event, attributes: Mapping[str, Any], name: str | None = None) -> Event:
    return Event(name or event.name, attributes, event.timestamp)
