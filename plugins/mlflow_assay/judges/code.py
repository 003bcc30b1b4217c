"""Judges that are plain code: exact, instant and free. Each is a Scorer with a `contract` and an entry point.

Their parameters are set in a YAML definition (`uses: latency_limit`, `with: {seconds: 5}`), as the ones in
`judges/` do.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow.entities import Feedback, Trace
from mlflow.genai.scorers import Scorer
from pydantic import Field

from mlflow_assay import semconv, trace_fields
from mlflow_assay.contracts import CategoricalValue, JudgeContract, Unscored, UnscoredError

if TYPE_CHECKING:
    from mlflow.entities import Span

__all__ = ["CostLimit", "LatencyLimit", "RepeatedSteps", "TokenLimit"]

_STEP_TYPES = ("TOOL", "RETRIEVER", "AGENT")


class RepeatedSteps(Scorer):
    """Whether the agent did the same step again and again without learning anything new.

    Two steps are the same when span name, arguments and outcome (result or error) are equal; they need not
    stand side by side, so a loop over several steps is found as well. A call that brings a new result, such as
    a look-up after a change, is not a repetition. Steps are TOOL, RETRIEVER and AGENT spans below the root.

    Args:
        max_repeats: how often a step may be repeated after its first time (0 or more).
        ignore_outcome: compare name and arguments only; for tools whose results always differ, for
            example by a timestamp.
    """

    contract: ClassVar[JudgeContract] = JudgeContract(
        name="repeated_steps",
        purpose="Did the agent repeat the same step without learning anything new?",
        value=CategoricalValue(options=("clean", "repeated"), good=("clean",)),
        needs=("spans",),
        origin="mlflow-assay",
    )
    name: str = "repeated_steps"
    max_repeats: int = Field(2, ge=0, strict=True)
    ignore_outcome: bool = Field(False, strict=True)

    def __call__(self, *, trace: Trace) -> Feedback:
        """`repeated` when a step is repeated more than `max_repeats` times, else `clean`."""
        times = Counter(_identity(span, self.ignore_outcome) for span in _steps(trace))
        over = [(step, n) for step, n in times.items() if n - 1 > self.max_repeats]
        if not over:
            most = max(times.values(), default=0)
            return Feedback(value="clean", rationale=f"{times.total()} steps; the most frequent one ran {most} times.")
        told = "; ".join(f"{step[0]}({step[1][:200]}) ran {n} times" for step, n in over)
        return Feedback(value="repeated", rationale=f"{told}; at most {self.max_repeats + 1} times is allowed.")


def _steps(trace: Trace) -> list[Span]:
    return [s for s in trace.data.spans if s.parent_id is not None and s.span_type in _STEP_TYPES]


def _identity(span: Span, ignore_outcome: bool) -> tuple[str, str, str]:
    outcome = "" if ignore_outcome else _canonical([span.outputs, span.status.status_code, span.status.description])
    return (span.name, _canonical(span.inputs), outcome)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def _contract(name: str, purpose: str) -> JudgeContract:
    value = CategoricalValue(options=("within", "exceeded"), good=("within",))
    return JudgeContract(name=name, purpose=purpose, value=value, origin="mlflow-assay")


def _recorded(trace: Trace, field: str, needed: str) -> Any:
    found = trace_fields.extract(trace, field)
    if found is None:
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs {needed}")
    return found


class LatencyLimit(Scorer):
    """Whether the trace finished in time.

    Args:
        seconds: the longest wall time allowed, above 0.
    """

    contract: ClassVar[JudgeContract] = _contract("latency_limit", "Did the agent answer within the time allowed?")
    name: str = "latency_limit"
    seconds: float = Field(30.0, gt=0, strict=True)

    def __call__(self, *, trace: Trace) -> Feedback:
        """Compare the trace's wall time with the limit; unscored when the trace has none (still running)."""
        duration = _recorded(trace, "duration_ms", "the trace's duration (found: none; is it finished?)")
        return _limit(duration / 1000, self.seconds, "{:.3g} s")


class CostLimit(Scorer):
    """Whether the trace cost no more than allowed.

    Args:
        usd: the highest cost allowed in US dollars, above 0. The cost is the one MLflow computed or the agent
            recorded; without one the trace is unscored, since unknown is not free.
    """

    contract: ClassVar[JudgeContract] = _contract("cost_limit", "Did the run cost no more than allowed?")
    name: str = "cost_limit"
    usd: float = Field(0.10, gt=0, strict=True)

    def __call__(self, *, trace: Trace) -> Feedback:
        """Compare the recorded cost with the limit."""
        cost = _recorded(trace, "cost_usd", "the trace's cost (found: none recorded)")
        return _limit(cost, self.usd, "${:.4g}")


class TokenLimit(Scorer):
    """Whether the trace used no more tokens than allowed.

    Args:
        tokens: the most input and output tokens allowed together, above 0.
    """

    contract: ClassVar[JudgeContract] = _contract("token_limit", "Did the run use no more tokens than allowed?")
    name: str = "token_limit"
    tokens: int = Field(50_000, gt=0, strict=True)

    def __call__(self, *, trace: Trace) -> Feedback:
        """Compare the recorded token usage with the limit."""
        used = _recorded(trace, "total_tokens", "the trace's token usage (found: none recorded)")
        return _limit(used, self.tokens, "{:,} tokens")


def _limit(measured: float, allowed: float, unit: str) -> Feedback:
    within = measured <= allowed
    return Feedback(
        value="within" if within else "exceeded",
        rationale=f"{unit.format(measured)}; the limit is {unit.format(allowed)}.",
        metadata={semconv.RAW_VALUE: str(measured)},
    )
