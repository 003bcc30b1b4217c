"""From an OTLP request to the evaluations in it; everything else in the request is passed over.

An evaluation comes as a log record named `gen_ai.evaluation.result` (the standard), as a span event of that name, or
as a span of its own with `gen_ai.operation.name` `evaluation`, whose parent is what was evaluated.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_assay import semconv
from mlflow_assay.inbound.evaluation import Evaluation, RefusedError, evaluation

__all__ = ["Found", "Message", "decode", "found_in"]

Signal = Literal["logs", "traces"]
Message = Any  # an Export…ServiceRequest
_IDS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}


@dataclass
class Found:
    """What a request held.

    Attributes:
        evaluations: those that can be stored.
        refused: one reason for each that cannot.
        own: how many are our own, come back.
        others: how many records or spans are no evaluations.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    own: int = 0
    others: int = 0


def decode(signal: Signal, body: bytes, is_json: bool) -> Message:
    """The request's message.

    Raises:
        ValueError: the body is not that message.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportLogsServiceRequest() if signal == "logs" else ExportTraceServiceRequest()
    try:
        if is_json:
            said = _with_base64_ids(json.loads(body))
            if not isinstance(said, dict):
                raise ValueError("not an object")
            ParseDict(said, message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except (ParseError, DecodeError, ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"not an OTLP {signal} export ({type(error).__name__})") from error
    return message


def _with_base64_ids(value: Any) -> Any:
    """OTLP/JSON writes ids in hex where protobuf's JSON has base64; attributes are lists of pairs and stay."""
    if isinstance(value, list):
        return [_with_base64_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _id(item, _IDS[key]) if key in _IDS else _with_base64_ids(item) for key, item in value.items()}


def _id(value: Any, digits: int) -> str:
    if value in (None, ""):
        return ""
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
        raise ValueError(f"an id is not {digits} hex digits")
    return base64.b64encode(bytes.fromhex(value)).decode()


def found_in(signal: Signal, message: Message, *, default_source: str, accept_human: bool) -> Found:
    """The evaluations of a request."""

    def read(facts: _Facts) -> Evaluation:
        return evaluation(
            facts.attributes,
            trace_id=facts.trace_id,
            span_id=facts.span_id,
            time_ns=facts.time_ns,
            scope=facts.scope,
            service=facts.service,
            default_source=default_source,
            accept_human=accept_human,
        )

    return _sorted(_log_facts(message) if signal == "logs" else _span_facts(message), read)


@dataclass(frozen=True)
class _Facts:
    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    time_ns: int
    scope: str
    service: str


def _sorted(items: Iterator[_Facts | None], read: Callable[[_Facts], Evaluation]) -> Found:
    found = Found()
    for facts in items:
        if facts is None:
            found.others += 1
        elif semconv.REVISION_KEY in facts.attributes:
            found.own += 1
        else:
            try:
                found.evaluations.append(read(facts))
            except RefusedError as error:
                found.refused.append(str(error))
    return found


def _log_facts(message: Message) -> Iterator[_Facts | None]:
    for group in message.resource_logs:
        service = str(_pairs(group.resource.attributes).get(semconv.SERVICE_NAME, ""))
        for scope in group.scope_logs:
            for record in scope.log_records:
                attributes = _pairs(record.attributes)
                if semconv.EVALUATION_EVENT not in (record.event_name, attributes.get("event.name")):
                    yield None
                    continue
                attributes = {**_body(record.body), **attributes}
                time_ns = record.time_unix_nano or record.observed_time_unix_nano
                yield _Facts(
                    attributes, record.trace_id.hex(), record.span_id.hex(), time_ns, scope.scope.name, service
                )


def _body(body: Any) -> dict[str, Any]:
    """Names of the convention in a record's body: some tools still write them there."""
    if body.WhichOneof("value") != "kvlist_value":
        return {}
    return {key: value for key, value in _pairs(body.kvlist_value.values).items() if key.startswith("gen_ai.")}


def _span_facts(message: Message) -> Iterator[_Facts | None]:
    for group in message.resource_spans:
        service = str(_pairs(group.resource.attributes).get(semconv.SERVICE_NAME, ""))
        for scope in group.scope_spans:
            for span in scope.spans:
                yield from _of_span(span, scope.scope.name, service)


def _of_span(span: Any, scope: str, service: str) -> Iterator[_Facts | None]:
    attributes, trace_id = _pairs(span.attributes), span.trace_id.hex()
    events = [event for event in span.events if event.name == semconv.EVALUATION_EVENT]
    own = attributes.get(semconv.GEN_AI_OPERATION) == semconv.OPERATION_EVALUATION
    is_evaluation = own and semconv.EVALUATION_NAME in attributes
    if is_evaluation:
        yield _Facts(attributes, trace_id, span.parent_span_id.hex(), span.end_time_unix_nano, scope, service)
    for event in events:
        # An event on an evaluation's own span is about what that span evaluates.
        about = span.parent_span_id if own else span.span_id
        yield _Facts(_pairs(event.attributes), trace_id, about.hex(), event.time_unix_nano, scope, service)
    if not is_evaluation and not events:
        yield None


def _pairs(attributes: Any) -> dict[str, Any]:
    return {item.key: _plain(item.value) for item in attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind in ("string_value", "bool_value", "int_value", "double_value") else None
