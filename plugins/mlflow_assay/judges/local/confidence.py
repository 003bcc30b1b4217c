"""How sure a verdict is, and from where on the judge answers.

A verdict's confidence is the chance that the label agrees with it, fitted on out-of-fold verdicts. The judge answers
from the least confidence at which agreement with the labels reaches the target; below, it abstains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import numpy.typing as npt
from scipy import special

from mlflow_assay.trust._design import design_effect

__all__ = ["RISK", "Confidence", "Threshold", "choose_threshold", "fit_confidence", "lower_bound"]

RISK = 0.1  # chance that the true agreement of the answered verdicts is below the target after all
_STEP, _FIRST = 0.1, 0.4

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confidence:
    """Chance that a verdict agrees with the label: expit(base + slope · |score| + passing · [it passes])."""

    base: float
    slope: float
    passing: float

    def of(self, scores: Floats) -> Floats:
        """Confidence of the verdict `score > 0`, in (0, 1), shape as given."""
        return np.asarray(special.expit(self.base + self.slope * np.abs(scores) + self.passing * (scores > 0)))


@dataclass(frozen=True)
class Threshold:
    """From where on the judge answers.

    Attributes:
        value: least confidence answered, in [0, 1].
        coverage: share of labelled traces answered, in (0, 1].
        answered: how many.
        agreement: share of the answered verdicts that agree with the labels.
        low: lower bound of that agreement, which holds with probability 1 - `RISK`.
        proven: whether `low` reaches the target; otherwise only `agreement` does.
    """

    value: float
    coverage: float
    answered: int
    agreement: float
    low: float
    proven: bool


def fit_confidence(scores: Floats, correct: Bools) -> Confidence:
    """Fit on out-of-fold verdicts; one right and one wrong verdict are added, so that no chance is 0 or 1.

    Args:
        scores: shape (n,); above 0 passes.
        correct: whether the verdict agreed with the label, shape (n,).
    """
    from sklearn.linear_model import LogisticRegression

    size = np.abs(scores)
    unit = float(size.mean()) or 1.0
    columns = np.column_stack([np.append(size / unit, [1.0, 1.0]), np.append(scores > 0, [0.5, 0.5])])
    model = LogisticRegression(C=1.0, max_iter=1000).fit(columns, np.append(correct, [True, False]))
    slope, passing = (float(c) for c in model.coef_[0])
    return Confidence(float(model.intercept_[0]), max(slope, 1e-3) / unit, passing)


def lower_bound(agreeing: float, answered: float, risk: float = RISK) -> float:
    """One-sided exact lower bound of a share; counts may be effective ones, hence fractional.

    Source: Clopper & Pearson 1934, Biometrika 26:404.
    """
    if agreeing <= 0:
        return 0.0
    return float(special.betaincinv(agreeing, answered - agreeing + 1.0, risk))


def choose_threshold(confidence: Floats, correct: Bools, groups: Ints, target: float) -> Threshold | None:
    """The threshold that answers most while agreement reaches the target.

    Proven where possible: shares of the most confident traces are tested from 40 % up in steps of 10 %, starting
    where one error could be afforded, and the last before the first failure is taken. The order is fixed without
    looking at the labels, so all tests together err with probability at most `RISK` and no correction for their
    number is due. Where not even the first test succeeds, the largest share whose observed agreement reaches the
    target is taken and called unproven; its lower bound is corrected for having been picked.

    Args:
        confidence: of each verdict, in (0, 1), shape (n,).
        correct: whether it agreed with the label, shape (n,).
        groups: group number of each, shape (n,); traces of one group count as fewer (design effect).
        target: agreement to reach, in (0, 1).

    Returns:
        None when even the most confident verdicts do not agree with the labels that often.

    Source: fixed-sequence calibration of Jung et al., Trust or Escalate, ICLR 2025 (arXiv 2407.18370).
    """
    order = np.argsort(-confidence, kind="stable")
    sure, right, group = confidence[order], correct[order], groups[order]

    def at(count: int, risk: float) -> Threshold:
        effect = _effect(right[:count], group[:count])
        agreeing = float(right[:count].sum())
        low = lower_bound(agreeing / effect, count / effect, risk)
        return Threshold(float(sure[count - 1]), count / sure.size, count, agreeing / count, low, low >= target)

    counts = _counts(sure)
    affordable = [c for c in counts if lower_bound(c - 1, c) >= target] or counts[-1:]
    proven = list(takewhile(lambda t: t.proven, (at(c, RISK) for c in affordable)))
    if proven:
        return proven[-1]
    picked = [replace(at(c, RISK / len(counts)), proven=False) for c in counts]
    return next((t for t in reversed(picked) if t.agreement >= target), None)


def _counts(sure: Floats) -> list[int]:
    """How many of the most confident to look at, in order; equal confidences are never parted."""
    n = sure.size
    wanted = [max(0, int(np.ceil(s * n)) - 1) for s in np.arange(_FIRST, 1.0 + 1e-9, _STEP)]
    return sorted({int(np.searchsorted(-sure, -sure[k], side="right")) for k in wanted if k < n})


def _effect(right: Bools, groups: Ints) -> float:
    residuals = right.astype(np.float64) - float(right.mean())
    codes = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return float(design_effect(residuals, codes, np.ones(right.size), 0.9))
