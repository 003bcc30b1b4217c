"""Writes many finished traces into MLflow quickly, and proves that none was lost.

MLflow's own export commits once for every few spans and once more for each trace, which makes a disk the
limit. Here the spans of fifty traces go into one call of MLflow's `log_spans`, over any store that has it.
What belongs to the trace rides on the root span under the names that MLflow gives it on its OTLP path:
`session.id`, `user.id`, `mlflow.traceTag.<tag>`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.demo.recorder import SpanRecord
from mlflow_assay.errors import IncompleteError, StoreError

if TYPE_CHECKING:
    from mlflow.entities import Span, Trace
    from mlflow.entities.model_registry import PromptVersion

__all__ = ["Progress", "TraceRecord", "check", "simulated", "write"]

Progress = Callable[[int, int], None]
_BATCH = 50  # traces whose spans are written in one transaction
_PAGE = 200


@dataclass(frozen=True)
class TraceRecord:
    """A finished trace.

    Attributes:
        trace_id: `tr-<32 hex>`.
        spans: the spans, root first.
        session: the session's id.
        user: the customer's id.
        tags: trace tags.
    """

    trace_id: str
    spans: Sequence[SpanRecord]
    session: str
    user: str
    tags: Mapping[str, str]


def write(
    experiment_id: str,
    traces: Sequence[TraceRecord],
    *,
    prompt: PromptVersion | None = None,
    progress: Progress | None = None,
) -> None:
    """Write traces and check that all are there.

    Args:
        experiment_id: where to.
        traces: what to write. Writing a trace again replaces it.
        prompt: the prompt version that each trace is linked to.
        progress: called with (traces written, traces in all) after each batch.

    Raises:
        StoreError: MLflow cannot be reached, or its store cannot log spans.
        IncompleteError: traces or spans are missing afterwards.
    """
    from mlflow.exceptions import MlflowException

    try:
        for start in range(0, len(traces), _BATCH):
            _write_batch(experiment_id, traces[start : start + _BATCH], prompt)
            if progress:
                progress(min(start + _BATCH, len(traces)), len(traces))
        check(experiment_id, {t.trace_id: len(t.spans) for t in traces})
    except NotImplementedError as error:
        raise StoreError(
            "This MLflow store cannot hold spans.",
            valid="a database or an MLflow server backed by one",
            fix="Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        ) from error
    except MlflowException as error:
        raise StoreError(f"The demo's traces could not be written to MLflow: {error.message}") from error


def _write_batch(experiment_id: str, traces: Sequence[TraceRecord], prompt: PromptVersion | None) -> None:
    from mlflow.tracing.client import TracingClient

    client = TracingClient()
    linked = [{"name": prompt.name, "version": str(prompt.version)}] if prompt else []
    client.log_spans(experiment_id, [span for trace in traces for span in _spans(trace, linked)])
    if prompt is not None:
        for trace in traces:
            client.store.link_prompts_to_trace(trace.trace_id, [prompt])


def check(experiment_id: str, expected: Mapping[str, int]) -> None:
    """Read back what was written.

    Args:
        experiment_id: where.
        expected: trace id -> number of spans.

    Raises:
        IncompleteError: a trace or a span is missing.
    """
    stored = {trace.info.trace_id: len(trace.data.spans) for trace in simulated(experiment_id)}
    missing = {t: f"{stored.get(t, 0)} of {n} spans" for t, n in expected.items() if stored.get(t, 0) != n}
    if missing:
        some = ", ".join(f"{trace} ({found})" for trace, found in list(missing.items())[:5])
        raise IncompleteError(
            f"{len(missing)} of {len(expected)} traces of the demo are not whole in MLflow.", found=some
        )


def simulated(experiment_id: str, *, spans: bool = True) -> Iterator[Trace]:
    """The demo's traces in an experiment, page by page; without spans if they are not needed."""
    import mlflow

    client, token = mlflow.MlflowClient(), None
    while True:
        page = client.search_traces(
            locations=[experiment_id],
            filter_string=f"tags.`{semconv.SIMULATED}` = 'true'",
            max_results=_PAGE,
            include_spans=spans,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _spans(trace: TraceRecord, linked_prompts: list[dict[str, str]]) -> list[Span]:
    from mlflow.entities import Span

    spans = [_span(trace.trace_id, number, span) for number, span in enumerate(trace.spans)]
    tags = {**trace.tags, "mlflow.traceName": trace.spans[0].name}
    if linked_prompts:
        tags["mlflow.linkedPrompts"] = json.dumps(linked_prompts)
    of_trace = {"session.id": trace.session, "user.id": trace.user}
    of_trace |= {f"mlflow.traceTag.{key}": value for key, value in tags.items()}
    spans[0]["attributes"] |= {key: json.dumps(value, ensure_ascii=False) for key, value in of_trace.items()}
    return [Span.from_dict(span) for span in spans]


def _span(trace_id: str, number: int, span: SpanRecord) -> dict[str, Any]:
    """A span as MLflow's `Span.from_dict` reads it: ids in base64, every attribute in JSON."""
    attributes: dict[str, Any] = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": span.type,
        "mlflow.spanInputs": span.inputs,
        **({} if span.outputs is None else {"mlflow.spanOutputs": span.outputs}),
        **span.attributes,
    }
    return {
        "trace_id": _base64(trace_id.removeprefix("tr-")),
        "span_id": _base64(_span_id(trace_id, number)),
        "parent_span_id": "" if span.parent is None else _base64(_span_id(trace_id, span.parent)),
        "name": span.name,
        "start_time_unix_nano": span.start_ns,
        "end_time_unix_nano": span.end_ns,
        "attributes": {key: json.dumps(value, ensure_ascii=False) for key, value in attributes.items()},
        "status": {"code": "STATUS_CODE_ERROR", "message": ": ".join(span.error)}
        if span.error
        else {"code": "STATUS_CODE_OK", "message": ""},
        "events": [_exception(span)] if span.error else [],
    }


def _exception(span: SpanRecord) -> dict[str, Any]:
    kind, message = span.error or ("", "")
    return {
        "name": "exception",
        "time_unix_nano": span.end_ns,
        "attributes": {
            "exception.type": kind,
            "exception.message": message,
            "exception.stacktrace": f"{kind}: {message}",
        },
    }


def _span_id(trace_id: str, number: int) -> str:
    """16 hex digits, unique within the trace and never all zero."""
    return f"{int(trace_id[-8:], 16):08x}{number + 1:08x}"


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
