"""Does a judge prefer long answers? Among answers that people call good alike, and among those they call bad."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist, median
from typing import Any

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.labels.pairs import Paired
from mlflow_assay.trust.ratings import Measure

__all__ = ["LengthEffect", "length_effect"]

FEWEST = 40  # labelled, judged answers; with fewer the interval covers nearly everything


@dataclass(frozen=True)
class LengthEffect:
    """How much more often a judge passes the longer answers, at equal quality.

    Attributes:
        n: labelled, judged answers used.
        median: length in characters that parts the short from the long ones.
        difference: pass rate of the long minus that of the short within each label, pooled; in [-1, 1].
        confidence: level of the interval.
    """

    n: int
    median: float
    difference: Measure
    confidence: float

    @property
    def biased(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and not low <= 0 <= high

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, with `biased`."""
        return asdict(self) | {"biased": self.biased}


def length_effect(paired: Paired, lengths: Mapping[str, int], *, confidence: float = 0.95) -> LengthEffect:
    """How much more often a judge passes longer answers that people call good (or bad) alike.

    Comparing within labels matters: long answers may truly be better. Sessions are not taken into account, so with
    many answers a session the interval is too narrow.

    Args:
        paired: verdicts and labels.
        lengths: characters of the answer by unit; units without one are left out.
        confidence: level of the interval, in (0, 1).

    Raises:
        NotTrustedError: fewer than 40 labelled, judged answers, or no label with both short and long ones.

    Source: Mantel & Haenszel 1959, JNCI 22:719, as a difference of rates; variance Greenland & Robins 1985,
        Biometrics 41:55.
    """
    rows = [
        (good, passed, lengths[unit])
        for unit, good, passed in zip(paired.units, paired.good, paired.passed, strict=True)
        if good is not None and passed is not None and unit in lengths
    ]
    if len(rows) < FEWEST:
        raise NotTrustedError(
            "Whether the judge prefers long answers cannot be said.",
            found=f"{len(rows)} labelled, judged answers",
            valid=f"{FEWEST} or more",
        )
    middle = median(length for *_, length in rows)
    tables = []
    for label in (True, False):
        halves = [[p for g, p, size in rows if g is label and (size > middle) is long] for long in (True, False)]
        if all(halves):
            tables.append((sum(halves[0]), len(halves[0]), sum(halves[1]), len(halves[1])))
    if not tables:
        raise NotTrustedError(
            "No label stands on both short and long answers, so length and quality cannot be told apart."
        )
    value, error = _pooled(tables)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    found = Measure(value, max(-1.0, value - half), min(1.0, value + half))
    return LengthEffect(len(rows), middle, found, confidence)


def _pooled(tables: list[tuple[int, int, int, int]]) -> tuple[float, float]:
    """Mantel-Haenszel difference of rates over (passes, n) of the long and of the short, and its standard error."""
    total = sum(n1 * n0 / (n1 + n0) for _, n1, _, n0 in tables)
    value = sum((a * n0 - c * n1) / (n1 + n0) for a, n1, c, n0 in tables) / total
    spread = sum((a * (n1 - a) * n0**3 + c * (n0 - c) * n1**3) / (n1 * n0 * (n1 + n0) ** 2) for a, n1, c, n0 in tables)
    return value, math.sqrt(spread) / total
