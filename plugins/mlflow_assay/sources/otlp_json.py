"""OpenTelemetry traces as OTLP/JSON, the way the Collector's file exporter writes them.

One `ExportTraceServiceRequest` a line, or one in the whole file, plain or gzip; ids are hex, as the OTLP/JSON
encoding says. Attributes are left to MLflow's own OpenTelemetry translation, which understands MLflow's and the GenAI
semantic conventions (`gen_ai.*`) among others. Trace and span ids stay what they are, so a trace keeps its name in
Tempo and in MLflow. The spans of one trace may be spread over lines and files.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.errors import InputError
from mlflow_assay.sources.files import documents, keys_of
from mlflow_assay.sources.recorded import RecordedRun

if TYPE_CHECKING:
    from mlflow.entities import Span

__all__ = ["OtlpJsonImporter"]

_IDS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}
_SNAKE = re.compile(r"_([a-z])")


class OtlpJsonImporter:
    """Reads OTLP/JSON; one run for each trace in a line, to be joined with the trace's other spans."""

    format: ClassVar[str] = "otlp-json"

    def runs(self, path: Path) -> Iterator[RecordedRun]:
        """The traces of one file, as pieces: a trace whose spans stand in several lines comes several times.

        Raises:
            InputError: a line is not an OTLP/JSON trace export; names file, line and place.
        """
        for line, document in documents(path):
            try:
                spans = list(_spans(_request(document)))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{line}: {error}.") from error
            by_trace: dict[str, list[Span]] = {}
            for span in spans:
                by_trace.setdefault(span.trace_id.removeprefix("tr-"), []).append(span)
            for trace_id, found in by_trace.items():
                yield RecordedRun(self.format, trace_id, tuple(found), trace_id=trace_id, partial=True)


def _spans(request: Mapping[str, Any]) -> Iterator[Span]:
    from google.protobuf.json_format import ParseDict, ParseError
    from mlflow.entities import Span
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        message = ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except ParseError as error:
        raise ValueError(f"not OTLP: {error}") from error
    for group in message.resource_spans:
        # MLflow makes trace tags of resource attributes: this is how the trace says where it came from.
        mark = group.resource.attributes.add(key=semconv.SOURCE_FORMAT)
        mark.value.string_value = OtlpJsonImporter.format
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span.from_otel_proto(span, resource=group.resource)


# --- from OTLP/JSON to protobuf's JSON -----------------------------------------------------------------


def _request(document: Any) -> dict[str, Any]:
    """The document with ids as protobuf's JSON wants them, checked as far as protobuf does not."""
    if not isinstance(document, dict):
        raise ValueError(f"an OTLP trace export is an object with `resourceSpans`, found {keys_of(document)}")
    request: dict[str, Any] = _camel(document)
    if "resourceSpans" not in request:
        raise ValueError(
            f"an OTLP trace export has `resourceSpans`, found {keys_of(document)}{_other_format(document)}"
        )
    for r, group in enumerate(_list(request, "resourceSpans", "the export")):
        for s, scope in enumerate(_list(group, "scopeSpans", f"resourceSpans[{r}]")):
            place = f"resourceSpans[{r}].scopeSpans[{s}]"
            for n, span in enumerate(_list(scope, "spans", place)):
                _check_span(span, f"{place}.spans[{n}]")
    return request


def _other_format(document: Mapping[str, Any]) -> str:
    if {"simulations", "entries"} & set(document):
        return "; it looks like tau2: use --format tau2"
    if {"resourceLogs", "resourceMetrics"} & set(document):
        return "; it holds other signals than traces"
    return ""


def _camel(value: Any) -> Any:
    """The envelope's keys as OTLP/JSON spells them; attributes are lists, so no user's key is touched."""
    if isinstance(value, dict):
        return {_SNAKE.sub(lambda m: m[1].upper(), key): _camel(item) for key, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value


def _list(owner: Any, key: str, place: str) -> list[Any]:
    found = owner.get(key, []) if isinstance(owner, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{place}.{key} is not a list")
    return found


def _check_span(span: Any, place: str) -> None:
    if not isinstance(span, dict):
        raise ValueError(f"{place} is not an object")
    for owner, name in ((span, place), *((link, f"{place}.links") for link in _list(span, "links", place))):
        for key, digits in _IDS.items():
            _to_base64(owner, key, digits, name)
    for key in ("startTimeUnixNano", "endTimeUnixNano"):
        if not str(span.get(key, "")).isdigit() or int(span[key]) == 0:
            raise ValueError(f"{place}.{key} is not a time in nanoseconds, found {span.get(key)!r}")


def _to_base64(owner: dict[str, Any], key: str, digits: int, place: str) -> None:
    value = owner.get(key) or ""
    if key == "parentSpanId" and not str(value).strip("0"):  # absent, empty and all zeros say the same: a root
        owner.pop(key, None)
        return
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value) or not int(value, 16):
        raise ValueError(f"{place}.{key} is not {digits} hex digits, found {value!r}")
    owner[key] = base64.b64encode(bytes.fromhex(value)).decode()
