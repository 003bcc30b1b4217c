"""Better cut-points for a judge that already scores well: from labels, without one model call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust._arrays import Floats, Ints, binary, codes, numeric, same_length
from mlflow_assay.trust._tables import kappa
from mlflow_assay.trust.agreement import Agreement, Measure, agreement, kappa_gain
from mlflow_assay.trust.compare import Comparison, compare

MIN_LABELS = 50  # with 20, kappa after re-thresholding had a standard deviation of 0.19 to 0.28
_MIN_CLASS = 5


@dataclass(frozen=True)
class Recalibration:
    """A new threshold, and what it does on rows it was not chosen on.

    Attributes:
        old_threshold: the threshold in use.
        threshold: the one chosen on all labels; a score at or beyond it passes.
        better: which end of the scale is good, `higher` or `lower`.
        before: agreement with the old threshold.
        after: cross-fitted agreement: each row judged by the threshold chosen without its fold.
        gain: kappa after minus before on the same rows, with its interval.
        comparison: rows judged rightly before against after, paired.
        fold_thresholds: the threshold chosen without each fold; wide scatter means too few labels.
    """

    old_threshold: float
    threshold: float
    better: Literal["higher", "lower"]
    before: Agreement
    after: Agreement
    gain: Measure
    comparison: Comparison
    fold_thresholds: tuple[float, ...]

    @property
    def improves(self) -> bool:
        """Whether the whole interval of the gain in kappa lies above 0."""
        return self.gain.low is not None and self.gain.low > 0

    @property
    def summary(self) -> str:
        """One sentence for a reader."""
        word = "improves" if self.improves else "does not provably improve"
        return (
            f"Passing at {self.threshold:g} instead of {self.old_threshold:g} {word} the judge: kappa "
            f"{self.before.kappa} before, {self.after.kappa} after on rows not used to choose it "
            f"(gain {self.gain}, {self.after.n} labels)."
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `improves` and `summary`."""
        return {
            "old_threshold": self.old_threshold,
            "threshold": self.threshold,
            "better": self.better,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "gain": {"value": self.gain.value, "low": self.gain.low, "high": self.gain.high},
            "comparison": self.comparison.to_dict(),
            "fold_thresholds": list(self.fold_thresholds),
            "improves": self.improves,
            "summary": self.summary,
        }


def recalibrate(
    scores: Sequence[Any],
    labels: Sequence[Any],
    threshold: float,
    *,
    better: Literal["higher", "lower"] = "higher",
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    name: str = "judge",
    min_labels: int = MIN_LABELS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Recalibration:
    """Chooses the pass threshold that agrees best with the labels, and reports it cross-fitted.

    Args:
        scores: the judge's scores or probabilities, None or NaN for unscored, shape (n,).
        labels: the experts' good/bad (True/False/1/0), None where there is none, shape (n,).
        threshold: the one in use, in the unit of the scores.
        better: `higher`: scores at or above the threshold pass; `lower`: at or below it.
        groups: session, user or near-duplicate id of each trace; a group is never split over folds. None for
            a trace on its own, shape (n,).
        folds: number of folds, 2 or more.
        name: the judge's name.
        min_labels: fewest labelled, scored traces.
        confidence: level of the intervals.
        seed: of the fold assignment and the intervals.

    Returns:
        A Recalibration; whether to adopt it is the caller's decision (`improves`, and the gate's held-out test).

    Raises:
        NotTrustedError: too few labels, fewer than 5 of one class, or fewer groups than folds.
        ConfigError: lengths differ, a label is not good/bad, a score not finite, folds below 2.

    Source: cross-validation, Stone 1974, JRSS B 36:111; kappa as the criterion, Cohen 1960.
    """
    f, y = numeric(scores, "scores"), binary(labels, "labels")
    n = same_length(scores=f, labels=y, groups=groups)
    if folds < 2 or better not in ("higher", "lower"):
        raise ConfigError("Recalibration needs 2 or more folds and a direction.", found=f"{folds}, {better!r}")
    used, sign = ~np.isnan(f) & ~np.isnan(y), 1.0 if better == "higher" else -1.0
    x, truth, group = sign * f[used], y[used], codes(groups, n)[used]
    _check(truth, group, folds, min_labels)
    fold = grouped_folds(group, truth, folds, seed)
    cuts = [_best_cut(x[fold != i], truth[fold != i]) for i in range(folds)]
    new = x >= np.array(cuts)[fold]
    old = x >= sign * threshold
    common: dict[str, Any] = {"clusters": group.tolist(), "confidence": confidence, "seed": seed}
    before, after, human = ([bool(v) for v in values] for values in (old, new, truth))
    return Recalibration(
        old_threshold=threshold,
        threshold=sign * _best_cut(x, truth),
        better=better,
        before=agreement(before, human, name=name, **common),
        after=agreement(after, human, name=f"{name}, recalibrated", **common),
        gain=kappa_gain(before, after, human, **common),
        comparison=compare(old == truth, new == truth, kind="share", name=f"{name}, rightly judged", **common),
        fold_thresholds=tuple(sign * c for c in cuts),
    )


def _check(truth: Floats, group: Ints, folds: int, min_labels: int) -> None:
    good, groups = int(truth.sum()), np.unique(group).size
    if truth.size < min_labels or min(good, truth.size - good) < _MIN_CLASS or groups < folds:
        raise NotTrustedError(
            "A threshold chosen on so little would be noise.",
            found=f"{truth.size} labelled traces ({good} good) in {groups} groups",
            valid=f"{min_labels} or more, {_MIN_CLASS} of each kind, {folds} groups",
            fix="Label more traces first.",
        )


def grouped_folds(groups: Ints, labels: Floats, folds: int, seed: int) -> Ints:
    """Fold of each row in 0..folds-1; groups stay whole, labels are spread evenly.

    Args:
        groups: integer group codes, shape (n,).
        labels: 0.0 or 1.0, shape (n,).
        folds: number of folds, at most the number of groups.
        seed: of the order of groups with equal labels.
    """
    names, position = np.unique(groups, return_inverse=True)
    share = np.bincount(position, weights=labels) / np.bincount(position)
    order = np.lexsort((np.random.default_rng(seed).random(names.size), share))
    dealt = np.empty(names.size, dtype=np.int64)
    dealt[order] = np.arange(names.size) % folds
    return np.asarray(dealt[position], dtype=np.int64)


def _best_cut(x: Floats, truth: Floats) -> float:
    """The cut with the highest kappa for "x >= cut"; the middle one where several are best."""
    points = np.unique(x)
    if points.size == 1:
        return float(points[0])
    cuts = (points[1:] + points[:-1]) / 2
    good = np.sort(x[truth == 1])
    bad = np.sort(x[truth == 0])
    pass_good = good.size - np.searchsorted(good, cuts)
    pass_bad = bad.size - np.searchsorted(bad, cuts)
    rows = [[bad.size - pass_bad, pass_bad], [good.size - pass_good, pass_good]]
    found = np.nan_to_num(kappa(np.moveaxis(np.array(rows, dtype=np.float64), -1, 0)), nan=-1.0)
    best = np.flatnonzero(found >= found.max() - 1e-12)
    return float(cuts[best[best.size // 2]])
