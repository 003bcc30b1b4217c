"""One metric of a library as an MLflow scorer: its answer becomes a Feedback, its failure an unscored one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback, Trace
from mlflow.genai.scorers import Scorer
from pydantic import PrivateAttr

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract, ModelSettings, Unscored, UnscoredError, ValueSpec
from mlflow_assay.engine.judging import classify
from mlflow_assay.judges.third_party.client import JudgeClient
from mlflow_assay.judges.third_party.sample import Sample, SampleFields

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary

__all__ = ["LibraryJudge"]


class LibraryJudge(Scorer):
    """A library's metric that answers with one Feedback: number, reason, what it cost; or is unscored.

    Args:
        library: the adapter.
        metric: what the metric declares.
        measure: one measurement; called anew, with a fresh metric, for every verdict.
        fields: where the sample's fields are read from.
        needs: what the engine checks before anything is called.
        model: the judge model, or None for a metric that calls none.
        depends: what its verdicts depend on that neither parameters nor version tell.
    """

    _library: Any = PrivateAttr()
    _metric: Any = PrivateAttr()
    _measure: Any = PrivateAttr()
    _fields: SampleFields = PrivateAttr()
    _needs: tuple[str, ...] = PrivateAttr()
    _model: ModelSettings | None = PrivateAttr()
    _value: ValueSpec = PrivateAttr()
    _depends: str = PrivateAttr("")

    def __init__(
        self,
        library: MetricLibrary,
        metric: Metric,
        measure: Measure,
        fields: SampleFields,
        needs: tuple[str, ...],
        model: ModelSettings | None,
        depends: str = "",
    ) -> None:
        super().__init__(name=metric.name, description=metric.purpose)
        self._depends = depends
        self._library, self._metric, self._measure = library, metric, measure
        self._fields, self._needs, self._model, self._value = fields, needs, model, metric.value

    @property
    def fingerprint(self) -> str:
        """What the verdicts depend on besides parameters and model: the library's version, since it owns the prompt."""
        told = f"{self._metric.name} of {self._library.package} {self._library.version()}"
        return f"{told}, {self._depends}" if self._depends else told

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be there before anything is called, with these parameters."""
        return self._needs

    @property
    def is_session_level_scorer(self) -> bool:
        """Whether it judges sessions."""
        return bool(self._metric.scope == "session")

    def declare(self, contract: JudgeContract) -> None:
        """Take the scale and threshold in force: a team's definition may set another threshold than the library's."""
        self._value = contract.value

    def __call__(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        expectations: dict[str, Any] | None = None,
        trace: Trace | None = None,
        session: list[Trace] | None = None,
    ) -> Feedback:
        """Show the metric what it reads and take its answer.

        Raises:
            UnscoredError: there is no verdict; its metadata holds what was paid.
        """
        paid: dict[str, Any] = {semconv.JUDGE_CALLS: 0}
        try:
            sample = self._fields.sample(
                inputs=inputs, outputs=outputs, expectations=expectations, trace=trace, session=session or ()
            )
            if self.is_session_level_scorer:
                _check_turns(sample)
            client = JudgeClient(self._model) if self._model is not None else None
            try:
                return self._answer(self._measured(sample, client), client)
            finally:
                paid = client.meter.paid(self._model) if client is not None else paid
        except Exception as error:
            unscored = error if isinstance(error, UnscoredError) else classify(error)
            unscored.metadata = {**paid, **unscored.metadata}
            if unscored is error:
                raise
            raise unscored from error

    def _measured(self, sample: Sample, client: JudgeClient | None) -> Measured:
        try:
            measured: Measured = self._measure(sample, client, self._value)
        except Exception as error:
            raise _explained(error, client) from error
        if measured.error is not None:
            raise _explained(RuntimeError(measured.error), client)
        if _is_nothing(measured.score):
            raise _explained(None, client, f"the library gave {measured.score!r} and no score")
        return measured

    def _answer(self, measured: Measured, client: JudgeClient | None) -> Feedback:
        facts = {key: str(value) for key, value in measured.metadata.items()}
        if measured.passed is not None:
            facts[semconv.LIBRARY_PASSED] = str(measured.passed).lower()
        paid = client.meter.paid(self._model) if client is not None else {}
        return Feedback(
            name=self.name,
            value=measured.score,
            rationale=measured.reason,
            source=self._source(),
            metadata={**facts, **paid},
        )

    def _source(self) -> AssessmentSource:
        if self._model is None:
            return AssessmentSource(AssessmentSourceType.CODE, f"{self._library.name}/{self._metric.name}")
        return AssessmentSource(AssessmentSourceType.LLM_JUDGE, self._model.uri)


def _check_turns(sample: Sample) -> None:
    """A conversation has something said and something answered.

    Raises:
        UnscoredError: MISSING_FIELD, before anything is asked.
    """
    if not {"user", "assistant"} <= {turn.role for turn in sample.turns}:
        found = f"found {len(sample.turns)} turns" if sample.turns else "found: none recorded"
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs a session with a user's turn and a reply ({found})")


def _is_nothing(score: Any) -> bool:
    return score is None or (isinstance(score, float) and math.isnan(score))


def _explained(error: Exception | None, client: JudgeClient | None, detail: str = "") -> UnscoredError:
    """Why there is no verdict: what happened to the model's call, where that is the cause; else what was raised."""
    found = classify(error) if error is not None else UnscoredError(Unscored.EMPTY_REPLY, detail)
    vague = error is None or found.reason in (Unscored.JUDGE_ERROR, Unscored.GARBLED_REPLY)
    if client is not None and found.reason is Unscored.TIMEOUT and client.meter.failure is not None:
        return client.meter.failure  # which endpoint and how long, where libraries say "timed out"
    if client is None or not vague:
        return found
    cause = client.meter.failure or client.meter.unread
    if cause is not None:
        return UnscoredError(cause.reason, f"{cause.detail} ({found.detail})"[:1000])
    if client.meter.calls and isinstance(error, ValueError | KeyError):
        # After an answer from the model, these are how libraries say that they could not read it.
        return UnscoredError(Unscored.GARBLED_REPLY, found.detail)
    return found
