"""The Jeffreys post-stratified interval: a pass rate corrected for judge error by labels of the same window.

Labels say how often the judge's "pass" is truly good and how often its "fail" is; all verdicts together say how
often it says each. Both are Beta(1/2, 1/2) posteriors, combined exactly by quadrature, with no random draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust._arrays import (
    Bools,
    Floats,
    binary,
    check_confidence,
    codes,
    numeric,
    positive,
    same_length,
)
from mlflow_assay.trust._design import design_effect, kish
from mlflow_assay.trust._proportion import unscored_note
from mlflow_assay.trust._types import Estimate

_NODES = 48  # per dimension; 200 move an end by less than 1e-4 (tests/trust/test_jps.py)


@dataclass(frozen=True)
class VerdictCounts:
    """What is known about the traces with one verdict; counts may be fractional (effective counts).

    Attributes:
        judged: traces with this verdict, labelled ones included, 0 or more.
        labelled: how many of them carry a label, 0 to judged.
        good: how many of the labelled are truly good, 0 to labelled.

    Raises:
        ConfigError: the counts contradict each other.
    """

    judged: float
    labelled: float
    good: float

    def __post_init__(self) -> None:
        if not 0 <= self.good <= self.labelled + 1e-9 or not self.labelled <= self.judged + 1e-9:
            raise ConfigError(
                "Counts of one verdict need 0 <= good <= labelled <= judged.",
                found=f"good {self.good}, labelled {self.labelled}, judged {self.judged}",
            )


@lru_cache(maxsize=1)
def _rule() -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / 2


class _Posterior:
    """Distribution of W * P_pass + (1 - W) * P_fail for independent Beta posteriors."""

    def __init__(self, passed: VerdictCounts, failed: VerdictCounts) -> None:
        u, self._weights = _rule()
        # The verdict whose rate is the less certain part is integrated exactly, the other by nodes.
        first, second = sorted((passed, failed), key=_spread, reverse=True)
        share = special.betaincinv(first.judged + 0.5, second.judged + 0.5, u)
        self._a, self._b = first.good + 0.5, max(0.0, first.labelled - first.good) + 0.5
        rest = special.betaincinv(second.good + 0.5, max(0.0, second.labelled - second.good) + 0.5, u)
        self._share = np.maximum(share, 1e-300)[:, None]
        self._rest = (1 - share)[:, None] * rest[None, :]

    def cdf(self, t: float) -> float:
        x = np.clip((t - self._rest) / self._share, 0.0, 1.0)
        return float(self._weights @ special.betainc(self._a, self._b, x) @ self._weights)

    def quantile(self, q: float) -> float:
        """Where the distribution function reaches q, in [0, 1]."""
        from scipy.optimize import brentq  # half a second to import, and not every command needs it

        return float(brentq(lambda t: self.cdf(t) - q, 0.0, 1.0, xtol=1e-7))


def _spread(counts: VerdictCounts) -> float:
    a, b = counts.good + 0.5, max(0.0, counts.labelled - counts.good) + 0.5
    return float(counts.judged * np.sqrt(a * b / (a + b + 1)) / (a + b))


def _mean(passed: VerdictCounts, failed: VerdictCounts) -> float:
    share = (passed.judged + 0.5) / (passed.judged + failed.judged + 1)
    rate_pass, rate_fail = ((c.good + 0.5) / (c.labelled + 1) for c in (passed, failed))
    return float(share * rate_pass + (1 - share) * rate_fail)


def _with_unscored(posterior: _Posterior, scored: float, unscored: VerdictCounts) -> tuple[Floats, Floats]:
    """The rate over scored and unscored traces together, as points and their probabilities.

    The scored traces' posterior, the unscored share and the unscored traces' rate are independent, each put at
    its Gauss-Legendre quantiles.
    """
    u, weights = _rule()
    grid = np.linspace(0.0, 1.0, 257)
    rates = np.interp(u, np.maximum.accumulate([posterior.cdf(float(t)) for t in grid]), grid)
    share = special.betaincinv(unscored.judged + 0.5, scored + 0.5, u)
    lost = special.betaincinv(unscored.good + 0.5, max(0.0, unscored.labelled - unscored.good) + 0.5, u)
    points = (1 - share)[:, None, None] * rates[None, :, None] + share[:, None, None] * lost[None, None, :]
    masses = weights[:, None, None] * weights[None, :, None] * weights[None, None, :]
    order = np.argsort(points, axis=None)
    return points.ravel()[order], masses.ravel()[order]


def jps_interval(
    passed: VerdictCounts,
    failed: VerdictCounts,
    confidence: float = 0.95,
    unscored: VerdictCounts | None = None,
) -> tuple[float, float, float]:
    """Posterior mean and equal-tailed interval, with the edge rule.

    Args:
        passed: counts of the traces the judge passed.
        failed: counts of the traces the judge failed.
        confidence: level in (0, 1).
        unscored: counts of the traces it gave no verdict on; with labels on some of them they are a third
            stratum and the rate is that of all traces. None, or no label on them: the rate is that of the
            traces with a verdict.

    Returns:
        (mean, low, high), each in [0, 1]. When every label is good, high is 1; when every label is bad, low
        is 0: without this rule perfect systems are never covered.

    Raises:
        NotTrustedError: there is no label at all.

    Source: section 5 of the project's method notes; Beta posteriors with Jeffreys' prior as in Brown, Cai &
        DasGupta 2001; post-stratification Holt & Smith 1979, JRSS A 142:33.
    """
    check_confidence(confidence)
    lost = unscored if unscored is not None and unscored.labelled > 0 else VerdictCounts(0.0, 0.0, 0.0)
    labelled = passed.labelled + failed.labelled + lost.labelled
    good = passed.good + failed.good + lost.good
    if passed.labelled + failed.labelled <= 0:
        raise NotTrustedError(
            "A corrected pass rate needs labels, and there are none.",
            fix="Label traces of this window, or use the uncorrected pass rate.",
        )
    posterior, tail, centre = _Posterior(passed, failed), (1 - confidence) / 2, _mean(passed, failed)
    quantile = posterior.quantile
    if lost.labelled > 0:
        points, masses = _with_unscored(posterior, passed.judged + failed.judged, lost)
        reached, centre = np.cumsum(masses), float(points @ masses)

        def quantile(q: float) -> float:
            return float(np.interp(q, reached, points))

    low = 0.0 if good <= 1e-9 else quantile(tail)
    high = 1.0 if good >= labelled - 1e-9 else quantile(1 - tail)
    return centre, min(low, centre), max(high, centre)


def jps(
    passed: VerdictCounts,
    failed: VerdictCounts,
    *,
    name: str = "pass rate",
    confidence: float = 0.95,
    n_unscored: int = 0,
    unscored: VerdictCounts | None = None,
) -> Estimate:
    """A pass rate corrected for judge error, from counts (method `jps`).

    Args:
        passed: judged, labelled and good traces among those the judge passed.
        failed: the same among those it failed.
        name: the KPI's name.
        confidence: level in (0, 1).
        n_unscored: traces without a verdict, reported beside.
        unscored: labels on those, where there are any; see `jps_interval`.

    Returns:
        A corrected Estimate: raw is the judge's share of passes, corrected the posterior mean.

    Raises:
        NotTrustedError: there is no label.
        ConfigError: the counts contradict each other.

    Source: see `jps_interval`.
    """
    corrected, low, high = jps_interval(passed, failed, confidence, unscored)
    total = passed.judged + failed.judged
    notes = ["Assumes that the labels are of this window and were drawn at random within each verdict."]
    for word, counts in (("passed", passed), ("failed", failed)):
        if counts.judged > 0 and counts.labelled <= 0:
            notes.append(
                f"No label on the {round(counts.judged)} traces the judge {word}: the interval is wide because of it."
            )
    return Estimate(
        name,
        passed.judged / total,
        corrected,
        low,
        high,
        confidence,
        round(total),
        round(passed.labelled + failed.labelled),
        n_unscored,
        "jps",
        (*notes, *_about_unscored(n_unscored, unscored)),
    )


def _about_unscored(n_unscored: int, unscored: VerdictCounts | None) -> tuple[str, ...]:
    if unscored is None or unscored.labelled <= 0:
        return unscored_note(n_unscored)
    return (f"The {n_unscored} unscored traces count too, at the rate that the labels on some of them show.",)


def label_weights(labelled: Bools, weights: Floats, probabilities: Sequence[Any] | None) -> Floats:
    """Weight of each trace as a label: its own weight over its probability of being labelled, shape (n,).

    Raises:
        ConfigError: a labelled trace has no probability in (0, 1].
    """
    if probabilities is None:
        return weights
    p = numeric(probabilities, "label_probabilities")
    bad = np.flatnonzero(labelled & ~((p > 0) & (p <= 1)))
    if bad.size:
        raise ConfigError(
            f"label_probabilities[{int(bad[0])}] belongs to a labelled trace and must lie in (0, 1].",
            found=float(p[bad[0]]),
        )
    return weights / np.where(labelled, p, 1.0)


def _rates(y: Floats, verdict: Floats, weights: Floats) -> Floats:
    """Each labelled trace's weighted good rate within its verdict, shape (n,)."""
    rates = np.empty_like(y)
    for v in (0.0, 1.0):
        group = verdict == v
        if group.any():
            rates[group] = np.average(y[group], weights=weights[group])
    return rates


