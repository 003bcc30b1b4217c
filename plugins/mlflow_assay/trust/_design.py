"""What repeated sessions and unequal weights do to the amount of information: design effects."""

from __future__ import annotations

import numpy as np
from scipy import special

from mlflow_assay.trust._arrays import Floats, Ints


def kish(weights: Floats) -> float:
    """Effective number of equally weighted observations, in [1, n]; 0.0 for no weights.

    Source: Kish 1965, Survey Sampling, section 8.2: (sum w)^2 / sum w^2.
    """
    return float(weights.sum() ** 2 / np.square(weights).sum()) if weights.size else 0.0


def z_value(confidence: float) -> float:
    """Two-sided standard normal quantile, for example 1.96 at 0.95."""
    return float(special.ndtri(0.5 + confidence / 2))


def t_value(confidence: float, df: float) -> float:
    """Two-sided Student quantile with `df` > 0 degrees of freedom."""
    return float(special.stdtrit(df, 0.5 + confidence / 2))


def cluster_sums(values: Floats, clusters: Ints) -> Floats:
    """Sum of the values of each cluster present, shape (G,)."""
    group = np.unique(clusters, return_inverse=True)[1]
    return np.asarray(np.bincount(group, weights=values), dtype=np.float64)


def clustered_variance(terms: Floats, clusters: Ints) -> tuple[float, int]:
    """Variance of a sum of terms, and the number of clusters.

    Args:
        terms: linearised contributions of each observation, summing to about 0, shape (n,).
        clusters: integer cluster codes, shape (n,).

    Returns:
        The variance of the sum allowing any dependence within a cluster, and the number of clusters G.
        With G < 2 the variance cannot be estimated and is infinite.

    Source: Liang & Zeger 1986, Biometrika 73:13, with the G/(G-1) small-sample factor; for evaluations,
        Miller 2024, arXiv 2411.00640.
    """
    sums = cluster_sums(terms, clusters)
    count = int(sums.size)
    return (float(count / (count - 1) * np.square(sums).sum()) if count > 1 else np.inf), count


def design_effect(residuals: Floats, clusters: Ints, weights: Floats, confidence: float) -> float:
    """How many clustered observations are worth one independent one, at least 1.

    Args:
        residuals: deviations from the mean they are about, shape (n,).
        clusters: integer cluster codes, shape (n,).
        weights: positive weights, shape (n,).
        confidence: level of the interval it will be used for; sets the small-G inflation.

    Returns:
        1.0 when every observation is its own cluster. When nothing varies, dependence cannot be seen, so
        every session counts as one observation: (sum over clusters of size^2) / n.

    Source: Kish 1965; the (t_{G-1} / t_{n-1})^2 inflation for few clusters is Korn & Graubard 1998, Survey
        Methodology 24:193.
    """
    n, count = residuals.size, np.unique(clusters).size
    if n == 0 or count == n:
        return 1.0
    sizes = np.bincount(clusters, weights=weights)
    as_one = float(np.square(sizes).sum() / np.square(weights).sum())
    independent = float(np.square(weights * residuals).sum()) * n / (n - 1)
    if count == 1 or independent <= 1e-12:
        return max(1.0, as_one)
    variance, _ = clustered_variance(weights * residuals, clusters)
    few = (t_value(confidence, count - 1) / t_value(confidence, n - 1)) ** 2
    return max(1.0, variance / independent * few)
