"""Our judges as DeepEval metrics, for teams whose tests are DeepEval's. Needs the extra `deepeval`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepeval.errors import MissingTestCaseParamsError
from deepeval.metrics import BaseConversationalMetric, BaseMetric
from deepeval.test_case import ConversationalTestCase, LLMTestCase

from mlflow_assay.contracts import ModelSettings, Unscored, UnscoredError
from mlflow_assay.interop.verdicts import Exchange, Given, Verdict, bind, pass_mark, verdict_on

__all__ = ["AssayConversationalMetric", "AssayMetric"]


class _Judged:
    """What both kinds of metric share. DeepEval copies a metric from its constructor's arguments, by their names."""

    def __init__(
        self,
        judge: str,
        judge_model: ModelSettings | None = None,
        paths: Sequence[str | Path] = (),
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.judge, self.judge_model, self.paths, self.texts = judge, judge_model, paths, texts
        self._bound = bind(judge, judge_model, paths, texts)
        self.threshold: float | None = pass_mark(self._bound)
        self.evaluation_model = self._bound.model.uri if self._bound.model else None
        self.include_reason = True
        self.score: float | None = None
        self.reason: str | None = None
        self.success: bool | None = None
        self.error: str | None = None
        self.evaluation_cost: float | None = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    @property
    def __name__(self) -> str:
        return self.judge

    def is_successful(self) -> bool | None:
        """Whether the verdict passes by the judge's own rule."""
        return self.success

    def _judge(self, given: Given) -> float:
        found = verdict_on(self._bound, given)
        self._note(found)
        if found.unscored is Unscored.MISSING_FIELD:
            self.error = found.reason
            raise MissingTestCaseParamsError(f"The judge {self.judge!r} is {found.reason}")
        if found.unscored is not None:
            self.error = found.reason
            raise UnscoredError(found.unscored, f"The judge {self.judge!r} is {found.reason}")
        assert found.score is not None  # noqa: S101 - scored
        return found.score

    def _note(self, found: Verdict) -> None:
        from mlflow.tracing.constant import AssessmentMetadataKey as Key

        self.score, self.success, self.reason, self.error = found.score, found.passed, found.reason, None
        facts = found.feedback.metadata or {}
        self.evaluation_cost = _number(facts.get(Key.JUDGE_COST), float)
        self.input_tokens = _number(facts.get(Key.JUDGE_INPUT_TOKENS), int)
        self.output_tokens = _number(facts.get(Key.JUDGE_OUTPUT_TOKENS), int)


def _number(text: Any, kind: Any) -> Any:
    return None if text is None else kind(float(text))


class AssayMetric(_Judged, BaseMetric):
    """A judge of runs on an `LLMTestCase`.

    `input` and `actual_output` are the run's request and answer, `tools_called` and `retrieval_context` its spans;
    `expected_output`, `context` and `expected_tools` are the expectations `expected_response`, `context` and
    `expected_tool_calls`, and the case's `metadata["expectations"]` gives any others by name.

    Args:
        judge: as in `assay judges list`; a session-level judge is for `AssayConversationalMetric`.
        judge_model: None takes the environment's `ASSAY_JUDGE_MODEL`, else the judge's own default.
        paths: folders of judge definitions of your own.
        texts: values for the judge's variables.

    Raises:
        ConfigError: there is no such judge, or it cannot be built.
    """

    def measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        """The verdict as a number from 0 to 1; `reason` and `success` go with it.

        Raises:
            MissingTestCaseParamsError: the case lacks what the judge needs; nothing was asked.
            UnscoredError: there is no verdict.
        """
        return self._judge(_case(test_case))

    async def a_measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        """As `measure`, in a thread."""
        return await asyncio.to_thread(self.measure, test_case)


class AssayConversationalMetric(_Judged, BaseConversationalMetric):
    """A judge of sessions on a `ConversationalTestCase`; arguments and errors as `AssayMetric`."""

    def measure(self, test_case: ConversationalTestCase, *args: Any, **kwargs: Any) -> float:
        """The verdict as a number from 0 to 1; `reason` and `success` go with it."""
        return self._judge(_conversation(test_case))

    async def a_measure(self, test_case: ConversationalTestCase, *args: Any, **kwargs: Any) -> float:
        """As `measure`, in a thread."""
        return await asyncio.to_thread(self.measure, test_case)


def _case(case: LLMTestCase) -> Given:
    expected = {
        "expected_response": case.expected_output,
        "context": case.context,
        "expected_tool_calls": _expected_tools(case.expected_tools),
        **((case.metadata or {}).get("expectations") or {}),
    }
    exchange = Exchange(case.input, case.actual_output, _tools(case.tools_called), _passages(case.retrieval_context))
    return Given((exchange,), {key: value for key, value in expected.items() if value is not None})


def _conversation(case: ConversationalTestCase) -> Given:
    """Each of the assistant's turns with the user's words before it."""
    exchanges: list[Exchange] = []
    asked: str | None = None
    for turn in case.turns:
        if turn.role == "user":
            asked = turn.content if asked is None else f"{asked}\n{turn.content}"
        else:
            exchanges.append(
                Exchange(asked, turn.content, _tools(turn.tools_called), _passages(turn.retrieval_context))
            )
            asked = None
    if asked is not None:
        exchanges.append(Exchange(asked))
    expected = {"expected_outcome": case.expected_outcome, "scenario": case.scenario, "chatbot_role": case.chatbot_role}
    return Given(tuple(exchanges), {key: value for key, value in expected.items() if value is not None})


def _tools(tools: Any) -> tuple[tuple[str, Any, Any], ...]:
    return tuple((t.name, t.input_parameters or {}, t.output) for t in tools or ())


def _expected_tools(tools: Any) -> list[dict[str, Any]] | None:
    return [{"name": t.name, "arguments": t.input_parameters or {}} for t in tools] if tools else None


def _passages(context: Any) -> tuple[str, ...]:
    return tuple(c if isinstance(c, str) else str(getattr(c, "context", c)) for c in context or ())
