"""Confusion tables and what is read off them, for one table or a stack of posterior draws.

A table has human labels in rows and judge verdicts in columns; stacks add dimensions in front.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import Floats, Ints

Weighting = Literal["linear", "quadratic"]
Metric = Callable[[Floats], Floats]

DRAWS = 10_000


def is_missing(value: Any) -> bool:
    """Whether a label or verdict is absent: None or NaN."""
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def category_list(values: Sequence[Any], given: Sequence[Hashable] | None) -> tuple[Hashable, ...]:
    """The categories, in order: those given, else those seen, sorted.

    Raises:
        ConfigError: a value is not among those given, a category is given twice, or kinds of value are mixed
            (words with numbers), so that they would never agree.
    """
    seen = {v for v in values if not is_missing(v)}
    if given is None:
        words = [isinstance(v, str) for v in seen]
        if any(words) and not all(words):
            raise ConfigError(
                "Labels and verdicts are of different kinds and would never agree.",
                found=", ".join(sorted(map(repr, seen))),
                fix="Normalise both with the judge contract's value.read.",
            )
        return tuple(sorted(seen))
    stray = seen - set(given)
    if stray or len(set(given)) < len(given):
        raise ConfigError(
            "Labels and verdicts must be among the categories, each given once.",
            found=", ".join(sorted(map(repr, stray))) or f"categories {list(given)}",
            valid=", ".join(map(repr, given)),
        )
    return tuple(given)


def code(values: Sequence[Any], categories: Sequence[Hashable]) -> Ints:
    """Positions of values among the categories, -1 for missing, shape (n,)."""
    index = {c: i for i, c in enumerate(categories)}
    return np.array([-1 if is_missing(v) else index[v] for v in values], dtype=np.int64)


def disagreement(size: int, weighting: Weighting | None) -> Floats:
    """Penalty of each cell in [0, 1], shape (size, size): 0/1, or by distance for ordered categories.

    Raises:
        ConfigError: the weighting is unknown.
    """
    gap = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    if weighting is None:
        return (gap > 0).astype(np.float64)
    if weighting not in ("linear", "quadratic"):
        raise ConfigError("Unknown weighting.", found=repr(weighting), valid="None, linear, quadratic")
    gap /= max(1, size - 1)
    return gap if weighting == "linear" else gap**2


def _ratio(top: npt.ArrayLike, bottom: npt.ArrayLike) -> Floats:
    """Quotient, NaN where the bottom is 0."""
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    usable = np.abs(bottom) > 1e-12
    return np.where(usable, top / np.where(usable, bottom, 1.0), np.nan)


def kappa(tables: Floats, weighting: Weighting | None = None) -> Floats:
    """Cohen's kappa of each table, NaN where both sides used one and the same category throughout."""
    total = tables.sum((-2, -1))
    penalty = disagreement(tables.shape[-1], weighting)
    rows, columns = tables.sum(-1), tables.sum(-2)
    expected = np.einsum("...i,ij,...j->...", rows, penalty, columns)
    return 1 - _ratio((tables * penalty).sum((-2, -1)) * total, expected)


def accuracy(tables: Floats) -> Floats:
    """Share on the diagonal."""
    return _ratio(np.trace(tables, axis1=-2, axis2=-1), tables.sum((-2, -1)))


def mcc(tables: Floats) -> Floats:
    """Matthews correlation (Gorodkin's for more than two categories), NaN where a side used one category."""
    total, hits = tables.sum((-2, -1)), np.trace(tables, axis1=-2, axis2=-1)
    rows, columns = tables.sum(-1), tables.sum(-2)
    spread = (total**2 - (rows**2).sum(-1)) * (total**2 - (columns**2).sum(-1))
    return _ratio(hits * total - (rows * columns).sum(-1), np.sqrt(np.maximum(spread, 0.0)))


def recall(tables: Floats, category: int) -> Floats:
    """Share of the humans' `category` that the judge gave too."""
    return _ratio(tables[..., category, category], tables[..., category, :].sum(-1))


def cluster_tables(human: Ints, judge: Ints, shape: tuple[int, int], weights: Floats, clusters: Ints) -> Floats:
    """One weighted table a cluster, shape (G, *shape)."""
    rows, columns = shape
    group = np.unique(clusters, return_inverse=True)[1]
    cells = (group * rows + human) * columns + judge
    count = int(group.max()) + 1 if group.size else 0
    flat = np.bincount(cells, weights=weights, minlength=count * rows * columns)
    return flat.astype(np.float64).reshape(count, rows, columns)


def posterior_tables(parts: Floats, *, seed: int = 0, draws: int = DRAWS) -> Floats:
    """Posterior draws of the cell probabilities (unnormalised), shape (draws, rows, columns).

    Args:
        parts: one table a cluster, shape (G, rows, columns), G >= 1.
        seed: of the generator; the same seed gives the same draws.
        draws: how many.

    Returns:
        Without repeats and weights: draws from the Dirichlet posterior under a prior of total mass 2, which is
        Jeffreys' 1/2 a cell for a 2 x 2 table. With clusters: the Bayesian bootstrap over clusters, plus the
        same prior scaled to the size of a cluster.

    Source: Rubin 1981, Annals of Statistics 9:130 (Bayesian bootstrap); Jeffreys' prior for tables, Agresti &
        Hitchcock 2005, Statistical Methods & Applications 14:297.
    """
    rng, cells = np.random.default_rng(seed), parts[0].size
    kinds, counts = np.unique(parts.reshape(len(parts), -1), axis=0, return_counts=True)
    mass = parts.sum((-2, -1))
    scale = float(np.square(mass).sum() / mass.sum())
    prior = rng.standard_gamma(2 / cells, (draws, cells)) * scale
    return (rng.standard_gamma(counts, (draws, len(counts))) @ kinds + prior).reshape(draws, *parts.shape[1:])
