"""How many rows or labels are needed, answered before they are paid for."""

from __future__ import annotations

import math

from scipy import special

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import check_confidence
from mlflow_assay.trust._design import z_value


def rows_needed(effect: float, *, variance: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """Pairs needed to show a difference in a paired comparison.

    Args:
        effect: the difference to show, above 0, in the unit of the values (0.05 is 5 points of pass rate).
        variance: variance of the paired difference; for pass/fail the share of pairs that differ.
        confidence: 1 - level of the two-sided test, in (0, 1).
        power: chance to show it, in (0, 1).

    Returns:
        Number of independent pairs, 1 or more; multiply by the design effect where sessions repeat.

    Raises:
        ConfigError: effect or variance is not above 0, or power not in (0, 1).

    Source: Miettinen 1968, Biometrics 24:339; Connor 1987, Biometrics 43:207.
    """
    check_confidence(confidence)
    if not effect > 0 or not variance >= 0 or not 0 < power < 1:
        raise ConfigError(
            "Planning needs effect > 0, variance >= 0 and power in (0, 1).",
            found=f"effect {effect}, variance {variance}, power {power}",
        )
    spread = max(variance, effect**2)
    root = z_value(confidence) * math.sqrt(spread) + float(special.ndtri(power)) * math.sqrt(spread - effect**2)
    return max(1, math.ceil((root / effect) ** 2))


def detectable_difference(n: int, *, variance: float, confidence: float = 0.95, power: float = 0.8) -> float | None:
    """The smallest difference n pairs would show with the given power.

    Args:
        n: independent pairs, 1 or more.
        variance: as for `rows_needed`.
        confidence: as for `rows_needed`.
        power: as for `rows_needed`.

    Returns:
        A difference in the unit of the values; None when even the largest consistent with `variance` would not be.

    Raises:
        ConfigError: n is below 1, or as for `rows_needed`.

    Source: the inverse of `rows_needed`.
    """
    if n < 1:
        raise ConfigError("A comparison needs at least one pair.", found=n)
    low, high = 0.0, math.sqrt(variance)
    if high <= 0 or rows_needed(high, variance=variance, confidence=confidence, power=power) > n:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        enough = rows_needed(middle, variance=variance, confidence=confidence, power=power) <= n
        low, high = (low, middle) if enough else (middle, high)
    return high


def labels_needed(half_width: float, *, rate: float = 0.5, correlation: float = 0.0, confidence: float = 0.95) -> int:
    """Labels needed for a corrected pass rate of a given precision.

    Args:
        half_width: half the interval's width, in (0, 1), for example 0.05 for 5 points.
        rate: the expected pass rate, in [0, 1]; 0.5 is the worst case.
        correlation: between verdict and label over traces, in [-1, 1]; 0 means the judge helps nothing.
        confidence: level of the interval, in (0, 1).

    Returns:
        Number of labels, 1 or more, assuming judged traces far outnumber labels.

    Raises:
        ConfigError: an argument is out of range.

    Source: the variance of a regression estimator, Cochran 1977, Sampling Techniques, section 7.3.
    """
    check_confidence(confidence)
    if not 0 < half_width < 1 or not 0 <= rate <= 1 or not -1 <= correlation <= 1:
        raise ConfigError(
            "Planning labels needs half_width in (0, 1), rate in [0, 1], correlation in [-1, 1].",
            found=f"half_width {half_width}, rate {rate}, correlation {correlation}",
        )
    variance = rate * (1 - rate) * (1 - correlation**2)
    return max(1, math.ceil((z_value(confidence) / half_width) ** 2 * variance))
