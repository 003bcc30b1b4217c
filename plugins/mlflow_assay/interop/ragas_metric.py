"""Our judges as Ragas metrics, for teams whose experiments are Ragas'. Needs the extra `ragas`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragas.messages import AIMessage, HumanMessage, ToolMessage
from ragas.metrics.collections.base import BaseMetric
from ragas.metrics.result import MetricResult

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.interop.verdicts import Exchange, Given, bind, verdict_on

__all__ = ["AssayMetric"]


class AssayMetric(BaseMetric):
    """A judge on Ragas' fields.

    `user_input` and `response` are the run's request and answer, or `user_input` a list of Ragas' messages;
    `retrieved_contexts` its retrieved passages; `reference`, `reference_contexts` and `reference_tool_calls` are the
    expectations `expected_response`, `context` and `expected_tool_calls`. Any other keyword is an expectation by name.

    Args:
        judge: as in `assay judges list`.
        judge_model: None takes the environment's `ASSAY_JUDGE_MODEL`, else the judge's own default.
        paths: folders of judge definitions of your own.
        texts: values for the judge's variables.

    Raises:
        ConfigError: there is no such judge, or it cannot be built.
    """

    def __init__(
        self,
        judge: str,
        judge_model: ModelSettings | None = None,
        paths: Sequence[str | Path] = (),
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self._bound = bind(judge, judge_model, paths, texts)
        super().__init__(name=judge, allowed_values=(0.0, 1.0))

    async def ascore(self, **kwargs: Any) -> MetricResult:
        """The verdict as a number from 0 to 1, with the reason; NaN with the reason when it is unscored."""
        found = await asyncio.to_thread(verdict_on, self._bound, _given(kwargs))
        return MetricResult(value=float("nan") if found.score is None else found.score, reason=found.reason)


def _given(fields: Mapping[str, Any]) -> Given:
    rest = dict(fields)
    asked, answer = rest.pop("user_input", None), rest.pop("response", None)
    retrieved = tuple(rest.pop("retrieved_contexts", None) or ())
    expected = {
        "expected_response": rest.pop("reference", None),
        "context": rest.pop("reference_contexts", None),
        "expected_tool_calls": [
            {"name": call.name, "arguments": dict(call.args)} for call in rest.pop("reference_tool_calls", None) or ()
        ]
        or None,
        **rest,
    }
    exchanges = _exchanges(asked, retrieved) if isinstance(asked, list) else (Exchange(asked, answer, (), retrieved),)
    return Given(exchanges, {key: value for key, value in expected.items() if value is not None})


def _exchanges(messages: Sequence[Any], retrieved: tuple[str, ...]) -> tuple[Exchange, ...]:
    """Ragas' messages as requests and answers, each answer with the tools called before it."""
    found: list[Exchange] = []
    asked: str | None = None
    calls: list[tuple[str, Any]] = []
    results: list[Any] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            asked = str(message.content)
        elif isinstance(message, ToolMessage):
            results.append(message.content)
        elif isinstance(message, AIMessage):
            calls += [(call.name, dict(call.args)) for call in message.tool_calls or ()]
            if message.content and not message.tool_calls:
                padded = [*results, *[None] * (len(calls) - len(results))]
                tools = tuple((name, args, result) for (name, args), result in zip(calls, padded, strict=False))
                found.append(Exchange(asked, message.content, tools, retrieved))
                asked, calls, results = None, [], []
    if asked is not None or not found:
        found.append(Exchange(asked))
    return tuple(found)
