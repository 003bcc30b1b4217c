"""How much each judge of a panel should count, learnt from labels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust._arrays import Floats, binary, codes, same_length
from mlflow_assay.trust.agreement import Measure, agreement, kappa_gain
from mlflow_assay.trust.recalibrate import MIN_LABELS, grouped_folds

__all__ = ["PanelWeights", "learn_weights", "pass_probability"]

_RIDGE = 1.0
_MIN_CLASS = 5


@dataclass(frozen=True)
class PanelWeights:
    """Weights of a panel's members, and what they gain over a majority vote.

    Attributes:
        bias: log-odds of passing when no member has answered.
        weights: what a member's pass adds to, and its fail takes from, the log-odds; below 0 for one that is wrong
            more often than right.
        rows: labelled rows learnt from.
        majority, learned: kappa with the labels, over the same rows; the learned one cross-fitted.
        gain: learned minus majority, with its interval.
    """

    bias: float
    weights: tuple[float, ...]
    rows: int
    majority: Measure
    learned: Measure
    gain: Measure

    @property
    def improves(self) -> bool:
        """Whether the whole interval of the gain in kappa lies above 0."""
        return self.gain.low is not None and self.gain.low > 0

    @property
    def summary(self) -> str:
        """One sentence for a reader."""
        word = "agree better" if self.improves else "do not provably agree better"
        return (
            f"Learned weights {word} with the labels than a majority vote: kappa {self.learned} against "
            f"{self.majority} on rows not learnt from (gain {self.gain}, {self.rows} labels)."
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `improves` and `summary`."""
        kappas = {"majority": self.majority, "learned": self.learned, "gain": self.gain}
        return {
            "bias": self.bias,
            "weights": list(self.weights),
            "rows": self.rows,
            **{name: {"value": m.value, "low": m.low, "high": m.high} for name, m in kappas.items()},
            "improves": self.improves,
            "summary": self.summary,
        }


def pass_probability(votes: Sequence[bool | None], bias: float, weights: Sequence[float]) -> float:
    """The probability, in (0, 1), that a row is good, given each member's pass or fail (None: no verdict)."""
    return float(special.expit(bias + sum(w * _sign(v) for v, w in zip(votes, weights, strict=True))))


def _sign(vote: bool | None) -> int:
    return 0 if vote is None else 1 if vote else -1


def learn_weights(
    votes: Sequence[Sequence[bool | None]],
    labels: Sequence[bool | None],
    *,
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    min_labels: int = MIN_LABELS,
    seed: int = 0,
) -> PanelWeights:
    """Weights by logistic regression (ridge 1) on the members' votes, compared with a majority vote.

    Args:
        votes: each member's pass or fail in each row, None where it reached no verdict, shape (members, n).
        labels: good or bad, None where there is none, shape (n,).
        groups: session or user of each row; a group is never split over folds. None for rows on their own.
        folds: for the cross-fitted comparison, 2 or more.
        min_labels: fewest labelled rows.
        seed: of folds and intervals.

    Raises:
        NotTrustedError: too few labels, fewer than 5 of one class, or fewer groups than folds.
        ConfigError: lengths differ, fewer than two members or folds, a value is neither pass nor fail.

    Source: logistic stacking, Wolpert 1992, Neural Networks 5:241; cross-validation, Stone 1974, JRSS B 36:111.
    """
    cast = [binary(v, f"votes[{m}]") for m, v in enumerate(votes)]
    y = binary(labels, "labels")
    n = same_length(**{f"member {m}": v for m, v in enumerate(cast)}, labels=y, groups=groups)
    if len(cast) < 2 or folds < 2:
        raise ConfigError("A panel has two members or more, and the check two folds or more.")
    signs = np.nan_to_num(2 * np.stack(cast, axis=1) - 1, nan=0.0)
    used = ~np.isnan(y) & (signs != 0).any(axis=1)
    x, truth, group = signs[used], y[used], codes(groups, n)[used]
    _check(truth, np.unique(group).size, folds, min_labels)
    fold = grouped_folds(group, truth, folds, seed)
    scores = np.empty(truth.size)
    for i in range(folds):
        held = fold == i
        scores[held] = _score(x[held], _fit(x[~held], truth[~held]))
    return _report(x, truth, group, scores > 0, _fit(x, truth), seed)


def _report(x: Floats, truth: Floats, group: Any, learned: Any, fit: Floats, seed: int) -> PanelWeights:
    # A tie of the majority is no verdict, so both are compared on the rows without one.
    decided = x.sum(axis=1) != 0
    common: dict[str, Any] = {"clusters": group[decided].tolist(), "seed": seed}
    old, new, human = ([bool(v) for v in values[decided]] for values in (x.sum(axis=1) > 0, learned, truth))
    return PanelWeights(
        bias=float(fit[0]),
        weights=tuple(float(w) for w in fit[1:]),
        rows=truth.size,
        majority=agreement(old, human, name="majority", **common).kappa,
        learned=agreement(new, human, name="learned weights", **common).kappa,
        gain=kappa_gain(old, new, human, **common),
    )


def _check(truth: Floats, groups: int, folds: int, min_labels: int) -> None:
    good = int(truth.sum())
    if truth.size < min_labels or min(good, truth.size - good) < _MIN_CLASS or groups < folds:
        raise NotTrustedError(
            "Weights learnt from so little would be noise.",
            found=f"{truth.size} labelled rows ({good} good) in {groups} groups",
            valid=f"{min_labels} or more, {_MIN_CLASS} of each kind, {folds} groups",
            fix="Label more traces first, or use `vote: majority`.",
        )


def _score(x: Floats, fit: Floats) -> Floats:
    return np.asarray(fit[0] + x @ fit[1:], dtype=np.float64)


def _fit(x: Floats, truth: Floats) -> Floats:
    """Intercept and weights of a ridge-penalised logistic regression."""
    side = 2 * truth - 1

    def loss(fit: Floats) -> tuple[float, Floats]:
        margin = side * _score(x, fit)
        slope = -side * special.expit(-margin)
        value = np.logaddexp(0, -margin).sum() + _RIDGE / 2 * np.square(fit[1:]).sum()
        return float(value), np.concatenate([[slope.sum()], x.T @ slope + _RIDGE * fit[1:]])

    found = optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)
