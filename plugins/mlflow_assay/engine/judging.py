"""One judge on one subject: needs checked first, the call, and the reply read into one meaning.

Nothing a judge does can break a run: every failure becomes an unscored Feedback with a reason. What the
user configured wrong was refused before (`catalogue.build`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv, trace_fields
from mlflow_assay.contracts import BoundJudge, DeclaringScorer, Outcome, Unscored, UnscoredError
from mlflow_assay.engine.mlflow_endpoint import route

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Trace

__all__ = [
    "Subject",
    "classify",
    "conclude",
    "judge",
    "missing",
    "outcome_of",
    "reason_of",
    "source_of",
    "step",
    "subject_of",
    "unscored",
    "verdict",
]


@dataclass(frozen=True)
class Subject:
    """What a judge is shown.

    Attributes:
        trace: the trace judged; for a session-level judge its first trace, where the verdict is logged.
        inputs, outputs: values put in place of the root span's; None reads the root span.
        expectations: expected values by name; empty when the trace has none.
        session: for session-level judges, all traces of the session, oldest first.
    """

    trace: Trace
    inputs: Any = None
    outputs: Any = None
    expectations: Mapping[str, Any] = field(default_factory=dict)
    session: tuple[Trace, ...] = ()

    @property
    def trace_id(self) -> str:
        """Where the verdict is logged."""
        return str(self.trace.info.trace_id)


def subject_of(bound: BoundJudge, trace: Trace, session: tuple[Trace, ...] = ()) -> Subject:
    """What this judge is shown of a trace: mapped fields, or the root span's inputs and outputs."""
    return Subject(
        trace,
        inputs=_side(bound, trace, "inputs"),
        outputs=_side(bound, trace, "outputs"),
        expectations=_expectations(trace),
        session=session,
    )


def _side(bound: BoundJudge, trace: Trace, side: str) -> Any:
    if mapping := bound.fields.get(side):
        found = trace_fields.extract_all(trace, mapping)
        return found if len(found) == len(mapping) else None
    return trace_fields.extract(trace, side)


def _expectations(trace: Trace) -> dict[str, Any]:
    """Expected values by name, whoever wrote them: a person or a recorded check; later ones win."""
    found = [a for a in trace.info.assessments or [] if a.expectation is not None and a.valid is not False]
    return {a.name: a.value for a in sorted(found, key=lambda a: a.create_time_ms or 0)}


def missing(bound: BoundJudge, subject: Subject) -> str | None:
    """What the judge needs and the subject lacks, as `needs X (found Y)`; None when all is there."""
    for need in bound.contract.needs:
        if not _has(subject, need):
            mapped = bound.fields.get(need)
            absent = [f for f in (mapped or {}).values() if trace_fields.extract(subject.trace, f) is None]
            detail = f"needs {need}" + (f" from {', '.join(absent)}" if absent else "")
            return f"{detail} (found: {_inventory(subject)})"
    return None


def _has(subject: Subject, need: str) -> bool:
    head, _, key = need.partition(".")
    if head in ("inputs", "outputs"):
        value = getattr(subject, head)
        return value is not None if not key else isinstance(value, Mapping) and value.get(key) is not None
    if head == "expectations":
        return bool(subject.expectations) if not key else subject.expectations.get(key) is not None
    if head == "session":
        return bool(subject.session)
    if head == "spans":
        return bool(subject.trace.data and subject.trace.data.spans)
    field = "tool_calls" if need == "tools" else need
    return any(trace_fields.extract(t, field) is not None for t in (subject.session or (subject.trace,)))


def _inventory(subject: Subject) -> str:
    spans = len(subject.trace.data.spans) if subject.trace.data else 0
    have = [name for name in ("inputs", "outputs") if getattr(subject, name) is not None]
    have += [f"expectations.{key}" for key in subject.expectations]
    have.append(f"{spans} spans")
    return ", ".join(have)


def judge(bound: BoundJudge, subject: Subject) -> Feedback:
    """The judge's verdict on one subject, by calling its scorer in this thread.

    Returns:
        A Feedback named after the judge, with `trace_id`, outcome and provenance in its metadata. Unscored
        when a needed field is missing (nothing is called), the scorer fails, or its value is off the menu.
    """
    if lack := missing(bound, subject):
        return unscored(bound, subject, UnscoredError(Unscored.MISSING_FIELD, lack))
    started = time.perf_counter()
    try:
        result = _call(bound, subject)
        return verdict(bound, subject, result, (time.perf_counter() - started) * 1000)
    except Exception as error:
        # A judge is somebody else's code talking to somebody else's server: whatever it raises is one verdict lost.
        return unscored(bound, subject, classify(error), (time.perf_counter() - started) * 1000)


