"""A local judge as an MLflow scorer, and the library `local` of the judge catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback
from mlflow.genai.scorers import Scorer
from pydantic import PrivateAttr

from mlflow_assay import semconv
from mlflow_assay.judges.local.judge import LocalJudge, Prediction

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["LocalScorer"]


class LocalScorer(Scorer):
    """Judges traces with a trained classifier; no model is called, nothing leaves the machine.

    Args:
        judge: may be used (`require_trust`).
        name: the assessment name; None takes the judge's.

    Raises:
        NotTrustedError: the judge must not be used, and use was not forced.
    """

    _judge: Any = PrivateAttr()

    def __init__(self, judge: LocalJudge, name: str | None = None) -> None:
        judge.require_trust()
        super().__init__(name=name or judge.name, description=judge.purpose)
        self._judge = judge

    @property
    def judge(self) -> LocalJudge:
        """The trained judge."""
        found: LocalJudge = self._judge
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the trained judge: equal fingerprints give equal verdicts."""
        return self.judge.digest

    @property
    def trained_on(self) -> frozenset[str]:
        """Ids of the traces whose labels it learnt from; its verdicts on them say so, abstentions included."""
        return self.judge.trained_on

    def __call__(self, *, trace: Trace) -> Feedback:
        """The verdict on one trace.

        Raises:
            UnscoredError: a field is missing, or the judge abstains.
        """
        found = self.judge.judge(trace)
        return Feedback(
            name=self.name,
            value=self.judge.good if found.passed else not self.judge.good,
            rationale=_rationale(found, self.judge),
            source=AssessmentSource(AssessmentSourceType.CODE, self.name),
            trace_id=trace.info.trace_id,
            metadata=_metadata(found, self.judge, trace.info.trace_id),
        )


def _metadata(found: Prediction, judge: LocalJudge, trace_id: str) -> dict[str, str]:
    facts = {
        semconv.CONFIDENCE: f"{found.confidence:.4f}",
        semconv.JUDGE_KIND: "local",
        semconv.LOCAL_DIGEST: judge.digest,
        semconv.LOCAL_THRESHOLD: f"{judge.threshold:.4f}",
    }
    if judge.report.refusals:
        facts[semconv.LOCAL_FORCED] = " ".join(judge.report.refusals)
    if trace_id in judge.trained_on:
        facts[semconv.TRAINED_ON] = "true"
    return facts


def _rationale(found: Prediction, judge: LocalJudge) -> str:
    verdict, other = ("pass", "fail") if found.passed else ("fail", "pass")
    sides = {"pass": found.towards_pass, "fail": found.towards_fail}
    said = [f"{verdict.capitalize()}, confidence {found.confidence:.2f} (it answers from {judge.threshold:.2f} up)."]
    if judge.report.refusals:
        said.append(f"Used by force although: {' '.join(judge.report.refusals)}")
    for side in (verdict, other):
        if sides[side]:
            said.append(f"Towards {side}: {'; '.join(sides[side])}.")
    if not any(sides.values()):
        said.append("It decided by word parts and the general tendency of the labels; no single word stands out.")
    return " ".join(said)


def load(path: str, embedder: str | None) -> LocalScorer:
    """A scorer from a saved judge."""
    return LocalScorer(LocalJudge.load(Path(path).expanduser(), embedder))
