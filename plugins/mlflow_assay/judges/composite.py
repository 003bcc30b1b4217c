"""What panels and cascades share: the scorer that runs them outside the engine, and the facts kept with a verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlflow.entities import Feedback, Trace, TraceData, TraceInfo, TraceLocation, TraceState
from mlflow.genai.scorers import Scorer
from mlflow.tracing.constant import AssessmentMetadataKey
from pydantic import PrivateAttr

from mlflow_assay import semconv
from mlflow_assay.contracts import (
    TRANSIENT,
    BooleanValue,
    BoundJudge,
    CategoricalValue,
    Composite,
    Unscored,
    UnscoredError,
    ValueSpec,
)
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.engine.judging import Subject

__all__ = [
    "Asked",
    "CompositeScorer",
    "check_scales",
    "common_needs",
    "confidence_of",
    "deliberate",
    "ends",
    "facts",
    "no_verdict",
    "translate",
]

# Where MLflow's own judges put a confidence: OpenAI's Decisions API, and the same for TypeSafe's models.
_PROBABILITY_OF_TRUE = ("openai.decisions.probability", "typesafe.probability")
_PROBABILITY_OF_CHOICE = "openai.decisions.confidence"
_PAID = (
    AssessmentMetadataKey.JUDGE_INPUT_TOKENS,
    AssessmentMetadataKey.JUDGE_OUTPUT_TOKENS,
    AssessmentMetadataKey.JUDGE_COST,
)
_RATIONALE = 500


@dataclass(frozen=True)
class Asked:
    """A member that was asked, and what it said."""

    label: str
    judge: BoundJudge
    verdict: Feedback

    @property
    def reason(self) -> Unscored | None:
        """Why it is unscored, or None."""
        found = (self.verdict.metadata or {}).get(semconv.UNSCORED_REASON)
        return Unscored(found) if found else None

    @property
    def passed(self) -> bool | None:
        """Whether its verdict passes by its own rule; None when unscored."""
        spec: Any = self.judge.contract.value
        return None if self.reason else bool(spec.passes(self.verdict.value))

    @property
    def told(self) -> str:
        """One line for a person."""
        if self.reason:
            detail = self.verdict.error.error_message if self.verdict.error else ""
            return f"{self.label}: unscored, {self.reason.value} ({(detail or '')[:_RATIONALE]})"
        return f"{self.label}: {self.verdict.value}. {(self.verdict.rationale or '')[:_RATIONALE]}".rstrip()


def deliberate(composite: Composite, ask: Callable[[int], Feedback]) -> Feedback:
    """Run a composite's rules, asking its members one after the other in this thread.

    Raises:
        UnscoredError: there is no verdict.
    """
    steps = composite.decide()
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send([ask(member) for member in wanted])
    except StopIteration as end:
        verdict: Feedback = end.value
        return verdict


class CompositeScorer(Scorer):
    """A panel or cascade as an MLflow scorer, for `mlflow.genai.evaluate` and wherever else a scorer is called.

    Its members are asked one after the other, without the engine's cache, budget and rate limit.
    """

    _composite: Any = PrivateAttr()
    _session: bool = PrivateAttr(default=False)

    def __init__(self, name: str, purpose: str, composite: Composite, session: bool) -> None:
        super().__init__(name=name, description=purpose)
        self._composite, self._session = composite, session

    @property
    def is_session_level_scorer(self) -> bool:
        """Whether it judges sessions."""
        return self._session

    def __call__(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        expectations: dict[str, Any] | None = None,
        trace: Trace | None = None,
        session: list[Trace] | None = None,
    ) -> Feedback:
        """The verdict on one trace or session.

        Raises:
            UnscoredError: there is none, and why.
        """
        from mlflow_assay.engine.judging import judge, subject_of

        first = session[0] if session else trace or _no_trace()

        def ask(member: int) -> Feedback:
            judged: BoundJudge = self._composite.members[member]
            subject = subject_of(judged, first, tuple(session or ()))
            with mlflow_endpoint.route(judged.model):
                return judge(judged, _with_given(judged, subject, inputs, outputs, expectations))

        verdict = deliberate(self._composite, ask)
        verdict.name = self.name
        return verdict


def _with_given(
    judged: BoundJudge, subject: Subject, inputs: Any, outputs: Any, expectations: dict[str, Any] | None
) -> Subject:
    """The subject with what the caller gave instead of what the trace holds; mapped fields stay the trace's."""
    given: dict[str, Any] = {"expectations": expectations} if expectations else {}
    for side, value in (("inputs", inputs), ("outputs", outputs)):
        if value is not None and not judged.fields.get(side):
            given[side] = value
    return replace(subject, **given)


def _no_trace() -> Trace:
    """Stands for the trace where the caller gave inputs and outputs only."""
    location = TraceLocation.from_experiment_id("0")
    info = TraceInfo(trace_id="", trace_location=location, request_time=0, state=TraceState.OK)
    return Trace(info, TraceData(spans=[]))


