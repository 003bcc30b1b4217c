"""A difference between two versions corrected for judge error by labels of both."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.trust._arrays import Bools, Floats, binary, check_confidence, codes, same_length
from mlflow_assay.trust._design import design_effect
from mlflow_assay.trust._types import Estimate

MIN_LABELS = 20
_DRAWS = 20_000


def corrected_difference(
    a: Sequence[Any],
    b: Sequence[Any],
    labels_a: Sequence[Any],
    labels_b: Sequence[Any],
    *,
    clusters: Sequence[Hashable] | None = None,
    name: str = "difference",
    confidence: float = 0.95,
    min_labels: int = MIN_LABELS,
    seed: int = 0,
) -> Estimate:
    """Pass rate of B minus pass rate of A, corrected for judge error, from pairs labelled on both sides.

    The labelled difference (-1, 0 or 1) is post-stratified by the judged difference, each with a Dirichlet
    posterior (method `jps-paired`): the form of the Jeffreys post-stratified interval for differences.

    Args:
        a: the judge's pass/fail of the first version per input, None for unscored, shape (n,).
        b: the same of the second version on the same inputs, shape (n,).
        labels_a: the experts' good/bad of the first version's runs, None where there is none, shape (n,).
        labels_b: likewise of the second version's.
        clusters: session or task id of each pair, None for a pair on its own, shape (n,).
        name: the estimate's name.
        confidence: level in (0, 1).
        min_labels: fewest pairs labelled on both sides.
        seed: of the posterior draws; the same seed gives the same interval.

    Returns:
        An Estimate in [-1, 1]: raw is the judged difference, corrected the posterior mean.

    Raises:
        NotTrustedError: too few pairs are labelled on both sides.
        ConfigError: lengths differ or a value is not pass/fail.

    Source: post-stratification Holt & Smith 1979, JRSS A 142:33; Dirichlet posterior Agresti & Hitchcock 2005.
    """
    check_confidence(confidence)
    n = same_length(a=a, b=b, labels_a=labels_a, labels_b=labels_b, clusters=clusters)
    judged = binary(b, "b") - binary(a, "a")
    truth = binary(labels_b, "labels_b") - binary(labels_a, "labels_a")
    scored, labelled = ~np.isnan(judged), ~np.isnan(judged) & ~np.isnan(truth)
    found = int(labelled.sum())
    if found < max(1, min_labels):
        raise NotTrustedError(
            "A corrected difference needs pairs labelled on both sides.",
            found=f"{found} pairs",
            valid=f"{max(1, min_labels)} or more",
            fix="Label both versions' runs on the same inputs.",
        )
    centre, low, high = _posterior(judged, truth, scored, labelled, codes(clusters, n), confidence, seed)
    unscored = n - int(scored.sum())
    notes = ["Labelled pairs are drawn at random from the pairs compared."]
    if unscored:
        notes.append(f"{unscored} pairs with an unscored side are left out.")
    raw, total = float(judged[scored].mean()), int(scored.sum())
    return Estimate(name, raw, centre, low, high, confidence, total, found, unscored, "jps-paired", tuple(notes))


def _posterior(
    judged: Floats,
    truth: Floats,
    scored: Bools,
    labelled: Bools,
    group: Any,
    confidence: float,
    seed: int,
) -> tuple[float, float, float]:
    rng, values = np.random.default_rng(seed), np.array([-1.0, 0.0, 1.0])
    ones = np.ones(judged.size)
    spread = judged[scored] - judged[scored].mean()
    effect = design_effect(spread, group[scored], ones[scored], confidence)
    strata = np.array([(judged[scored] == v).sum() for v in values]) / effect
    table = np.array([[(truth[labelled & (judged == v)] == t).sum() for t in values] for v in values], float)
    rates = (table @ values) / np.maximum(table.sum(1), 1)
    rest = truth[labelled] - rates[(judged[labelled] + 1).astype(int)]
    table /= design_effect(rest, group[labelled], ones[labelled], confidence)
    shares = rng.dirichlet(strata + 0.5, _DRAWS)
    means = np.stack([rng.dirichlet(row + 1 / 3, _DRAWS) @ values for row in table], axis=1)
    draws = (shares * means).sum(1)
    tail = (1 - confidence) / 2
    low, high = (float(q) for q in np.quantile(draws, [tail, 1 - tail]))
    if (truth[labelled] == 1).all():
        high = 1.0
    if (truth[labelled] == -1).all():
        low = -1.0
    return float(draws.mean()), low, high
