"""The run an assessment is about: what a sink may copy of it, so that nobody has to join.

The agent is the tag `agent`, else what the root span says (`gen_ai.agent.name`, or the name of an AGENT span), else
the first AGENT span's name. The model is the tag `model`, else that of the first span with one. KPIs and verdicts
are labelled by these same names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv, sqlstore
from mlflow_assay.contracts import EvaluatedTrace
from mlflow_assay.recent import Recent

if TYPE_CHECKING:
    from mlflow.entities import Trace, TraceInfo

__all__ = ["SpanFacts", "Subjects", "describe", "facts_of", "started_ms"]

_REMEMBERED = 10_000  # runs; about 5 MB
_LONGEST = 200
_LOAD = 50  # traces with their spans held in memory at once
_AGENT = "AGENT"


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """What only the spans say of a run; None where they do not."""

    root_span_id: str | None = None
    agent: str | None = None
    model: str | None = None


def started_ms(info: TraceInfo) -> int:
    """Start of the run by MLflow, Unix milliseconds."""
    return int(info.request_time or 0)


def describe(info: TraceInfo, facts: SpanFacts, slices: Sequence[str] = ()) -> EvaluatedTrace:
    """The evaluated run.

    Args:
        info: MLflow's trace info.
        facts: what the spans say.
        slices: names of tags to copy, where the trace has them.
    """
    from mlflow.tracing.constant import TraceMetadataKey

    tags, metadata = info.tags or {}, info.trace_metadata or {}
    location = info.trace_location.mlflow_experiment if info.trace_location else None
    state, begun = str(getattr(info.state, "value", info.state)), started_ms(info)
    ended = None if info.execution_duration is None or state == "IN_PROGRESS" else begun + int(info.execution_duration)
    return EvaluatedTrace(
        trace_id=str(info.trace_id),
        experiment_id=str(location.experiment_id) if location else "",
        root_span_id=facts.root_span_id,
        started_ms=begun,
        ended_ms=ended,
        status=state,
        agent=_short(tags.get(semconv.TAG_AGENT) or facts.agent),
        model=_short(tags.get(semconv.TAG_MODEL) or facts.model),
        conversation=metadata.get(TraceMetadataKey.TRACE_SESSION),
        prompt_version=_prompt(tags),
        service=_short(tags.get(semconv.SERVICE_NAME)),
        environment=_short(tags.get(semconv.ENVIRONMENT) or tags.get("environment")),
        slices={name: str(tags[name])[:_LONGEST] for name in slices if tags.get(name)},
    )


def _short(text: str | None) -> str | None:
    return text[:_LONGEST] if text else None


def _prompt(tags: Mapping[str, str]) -> str | None:
    """`<name>/<version>` of the first prompt MLflow has linked to the trace."""
    from mlflow.tracing.constant import TraceTagKey

    try:
        linked = json.loads(tags.get(TraceTagKey.LINKED_PROMPTS) or "[]")
        return f"{linked[0]['name']}/{linked[0]['version']}" if linked else None
    except (ValueError, LookupError, TypeError):
        return None  # not in the form MLflow 3.17 writes: then there is nothing to be said


class Subjects:
    """Describes runs, asking MLflow for the spans of each once; of ended runs it remembers the answer.

    Args:
        slices: names of tags to copy.
    """

    def __init__(self, slices: Sequence[str] = ()) -> None:
        self._slices = tuple(slices)
        self._facts: Recent[str, SpanFacts] = Recent(_REMEMBERED)

    def of(self, infos: Sequence[TraceInfo]) -> dict[str, EvaluatedTrace]:
        """The runs of these infos, by trace id.

        Raises:
            StoreError: MLflow cannot be read.
        """
        asked = [str(info.trace_id) for info in infos if str(info.trace_id) not in self._facts]
        found = facts_of(asked)
        described = {}
        for info in infos:
            facts = self._facts.get(str(info.trace_id)) or found.get(str(info.trace_id), SpanFacts())
            described[str(info.trace_id)] = run = describe(info, facts, self._slices)
            if run.ended_ms is not None and facts.root_span_id is not None:
                self._facts[run.trace_id] = facts
        return described


def facts_of(trace_ids: Sequence[str]) -> dict[str, SpanFacts]:
    """What the spans of these traces say, by trace id; traces without spans are absent.

    Raises:
        StoreError: MLflow cannot be read.
    """
    from mlflow_assay.sources.mlflow_store import load_present

    found: dict[str, SpanFacts] = {}
    if (sql := sqlstore.open_store()) is not None:
        rows: dict[str, list[_Row]] = {}
        for trace_id, span_id, parent, name, kind, model in sqlstore.span_rows(sql, trace_ids):
            rows.setdefault(trace_id, []).append(_Row(span_id, parent, name, kind, model))
        found = {trace_id: _facts(spans) for trace_id, spans in rows.items()}
    rest = [trace_id for trace_id in trace_ids if trace_id not in found]
    for start in range(0, len(rest), _LOAD):
        for trace in load_present(rest[start : start + _LOAD]):
            if trace.data and trace.data.spans:
                found[str(trace.info.trace_id)] = _facts(_rows(trace))
    return found


@dataclass(frozen=True)
class _Row:
    """One span, as little of it as is needed."""

    span_id: str
    parent: str | None
    name: str
    type: str | None
    model: str | None
    agent: str | None = None


def _rows(trace: Trace) -> list[_Row]:
    from mlflow.tracing.constant import SpanAttributeKey

    return [
        _Row(
            str(span.span_id),
            span.parent_id,
            str(span.name),
            span.span_type,
            _text(span.get_attribute(SpanAttributeKey.MODEL) or span.get_attribute(semconv.GEN_AI_REQUEST_MODEL)),
            _text(span.get_attribute(semconv.GEN_AI_AGENT)),
        )
        for span in sorted(trace.data.spans, key=lambda span: span.start_time_ns or 0)
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _facts(spans: Iterable[_Row]) -> SpanFacts:
    rows = list(spans)
    roots = [row for row in rows if not row.parent]
    named = [row.agent or row.name for row in (*roots, *rows) if row.agent or row.type == _AGENT]
    model = next((row.model for row in rows if row.model), None)
    return SpanFacts(roots[0].span_id if roots else None, named[0] if named else None, model)
