"""How many labels a corrected rate of a given precision still needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_assay.labels.designs import Draw
from mlflow_assay.labels.picking import Candidate
from mlflow_assay.trust.planning import labels_needed

__all__ = ["LabelPlan", "plan_labels"]

_ENOUGH = 20  # labels from which their own rate and correlation are better than the worst case


@dataclass(frozen=True)
class LabelPlan:
    """How many labels a corrected pass rate needs.

    Attributes:
        half_width: the precision wanted, half the width of a 95 % interval, in (0, 1).
        needed: labels for it, at most one a judged trace.
        have: labels of the sample there are.
        rate, correlation: what was assumed: of good traces in [0, 1], and between verdict and label in [-1, 1].
        measured: whether these come from the labels; else they are the worst case.
    """

    half_width: float
    needed: int
    have: int
    rate: float
    correlation: float
    measured: bool

    @property
    def lacking(self) -> int:
        """Labels still needed, 0 or more."""
        return max(0, self.needed - self.have)


def plan_labels(candidates: Sequence[Candidate], draws: Mapping[str, Draw], half_width: float) -> LabelPlan:
    """How many labels the sample needs, from its own labels once there are enough, else in the worst case.

    Args:
        candidates: all judged traces of the frame.
        draws: those drawn.
        half_width: the precision wanted, in (0, 1).

    Source: `trust.planning.labels_needed`; rate and correlation weighted by inverse probability of being drawn.
    """
    scored = [c for c in candidates if c.passed is not None]
    known = [c for c in scored if c.good is not None and c.trace_id in draws]
    rate, correlation, measured = 0.5, 0.0, len(known) >= _ENOUGH
    if measured:
        weights = np.array([1 / draws[c.trace_id].probability for c in known])
        both = np.array([[float(bool(c.passed)), float(bool(c.good))] for c in known]).T
        covariance = np.cov(both, aweights=weights, ddof=0)
        rate = float(np.average(both[1], weights=weights))
        spread = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
        correlation = float(covariance[0, 1]) / spread if spread > 0 else 0.0
        correlation = max(-1.0, min(1.0, correlation))
    # One label that differs would move a rate of 0 or 1: never plan with no variance at all.
    smoothed = (rate * len(known) + 1) / (len(known) + 2) if measured else rate
    needed = labels_needed(half_width, rate=smoothed, correlation=min(0.95, max(-0.95, correlation)))
    return LabelPlan(half_width, min(needed, len(scored)), len(known), rate, correlation, measured)
