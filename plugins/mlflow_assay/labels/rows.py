"""One light row a trace: its facts and its marks, so that a long experiment is never held with its spans."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv, trace_fields
from mlflow_assay.contracts import TraceSource
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.designs import Draw, draws_of

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace

__all__ = ["AUTOMATIC", "Mark", "Row", "by_title", "check_by", "needs_spans", "read_row", "read_rows"]

# Tags a breakdown is chosen from when none is asked for, in this order.
AUTOMATIC = tuple(f"tag:{t}" for t in (semconv.TAG_AGENT, semconv.TAG_DOMAIN, semconv.TAG_MODEL, semconv.TAG_TASK))

_SESSION = "mlflow.trace.session"
_LONGEST_RATIONALE = 2000
_LONGEST_PREVIEW = 400
_LONGEST_GROUP = 80


@dataclass(frozen=True)
class Mark:
    """One assessment of a trace: a feedback, or an expectation.

    Attributes:
        id: assessment id; None where the store gave none.
        name: the assessment's name.
        expectation: whether it says what should have been, rather than what was.
        human: whether a person gave it.
        kind, source: source type and id.
        value: as stored; None for an error.
        error: error code, None when there is none.
        rationale: why, truncated.
        metadata: as stored.
        time_ms: when it was made, epoch milliseconds.
        valid: False once another assessment overrides it.
        overrides: id of the assessment it overrides.
    """

    id: str | None
    name: str
    expectation: bool
    human: bool
    kind: str
    source: str
    value: Any
    error: str | None
    rationale: str | None
    metadata: Mapping[str, str]
    time_ms: int
    valid: bool
    overrides: str | None


@dataclass(frozen=True)
class Row:
    """One trace.

    Attributes:
        trace_id, time_ms: id and start, epoch milliseconds.
        timed: whether times were recorded; an import may have had to make them up.
        session: session id or None.
        failed: whether the trace ended in an error.
        duration_ms, tokens, usd: as recorded, None where not.
        request: what was asked, truncated.
        simulated: whether it is marked as simulated.
        simulated_customer: whether a model played the customer.
        groups: value of each breakdown, None where the trace has none.
        marks: its assessments.
        draws: by judge, with which probability the trace was chosen for labelling (`assay labels pick`).
    """

    trace_id: str
    time_ms: int
    timed: bool
    session: str | None
    failed: bool
    duration_ms: int | None
    tokens: int | None
    usd: float | None
    request: str | None
    simulated: bool
    simulated_customer: bool
    groups: Mapping[str, str | None]
    marks: tuple[Mark, ...]
    draws: Mapping[str, Draw] = field(default_factory=dict)

    @property
    def label_probability(self) -> float | None:
        """Probability in (0, 1] with which the trace was chosen for labelling; None unless one draw alone chose it."""
        return next(iter(self.draws.values())).probability if len(self.draws) == 1 else None

    @property
    def unit(self) -> str:
        """What repeats together: the session, or the trace itself where it has none."""
        return self.session or self.trace_id


def check_by(by: str) -> str:
    """The breakdown's name if it is one.

    Raises:
        ConfigError: it is not.
    """
    if by == "agent" or (by.startswith("span:") and len(by) > 5 and _whole_span(by)):
        return by
    if by.startswith(("tag:", "metadata:", "expectation:", "span:")):
        return trace_fields.check(by)
    raise ConfigError(
        f"Traces cannot be broken down by {by!r}.",
        valid="agent, tag:KEY, metadata:KEY, expectation:KEY, span:NAME, span:NAME.outputs[.path]",
    )


def by_title(by: str) -> str:
    """The breakdown in words: `agent` becomes "the agent that answered"."""
    if by == "agent":
        return "the agent that answered"
    kind, _, key = by.partition(":")
    if kind == "span" and _whole_span(by):
        return f"whether the step “{key}” ran"
    words = {"tag": "the tag", "metadata": "the metadata key", "expectation": "the expected", "span": "the step"}
    return f"{words[kind]} “{key}”"


def needs_spans(by: Sequence[str]) -> bool:
    """Whether these breakdowns need the traces' spans."""
    return any(b == "agent" or b.startswith("span:") for b in by)


