"""What a run did: one tally a judge, and counts that must add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.contracts import Outcome

if TYPE_CHECKING:
    from mlflow.entities import Feedback

__all__ = ["RunReport", "Tally"]


@dataclass
class Tally:
    """One judge's share of a run. Every trace is in exactly one of passed, failed, valued, unscored and standing.

    Attributes:
        standing: verdicts that were there already and were left alone.
        unscored: counts by reason.
        cost_usd: money paid, None when no price is known for the model; cache hits cost nothing.
        valued: values of MLflow scorers that declare no pass rule: neither passed nor failed, nor unscored.
        examples: one message for each reason a verdict is unscored.
        calls: verdicts that were asked of a judge (not from the cache, not refused before the call).
    """

    judge: str
    digest: str
    standing: int = 0
    passed: int = 0
    failed: int = 0
    valued: int = 0
    unscored: Counter[str] = field(default_factory=Counter)
    unchanged: int = 0
    cost_usd: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    cache_hits: int = 0
    foreign: int = 0
    no_session: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def scored(self) -> int:
        """Passed plus failed."""
        return self.passed + self.failed

    @property
    def judged(self) -> int:
        """All verdicts of this run, unscored ones included."""
        return self.scored + self.valued + self.unscored.total()

    def add(self, feedback: Feedback, *, replaced: bool = False) -> None:
        """Count one verdict.

        Args:
            replaced: another verdict stands in its place: only what it cost is counted.
        """
        from mlflow.tracing.constant import AssessmentMetadataKey as Key

        facts = feedback.metadata or {}
        outcome = Outcome(facts[semconv.OUTCOME]) if semconv.OUTCOME in facts else None
        if outcome is None or replaced:
            self.valued += outcome is None and not replaced
        elif outcome is Outcome.UNSCORED:
            self.unscored[facts[semconv.UNSCORED_REASON]] += 1
            said = feedback.error.error_message if feedback.error else None
            self.examples.setdefault(facts[semconv.UNSCORED_REASON], (said or "")[:300])
        else:
            self.passed += outcome is Outcome.PASS
            self.failed += outcome is Outcome.FAIL
        if facts.get(semconv.CACHE_HIT) == "true":
            self.cache_hits += 1
            return
        self.calls += semconv.LATENCY_MS in facts
        self.input_tokens += int(float(facts.get(Key.JUDGE_INPUT_TOKENS) or 0))
        self.output_tokens += int(float(facts.get(Key.JUDGE_OUTPUT_TOKENS) or 0))
        if facts.get(Key.JUDGE_COST) is not None:
            self.cost_usd = (self.cost_usd or 0.0) + float(facts[Key.JUDGE_COST])

    def __add__(self, other: Tally) -> Tally:
        """Both shares of one judge's work together."""
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name in _COUNTED}
        paid = [t.cost_usd for t in (self, other) if t.cost_usd is not None]
        examples = {**other.examples, **self.examples}
        return replace(self, **added, cost_usd=sum(paid) if paid else None, examples=examples)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "judge": self.judge,
            "digest": self.digest,
            "judged": self.judged,
            "scored": self.scored,
            "passed": self.passed,
            "failed": self.failed,
            "valued": self.valued,
            "unscored": dict(sorted(self.unscored.items())),
            "unscored_examples": dict(sorted(self.examples.items())),
            "already": self.standing,
            "unchanged": self.unchanged,
            "calls": self.calls,
            "cache_hits": self.cache_hits,
            "cost_usd": self.cost_usd,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "foreign_assessments_of_this_name": self.foreign,
            "traces_without_session": self.no_session,
        }


_COUNTED = frozenset(f.name for f in fields(Tally)) - {"judge", "digest", "cost_usd", "examples"}


@dataclass
class RunReport:
    """A whole run.

    Attributes:
        traces: traces seen.
        wall_s: seconds from start to the last verdict stored.
        stored: verdicts newly stored in MLflow.
        sink_failures: what other sinks said when they failed, by sink name.
        stopped: why the run ended early (budget, interrupted), or None.
    """

    experiment: str
    tallies: list[Tally]
    traces: int = 0
    wall_s: float = 0.0
    stored: int = 0
    sink_failures: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "experiment": self.experiment,
            "traces": self.traces,
            "wall_s": round(self.wall_s, 3),
            "stored": self.stored,
            "stopped": self.stopped,
            "run_id": self.run_id,
            "sink_failures": self.sink_failures,
            "judges": [tally.to_dict() for tally in self.tallies],
        }
