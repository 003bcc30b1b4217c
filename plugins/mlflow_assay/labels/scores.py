"""A judge's stored scores and how well its threshold stands, from labels and without one model call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlflow_assay.contracts import JudgeContract, NumericValue
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.pairs import Paired
from mlflow_assay.trust.recalibrate import Recalibration, recalibrate

__all__ = ["Scores", "recalibrated", "scores_of"]

Kind = Literal["value", "confidence"]
_EVEN = 0.5


@dataclass(frozen=True)
class Scores:
    """What a threshold can be put on.

    Attributes:
        kind: the judge's own number, or the probability in [0, 1] that it gave to a pass.
        values: one a unit, None where there is none, shape (n,).
        threshold: the one in use.
        better: which end of the scale is good.
    """

    kind: Kind
    values: tuple[float | None, ...]
    threshold: float
    better: Literal["higher", "lower"]


def scores_of(
    paired: Paired,
    contract: JudgeContract | None,
    *,
    threshold: float | None = None,
    better: Literal["higher", "lower"] | None = None,
) -> Scores:
    """A numeric judge's values, or the probability of a pass where a judge gives its confidence.

    Args:
        paired: its verdicts and labels.
        contract: the judge's, which says threshold and direction; None where it is in no catalogue.
        threshold: the one in use, where no contract says it.
        better: the direction, likewise.

    Raises:
        ConfigError: the judge left neither numbers nor confidences, or nobody says where its threshold is.
    """
    spec = contract.value if contract else None
    numbers = tuple(v if isinstance(v, int | float) else None for v in paired.values)
    if any(v is not None for v in numbers):
        if isinstance(spec, NumericValue):
            return Scores("value", numbers, spec.threshold if threshold is None else threshold, better or spec.better)
        if threshold is not None:
            return Scores("value", numbers, threshold, better or "higher")
        raise ConfigError(
            f"Nobody says from which score on {paired.judge!r} passes.",
            fix="Add it to the catalogue (--path), or say --threshold and --better.",
        )
    chances = tuple(_chance(p, c) for p, c in zip(paired.passed, paired.confidences, strict=True))
    if all(chance is None for chance in chances):
        raise ConfigError(
            f"The verdicts of {paired.judge!r} carry neither a score nor a confidence: no threshold to move.",
            valid="a numeric judge, or one that records its confidence (local judges, panels, cascades)",
            fix="assay align changes what a judge says; see its --optimizer.",
        )
    return Scores("confidence", chances, _EVEN if threshold is None else threshold, "higher")


def _chance(passed: bool | None, confidence: float | None) -> float | None:
    """The probability of a pass, from that of the verdict given."""
    if passed is None or confidence is None:
        return None
    return confidence if passed else 1 - confidence


def recalibrated(paired: Paired, scores: Scores, *, confidence: float = 0.95, seed: int = 0) -> Recalibration:
    """The threshold that agrees best with the labels, cross-fitted; sessions are never split.

    Raises:
        NotTrustedError: fewer than 50 labelled scores, or fewer than 5 of one kind.
    """
    return recalibrate(
        scores.values,
        paired.good,
        scores.threshold,
        better=scores.better,
        groups=paired.clusters,
        name=paired.judge,
        confidence=confidence,
        seed=seed,
    )