def _call(bound: BoundJudge, subject: Subject) -> Any:
    expectations = dict(subject.expectations) or None
    # A library's metric goes to its model by itself.
    with route(None if isinstance(bound.scorer, DeclaringScorer) else bound.model):
        if bound.contract.scope == "session":
            return bound.scorer.run(session=list(subject.session), expectations=expectations)
        return bound.scorer.run(
            inputs=subject.inputs,
            outputs=subject.outputs,
            expectations=expectations,
            trace=None if bound.fields else subject.trace,
        )


def verdict(bound: BoundJudge, subject: Subject, result: Any, latency_ms: float | None = None) -> Feedback:
    """Read what a scorer returned into a verdict with one meaning.

    Args:
        result: a bool, number, string, Feedback, or a list of one Feedback.
        latency_ms: wall time of the call, for the metadata.

    Raises:
        UnscoredError: the value is off the menu, or there is none.
    """
    from mlflow.entities import Feedback

    found = _single(result)
    if not isinstance(found, Feedback):
        found = Feedback(name=bound.name, value=found, source=source_of(bound))
    if found.error is not None:
        raise UnscoredError(*_reason_from(found.error), metadata=_own(found))
    if found.value is None:
        raise UnscoredError(Unscored.EMPTY_REPLY, "the judge returned no value", metadata=_own(found))
    spec = bound.contract.value
    try:
        value = spec.read(found.value)
    except UnscoredError as error:
        error.metadata = {**_own(found), semconv.RAW_VALUE: str(found.value)[:500]}
        raise
    passed: bool | None = spec.passes(value)  # type: ignore[arg-type]
    outcome = None if passed is None else Outcome.PASS if passed else Outcome.FAIL
    return Feedback(
        name=bound.name,
        value=value,
        rationale=found.rationale,
        source=found.source if found.source and found.source.source_id != "default" else source_of(bound),
        metadata={**_own(found), **_provenance(bound, outcome, latency_ms, subject)},
        span_id=found.span_id,
        trace_id=subject.trace_id,
    )


def unscored(bound: BoundJudge, subject: Subject, error: UnscoredError, latency_ms: float | None = None) -> Feedback:
    """An unscored Feedback: no value, the reason as error code and in the metadata."""
    from mlflow.entities import Feedback
    from mlflow.entities.assessment_error import AssessmentError

    metadata = {**error.metadata, **_provenance(bound, Outcome.UNSCORED, latency_ms, subject)}
    metadata[semconv.UNSCORED_REASON] = error.reason.value
    return Feedback(
        name=bound.name,
        error=AssessmentError(error_code=error.reason.value, error_message=error.detail[:2000]),
        source=source_of(bound),
        metadata={key: str(value) for key, value in metadata.items()},
        trace_id=subject.trace_id,
    )


def step(
    steps: Generator[tuple[int, ...], Sequence[Feedback], Feedback], said: Sequence[Feedback] | None
) -> tuple[int, ...] | Feedback | UnscoredError:
    """One step of a composite's deliberation (`contracts.Composite`): whom to ask next, or what it came to.

    Args:
        steps: the deliberation.
        said: the verdicts it asked for; None starts it.
    """
    try:
        return next(steps) if said is None else steps.send(said)
    except StopIteration as end:
        found: Feedback = end.value
        return found
    except Exception as error:
        # A composite's rules may be somebody else's code, too.
        return classify(error)


def conclude(bound: BoundJudge, subject: Subject, result: Feedback | UnscoredError, latency_ms: float) -> Feedback:
    """The verdict of a composite from what its deliberation came to; one wholly from the cache took no time."""
    cached = (result.metadata or {}).get(semconv.CACHE_HIT) == "true"
    took = None if cached else latency_ms
    if isinstance(result, UnscoredError):
        return unscored(bound, subject, result, took)
    try:
        return verdict(bound, subject, result, took)
    except UnscoredError as error:
        return unscored(bound, subject, error, took)


def outcome_of(feedback: Feedback) -> Outcome:
    """The outcome a verdict of ours carries."""
    return Outcome((feedback.metadata or {})[semconv.OUTCOME])


def reason_of(feedback: Feedback) -> Unscored | None:
    """Why a verdict of ours is unscored, or None when it is scored."""
    reason = (feedback.metadata or {}).get(semconv.UNSCORED_REASON)
    return Unscored(reason) if reason else None


