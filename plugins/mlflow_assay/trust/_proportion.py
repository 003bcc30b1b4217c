"""What the judge reports, with sampling error only: uncorrected, and saying so."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
from scipy import special

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import Floats, binary, check_confidence, codes, numeric, positive, same_length
from mlflow_assay.trust._design import clustered_variance, design_effect, kish, t_value, z_value
from mlflow_assay.trust._types import Estimate

UNCORRECTED = (
    "Uncorrected: this is what the judge says. The interval covers sampling error only, not the judge's errors."
)


def wilson(passed: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share.

    Args:
        passed: number of successes, 0 <= passed <= total; may be fractional (effective counts).
        total: number of trials, above 0.
        confidence: level in (0, 1).

    Returns:
        (low, high) in [0, 1], containing passed / total.

    Source: Wilson 1927, JASA 22:209.
    """
    z2 = z_value(confidence) ** 2
    share = passed / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def jeffreys(passed: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Equal-tailed Beta(1/2, 1/2) posterior interval of a share, closed at 0 and 1.

    Args:
        passed: number of successes, 0 <= passed <= total; may be fractional.
        total: number of trials, above 0.
        confidence: level in (0, 1).

    Returns:
        (low, high) in [0, 1]; low is 0 when nothing passed and high is 1 when everything did.

    Source: Brown, Cai & DasGupta 2001, Statistical Science 16:101.
    """
    tail = (1 - confidence) / 2
    a, b = passed + 0.5, total - passed + 0.5
    low = 0.0 if passed == 0 else float(special.betaincinv(a, b, tail))
    high = 1.0 if passed == total else float(special.betaincinv(a, b, 1 - tail))
    return min(low, passed / total), max(high, passed / total)


def unscored_note(n: int) -> tuple[str, ...]:
    """A sentence about unscored traces, or nothing when there are none."""
    return (f"{n} unscored traces are left out; the number is about the judged ones.",) if n else ()


def proportion(
    passed: float,
    total: float,
    *,
    name: str = "pass rate",
    confidence: float = 0.95,
    n_unscored: int = 0,
    design_effect: float = 1.0,
    interval: Literal["wilson", "jeffreys"] = "wilson",
) -> Estimate:
    """The judge's pass rate, uncorrected.

    Args:
        passed: traces that passed, 0 <= passed <= total.
        total: traces with a verdict; 0 gives an estimate whose raw and interval are None.
        name: the KPI's name.
        confidence: level in (0, 1).
        n_unscored: traces without a verdict, reported beside.
        design_effect: by how much repeated sessions shrink the sample, 1 or more (see `share`).
        interval: `wilson` (default) or `jeffreys`.

    Returns:
        An Estimate with corrected None, marked uncorrected in its assumptions.

    Raises:
        ConfigError: passed is not in [0, total], or the design effect is below 1.

    Source: Wilson 1927, JASA 22:209; Brown, Cai & DasGupta 2001; design effect Kish 1965.
    """
    check_confidence(confidence)
    if not 0 <= passed <= total or design_effect < 1 or interval not in ("wilson", "jeffreys"):
        raise ConfigError(
            "A pass rate needs 0 <= passed <= total, a design effect of 1 or more and a known interval.",
            found=f"passed {passed}, total {total}, design effect {design_effect}, interval {interval!r}",
            valid="interval wilson or jeffreys",
        )
    notes = (UNCORRECTED, *unscored_note(n_unscored))
    if total == 0:
        return Estimate(name, None, None, None, None, confidence, 0, 0, n_unscored, "none", notes)
    effective = total / design_effect
    bounds = (wilson if interval == "wilson" else jeffreys)(passed / design_effect, effective, confidence)
    if design_effect > 1:
        notes += (f"Sessions repeat: {total:g} verdicts count as {effective:.0f} independent ones.",)
    raw = passed / total
    return Estimate(name, raw, None, *bounds, confidence, round(total), 0, n_unscored, interval, notes)


def effective_share(
    values: Floats, clusters: Sequence[Hashable] | None, weights: Floats, confidence: float
) -> tuple[float, float]:
    """Weighted share of 1s among n >= 1 non-missing values, and its effective sample size in (0, n]."""
    mean = float(np.average(values, weights=weights))
    effect = design_effect(values - mean, codes(clusters, values.size), weights, confidence)
    return mean, kish(weights) / effect


def share(
    verdicts: Sequence[Any],
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    name: str = "pass rate",
    confidence: float = 0.95,
) -> Estimate:
    """The judge's pass rate from one verdict a trace, uncorrected, aware of sessions and weights.

    Args:
        verdicts: pass/fail as True/False/1/0, None or NaN for unscored, shape (n,).
        clusters: session (or task) id of each trace, None for a trace on its own, shape (n,).
        weights: inverse of the probability with which each trace entered the window, above 0, shape (n,).
        name: the KPI's name.
        confidence: level in (0, 1).

    Returns:
        An uncorrected Estimate; raw is the weighted share; raw None when every trace is unscored.

    Raises:
        ConfigError: lengths differ, a verdict is not pass/fail, a weight is not above 0.

    Source: Wilson 1927 at the effective sample size of Kish 1965 and Korn & Graubard 1998.
    """
    values, n = binary(verdicts, "verdicts"), same_length(verdicts=verdicts, clusters=clusters, weights=weights)
    w, scored = positive(weights, n, "weights"), ~np.isnan(values)
    unscored = int((~scored).sum())
    if not scored.any():
        return proportion(0, 0, name=name, confidence=confidence, n_unscored=unscored)
    kept = None if clusters is None else [c for c, s in zip(clusters, scored, strict=True) if s]
    mean, effective = effective_share(values[scored], kept, w[scored], confidence)
    total = int(scored.sum())
    mean = min(1.0, mean)
    return proportion(
        mean * total,
        total,
        name=name,
        confidence=confidence,
        n_unscored=unscored,
        design_effect=max(1.0, total / effective),
    )


def mean_interval(
    values: Floats, clusters: Sequence[Hashable] | None, weights: Floats, confidence: float
) -> tuple[float, float | None]:
    """Weighted mean and half-width by Student's t over clusters; half None with fewer than two clusters."""
    mean = float(np.average(values, weights=weights))
    terms = weights * (values - mean) / weights.sum()
    variance, count = clustered_variance(terms, codes(clusters, values.size))
    return mean, (None if count < 2 else t_value(confidence, count - 1) * math.sqrt(variance))


def mean(
    scores: Sequence[Any],
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    name: str = "mean score",
    confidence: float = 0.95,
) -> Estimate:
    """The judge's mean score, uncorrected, aware of sessions and weights.

    Args:
        scores: one number a trace in the judge's unit, None or NaN for unscored, shape (n,).
        clusters: session ids as for `share`.
        weights: inverse inclusion probabilities as for `share`.
        name: the KPI's name.
        confidence: level in (0, 1).

    Returns:
        An uncorrected Estimate (method `t`); with fewer than two sessions, or all scores equal, the interval
        is None and the method `none`.

    Raises:
        ConfigError: lengths differ, a score is not a finite number, a weight is not above 0.

    Source: Student 1908; clusters Liang & Zeger 1986, Biometrika 73:13.
    """
    check_confidence(confidence)
    values, n = numeric(scores, "scores"), same_length(scores=scores, clusters=clusters, weights=weights)
    w, scored = positive(weights, n, "weights"), ~np.isnan(values)
    unscored, total = int((~scored).sum()), int(scored.sum())
    notes = (UNCORRECTED, *unscored_note(unscored))
    if not total:
        return Estimate(name, None, None, None, None, confidence, 0, 0, unscored, "none", notes)
    kept = None if clusters is None else [c for c, s in zip(clusters, scored, strict=True) if s]
    raw, half = mean_interval(values[scored], kept, w[scored], confidence)
    if not half:
        why = "One session only" if half is None else "All scores are equal"
        notes += (f"{why}: no interval is possible.",)
        return Estimate(name, raw, None, None, None, confidence, total, 0, unscored, "none", notes)
    return Estimate(name, raw, None, raw - half, raw + half, confidence, total, 0, unscored, "t", notes)
