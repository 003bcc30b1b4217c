"""Verdicts of a judge on labelled traces: standing ones first, the rest by the engine. None is written to MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mlflow_assay import semconv
from mlflow_assay.contracts import BoundJudge, Unscored, ValueSpec
from mlflow_assay.engine.budget import Budget, Spend

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Feedback, Trace

    from mlflow_assay.alignment.labelled import Labelled
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.sinks.mlflow_assessments import MlflowSink

__all__ = ["OUTSIDE", "Asked", "Asker", "Verdict", "read_again", "standing"]

# Reasons that lie outside the judge: such a row says nothing about it. Any other unscored verdict is its own doing.
OUTSIDE = frozenset(
    {
        Unscored.TIMEOUT,
        Unscored.RATE_LIMITED,
        Unscored.UNAUTHORIZED,
        Unscored.NOT_FOUND,
        Unscored.PROVIDER_ERROR,
        Unscored.UNREACHABLE,
        Unscored.BUDGET,
    }
)


@dataclass(frozen=True)
class Verdict:
    """What a judge said about one trace.

    Attributes:
        passed: by its pass rule; None when unscored.
        value: on its scale; None when unscored.
        unscored: why it is unscored; None when it is scored.
        rationale: its reasons, or what is missing for a verdict; None where neither is known.
        usd: US dollars the call cost; None when not known or nothing was called.
        tokens: of prompt and reply; None likewise.
        reused: whether it stood on the trace already.
    """

    passed: bool | None
    value: Any = None
    unscored: Unscored | None = None
    rationale: str | None = None
    usd: float | None = None
    tokens: int | None = None
    reused: bool = False

    @property
    def outside(self) -> bool:
        """Whether it is missing for a reason outside the judge."""
        return self.unscored in OUTSIDE

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, without the rationale."""
        reason = self.unscored.value if self.unscored else None
        return {"passed": self.passed, "value": self.value, "unscored": reason, "reused": self.reused}


def standing(traces: Iterable[Trace], bound: BoundJudge, *, any_version: bool = False) -> dict[str, Verdict]:
    """Scored verdicts of this very judge that stand on the traces, by trace id.

    Args:
        traces: with their assessments.
        bound: the judge; a verdict counts when its digest is the same.
        any_version: take the latest verdict of the judge's name instead, whatever its digest.
    """
    found: dict[str, Verdict] = {}
    for trace in traces:
        named = [a for a in trace.info.assessments or [] if _counts(a, bound, any_version)]
        if named:
            latest = max(named, key=lambda a: a.create_time_ms or 0)
            verdict = _read(bound, cast("Feedback", latest), reused=True)
            if verdict.passed is not None:
                found[trace.info.trace_id] = verdict
    return found


def read_again(verdicts: Mapping[str, Verdict], value: ValueSpec) -> dict[str, Verdict]:
    """The same values under another pass rule: no call is needed, since the question did not change."""
    again = {}
    for trace_id, v in verdicts.items():
        passed = None if v.value is None else value.passes(v.value)
        again[trace_id] = Verdict(passed, v.value, v.unscored, v.rationale, v.usd, v.tokens, v.reused)
    return again


@dataclass(frozen=True)
class Asked:
    """A trace a judge is asked about, of which no label is needed."""

    trace: Trace

    @property
    def id(self) -> str:
        """The trace's id."""
        return str(self.trace.info.trace_id)


class Asker:
    """Asks judges about labelled traces through the engine, within one limit of model calls.

    Args:
        max_calls: model calls that may be made in all; None is no limit.
        cache: verdicts already paid for; None asks anew.
        concurrency: calls in flight.
        budget: one shared with others, in place of `max_calls`.
    """

    def __init__(
        self,
        max_calls: int | None = None,
        cache: VerdictCache | None = None,
        concurrency: int = 16,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget or Budget(max_calls=max_calls)
        self._max, self._cache, self._concurrency = max_calls, cache, concurrency
        self._elsewhere = 0

    @property
    def calls(self) -> int:
        """Model calls made, those an optimizer made itself included."""
        return self._budget.spent.calls

    @property
    def left(self) -> int | None:
        """Calls that may still be made; None without a limit."""
        return None if self._max is None else max(0, self._max - self.calls)

    def take(self) -> bool:
        """Account for one model call made elsewhere, before it is made; False when none is left."""
        if not self._budget.reserve(Spend(calls=1)):
            return False
        self._budget.settle(Spend(calls=1), Spend(calls=1))
        return True

    def ask(self, bound: BoundJudge, found: Sequence[Labelled | Asked], *, fresh: bool = False) -> dict[str, Verdict]:
        """Verdicts by trace id; one that could not be reached is unscored with the reason.

        Args:
            bound: whom to ask.
            found: about which traces.
            fresh: ask anew even where the answer is known, for methods that learn from how answers vary.

        Raises:
            StoreError: the cache cannot be opened.
        """
        from mlflow_assay.engine.plan import Due, Plan
        from mlflow_assay.engine.run import LocalEngine, Options

        if not found:
            return {}
        traces = {f.id: f.trace for f in found}
        plan = Plan([bound])
        for trace_id in traces:
            plan.due[trace_id].append(Due(0, trace_id))
        kept = _Kept()
        cache = None if fresh else self._cache
        options = Options(concurrency=self._concurrency, cache=cache, budget=self._budget)
        LocalEngine(plan, lambda ids: [traces[i] for i in ids], cast("MlflowSink", kept), options).run()
        return {str(f.trace_id): _read(bound, f) for f in kept.feedback}


class _Kept:
    """Takes the engine's verdicts in memory, in place of MLflow."""

    def __init__(self) -> None:
        self.feedback: list[Feedback] = []

    def write(self, feedback: Iterable[Feedback]) -> int:
        batch = list(feedback)
        self.feedback.extend(batch)
        return len(batch)


def _counts(found: Assessment, bound: BoundJudge, any_version: bool) -> bool:
    if found.feedback is None or found.name != bound.name or found.valid is False:
        return False
    if any_version:
        return str(found.source.source_type) != "HUMAN"
    return bool((found.metadata or {}).get(semconv.JUDGE_DIGEST) == bound.digest)


def _read(bound: BoundJudge, feedback: Feedback, reused: bool = False) -> Verdict:
    from mlflow.tracing.constant import AssessmentMetadataKey as Key

    from mlflow_assay.contracts import UnscoredError

    facts = feedback.metadata or {}
    usd = float(facts[Key.JUDGE_COST]) if facts.get(Key.JUDGE_COST) is not None else None
    counted = [int(facts[k]) for k in (Key.JUDGE_INPUT_TOKENS, Key.JUDGE_OUTPUT_TOKENS) if facts.get(k) is not None]
    tokens = sum(counted) if counted else None
    if reason := facts.get(semconv.UNSCORED_REASON):
        return Verdict(None, None, Unscored(reason), feedback.error_message, usd, tokens, reused)
    spec = bound.contract.value
    try:
        value = spec.read(feedback.value)
    except UnscoredError as error:
        return Verdict(None, None, error.reason, error.detail, usd, tokens, reused)
    passed = spec.passes(value)  # type: ignore[arg-type]
    return Verdict(passed, value, None, feedback.rationale, usd, tokens, reused)