def _single(result: Any) -> Any:
    if isinstance(result, list):
        if len(result) != 1:
            raise UnscoredError(Unscored.JUDGE_ERROR, f"the judge returned {len(result)} feedbacks; one is a verdict")
        return result[0]
    return result


def _own(found: Feedback) -> dict[str, str]:
    return {key: str(value) for key, value in (found.metadata or {}).items()}


def source_of(bound: BoundJudge) -> Any:
    """Who a judge's verdicts are from: the model it asked, or its own code."""
    from mlflow.entities import AssessmentSource, AssessmentSourceType

    if bound.model is not None:
        return AssessmentSource(source_type=AssessmentSourceType.LLM_JUDGE, source_id=bound.model.uri)
    if bound.composite is not None and bound.contract.calls_llm:
        return AssessmentSource(source_type=AssessmentSourceType.LLM_JUDGE, source_id=bound.name)
    return AssessmentSource(source_type=AssessmentSourceType.CODE, source_id=bound.name)


def _provenance(
    bound: BoundJudge, outcome: Outcome | None, latency_ms: float | None, subject: Subject
) -> dict[str, str]:
    facts = {
        semconv.JUDGE_NAME: bound.name,
        semconv.JUDGE_VERSION: bound.contract.version,
        semconv.JUDGE_DIGEST: bound.digest,
        semconv.JUDGE_KIND: bound.contract.kind,
    }
    if outcome is not None:
        facts[semconv.OUTCOME] = outcome.value
    if bound.model is not None:
        facts[semconv.JUDGE_MODEL] = bound.model.uri
    if latency_ms is not None:
        facts[semconv.LATENCY_MS] = f"{latency_ms:.1f}"
    if subject.trace_id in bound.contract.learnt_from:
        facts[semconv.TRAINED_ON] = "true"
    if subject.session:
        from mlflow.tracing.constant import TraceMetadataKey

        session = subject.trace.info.trace_metadata.get(TraceMetadataKey.TRACE_SESSION)
        facts[TraceMetadataKey.TRACE_SESSION] = str(session)
    return facts


# --- what went wrong --------------------------------------------------------------------------------------

_BY_STATUS = {
    400: Unscored.BAD_REQUEST,
    401: Unscored.UNAUTHORIZED,
    403: Unscored.UNAUTHORIZED,
    404: Unscored.NOT_FOUND,
    408: Unscored.TIMEOUT,
    413: Unscored.BAD_REQUEST,
    422: Unscored.BAD_REQUEST,
    429: Unscored.RATE_LIMITED,
}


def reason_for_status(status: int) -> Unscored:
    """The unscored reason for a provider's HTTP status."""
    return _BY_STATUS.get(status, Unscored.PROVIDER_ERROR if status >= 500 else Unscored.BAD_REQUEST)


def classify(error: BaseException) -> UnscoredError:
    """Why a judge failed, from whatever its library raised (the chain of causes is searched)."""
    chain = _chain(error)
    for link in chain:
        if isinstance(link, UnscoredError):
            return link
    detail = f"{type(error).__name__}: {error}"[:1000]
    for link in chain:
        if reason := _reason_of_link(link):
            return UnscoredError(reason, detail)
    return UnscoredError(Unscored.JUDGE_ERROR, detail)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _reason_of_link(link: BaseException) -> Unscored | None:
    status = getattr(link, "status_code", None) or getattr(getattr(link, "response", None), "status_code", None)
    if isinstance(status, int) and status >= 400:
        return reason_for_status(status)
    name = type(link).__name__.lower()
    text = str(link).lower()
    if "timeout" in name or "timed out" in text:
        return Unscored.TIMEOUT
    if "failed to parse response" in text:
        return Unscored.EMPTY_REPLY if text.rstrip().endswith("response:") else Unscored.GARBLED_REPLY
    if name == "jsondecodeerror" or (name == "keyerror" and "result" in text):
        return Unscored.GARBLED_REPLY
    if isinstance(link, ConnectionError) or "connectionerror" in name or "failed to connect" in text:
        return Unscored.UNREACHABLE
    return None


def _reason_from(error: Any) -> tuple[Unscored, str]:
    """The reason and detail in a Feedback's own error, whoever wrote it."""
    code, message = str(error.error_code or ""), str(error.error_message or "")
    try:
        return Unscored(code.lower()), message
    except ValueError:
        return _reason_of_link(Exception(message)) or Unscored.JUDGE_ERROR, f"{code}: {message}"