# --- facts ------------------------------------------------------------------------------------------------


def facts(asked: Sequence[Asked]) -> dict[str, Any]:
    """Metadata about the members asked: what each said, and what their calls cost together.

    A verdict all of whose members came from the cache is itself marked as a hit. One member that learnt from the
    trace's label makes the whole verdict one that did.
    """
    metadata = [a.verdict.metadata or {} for a in asked]
    found: dict[str, Any] = {semconv.MEMBERS: json.dumps([_record(a) for a in asked], ensure_ascii=False)}
    for key in _PAID:
        amounts = [float(m[key]) for m in metadata if m.get(key) is not None]
        if amounts:
            found[key] = sum(amounts) if key == AssessmentMetadataKey.JUDGE_COST else int(sum(amounts))
    if metadata and all(m.get(semconv.CACHE_HIT) == "true" for m in metadata):
        found[semconv.CACHE_HIT] = "true"
    if any(m.get(semconv.TRAINED_ON) == "true" for m in metadata):
        found[semconv.TRAINED_ON] = "true"
    return found


def _record(asked: Asked) -> dict[str, Any]:
    metadata = asked.verdict.metadata or {}
    said: dict[str, Any] = (
        {"unscored": asked.reason.value} if asked.reason else {"value": asked.verdict.value, "passed": asked.passed}
    )
    extra = {
        "confidence": confidence_of(asked.verdict),
        "cached": metadata.get(semconv.CACHE_HIT) == "true" or None,
        "trained_on": metadata.get(semconv.TRAINED_ON) == "true" or None,
    }
    record = {"judge": asked.label, "digest": asked.judge.digest, **said, **extra}
    return {key: value for key, value in record.items() if value is not None}


def confidence_of(verdict: Any) -> float | None:
    """How sure a verdict's judge is, in [0, 1]; None where it does not say.

    Local judges and panels with learned weights give a probability, MLflow's Decisions judges that of their
    answer, other panels the share of the votes for it.
    """
    metadata = verdict.metadata or {}
    for key in (semconv.CONFIDENCE, _PROBABILITY_OF_CHOICE, semconv.PANEL_AGREEMENT):
        if metadata.get(key) is not None:
            return float(metadata[key])
    for key in _PROBABILITY_OF_TRUE:
        if metadata.get(key) is not None:
            probability = float(metadata[key])
            return probability if verdict.value in (True, "yes") else 1 - probability
    return None


def no_verdict(what: str, asked: Sequence[Asked], metadata: dict[str, Any]) -> UnscoredError:
    """Why a composite has no verdict: its members' reason, the one that may pass before the others.

    Args:
        what: what is missing, as the start of a sentence.
        asked: the members asked; at least one is unscored.
        metadata: facts to keep.
    """
    reasons = Counter(a.reason for a in asked if a.reason)
    ranked = sorted(reasons, key=lambda r: (r is not Unscored.BUDGET, r not in TRANSIENT, -reasons[r]))
    told = "; ".join(a.told for a in asked if a.reason)
    return UnscoredError(ranked[0], f"{what}: {told}", metadata)


# --- values -----------------------------------------------------------------------------------------------


def ends(spec: ValueSpec) -> tuple[Any, Any] | None:
    """The one passing and the one failing value of a scale with just two; None for any other."""
    if isinstance(spec, BooleanValue):
        return spec.good, not spec.good
    if isinstance(spec, CategoricalValue):
        bad = [o for o in spec.options if o not in (*spec.good, *spec.undecided)]
        return (spec.good[0], bad[0]) if len(spec.good) == len(bad) == 1 else None
    return None


def translate(asked: Asked, spec: ValueSpec) -> Any:
    """A scored member's value on the composite's scale: itself, or pass and fail where that scale has just these."""
    if asked.judge.contract.value == spec:
        return asked.verdict.value
    both = ends(spec)
    if both is None:
        raise ConfigError(f"The value of {asked.label!r} cannot be read on another scale.", found=spec.describe())
    return both[0 if asked.passed else 1]


def common_needs(members: Sequence[BoundJudge]) -> tuple[str, ...]:
    """Fields without which no member can judge; inputs and outputs a member maps are for itself to check."""
    mapped = {side for member in members for side in member.fields}
    shared = [n for n in members[0].contract.needs if all(n in m.contract.needs for m in members)]
    return tuple(need for need in shared if need.partition(".")[0] not in mapped)


def check_scales(name: str, members: Sequence[BoundJudge], spec: ValueSpec) -> None:
    """See that every member's value can be read on the composite's scale.

    Raises:
        ConfigError: one cannot.
    """
    for member in members:
        if member.contract.value != spec and ends(spec) is None:
            raise ConfigError(
                f"The members of {name!r} need its own scale, {spec.describe()}, since that has more than one "
                "passing and one failing value.",
                found=f"{member.name}: {member.contract.value.describe()}",
            )