def _whole_span(by: str) -> bool:
    """`span:NAME` without a side asks whether the span is there."""
    return ".outputs" not in by and ".inputs" not in by


def read_row(trace: Trace, by: Sequence[str]) -> Row:
    """The row of one trace, with the value of each breakdown in `by`."""
    info = trace.info
    metadata, tags = info.trace_metadata or {}, info.tags or {}
    usage = info.token_usage or {}
    state = getattr(info.state, "value", info.state)
    timed = not tags.get(semconv.SOURCE_TIMES, "").startswith("not recorded")
    return Row(
        trace_id=info.trace_id,
        time_ms=int(info.request_time or 0),
        timed=timed,
        session=metadata.get(_SESSION) or None,
        failed=str(state) == "ERROR",
        duration_ms=info.execution_duration if timed else None,
        tokens=usage.get("total_tokens"),
        usd=trace_fields.extract(trace, "cost_usd") if metadata.get("mlflow.trace.cost") else None,
        request=_request(info.request_preview),
        simulated=tags.get(semconv.SIMULATED) == "true",
        simulated_customer=tags.get(semconv.TAG_CUSTOMER) == "simulated",
        groups={b: _group(trace, b) for b in by},
        marks=tuple(_mark(a) for a in info.assessments or [] if a.feedback is not None or a.expectation is not None),
        draws=draws_of(tags),
    )


def read_rows(source: TraceSource, by: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Row]:
    """One row a trace, oldest first; a trace that arrives twice is taken once.

    Args:
        source: where the traces come from; its spans are read only if a breakdown needs them.
        by: the breakdowns asked for.
        progress: called with the number of traces read so far.
    """
    wanted = list(by) or list(AUTOMATIC)
    rows: dict[str, Row] = {}
    for trace in source.traces(spans=needs_spans(by)):
        row = read_row(trace, wanted)
        rows[row.trace_id] = row
        if progress is not None:
            progress(len(rows))
    return sorted(rows.values(), key=lambda row: row.time_ms)


def _mark(assessment: Assessment) -> Mark:
    feedback, expectation = assessment.feedback, assessment.expectation
    error = getattr(feedback, "error", None) or assessment.error
    source = assessment.source
    kind = str(source.source_type) if source else "SOURCE_TYPE_UNSPECIFIED"
    return Mark(
        id=assessment.assessment_id,
        name=assessment.name,
        expectation=expectation is not None,
        human=kind == "HUMAN",
        kind=kind,
        source=str(source.source_id or "") if source else "",
        value=expectation.value if expectation is not None else feedback.value,
        error=error.error_code if error is not None else None,
        rationale=(assessment.rationale or "")[:_LONGEST_RATIONALE] or None,
        metadata=dict(assessment.metadata or {}),
        time_ms=int(assessment.create_time_ms or 0),
        valid=assessment.valid is not False,
        overrides=assessment.overrides or None,
    )


def _request(preview: str | None) -> str | None:
    """The preview as a person would read it: a JSON object of one text is that text."""
    if not preview:
        return None
    try:
        found = json.loads(preview)
    except ValueError:
        return preview[:_LONGEST_PREVIEW]
    texts = [v for v in found.values() if isinstance(v, str)] if isinstance(found, dict) else []
    return (texts[0] if len(texts) == 1 else preview)[:_LONGEST_PREVIEW]


def _group(trace: Trace, by: str) -> str | None:
    if by == "agent":
        return _agent(trace)
    if by.startswith("span:") and _whole_span(by):
        spans = trace.data.spans if trace.data else []
        return "ran" if any(s.name == by[5:] for s in spans) else "did not run"
    value = trace_fields.extract(trace, by)
    return None if value is None else trace_fields.as_text(value)[:_LONGEST_GROUP]


def _agent(trace: Trace) -> str | None:
    """Agents below the root in the order they ran, else the tag; repeats of one agent are one."""
    names = trace_fields.extract(trace, "agents") or []
    return " → ".join(dict.fromkeys(names))[:_LONGEST_GROUP] or trace.info.tags.get(semconv.TAG_AGENT)
