"""A cascade: cheap judges answer where labels showed that they may, dearer ones where not.

A tier's verdict is accepted when its confidence is at or above a threshold found on labels for a stated agreement
(`trust.selective`); otherwise the next tier is asked. Without such a calibration, or after one of the tiers
changed, the cascade refuses to be built: a cheap judge's own confidence is no evidence.

Source: Jung et al., Trust or Escalate, ICLR 2025, arXiv 2407.18370. There the last tier abstains too when unsure
(`last: calibrated`); by default (`last: answers`) it answers what is left, as it would alone, and the stated
agreement holds for what the tiers before it answered.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Feedback

from mlflow_assay import semconv
from mlflow_assay.contracts import BoundJudge, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import NotTrustedError
from mlflow_assay.judges import calibration_file
from mlflow_assay.judges.composite import Asked, confidence_of, facts, no_verdict, translate

if TYPE_CHECKING:
    from mlflow_assay.judges.composite_spec import CascadeSpec

__all__ = ["Cascade", "make_cascade"]


@dataclass(frozen=True)
class Cascade:
    """The rules of a cascade.

    Attributes:
        name: the assessment's name.
        value: the scale of its verdicts.
        members: the tiers, cheap first.
        labels: their names.
        thresholds: least confidence at which each gated tier's verdict is accepted; None: never asked. One
            fewer than members where the last tier always answers.
    """

    name: str
    value: ValueSpec
    members: tuple[BoundJudge, ...]
    labels: tuple[str, ...]
    thresholds: tuple[float | None, ...]

    def decide(self) -> Generator[tuple[int, ...], Sequence[Feedback], Feedback]:
        """Ask tier after tier until one may answer.

        A tier without a verdict hands on to the next, except where the budget ended.

        Raises:
            UnscoredError: the budget ended, or no tier may answer.
        """
        asked: list[Asked] = []
        for tier in self._asked_tiers():
            (verdict,) = yield (tier,)
            latest = Asked(self.labels[tier], self.members[tier], verdict)
            asked.append(latest)
            if latest.reason is Unscored.BUDGET:
                raise no_verdict(f"tier {tier + 1} could not be asked", asked[-1:], facts(asked))
            if self._accepts(tier, latest):
                return self._verdict(tier, latest, asked)
        raise self._nothing(asked)

    def _asked_tiers(self) -> list[int]:
        gated = [tier for tier, threshold in enumerate(self.thresholds) if threshold is not None]
        return [*gated, *range(len(self.thresholds), len(self.members))]

    def _accepts(self, tier: int, asked: Asked) -> bool:
        if asked.reason is not None:
            return False
        if tier >= len(self.thresholds):
            return True
        confidence, threshold = confidence_of(asked.verdict), self.thresholds[tier]
        return confidence is not None and threshold is not None and confidence >= threshold

    def _verdict(self, tier: int, accepted: Asked, asked: Sequence[Asked]) -> Feedback:
        confidence = confidence_of(accepted.verdict)
        model = (accepted.verdict.metadata or {}).get(semconv.JUDGE_MODEL)
        extra = {
            semconv.CASCADE_STAGE: str(tier + 1),
            semconv.CONFIDENCE: None if confidence is None else f"{confidence:.6g}",
            semconv.JUDGE_MODEL: model,
        }
        return Feedback(
            name=self.name,
            value=translate(accepted, self.value),
            rationale=accepted.verdict.rationale,
            source=accepted.verdict.source,
            metadata={**facts(asked), **{k: v for k, v in extra.items() if v is not None}},
            span_id=accepted.verdict.span_id,
        )

    def _nothing(self, asked: Sequence[Asked]) -> UnscoredError:
        """No tier may answer: the last one's own reason, or that it is not sure enough."""
        final = asked[-1]
        if final.reason:
            return no_verdict(f"{final.label}, the last tier, has no verdict", [final], facts(asked))
        confidence = confidence_of(final.verdict)
        said = "no confidence" if confidence is None else f"a confidence of {confidence:.3g}"
        detail = f"no tier is sure enough; {final.label}, the last, gave {said}"
        return UnscoredError(Unscored.LOW_CONFIDENCE, detail, facts(asked))


def make_cascade(
    name: str, value: ValueSpec, spec: CascadeSpec, members: Sequence[BoundJudge], folder: Path
) -> tuple[Cascade, Mapping[str, Any]]:
    """A cascade and what its verdicts depend on, for its digest.

    Args:
        name, value: of the definition.
        spec: what the definition says.
        members: its tiers, built, in order.
        folder: where the calibration lies.

    Raises:
        NotTrustedError: there is no calibration, it is of other tiers, or it lets no tier answer.
    """
    gated = [member.digest for member in members[: spec.gated]]
    result = calibration_file.read(folder / spec.calibration, name, "cascade", gated)["result"]
    thresholds = tuple(gate["threshold"] for gate in result["gates"])
    if all(threshold is None for threshold in thresholds):
        raise NotTrustedError(
            f"The labels let no tier of the cascade {name!r} answer.",
            found=result["summary"],
            fix="Use its last judge alone, ask for a lower agreement, or label more traces and calibrate again.",
        )
    labels = tuple(tier.label for tier in spec.tiers)
    cascade = Cascade(name, value, tuple(members), labels, thresholds)
    return cascade, {"cascade": [[member.digest for member in members], thresholds]}
