"""Which of the given rows are new to a version, and which take the place of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlflow_assay.datasets.snapshot import Index

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Compared", "among", "compare", "only", "without"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Compared:
    """Rows of `new` against those of `old`, by id.

    Attributes:
        added: rows of `new` whose id `old` does not have, shape (len(new),).
        changed: rows of `new` whose id `old` has with another content, shape (len(new),).
        removed: rows of `old` whose id `new` does not have, shape (len(old),).
    """

    added: Mask
    changed: Mask
    removed: Mask


def compare(old: Index, new: Index) -> Compared:
    """Which rows were added, changed and removed from `old` to `new`; 48 bytes a row are looked at."""
    keys, wanted = old.keys, new.keys
    order = np.argsort(keys, kind="stable")
    if not len(old):
        return Compared(np.ones(len(new), bool), np.zeros(len(new), bool), np.zeros(0, bool))
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(old) - 1)]
    there = keys[place] == wanted
    same = (old.contents[place] == new.contents).all(axis=1)
    met = np.zeros(len(old), bool)
    met[place[there]] = True
    return Compared(~there, there & ~same, ~met)


def among(index: Index, some: Index) -> Mask:
    """Which rows of `index` have the id of one of `some`, shape (len(index),)."""
    found: Mask = np.isin(index.keys, some.keys)
    return found


def only(batches: Iterable[pa.RecordBatch], some: Index) -> Iterator[pa.RecordBatch]:
    """The rows of these batches that have the id of one of `some`."""
    yield from _filtered(batches, some, keep=True)


def without(batches: Iterable[pa.RecordBatch], some: Index) -> Iterator[pa.RecordBatch]:
    """The rows of these batches that have the id of none of `some`."""
    yield from _filtered(batches, some, keep=False)


def _filtered(batches: Iterable[pa.RecordBatch], some: Index, *, keep: bool) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.array([key.decode() for key in some.keys.tolist()], pa.string())
    for batch in batches:
        found = pc.is_in(batch.column("id"), value_set=ids)
        yield batch.filter(found if keep else pc.invert(found))
