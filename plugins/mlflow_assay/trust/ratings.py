"""Several experts on the same traces: conflicts, Krippendorff's alpha, the human ceiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import Floats, check_confidence, codes, same_length
from mlflow_assay.trust._tables import Weighting, category_list, code, is_missing, kappa

Level = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True)
class Measure:
    """One number with its interval.

    Attributes:
        value: the estimate; None where it is undefined.
        low: lower end of the interval; None where impossible.
        high: upper end, likewise.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        return f"{self.value:.2f}" if self.low is None else f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def measure(value: float, draws: Floats, confidence: float) -> Measure:
    """A value with the equal-tailed interval of its draws, widened to contain it; undefined draws are left out."""
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value):
        return Measure(None)
    if not draws.size:
        return Measure(value)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Measure(value, min(value, float(low)), max(value, float(high)))


@dataclass(frozen=True)
class Ratings:
    """Who said what about which trace. Conflicts are kept.

    Attributes:
        units: trace ids, in order of first appearance.
        raters: expert ids, in order of first appearance.
        values: one row a unit, one column a rater; None where a rater did not label the unit.
    """

    units: tuple[Hashable, ...]
    raters: tuple[Hashable, ...]
    values: tuple[tuple[Any, ...], ...]

    @classmethod
    def collect(cls, triples: Iterable[tuple[Hashable, Hashable, Any]]) -> Ratings:
        """Ratings from (trace id, rater id, value); missing values are skipped.

        Raises:
            ConfigError: one rater gave one trace two different values; equal repeats are merged.
        """
        cells: dict[tuple[Hashable, Hashable], Any] = {}
        for unit, rater, value in triples:
            if is_missing(value):
                continue
            if cells.setdefault((unit, rater), value) != value:
                raise ConfigError(
                    f"{rater!r} labelled trace {unit!r} twice, differently.",
                    found=f"{cells[unit, rater]!r} and {value!r}",
                    fix="Keep the later one before measuring agreement.",
                )
        units, raters = (tuple(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
        return cls(units, raters, tuple(tuple(cells.get((u, r)) for r in raters) for u in units))

    def consensus(self) -> list[Any]:
        """The most frequent value of each unit; None on a tie."""
        return [_mode([v for v in row if not is_missing(v)]) for row in self.values]

    def conflicts(self) -> dict[Hashable, dict[Hashable, Any]]:
        """Units on which raters differ, each with every rater's value."""
        rows = {u: self._row(i) for i, u in enumerate(self.units)}
        return {u: row for u, row in rows.items() if len(set(row.values())) > 1}

    def of(self, rater: Hashable) -> list[Any]:
        """One rater's value per unit, None where missing.

        Raises:
            ConfigError: no such rater.
        """
        if rater not in self.raters:
            raise ConfigError(f"No rater {rater!r}.", valid=map(str, self.raters))
        column = self.raters.index(rater)
        return [row[column] for row in self.values]

    def _row(self, i: int) -> dict[Hashable, Any]:
        return {r: v for r, v in zip(self.raters, self.values[i], strict=True) if not is_missing(v)}


def _mode(values: list[Any]) -> Any:
    top = Counter(values).most_common(2)
    if not top or (len(top) == 2 and top[0][1] == top[1][1]):
        return None
    return top[0][0]


def _distances(level: Level, categories: Sequence[Any], margins: Floats) -> Floats:
    if level == "nominal":
        return 1 - np.eye(len(categories))
    if level == "interval":
        points = np.array([float(c) for c in categories])
        return np.asarray(np.subtract.outer(points, points) ** 2)
    middle = margins.cumsum(-1) - margins / 2  # ranks; the distance is the squared number of values between
    return np.asarray((middle[..., :, None] - middle[..., None, :]) ** 2)


def _alpha(coincidences: Floats, level: Level, categories: Sequence[Any]) -> Floats:
    margins = coincidences.sum(-1)
    distance, total = _distances(level, categories, margins), margins.sum(-1)
    observed = (coincidences * distance).sum((-2, -1))
    expected = (margins[..., :, None] * margins[..., None, :] * distance).sum((-2, -1))
    usable = expected > 1e-12
    return np.where(usable, 1 - (total - 1) * observed / np.where(usable, expected, 1.0), np.nan)


def _coincidences(values: Sequence[Sequence[Any]], categories: Sequence[Hashable]) -> Floats:
    """One coincidence matrix a unit, shape (units, k, k); units with fewer than two values are all zero."""
    size, rows = len(categories), []
    for row in values:
        found = code([v for v in row if not is_missing(v)], categories)
        counts = np.bincount(found, minlength=size).astype(np.float64)
        pairs = np.outer(counts, counts) - np.diag(counts)
        rows.append(pairs / (found.size - 1) if found.size > 1 else pairs * 0)
    return np.array(rows).reshape(len(values), size, size)


def krippendorff_alpha(
    values: Sequence[Sequence[Any]],
    *,
    level: Level = "nominal",
    categories: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Measure:
    """Agreement among any number of raters beyond chance, missing ratings allowed.

    Args:
        values: one row a unit (trace), one entry a rater, None where missing; rows may differ in length.
        level: `nominal`, `ordinal` or `interval` (numbers).
        categories: all possible values in order; None takes those seen, sorted.
        clusters: session id of each unit, None for a unit on its own, shape (units,).
        confidence: level of the interval, in (0, 1).
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        Alpha, at most 1; value None when no unit has two ratings or only one value was ever used. The interval
        is the Bayesian bootstrap over units (or sessions).

    Raises:
        ConfigError: lengths differ, a value is no category, or interval values are not numbers.

    Source: Krippendorff 2019, Content Analysis, 4th ed., chapter 12; interval Rubin 1981.
    """
    check_confidence(confidence)
    n = same_length(values=values, clusters=clusters)
    flat = [v for row in values for v in row]
    found = category_list(flat, categories)
    if level not in ("nominal", "ordinal", "interval"):
        raise ConfigError("Unknown level.", found=repr(level), valid="nominal, ordinal, interval")
    if level == "interval" and any(isinstance(c, str) for c in found):
        raise ConfigError("Interval level needs numbers.", found=list(found))
    units = _coincidences(values, found)
    if not units.sum():
        return Measure(None)
    value = float(_alpha(units.sum(0), level, found))
    group = codes(clusters, n)
    parts = np.zeros((int(group.max()) + 1, len(found) ** 2))
    np.add.at(parts, group, units.reshape(n, -1))
    parts = parts[parts.sum(1) > 0]
    kinds, counts = np.unique(parts, axis=0, return_counts=True)
    mix = np.random.default_rng(seed).standard_gamma(counts, (4000, len(counts)))
    mix *= len(parts) / mix.sum(1, keepdims=True)
    return measure(value, _alpha((mix @ kinds).reshape(-1, len(found), len(found)), level, found), confidence)


@dataclass(frozen=True)
class Ceiling:
    """How well experts agree with one another, and the judge with them, measured alike.

    Attributes:
        humans: mean pairwise kappa among experts; None with fewer than two overlapping experts.
        judge: mean pairwise kappa of the judge with each expert; None when no judge was given.
        pairs: kappa of each pair of experts with the number of traces they share, (a, b, kappa or None, n).
    """

    humans: float | None
    judge: float | None
    pairs: tuple[tuple[Hashable, Hashable, float | None, int], ...]


def human_ceiling(
    ratings: Ratings,
    judge: Sequence[Any] | None = None,
    *,
    weighting: Weighting | None = None,
    categories: Sequence[Hashable] | None = None,
) -> Ceiling:
    """The agreement experts reach among themselves, beside the judge's on the same scale.

    Means over pairs are weighted by the number of traces a pair shares. A judge measured against a consensus
    may exceed this, since a consensus is less noisy than one expert; both figures here are against one expert.

    Args:
        ratings: the experts' labels.
        judge: the judge's verdict per unit of `ratings`, None for unscored.
        weighting: None, `linear` or `quadratic` for ordered categories.
        categories: all values in order; None takes those seen, sorted.

    Returns:
        The ceiling; see `Ceiling`.

    Raises:
        ConfigError: the judge's verdicts are not aligned with the units, or a value is no category.

    Source: Cohen 1960, Educational and Psychological Measurement 20:37; mean pairwise kappa Light 1971,
        Psychological Bulletin 76:365.
    """
    same_length(units=ratings.units, judge=judge)
    flat = [v for row in ratings.values for v in row] + list(judge or [])
    found = category_list(flat, categories)
    columns = {r: code(ratings.of(r), found) for r in ratings.raters}
    pairs = tuple(
        (a, b, *_pair_kappa(columns[a], columns[b], len(found), weighting)) for a, b in combinations(ratings.raters, 2)
    )
    verdicts = None if judge is None else code(judge, found)
    own = [] if verdicts is None else [_pair_kappa(c, verdicts, len(found), weighting) for c in columns.values()]
    return Ceiling(_weighted_mean([(k, n) for _, _, k, n in pairs]), _weighted_mean(own), pairs)


def _pair_kappa(a: Any, b: Any, size: int, weighting: Weighting | None) -> tuple[float | None, int]:
    both = (a >= 0) & (b >= 0)
    table = np.bincount(a[both] * size + b[both], minlength=size * size).reshape(size, size)
    value = float(kappa(table.astype(np.float64), weighting)) if both.any() else np.nan
    return (value if np.isfinite(value) else None), int(both.sum())


def _weighted_mean(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(k, n) for k, n in pairs if k is not None]
    return sum(k * n for k, n in known) / sum(n for _, n in known) if known else None
