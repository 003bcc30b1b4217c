"""Out-of-fold scores: each trace judged by a model that saw none of its group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.judges.local import features
from mlflow_assay.judges.local.features import FittedBlock, RawBlock
from mlflow_assay.judges.local.groups import Groups, Pair, group

__all__ = ["FOLDS", "Linear", "fit_linear", "group_folds", "out_of_fold", "random_folds"]

FOLDS = 5
PENALTY = 5.0  # inverse strength of the L2 penalty
_PURGED = 0.3

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Fold = tuple[Ints, Ints]


@dataclass(frozen=True)
class Linear:
    """A logistic regression over blocks: score = columns · coef + intercept; above 0 passes."""

    blocks: tuple[FittedBlock, ...]
    coef: Floats
    intercept: float


def fit_linear(raws: Sequence[RawBlock], passed: Bools, train: Ints) -> tuple[Linear, Any]:
    """Train on some rows, both classes weighing the same; also the columns of all rows, shape (n, k)."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    fitted = [features.fit(found, train) for found in raws]
    columns = csr_matrix(hstack([csr_matrix(block.weigh(counts)) for block, counts in fitted]))
    blocks, target = tuple(block for block, _ in fitted), passed[train]
    if target.all() or not target.any():
        return Linear(blocks, np.zeros(columns.shape[1]), 1.0 if target.all() else -1.0), columns
    model = LogisticRegression(
        C=PENALTY, class_weight="balanced", solver="liblinear", intercept_scaling=10.0, max_iter=2000, tol=1e-6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # an unconverged model is not to be trusted silently
        model.fit(columns[train], target)
    return Linear(blocks, model.coef_[0].astype(np.float64), float(model.intercept_[0])), columns


def out_of_fold(raws: Sequence[RawBlock], passed: Bools, folds: Sequence[Fold]) -> Floats:
    """Scores of held-out rows, shape (n,)."""
    scores = np.zeros(passed.size)
    for train, test in folds:
        model, columns = fit_linear(raws, passed, train)
        scores[test] = columns[test] @ model.coef + model.intercept
    return scores


def group_folds(
    passed: Bools, sessions: Sequence[str | None], pairs: Sequence[Pair], seed: int
) -> tuple[Groups, list[Fold]]:
    """Groups, and (train, test) rows of up to five folds that keep them apart.

    Groups are kept small enough for even folds, and leaks that remain are purged from training. Where that would
    cost a fold more than `_PURGED` of its training rows, groups may grow.

    Returns:
        No folds when a class has fewer than two groups.
    """
    n = passed.size
    found: tuple[Groups, list[Fold]] | None = None
    for cap in (max(2, n // 10), max(2, n // 5), max(2, n // 3), None):
        groups = group(sessions, pairs, cap)
        split = _split(passed, groups, seed)
        folds = [(groups.allowed(train, test), test) for train, test in split]
        found = groups, folds
        kept = [allowed.size / train.size for (allowed, _), (train, _) in zip(folds, split, strict=True)]
        if not len(groups.cut) or (kept and min(kept) >= 1 - _PURGED):
            break
    assert found is not None  # noqa: S101 - the loop runs
    return found


def _split(passed: Bools, groups: Groups, seed: int) -> list[Fold]:
    from sklearn.model_selection import StratifiedGroupKFold

    rarer = min(np.unique(groups.codes[passed]).size, np.unique(groups.codes[~passed]).size)
    if rarer < 2:
        return []
    folds = StratifiedGroupKFold(min(FOLDS, rarer), shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(passed.size), passed, groups.codes))


def random_folds(passed: Bools, seed: int) -> list[Fold]:
    """(train, test) rows as a split blind to groups would have them; empty when a class has one row only."""
    from sklearn.model_selection import StratifiedKFold

    rarer = min(int(passed.sum()), int((~passed).sum()))
    if rarer < 2:
        return []
    folds = StratifiedKFold(min(FOLDS, rarer), shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(passed.size), passed))
