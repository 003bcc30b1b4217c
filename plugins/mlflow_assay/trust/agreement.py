"""Is the judge right? Its agreement with human labels, with intervals that hold for few labels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust import _tables
from mlflow_assay.trust._arrays import Floats, Ints, check_confidence, codes, same_length
from mlflow_assay.trust._jps import label_weights
from mlflow_assay.trust._tables import Weighting, category_list, code
from mlflow_assay.trust.alt_test import AltTest, alt_test, by_rejections
from mlflow_assay.trust.ratings import (
    Ceiling,
    Measure,
    Ratings,
    human_ceiling,
    krippendorff_alpha,
    measure,
)

__all__ = [
    "Agreement",
    "AltTest",
    "Ceiling",
    "Measure",
    "Ratings",
    "agreement",
    "agreement_by",
    "alt_test",
    "by_rejections",
    "cohen_kappa",
    "confusion",
    "human_ceiling",
    "kappa_gain",
    "krippendorff_alpha",
]

FEWEST = 20  # below this many labels no agreement figure is called enough, however narrow


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with human labels.

    Attributes:
        name: the judge's name, or judge and slice.
        categories: the values, in order.
        confusion: counts, rows the human's value, columns the judge's.
        n: traces with both a verdict and a label.
        n_unscored: labelled traces the judge could not score.
        n_unlabelled: judged traces without a label.
        kappa: chance-corrected agreement, at most 1 (Cohen); weighted where `weighting` is set.
        weighting: None, `linear` or `quadratic`.
        accuracy: share of equal values, in [0, 1].
        sensitivity: share of truly good traces the judge passes; value None without a positive category.
        specificity: share of truly bad traces the judge fails; value None likewise.
        mcc: Matthews correlation, in [-1, 1].
        confidence: level of the intervals.
        target: the half-width of kappa's interval that counts as enough.
        needed: how many more labels to reach it; 0 when reached, None when it cannot be said yet.
        notes: what the reader must know; plain sentences.
    """

    name: str
    categories: tuple[Hashable, ...]
    confusion: tuple[tuple[int, ...], ...]
    n: int
    n_unscored: int
    n_unlabelled: int
    kappa: Measure
    weighting: Weighting | None
    accuracy: Measure
    sensitivity: Measure
    specificity: Measure
    mcc: Measure
    confidence: float
    target: float
    needed: int | None
    notes: tuple[str, ...]

    @property
    def enough(self) -> bool:
        """Whether the labels suffice for kappa to mean something."""
        return self.needed == 0

    @property
    def summary(self) -> str:
        """Kappa with its interval, or how many more labels are needed."""
        if self.enough:
            return f"kappa {self.kappa} on {self.n} labels"
        if self.needed is None:
            return f"too few labels ({self.n}): {' '.join(self.notes)}"
        return f"too few labels ({self.n}): {self.needed} more needed for ± {self.target:g} (kappa {self.kappa})"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `enough` and `summary`."""
        lists = {
            "categories": list(self.categories),
            "confusion": [list(row) for row in self.confusion],
            "notes": list(self.notes),
        }
        return asdict(self) | lists | {"enough": self.enough, "summary": self.summary}


def confusion(
    judge: Sequence[Any], human: Sequence[Any], categories: Sequence[Hashable] | None = None
) -> tuple[tuple[Hashable, ...], Ints]:
    """The confusion table of a judge against human labels.

    Args:
        judge: verdicts, None or NaN for unscored, shape (n,).
        human: labels, None or NaN for missing, shape (n,).
        categories: all values in order; None takes those seen, sorted.

    Returns:
        The categories and the counts, shape (k, k): rows the human's value, columns the judge's. Pairs with a
        missing side are left out.

    Raises:
        ConfigError: lengths differ, a value is no category, or words are mixed with numbers.
    """
    same_length(judge=judge, human=human)
    found = category_list([*judge, *human], categories)
    h, j = code(human, found), code(judge, found)
    both, size = (h >= 0) & (j >= 0), len(found)
    return found, np.bincount(h[both] * size + j[both], minlength=size * size).reshape(size, size)


def cohen_kappa(
    judge: Sequence[Any],
    human: Sequence[Any],
    *,
    weighting: Weighting | None = None,
    categories: Sequence[Hashable] | None = None,
) -> float | None:
    """Chance-corrected agreement between a judge and human labels on the same traces.

    Args:
        judge: verdicts, None or NaN for unscored, shape (n,).
        human: labels, None or NaN for missing, shape (n,).
        weighting: None, or `linear` or `quadratic` by distance between ordered categories.
        categories: all values in order; None takes those seen, sorted.

    Returns:
        Kappa, at most 1, no unit; None when there is no pair or both used one and the same value throughout,
        since there is then no chance agreement to correct for.

    Raises:
        ConfigError: lengths differ, or a value is no category.

    Source: Cohen 1960, doi:10.1177/001316446002000104; weighted Cohen 1968, Psychological Bulletin 70:213.
    """
    table = confusion(judge, human, categories)[1].astype(np.float64)
    value = float(_tables.kappa(table, weighting)) if table.sum() else math.nan
    return value if math.isfinite(value) else None


def agreement(
    judge: Sequence[Any],
    human: Sequence[Any],
    *,
    name: str = "judge",
    categories: Sequence[Hashable] | None = None,
    positive: Hashable = True,
    weighting: Weighting | None = None,
    clusters: Sequence[Hashable] | None = None,
    label_probabilities: Sequence[float | None] | None = None,
    confidence: float = 0.95,
    target: float = 0.2,
    seed: int = 0,
) -> Agreement:
    """Agreement of a judge with human labels on the same traces, with intervals.

    Intervals are quantiles of the Dirichlet posterior of the confusion table; where sessions repeat or labels
    were drawn unequally, of the Bayesian bootstrap over sessions with the same prior.

    Args:
        judge: verdicts, None or NaN for unscored, shape (n,).
        human: labels (one a trace; see `Ratings.consensus` for several experts), None where missing, shape (n,).
        name: the judge's name.
        categories: all values in order; None takes those seen, sorted.
        positive: the good value of a two-valued judge, for sensitivity and specificity.
        weighting: None, or `linear` or `quadratic` for ordered categories.
        clusters: session id of each trace, None for a trace on its own, shape (n,).
        label_probabilities: probability with which each trace was chosen for labelling, in (0, 1], read only
            where there is a label; None when labels are a uniform sample. Needed when they were stratified by
            verdict: agreement on such a sample is otherwise not agreement on the traffic.
        confidence: level of the intervals, in (0, 1).
        target: half-width of kappa's interval that counts as enough.
        seed: of the posterior draws; the same seed gives the same intervals.

    Returns:
        An Agreement. Figures that cannot be said (no labels, one class only) have value None and a note.

    Raises:
        ConfigError: lengths differ, a value is no category, a probability is not in (0, 1].

    Source: Cohen 1960; Matthews 1975, BBA 405:442 (Gorodkin 2004 for more categories); intervals see
        `_tables.posterior_tables`.
    """
    check_confidence(confidence)
    found, counts = confusion(judge, human, categories)
    n = same_length(judge=judge, human=human, clusters=clusters, label_probabilities=label_probabilities)
    h, j = code(human, found), code(judge, found)
    both = (h >= 0) & (j >= 0)
    weights = label_weights(both, np.ones(n), label_probabilities)[both]
    parts = _tables.cluster_tables(h[both], j[both], (len(found),) * 2, weights, codes(clusters, n)[both])
    table = parts.sum(0)
    draws = _tables.posterior_tables(parts, seed=seed) if both.any() else table[None][:0]
    good = found.index(positive) if positive in found and len(found) == 2 else None
    measures = _measures(table, draws, good, weighting, confidence)
    total = int(both.sum())
    return Agreement(
        name=name,
        categories=found,
        confusion=tuple(tuple(int(c) for c in row) for row in counts),
        n=total,
        n_unscored=int(((h >= 0) & (j < 0)).sum()),
        n_unlabelled=int(((h < 0) & (j >= 0)).sum()),
        weighting=weighting,
        confidence=confidence,
        target=target,
        needed=_needed(measures["kappa"], total, target),
        notes=_notes(counts, found, total),
        **measures,
    )


def _measures(
    table: Floats, draws: Floats, good: int | None, weighting: Weighting | None, confidence: float
) -> dict[str, Measure]:
    metrics: dict[str, _tables.Metric] = {
        "kappa": lambda t: _tables.kappa(t, weighting),
        "accuracy": _tables.accuracy,
        "mcc": _tables.mcc,
    }
    result = {"sensitivity": Measure(None), "specificity": Measure(None)}
    if good is not None:
        metrics["sensitivity"] = lambda t: _tables.recall(t, good)
        metrics["specificity"] = lambda t: _tables.recall(t, 1 - good)
    if not table.sum():
        return result | {key: Measure(None) for key in metrics}
    return result | {k: measure(float(f(table)), f(draws), confidence) for k, f in metrics.items()}


def _needed(kappa: Measure, n: int, target: float) -> int | None:
    if kappa.value is None or kappa.low is None or kappa.high is None:
        return None
    half = (kappa.high - kappa.low) / 2
    return max(0, math.ceil(n * ((half / target) ** 2 - 1)), FEWEST - n)


def _notes(counts: Ints, categories: Sequence[Hashable], n: int) -> tuple[str, ...]:
    if not n:
        return ("No trace has both a verdict and a label.",)
    notes = []
    for who, used in (("The experts", counts.sum(1)), ("The judge", counts.sum(0))):
        if np.count_nonzero(used) == 1:
            only = categories[int(np.argmax(used))]
            notes.append(f"{who} gave one value only ({only}): label traces of the other kind too.")
    return tuple(notes)


def agreement_by(
    judge: Sequence[Any], human: Sequence[Any], slices: Sequence[Hashable], **options: Any
) -> dict[Hashable, Agreement]:
    """Agreement within each slice, most labels first.

    Args:
        judge: verdicts, shape (n,).
        human: labels, shape (n,).
        slices: the slice of each trace (a tag's value), shape (n,); None makes a slice of its own.
        options: as for `agreement`; those given per trace are sliced too.

    Returns:
        Slice to Agreement; all share the categories of the whole, so that tables compare.

    Raises:
        ConfigError: lengths differ, or an unknown option.
    """
    same_length(judge=judge, human=human, slices=slices)
    if "name" in options and not isinstance(options["name"], str):
        raise ConfigError("name must be a word.", found=repr(options["name"]))
    shared = {"categories": category_list([*judge, *human], options.get("categories"))}
    results = {}
    for value in dict.fromkeys(slices):
        rows = [i for i, s in enumerate(slices) if s == value]
        own = {
            k: [options[k][i] for i in rows] for k in ("clusters", "label_probabilities") if options.get(k) is not None
        }
        label = f"{options.get('name', 'judge')}, {value}"
        results[value] = agreement(
            [judge[i] for i in rows], [human[i] for i in rows], **(options | shared | own | {"name": label})
        )
    return dict(sorted(results.items(), key=lambda item: -item[1].n))


def kappa_gain(
    old: Sequence[Any],
    new: Sequence[Any],
    human: Sequence[Any],
    *,
    weighting: Weighting | None = None,
    categories: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Measure:
    """By how much a new judge agrees better with the experts than the old one, on the same traces.

    Args:
        old: verdicts of the old judge, None for unscored, shape (n,).
        new: verdicts of the new judge, likewise.
        human: labels, None where missing, shape (n,). Traces lacking any of the three are left out.
        weighting: None, `linear` or `quadratic` for ordered categories.
        categories: all values in order; None takes those seen, sorted.
        clusters: session id of each trace, None for a trace on its own, shape (n,).
        confidence: level of the interval, in (0, 1).
        seed: of the posterior draws.

    Returns:
        Kappa of the new minus kappa of the old, in [-2, 2], with an interval that keeps the pairing; value None
        where either kappa is undefined.

    Raises:
        ConfigError: lengths differ, or a value is no category.

    Source: Bayesian bootstrap, Rubin 1981, on the joint table; see `_tables.posterior_tables`.
    """
    check_confidence(confidence)
    n = same_length(old=old, new=new, human=human, clusters=clusters)
    found = category_list([*old, *new, *human], categories)
    size, (o, w, h) = len(found), (code(v, found) for v in (old, new, human))
    used = (o >= 0) & (w >= 0) & (h >= 0)
    if not used.any():
        return Measure(None)
    joint = _tables.cluster_tables(
        h[used], (o * size + w)[used], (size, size**2), np.ones(int(used.sum())), codes(clusters, n)[used]
    )

    def gain(tables: Floats) -> Floats:
        split = tables.reshape(*tables.shape[:-1], size, size)
        return _tables.kappa(split.sum(-2), weighting) - _tables.kappa(split.sum(-1), weighting)

    return measure(float(gain(joint.sum(0))), gain(_tables.posterior_tables(joint, seed=seed)), confidence)
