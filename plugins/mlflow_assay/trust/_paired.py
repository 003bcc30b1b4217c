"""Paired tests and intervals: what the same inputs say about two versions."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from mlflow_assay.trust._arrays import Floats, Ints
from mlflow_assay.trust._design import cluster_sums, clustered_variance, t_value, z_value

_DRAWS = 20_000
_LARGE = 2_000  # clusters beyond which the normal limit replaces enumeration and resampling


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact p-value that wins and losses are equally likely.

    Args:
        wins: pairs only the second passed, 0 or more.
        losses: pairs only the first passed, 0 or more.

    Returns:
        p in (0, 1]; 1.0 when there is no discordant pair.

    Source: McNemar 1947, Psychometrika 12:153, in its exact binomial form.
    """
    n = wins + losses
    return min(1.0, 2 * float(special.bdtr(min(wins, losses), n, 0.5))) if n else 1.0


def sign_flip_exact(sums: Ints) -> float:
    """Two-sided exact p-value that each cluster's net win is as likely as its mirror image.

    Args:
        sums: wins minus losses of each cluster, whole numbers, shape (G,).

    Returns:
        p in (0, 1]; equals McNemar's exact p when no cluster has more than one pair. With more than 2,000
        clusters that moved, the test's normal limit.

    Source: Fisher's randomisation test, summed exactly by convolution; Pagano & Tritchler 1983, JASA 78:435.
    """
    sizes = np.abs(sums[sums != 0])
    if sizes.size > _LARGE:
        return _normal_p(sizes.astype(np.float64), float(sums.sum()))
    mass = np.ones(1)
    for size in sizes:
        spread = np.zeros(mass.size + 2 * int(size))
        spread[: mass.size] += mass / 2
        spread[2 * int(size) :] += mass / 2
        mass = spread
    centre = int(sizes.sum())
    extreme = np.abs(np.arange(mass.size) - centre) >= abs(int(sums.sum()))
    return min(1.0, float(mass[extreme].sum()))


def sign_flip(sums: Floats, *, seed: int = 0) -> float:
    """Two-sided p-value of the same test for real-valued cluster sums.

    All 2^G sign patterns are tried up to G = 14, else 20,000 random ones (p is then at least 1/20,001); with more
    than 2,000 clusters the test's normal limit is used.

    Args:
        sums: summed differences of each cluster, shape (G,).
        seed: of the random patterns.

    Source: Fisher 1935, The Design of Experiments, section 21; Monte Carlo p with +1, Phipson & Smyth 2010.
    """
    sums = sums[np.abs(sums) > 1e-12]
    if not sums.size:
        return 1.0
    target = abs(float(sums.sum())) - 1e-9
    if sums.size > _LARGE:
        return _normal_p(sums, float(sums.sum()))
    if sums.size <= 14:
        bits = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float((np.abs((2 * bits - 1) @ sums) >= target).mean())
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(10):
        signs = rng.integers(0, 2, (_DRAWS // 10, sums.size), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ sums) >= target).sum())
    return (hits + 1) / (_DRAWS + 1)


def _normal_p(sums: Floats, total: float) -> float:
    return min(1.0, 2 * float(special.ndtr(-abs(total) / math.sqrt(np.square(sums).sum()))))


def tango_statistic(wins: float, losses: float, n: float, difference: float) -> float:
    """Score statistic for a paired difference of shares; at difference 0 it is McNemar's z.

    Args:
        wins: pairs only the second passed; may be fractional (effective counts).
        losses: pairs only the first passed.
        n: all pairs, above 0.
        difference: hypothesised share of the second minus share of the first, in (-1, 1).

    Returns:
        An approximately standard normal value, decreasing in `difference`; infinite at the border.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    top, spread = wins - losses - n * difference, n * (2 * q + difference * (1 - difference))
    if spread <= 1e-12:
        return 0.0 if abs(top) <= 1e-9 else math.copysign(math.inf, top)
    return top / math.sqrt(spread)


def tango_interval(wins: float, losses: float, n: float, confidence: float) -> tuple[float, float]:
    """Score interval of a paired difference of shares, in [-1, 1], containing (wins - losses) / n.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """
    from scipy.optimize import brentq  # half a second to import, and not every command needs it

    z, point, edge = z_value(confidence), (wins - losses) / n, 1 - 1e-9

    def root(target: float, start: float, stop: float) -> float:
        def gap(d: float) -> float:
            return max(-1e6, min(1e6, tango_statistic(wins, losses, n, d) - target))

        return float(brentq(gap, start, stop, xtol=1e-8)) if gap(start) * gap(stop) < 0 else stop

    low = -1.0 if point <= -edge else root(z, point, -edge)
    high = 1.0 if point >= edge else root(-z, point, edge)
    return max(-1.0, min(low, point)), min(1.0, max(high, point))


def clustered_interval(differences: Floats, clusters: Ints, confidence: float) -> tuple[float, float, float] | None:
    """Mean difference with a Student interval over clusters; None with fewer than two clusters.

    Source: Miller 2024, arXiv 2411.00640 (paired, clustered standard errors).
    """
    mean = float(differences.mean())
    variance, count = clustered_variance((differences - mean) / differences.size, clusters)
    if count < 2:
        return None
    half = t_value(confidence, count - 1) * math.sqrt(variance)
    return mean, mean - half, mean + half


def bootstrap_interval(
    differences: Floats, clusters: Ints, confidence: float, *, seed: int = 0, draws: int = 5000
) -> tuple[float, float, float] | None:
    """Mean difference with a studentised bootstrap interval over clusters.

    Args:
        differences: second minus first of each pair, shape (n,).
        clusters: integer cluster codes, shape (n,).
        confidence: level in (0, 1).
        seed: of the resampling.
        draws: resamples.

    Returns:
        (mean, low, high), or None with fewer than two clusters or no variation. With more than 2,000 clusters
        Student's interval over clusters, which is then the same.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 12.5 (bootstrap-t), clusters
        resampled whole as in Cameron, Gelbach & Miller 2008, Review of Economics and Statistics 90:414.
    """
    sums, sizes = cluster_sums(differences, clusters), cluster_sums(np.ones(differences.size), clusters)
    count, mean = sums.size, float(differences.mean())
    error = float(_ratio_error(sums, sizes))
    if count < 2 or error <= 1e-12:
        return None
    if count > _LARGE:
        return clustered_interval(differences, clusters, confidence)
    rng, pivots = np.random.default_rng(seed), []
    for _ in range(10):
        picks = rng.integers(0, count, (draws // 10, count))
        s, m = sums[picks], sizes[picks]
        errors = _ratio_error(s, m)
        usable = errors > 1e-12
        pivots.append((s.sum(1) / m.sum(1) - mean)[usable] / errors[usable])
    low, high = np.quantile(np.concatenate(pivots), [(1 + confidence) / 2, (1 - confidence) / 2])
    return mean, min(mean, mean - float(low) * error), max(mean, mean - float(high) * error)


def _ratio_error(sums: Floats, sizes: Floats) -> Floats:
    """Standard error of sum / size over the last axis."""
    count, total = sums.shape[-1], sizes.sum(-1)
    ratio = sums.sum(-1) / total
    rest = sums - sizes * ratio[..., None]
    return np.asarray(np.sqrt(count / max(1, count - 1) * np.square(rest).sum(-1)) / total)
