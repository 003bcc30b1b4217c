"""What a run would do and cost, before it is started: nothing is called, nothing is written.

What is owed is exact, read from the store. Calls, tokens and money are an estimate: the prompts of a sample of
the traces are made and measured, looked up in the cache, and extrapolated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_assay.engine.chat import ChatJudge
from mlflow_assay.engine.plan import Due, Plan
from mlflow_assay.engine.prices import Price, cost, estimate_tokens, price_for
from mlflow_assay.engine.run import Loader, LocalEngine, Options
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
        calls: estimated calls of the judge; for a judge without a model they cost nothing.
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
    asked = [job for job in jobs if job.lack is None and job.known is None]
    scale = len(owed) / len(jobs) if jobs else 0.0
    calls = round(scale * len(asked))
    given, made, usd, basis = _cost(bound, [job.user for job in asked], asked[0].chat if asked else None, scale)
    return JudgeForecast(
        bound.name,
        bound.digest,
        len(owed),
        plan.standing[index],
        len(jobs),
        round(scale * sum(job.lack is not None for job in jobs)),
        round(scale * sum(job.known is not None for job in jobs)),
        calls,
        given,
        made,
        usd,
        basis,
    )


def _spaced(owed: Sequence[Due], sample: int) -> list[Due]:
    """At most `sample` of them, evenly spaced from first to last."""
    if len(owed) <= sample:
        return list(owed)
    return [owed[i * len(owed) // sample] for i in range(sample)]


def _cost(
    bound: Any, prompts: Sequence[str | None], chat: ChatJudge | None, scale: float
) -> tuple[int | None, int | None, float | None, str]:
    """Input tokens, output tokens and money for all calls, and what that rests on."""
    if not bound.contract.calls_llm or not prompts:
        return 0, 0, 0.0, "no model is called"
    if chat is None:
        return None, None, None, "the judge makes its own prompts, which are not known beforehand"
    fixed = estimate_tokens(chat.system) + estimate_tokens(json.dumps(chat.response_format))
    given = round(scale * sum(fixed + estimate_tokens(prompt or "") for prompt in prompts))
    made = round(scale * len(prompts) * REPLY_TOKENS)
    price: Price | None = price_for(bound.model)
    basis = f"prompts of {len(prompts)} traces, a token per four bytes; replies taken as {REPLY_TOKENS} tokens"
    if price is None:
        return given, made, None, f"{basis}; no price is known for {bound.model.uri}"
    return given, made, cost(price, given, made), f"{basis}; ${price.input:g} and ${price.output:g} a million"
