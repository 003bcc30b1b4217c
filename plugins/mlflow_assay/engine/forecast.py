"""What a run would do and cost, before it is started: nothing is called, nothing is written.

What is owed is exact, read from the store. Calls, tokens and money are an estimate: the prompts of a sample of
the traces are made and measured, looked up in the cache, and extrapolated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_assay.engine.plan import Due, Plan
from mlflow_assay.engine.prices import cost, estimate_tokens, price_for
from mlflow_assay.engine.run import Loader, LocalEngine, Options, _Job
from mlflow_assay.sinks.mlflow_assessments import MlflowSink

__all__ = ["Forecast", "JudgeForecast", "forecast"]

SAMPLE = 50
REPLY_TOKENS = 150


@dataclass(frozen=True)
class JudgeForecast:
    """One judge's share of a run that was not started.

    Attributes:
        owed: verdicts it would have to reach.
        already: verdicts that stand.
        sampled: verdicts the estimates are made from.
        missing: estimated verdicts that lack a field the judge needs: unscored without a call.
        cached: estimated verdicts the cache holds.
        calls: estimated calls of the judge, or of a composite's judges; without a model they cost nothing. For a metric
            of another library, the least it declares.
        input_tokens, output_tokens, cost_usd: estimates; None where unknown, and `basis` says why.
        basis: what the estimates rest on.
    """

    judge: str
    digest: str
    owed: int
    already: int
    sampled: int
    missing: int
    cached: int
    calls: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    basis: str


@dataclass(frozen=True)
class Forecast:
    """A run that was not started.

    Attributes:
        traces: traces seen.
        judges: one forecast a judge.
    """

    experiment: str
    traces: int
    judges: list[JudgeForecast]

    @property
    def cost_usd(self) -> float | None:
        """The estimated cost of all judges; None when that of one is unknown."""
        costs = [j.cost_usd for j in self.judges]
        return None if any(c is None for c in costs) else sum(c for c in costs if c is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        judges = [asdict(judge) for judge in self.judges]
        return {"experiment": self.experiment, "traces": self.traces, "cost_usd": self.cost_usd, "judges": judges}


def forecast(plan: Plan, load: Loader, options: Options, sample: int = SAMPLE) -> list[JudgeForecast]:
    """Estimate a plan's calls, tokens and cost from at most `sample` of each judge's traces, evenly spaced.

    Args:
        options: its cache is looked into; the rest does not matter.
    """
    engine = LocalEngine(plan, load, MlflowSink(fast=False), options)
    return [_of_judge(plan, engine, index, sample) for index in range(len(plan.judges))]


def _of_judge(plan: Plan, engine: LocalEngine, index: int, sample: int) -> JudgeForecast:
    bound = plan.judges[index]
    owed = [due for dues in plan.due.values() for due in dues if due.judge == index]
    jobs = engine._jobs(_spaced(owed, sample)) if owed else []
    scale = len(owed) / len(jobs) if jobs else 0.0
    asked = [part for job in jobs if job.lack is None for part in job.all() if _is_asked(part)]
    given, made, usd, basis = _cost(asked, scale)
    if bound.composite is not None and asked:
        basis += "; every one of its judges is taken to be asked on every trace"
    return JudgeForecast(
        bound.name,
        bound.digest,
        len(owed),
        plan.standing[index],
        len(jobs),
        round(scale * sum(job.lack is not None for job in jobs)),
        round(scale * sum(part.known is not None for job in jobs for part in job.all())),
        round(scale * sum(max(1, part.bound.contract.least_calls) for part in asked)),
        given,
        made,
        usd,
        basis,
    )


def _is_asked(part: _Job) -> bool:
    return part.bound.composite is None and part.lack is None and part.known is None


def _spaced(owed: Sequence[Due], sample: int) -> list[Due]:
    """At most `sample` of them, evenly spaced from first to last."""
    if len(owed) <= sample:
        return list(owed)
    return [owed[i * len(owed) // sample] for i in range(sample)]


def _cost(asked: Sequence[_Job], scale: float) -> tuple[int | None, int | None, float | None, str]:
    """Input tokens, output tokens and money for all calls, and what that rests on."""
    paid = [part for part in asked if part.bound.contract.calls_llm]
    if not paid:
        return 0, 0, 0.0, "no model is called"
    if any(part.chat is None for part in paid):
        return None, None, None, "the judge makes its own prompts, which are not known beforehand"
    given = [_prompt_tokens(part) for part in paid]
    basis = f"{len(paid)} prompts measured at a token per four bytes, replies taken as {REPLY_TOKENS} tokens"
    prices = [price_for(part.bound.model) for part in paid]
    usd = [cost(p, tokens, REPLY_TOKENS) for p, tokens in zip(prices, given, strict=True) if p is not None]
    total = None if len(usd) < len(paid) else scale * sum(usd)
    if total is None:
        basis += "; no price is known for the model"
    return round(scale * sum(given)), round(scale * len(paid) * REPLY_TOKENS), total, basis


def _prompt_tokens(part: _Job) -> int:
    assert part.chat is not None  # noqa: S101 - asked by the caller
    texts = (part.chat.system, json.dumps(part.chat.response_format), part.user or "")
    return sum(estimate_tokens(text) for text in texts)
