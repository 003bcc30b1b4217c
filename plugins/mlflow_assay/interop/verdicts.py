"""One of our judges on values that were never a trace in MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BoundJudge, ModelSettings, NumericValue, Unscored
from mlflow_assay.engine import judging
from mlflow_assay.judges.catalogue import Catalogue

if TYPE_CHECKING:
    from mlflow.entities import Feedback

__all__ = ["Exchange", "Given", "Verdict", "bind", "pass_mark", "verdict_on"]


@dataclass(frozen=True)
class Exchange:
    """A request and its answer, with what the agent did for it.

    Attributes:
        tools: calls of tools as (name, arguments, result).
        retrieved: passages of text.
    """

    request: Any = None
    answer: Any = None
    tools: tuple[tuple[str, Any, Any], ...] = ()
    retrieved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What is judged: one exchange, or those of a conversation, oldest first; and what was expected, by name."""

    exchanges: tuple[Exchange, ...]
    expectations: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on the scale these libraries use.

    Attributes:
        score: 0 to 1, higher is better; None when unscored.
        passed: by the judge's own pass rule; None when unscored, or where there is no rule.
        reason: the judge's words, with the value itself where it is not the score.
        unscored: why there is no score.
        feedback: the verdict as MLflow knows it.
    """

    score: float | None
    passed: bool | None
    reason: str
    unscored: Unscored | None
    feedback: Feedback


def bind(
    judge: str, model: ModelSettings | None, paths: Sequence[str | Path], texts: Mapping[str, str] | None
) -> BoundJudge:
    """A judge of the catalogue, for the given model or the environment's.

    Raises:
        ConfigError: see `judges.catalogue.Catalogue.build`.
    """
    if model is None and (uri := os.environ.get("ASSAY_JUDGE_MODEL")):
        model = ModelSettings(uri, base_url=os.environ.get("ASSAY_JUDGE_BASE_URL") or None)
    return Catalogue(paths).build(judge, model, texts)


def verdict_on(bound: BoundJudge, given: Given) -> Verdict:
    """The judge's verdict; a failure is an unscored one, never an exception."""
    from mlflow_assay.judges.case_traces import session_of, trace_of
    from mlflow_assay.judges.definition import Case

    turns = [_turn(exchange) for exchange in given.exchanges]
    case: dict[str, Any] = {"name": "case", "kind": "good", "expect": True, "expectations": dict(given.expectations)}
    if bound.contract.scope == "session":
        session = session_of(Case.model_validate({**case, "turns": turns}), "case")
        subject = judging.subject_of(bound, session[0], session)
    else:
        subject = judging.subject_of(bound, trace_of(Case.model_validate({**case, **turns[0]}), "case"))
    return _verdict(bound, judging.judge(bound, subject))


def pass_mark(bound: BoundJudge) -> float:
    """Where on 0 to 1 a verdict begins to pass."""
    value = bound.contract.value
    return _on_unit(value, value.threshold) if isinstance(value, NumericValue) else 1.0


def _turn(exchange: Exchange) -> dict[str, Any]:
    spans: list[dict[str, Any]] = [
        {"name": name, "type": "TOOL", "inputs": arguments, "outputs": result}
        for name, arguments, result in exchange.tools
    ]
    if exchange.retrieved:
        documents = [{"page_content": text} for text in exchange.retrieved]
        spans.append({"name": "retrieve", "type": "RETRIEVER", "outputs": documents})
    inputs = None if exchange.request is None else {"request": exchange.request}
    outputs = None if exchange.answer is None else {"answer": exchange.answer}
    return {"inputs": inputs, "outputs": outputs, "spans": spans}


def _verdict(bound: BoundJudge, feedback: Feedback) -> Verdict:
    reason = judging.reason_of(feedback)
    if reason is not None:
        told = feedback.error.error_message if feedback.error is not None else ""
        return Verdict(None, None, f"unscored ({reason.value}): {told}", reason, feedback)
    outcome = (feedback.metadata or {}).get("assay.outcome")
    passed = None if outcome is None else outcome == "pass"
    value = bound.contract.value
    score = _on_unit(value, feedback.value) if isinstance(value, NumericValue) else float(bool(passed))
    words = " ".join(filter(None, (f"{feedback.value} ({value.describe()}).", feedback.rationale)))
    return Verdict(score, passed, words, None, feedback)


def _on_unit(value: NumericValue, number: float) -> float:
    share = (number - value.low) / (value.high - value.low)
    return share if value.better == "higher" else 1.0 - share