def jps_share(
    verdicts: Sequence[Any],
    labels: Sequence[Any],
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    label_probabilities: Sequence[float | None] | None = None,
    name: str = "pass rate",
    confidence: float = 0.95,
) -> Estimate:
    """A pass rate corrected for judge error, from one verdict and at most one label a trace (method `jps`).

    Repeated sessions and unequal weights enter as effective counts: each count is divided by its design effect.

    Args:
        verdicts: the judge's pass/fail as True/False/1/0, None or NaN for unscored, shape (n,).
        labels: the experts' good/bad likewise, None where there is no label, shape (n,). With labels on unscored
            traces the rate is that of all traces, unscored ones included: a judge that abstains where it is hard
            would flatter or slander the rest. Without any it is that of the judged traces.
        clusters: session (or task) id of each trace, None for a trace on its own, shape (n,).
        weights: inverse of the probability with which each trace entered the window, above 0, shape (n,).
        label_probabilities: probability with which each judged trace was chosen for labelling, in (0, 1], read
            only where there is a label; None when labels are uniform within each verdict (any allocation between
            verdicts is fine), shape (n,).
        name: the KPI's name.
        confidence: level in (0, 1).

    Returns:
        A corrected Estimate; n_judged and n_labelled are the actual counts, not the effective ones.

    Raises:
        NotTrustedError: no judged trace has a label.
        ConfigError: lengths differ, a value is not pass/fail, a weight is not above 0.

    Source: see `jps_interval`; effective counts Kish 1965, Korn & Graubard 1998.
    """
    f, y = binary(verdicts, "verdicts"), binary(labels, "labels")
    n = same_length(verdicts=f, labels=y, clusters=clusters, weights=weights, label_probabilities=label_probabilities)
    w, group = positive(weights, n, "weights"), codes(clusters, n)
    judged, labelled = ~np.isnan(f), ~np.isnan(f) & ~np.isnan(y)
    if not labelled.any():
        raise NotTrustedError("A corrected pass rate needs labels on judged traces, and there are none.")
    lw = label_weights(labelled, w, label_probabilities)
    share = min(1.0, float(np.average(f[judged], weights=w[judged])))
    size = kish(w[judged]) / design_effect(f[judged] - share, group[judged], w[judged], confidence)
    residuals = y[labelled] - _rates(y[labelled], f[labelled], lw[labelled])
    effect = design_effect(residuals, group[labelled], lw[labelled], confidence)
    counts = [_counts(f, y, lw, v, size * s, effect) for v, s in ((1.0, share), (0.0, 1 - share))]
    lost = ~judged & ~np.isnan(y)
    ratio = float(w[~judged].sum() / w[judged].sum())
    rest = _stratum(y, label_weights(lost, w, label_probabilities), lost, size * ratio, effect)
    estimate = jps(*counts, name=name, confidence=confidence, n_unscored=int((~judged).sum()), unscored=rest)
    n_labelled = int(labelled.sum() + lost.sum())
    return _actual(estimate, share, int(judged.sum()), n_labelled, label_probabilities is not None)


def _counts(f: Floats, y: Floats, lw: Floats, verdict: float, judged: float, effect: float) -> VerdictCounts:
    return _stratum(y, lw, (f == verdict) & ~np.isnan(y), judged, effect)


def _stratum(y: Floats, lw: Floats, chosen: Bools, judged: float, effect: float) -> VerdictCounts:
    """Effective counts of one stratum; `chosen` marks its labelled traces, shape (n,)."""
    if not chosen.any():
        return VerdictCounts(judged, 0.0, 0.0)
    labelled = min(judged, kish(lw[chosen]) / effect)
    good = labelled * min(1.0, float(np.average(y[chosen], weights=lw[chosen])))
    return VerdictCounts(judged, labelled, good)


def _actual(estimate: Estimate, raw: float, judged: int, labelled: int, weighted: bool) -> Estimate:
    """The estimate with true instead of effective counts, and the label-sampling assumption that applies."""
    fields = estimate.to_dict() | {"raw": raw, "n_judged": judged, "n_labelled": labelled}
    drawn = "Labels come from the traces of this window, drawn with the probabilities given."
    notes = (drawn, *estimate.assumptions[1:]) if weighted else estimate.assumptions
    return Estimate.from_dict(fields | {"assumptions": list(notes)})
