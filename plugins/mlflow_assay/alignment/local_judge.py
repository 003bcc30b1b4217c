"""A local classifier in an MLflow judge's place, as alignment hands it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.genai.judges.base import Judge, JudgeField
from pydantic import PrivateAttr

from mlflow_assay.judges.local.scorer import LocalScorer

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Trace

    from mlflow_assay.judges.local.judge import LocalJudge

__all__ = ["LocalAlignedJudge"]


class LocalAlignedJudge(Judge):
    """A local classifier behind MLflow's `Judge`, as `judge.align` returns it.

    It runs in this process. MLflow cannot register it; `assay align` writes a definition for it instead.

    Args:
        judge: the trained classifier.
        name: the assessment name.
    """

    _trained: Any = PrivateAttr()

    def __init__(self, judge: LocalJudge, name: str) -> None:
        super().__init__(name=name, description=judge.purpose)
        self._trained = judge

    @property
    def instructions(self) -> str:
        """What it was trained for, in words; there is no prompt."""
        return f"A classifier trained on {self._trained.report.n} labels: {self._trained.purpose}"

    @property
    def feedback_value_type(self) -> Any:
        """Good or bad as a bool."""
        return bool

    def get_input_fields(self) -> list[JudgeField]:
        """The whole trace."""
        return [JudgeField(name="trace", description="Trace to judge")]

    def __call__(self, *, trace: Trace) -> Feedback:
        """The verdict on one trace.

        Raises:
            UnscoredError: a field is missing, or the judge abstains.
        """
        found: Feedback = LocalScorer(self._trained, self.name)(trace=trace)
        return found
