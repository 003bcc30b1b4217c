"""An MLflow assessment as an assessment revision: what it says, in the terms every sink shares."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay import semconv
from mlflow_assay.bridge.changes import Known, Observed
from mlflow_assay.contracts import (
    AnyValue,
    AssessmentRevision,
    EvaluatedTrace,
    JudgeContract,
    Outcome,
    Unscored,
    UnscoredError,
)

if TYPE_CHECKING:
    from mlflow.entities import Assessment

__all__ = ["Redact", "observe", "state_of", "value_digest"]

Redact = Callable[[AssessmentRevision], AssessmentRevision]

# Metadata that has a field of its own in the revision.
_OWN = {
    semconv.JUDGE_NAME,
    semconv.JUDGE_VERSION,
    semconv.JUDGE_DIGEST,
    semconv.JUDGE_MODEL,
    semconv.OUTCOME,
    semconv.UNSCORED_REASON,
    semconv.LATENCY_MS,
    semconv.CACHE_HIT,
    semconv.CASCADE_STAGE,
}


def value_digest(value: Any) -> str:
    """16 hex digits over a value; the same whether MLflow's database or its server gave it."""
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    """Whole floats as integers: a server's JSON does not tell 1 from 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(key): _plain(held) for key, held in value.items()}
    return [_plain(held) for held in value] if isinstance(value, list | tuple) else value


def state_of(assessment: Assessment, trace_id: str, trace_ms: int) -> Known:
    """The facts by which a change is told; cheap, and the same whatever is redacted."""
    feedback, source = assessment.feedback, assessment.source
    error = getattr(feedback, "error", None)
    value = _value(assessment)
    said = {
        "name": assessment.name,
        "kind": _kind(assessment),
        "value": _plain(value),
        "error": [error.error_code, error.error_message] if error is not None else None,
        "rationale": assessment.rationale,
        "metadata": {str(k): str(v) for k, v in (assessment.metadata or {}).items()},
        "span": assessment.span_id,
        "source": [str(source.source_type), source.source_id] if source else None,
        "overrides": assessment.overrides or None,
    }
    text = json.dumps(said, sort_keys=True, default=str)
    return Known(
        assessment_id=str(assessment.assessment_id),
        trace_id=trace_id,
        content=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32],
        standing=assessment.valid is not False,
        revision=0,
        key="",
        updated_ms=int(assessment.last_update_time_ms or assessment.create_time_ms or 0),
        name=str(assessment.name)[:250],
        value=value_digest(value),
        trace_ms=trace_ms,
    )


def observe(
    assessment: Assessment,
    state: Known,
    trace: EvaluatedTrace,
    contracts: Mapping[str, JudgeContract],
    redact: Redact | None,
) -> Observed:
    """The assessment as it is to be shipped.

    Args:
        assessment: MLflow's.
        state: its `state_of`.
        trace: the evaluated run.
        contracts: what values mean, by assessment name; names not among them follow MLflow's own rule.
        redact: masks what must not leave; None leaves all as it is.
    """
    kind = _kind(assessment)
    if kind == "issue":
        return Observed(state, None)  # a pointer to an issue, not a judgement
    revision = _revision(assessment, kind, state, trace, contracts.get(assessment.name))
    return Observed(state, redact(revision) if redact is not None else revision)


def _kind(assessment: Assessment) -> Literal["feedback", "expectation", "issue"]:
    if assessment.feedback is not None:
        return "feedback"
    return "expectation" if assessment.expectation is not None else "issue"


def _value(assessment: Assessment) -> Any:
    held = assessment.feedback or assessment.expectation
    if held is not None:
        return held.value
    issue = getattr(assessment, "issue", None)
    return issue.to_dictionary() if issue is not None else None


def _revision(
    assessment: Assessment,
    kind: Literal["feedback", "expectation"],
    state: Known,
    trace: EvaluatedTrace,
    contract: JudgeContract | None,
) -> AssessmentRevision:
    from mlflow.tracing.constant import AssessmentMetadataKey as Key

    facts = {str(k): str(v) for k, v in (assessment.metadata or {}).items()}
    paid = {Key.JUDGE_COST, Key.JUDGE_INPUT_TOKENS, Key.JUDGE_OUTPUT_TOKENS}
    value = _value(assessment)
    outcome, reason = _outcome(assessment, kind, facts, contract)
    source = assessment.source
    return AssessmentRevision(
        key="",
        change="created",
        assessment_id=state.assessment_id,
        trace=trace,
        name=str(assessment.name),
        kind=kind,
        source_type=str(source.source_type) if source else "SOURCE_TYPE_UNSPECIFIED",
        source_id=str(source.source_id or "") if source else "",
        created_ms=int(assessment.create_time_ms or state.updated_ms),
        changed_ms=state.updated_ms,
        value=value,
        score=_score(value),
        outcome=outcome,
        reason=reason,
        rationale=assessment.rationale or None,
        span_id=assessment.span_id or None,
        judge_version=facts.get(semconv.JUDGE_VERSION) or facts.get(Key.SCORER_VERSION),
        judge_digest=facts.get(semconv.JUDGE_DIGEST) or facts.get(Key.SCORER_DIGEST),
        judge_model=facts.get(semconv.JUDGE_MODEL),
        input_tokens=_whole(facts.get(Key.JUDGE_INPUT_TOKENS)),
        output_tokens=_whole(facts.get(Key.JUDGE_OUTPUT_TOKENS)),
        cost_usd=_number(facts.get(Key.JUDGE_COST)),
        latency_ms=_number(facts.get(semconv.LATENCY_MS)),
        cache_hit=facts[semconv.CACHE_HIT] == "true" if semconv.CACHE_HIT in facts else None,
        cascade_stage=_whole(facts.get(semconv.CASCADE_STAGE)),
        metadata={name: text for name, text in facts.items() if name not in _OWN and name not in paid},
    )


def _outcome(
    assessment: Assessment, kind: str, facts: Mapping[str, str], contract: JudgeContract | None
) -> tuple[Outcome | None, str | None]:
    """Pass, fail or unscored, and why unscored; (None, None) where nothing says."""
    if kind == "expectation":
        return None, None
    error = assessment.feedback.error
    if error is not None or facts.get(semconv.OUTCOME) == Outcome.UNSCORED.value:
        code = str(error.error_code or "") if error is not None else ""
        return Outcome.UNSCORED, facts.get(semconv.UNSCORED_REASON) or code or "error"
    if facts.get(semconv.OUTCOME) in (Outcome.PASS.value, Outcome.FAIL.value):
        return Outcome(facts[semconv.OUTCOME]), None
    passed: bool | None = AnyValue().passes(assessment.feedback.value)
    if contract is not None:
        try:
            passed = contract.value.passes(contract.value.read(assessment.feedback.value))  # type: ignore[arg-type]
        except UnscoredError as said:
            if said.reason is Unscored.UNDECIDED:
                return Outcome.UNSCORED, said.reason.value
            # Off the judge's menu: somebody else's assessment of the same name, with a meaning of its own.
    return (None if passed is None else Outcome.PASS if passed else Outcome.FAIL), None


def _score(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text is not None else None
    except ValueError:
        return None  # somebody else's metadata may say anything
    return found if found is not None and math.isfinite(found) else None


def _whole(text: str | None) -> int | None:
    found = _number(text)
    return None if found is None else int(found)
