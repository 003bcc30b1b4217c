"""PPI++: a mean score corrected for judge error by labels, the judge trusted as far as it earns it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.trust._arrays import Bools, Floats, check_confidence, codes, numeric, positive, same_length
from mlflow_assay.trust._design import clustered_variance, t_value, z_value
from mlflow_assay.trust._jps import label_weights
from mlflow_assay.trust._proportion import mean_interval, unscored_note
from mlflow_assay.trust._types import Estimate


def power_tuning(labels: Floats, judged_labelled: Floats, judged_unlabelled: Floats, *, ddof: int = 1) -> float:
    """How far the judge is trusted: lambda in [0, 1]; 0 is human labels alone, 1 is plain PPI.

    Args:
        labels: expert scores, shape (n,), n >= 2.
        judged_labelled: judge scores of the same traces, shape (n,).
        judged_unlabelled: judge scores of the other traces, shape (N,), N >= 1.
        ddof: degrees of freedom taken from the covariance's divisor (0 or 1).

    Returns:
        Cov(label, judge) / ((1 + n/N) Var(judge)), clipped to [0, 1]; 0 for a judge that says one thing only.

    Source: Angelopoulos, Duchi & Zrnic 2023, PPI++, arXiv 2311.01453, example 6.1.
    """
    n, size = labels.size, judged_unlabelled.size
    spread = float(np.var(np.concatenate([judged_labelled, judged_unlabelled]), ddof=1))
    if spread <= 1e-15:
        return 0.0
    cov = float(np.cov(labels, judged_labelled, ddof=ddof)[0, 1])
    return min(1.0, max(0.0, cov / ((1 + n / size) * spread)))


def ppi_interval(
    labels: Floats,
    judged_labelled: Floats,
    judged_unlabelled: Floats,
    *,
    confidence: float = 0.95,
    tuning: float | None = None,
    ddof: int = 1,
) -> tuple[float, float, float]:
    """Prediction-powered mean of independent traces with its normal interval.

    Args:
        labels: expert scores, shape (n,), n >= 2.
        judged_labelled: judge scores of the same traces, shape (n,).
        judged_unlabelled: judge scores of the other traces, shape (N,), N >= 1.
        confidence: level in (0, 1).
        tuning: lambda; None chooses it by `power_tuning`.
        ddof: divisor of the variances is size - ddof.

    Returns:
        (mean, low, high) in the unit of the scores.

    Source: Angelopoulos et al. 2023, Science 382:669 (PPI); arXiv 2311.01453 (PPI++).
    """
    lam = power_tuning(labels, judged_labelled, judged_unlabelled, ddof=ddof) if tuning is None else float(tuning)
    rest = labels - lam * judged_labelled
    centre = lam * float(judged_unlabelled.mean()) + float(rest.mean())
    imputed = lam**2 * np.var(judged_unlabelled, ddof=ddof) / judged_unlabelled.size if lam else 0.0
    half = z_value(confidence) * math.sqrt(imputed + np.var(rest, ddof=ddof) / rest.size)
    return centre, centre - half, centre + half


def ppi_mean(
    scores: Sequence[Any],
    labels: Sequence[Any],
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    label_probabilities: Sequence[float | None] | None = None,
    name: str = "mean score",
    confidence: float = 0.95,
    min_labels: int = 100,
) -> Estimate:
    """A mean score corrected for judge error, from one score and at most one label a trace (method `ppi++`).

    With every trace labelled it is the labels' mean (method `labels-t`).

    Args:
        scores: the judge's scores, None or NaN for unscored, shape (n,).
        labels: the experts' scores in the unit the result is wanted in, None where there is no label, shape (n,).
        clusters: session (or task) id of each trace, None for a trace on its own, shape (n,).
        weights: inverse of the probability with which each trace entered the window, above 0, shape (n,).
        label_probabilities: probability with which each judged trace was chosen for labelling, in (0, 1], read
            only where there is a label; None when uniform, shape (n,).
        name: the KPI's name.
        confidence: level in (0, 1).
        min_labels: below this many labels the normal approximation is not trusted.

    Returns:
        A corrected Estimate.

    Raises:
        NotTrustedError: fewer than `min_labels` judged traces are labelled, or all in one session.
        ConfigError: lengths differ, a value is not a finite number, a weight is not above 0.

    Source: Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453; clusters by linearisation, Liang & Zeger 1986.
    """
    check_confidence(confidence)
    f, y = numeric(scores, "scores"), numeric(labels, "labels")
    n = same_length(scores=f, labels=y, clusters=clusters, weights=weights, label_probabilities=label_probabilities)
    w = positive(weights, n, "weights")
    judged, labelled = ~np.isnan(f), ~np.isnan(f) & ~np.isnan(y)
    found = int(labelled.sum())
    if found < max(2, min_labels):
        raise NotTrustedError(
            "PPI++ leans on a normal approximation that needs more labels on judged traces.",
            found=f"{found} labels",
            valid=f"{max(2, min_labels)} or more",
            fix="Label more traces of this window, or report the labels' own mean.",
        )
    lw = label_weights(labelled, w, label_probabilities)
    if not (judged & ~labelled).any():
        return labels_mean(f, y, clusters=clusters, label_weights=lw, weights=w, name=name, confidence=confidence)
    plain = clusters is None and weights is None and label_probabilities is None
    if plain:
        centre, low, high = ppi_interval(y[labelled], f[labelled], f[judged & ~labelled], confidence=confidence)
    else:
        centre, low, high = _weighted(f, y, judged, labelled, w, lw, codes(clusters, n), confidence)
    return _estimate(f, y, w, "ppi++", (centre, low, high), name, confidence, label_probabilities is not None)


def _weighted(
    f: Floats,
    y: Floats,
    judged: Bools,
    labelled: Bools,
    w: Floats,
    lw: Floats,
    group: Any,
    confidence: float,
) -> tuple[float, float, float]:
    """The same with weights and clusters: variance of the linearised sum over sessions.

    Unlike the plain form the judge's mean is taken over all judged traces, labelled ones included, since under
    unequal label probabilities the unlabelled are not a random sample.
    """
    a = np.where(labelled, lw, 0.0) / lw[labelled].sum()
    b = np.where(judged, w, 0.0) / w[judged].sum()
    f0, y0 = np.where(judged, f, 0.0), np.where(labelled, y, 0.0)
    mean_f, label_f, label_y = float(b @ f0), float(a @ f0), float(a @ y0)
    # terms_y sums to the labels' mean, terms_f to (labelled judge mean - overall judge mean); both centred
    terms_y = a * (y0 - label_y)
    terms_f = a * (f0 - label_f) - b * (f0 - mean_f)
    sums = [np.bincount(group, weights=t, minlength=int(group.max()) + 1) for t in (terms_y, terms_f)]
    spread = float(sums[1] @ sums[1])
    lam = 0.0 if spread <= 1e-15 else min(1.0, max(0.0, float(sums[0] @ sums[1]) / spread))
    variance, count = clustered_variance(terms_y - lam * terms_f, group)
    if len(np.unique(group[labelled])) < 2:
        raise NotTrustedError("All labels come from one session: no interval is possible.")
    half = t_value(confidence, min(count, len(np.unique(group[labelled]))) - 1) * math.sqrt(variance)
    centre = label_y - lam * (label_f - mean_f)
    return centre, centre - half, centre + half


def labels_mean(
    f: Floats,
    y: Floats,
    *,
    clusters: Sequence[Hashable] | None,
    label_weights: Floats,
    weights: Floats,
    name: str,
    confidence: float,
) -> Estimate:
    """The mean of the labels on judged traces, with Student's t interval (method `labels-t`).

    Args:
        f: judge scores, NaN for unscored, shape (n,).
        y: labels, NaN where there is none, shape (n,).
        clusters: session ids, shape (n,), or None.
        label_weights: weight of each trace as a label, shape (n,).
        weights: weight of each trace in the window, shape (n,).
        name: the KPI's name.
        confidence: level in (0, 1).

    Raises:
        NotTrustedError: all labels come from one session, or are equal.

    Source: Student 1908; clusters Liang & Zeger 1986.
    """
    used = ~np.isnan(f) & ~np.isnan(y)
    kept = None if clusters is None else [c for c, u in zip(clusters, used, strict=True) if u]
    centre, half = mean_interval(y[used], kept, label_weights[used], confidence)
    if not half:
        why = "come from one session" if half is None else "are equal"
        raise NotTrustedError(f"All labels {why}: no interval is possible.", fix="Label more traces.")
    bounds = (centre, centre - half, centre + half)
    return _estimate(f, y, weights, "labels-t", bounds, name, confidence, False)


def _estimate(
    f: Floats,
    y: Floats,
    w: Floats,
    method: str,
    bounds: tuple[float, float, float],
    name: str,
    confidence: float,
    weighted: bool,
) -> Estimate:
    judged = ~np.isnan(f)
    raw, unscored = float(np.average(f[judged], weights=w[judged])), int((~judged).sum())
    drawn = "with the probabilities given" if weighted else "at random"
    notes = (f"Labels come from the traces of this window, drawn {drawn}.", *unscored_note(unscored))
    used = int((judged & ~np.isnan(y)).sum())
    centre, low, high = bounds
    return Estimate(name, raw, centre, low, high, confidence, int(judged.sum()), used, unscored, method, notes)
