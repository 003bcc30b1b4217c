"""Which traces the experts should label: stratified, with known probabilities, so that estimates stay unbiased."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import binary, same_length

__all__ = ["Selection", "neyman_allocation", "stratified_sample"]


@dataclass(frozen=True)
class Selection:
    """Traces chosen for labelling.

    Attributes:
        chosen: positions of the traces to label now, ascending.
        probabilities: per trace, the probability of carrying a label once these are labelled (earlier labels
            included), in [0, 1]; None for traces outside every stratum. Pass as `label_probabilities`.
        allocation: stratum to the number chosen now.
        seed: with which the draw can be repeated.
    """

    chosen: tuple[int, ...]
    probabilities: tuple[float | None, ...]
    allocation: dict[Hashable, int]
    seed: int


def neyman_allocation(
    sizes: Mapping[Hashable, int],
    count: int,
    *,
    pilot: Mapping[Hashable, tuple[int, int]] | None = None,
    minimum: int = 2,
    spent: Mapping[Hashable, int] | None = None,
) -> dict[Hashable, int]:
    """How many traces of each stratum to label for the narrowest interval of the whole.

    Args:
        sizes: stratum to its number of traces, 0 or more.
        count: labels to spend now, 0 or more; more than there are unlabelled traces labels all.
        pilot: stratum to (good, labelled) among the labels already there; None without a pilot, when every
            stratum counts as equally uncertain and labels are split evenly.
        minimum: labels each stratum should reach first (earlier ones included), as far as it has traces.
        spent: stratum to traces chosen before, where these are not the pilot's: some may still await their label, and
            some of the pilot's labels may not have been drawn at random; None takes the pilot's.

    Returns:
        Stratum to the number to label now; optimal for whole numbers given the pilot's rates, which are smoothed
        by one good and one bad label so that a lucky pilot does not starve a stratum.

    Raises:
        ConfigError: a count is negative, or a pilot contradicts its stratum's size.

    Source: Neyman 1934, JRSS 97:558; exact whole-number form Wright 2012, The American Statistician 66:217.
    """
    earlier = {h: (pilot or {}).get(h, (0, 0)) for h in sizes}
    before = {h: n if spent is None else spent.get(h, 0) for h, (_, n) in earlier.items()}
    _check(sizes, count, earlier, pilot, minimum, before)
    have = dict(before)
    weight = {h: _weight(sizes[h], *earlier[h]) if pilot else 1.0 for h in sizes}
    for _ in range(min(count, sum(sizes.values()) - sum(have.values()))):
        open_strata = [h for h in sizes if have[h] < sizes[h]]
        best = max(open_strata, key=lambda h: _priority(have[h], weight[h], minimum))
        have[best] += 1
    return {h: have[h] - before[h] for h in sizes}


def _priority(have: int, weight: float, minimum: int) -> tuple[int, float]:
    """Strata below the minimum first, the emptiest of them before the others; then Wright's priority."""
    if have < minimum:
        return minimum - have, weight
    return 0, weight / math.sqrt(max(have, 0.5) * (have + 1))


def _weight(size: int, good: int, labelled: int) -> float:
    rate = (good + 1) / (labelled + 2)
    return size * math.sqrt(rate * (1 - rate))


def _check(
    sizes: Mapping[Hashable, int],
    count: int,
    earlier: Mapping[Hashable, tuple[int, int]],
    pilot: Mapping[Hashable, tuple[int, int]] | None,
    minimum: int,
    before: Mapping[Hashable, int],
) -> None:
    stray = [h for h in pilot or {} if h not in sizes]
    wrong = [h for h, (good, n) in earlier.items() if not 0 <= good <= n <= sizes[h] or not 0 <= before[h] <= sizes[h]]
    if count < 0 or minimum < 0 or stray or wrong or any(n < 0 for n in sizes.values()):
        raise ConfigError(
            "An allocation needs count >= 0, minimum >= 0 and, per stratum, 0 <= good <= labelled <= size.",
            found=f"count {count}, minimum {minimum}, at odds: {stray + wrong or 'none'}",
        )


def stratified_sample(
    strata: Sequence[Hashable],
    count: int,
    *,
    labels: Sequence[Any] | None = None,
    minimum: int = 2,
    seed: int = 0,
) -> Selection:
    """Draws traces for labelling, at random within each stratum, Neyman-allocated from the labels already there.

    Args:
        strata: the stratum of each trace: the judge's verdict, or a tuple of verdict and slice or confidence
            band; None for traces not to be drawn (unscored), shape (n,).
        count: traces to choose, 0 or more.
        labels: good/bad of traces already labelled, None for the others, shape (n,). They must have been drawn
            at random within these strata; None without a pilot.
        minimum: labels each stratum should reach first.
        seed: the same seed and input give the same draw.

    Returns:
        A Selection. With fewer unlabelled traces than `count`, all of them.

    Raises:
        ConfigError: lengths differ, a label is not good/bad, count is negative.

    Source: as for `neyman_allocation`; two-phase allocation by judge verdict, measured in the project's method notes.
    """
    known = binary(labels if labels is not None else [None] * len(strata), "labels")
    n = same_length(strata=strata, labels=known)
    sizes = dict(Counter(s for s in strata if s is not None))
    had = {h: [i for i, s in enumerate(strata) if s == h and s is not None and not np.isnan(known[i])] for h in sizes}
    pilot = {h: (int(known[rows].sum()), len(rows)) for h, rows in had.items()}
    allocation = neyman_allocation(sizes, count, pilot=pilot if any(had.values()) else None, minimum=minimum)
    rng, chosen = np.random.default_rng(seed), []
    for stratum, number in allocation.items():
        rest = [i for i in range(n) if strata[i] == stratum and np.isnan(known[i])]
        chosen += [rest[int(k)] for k in rng.choice(len(rest), number, replace=False)] if number else []
    reached = {h: (allocation[h] + len(had[h])) / sizes[h] for h in sizes}
    return Selection(tuple(sorted(chosen)), tuple(None if s is None else reached[s] for s in strata), allocation, seed)
