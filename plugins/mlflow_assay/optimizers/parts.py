"""Rows parted into training, validation and test by group, where their dataset has not done so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlflow_assay.datasets.splitting import assign
from mlflow_assay.optimizers.words import strings

if TYPE_CHECKING:
    from mlflow_assay.datasets.model import DatasetRow

__all__ = ["parted"]


def parted(rows: Sequence[DatasetRow], fractions: tuple[float, float, float], seed: int) -> list[DatasetRow]:
    """The rows with a part and a group each: one session, or nearly the same inputs, are never in two parts.

    Args:
        rows: at least one.
        fractions: for training, validation and test.
        seed: the same rows and seed give the same parts.

    Raises:
        NotTrustedError: fewer than three groups.
    """
    found = assign(
        [row.id for row in rows],
        [row.session for row in rows],
        [" ".join(strings(row.inputs)) for row in rows],
        [row.slice for row in rows],
        fractions=fractions,
        seed=seed,
    )
    return [row.moved(split=s, group=g) for row, s, g in zip(rows, found.splits, found.groups, strict=True)]
