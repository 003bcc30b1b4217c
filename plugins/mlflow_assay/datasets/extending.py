"""More rows for a dataset, without letting anything of its test split into training.

What resembles a row that is there is not added again; what belongs to a session or near-duplicate that is there goes
into the same split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlflow_assay.contracts import DatasetStore
from mlflow_assay.datasets.model import About, DatasetRow, Manifest
from mlflow_assay.datasets.near import near_pairs
from mlflow_assay.datasets.shaping import FRACTIONS, Shaping, comparable
from mlflow_assay.datasets.splitting import assign_beside
from mlflow_assay.errors import ConflictError

__all__ = ["Extended", "extend"]

_ATTEMPTS = 5


@dataclass(frozen=True)
class Extended:
    """What was added.

    Attributes:
        manifest: the version that holds the old rows and the new; the old one where nothing was new.
        record: counts: rows given, there already, near-duplicates of rows there, rows by split.
    """

    manifest: Manifest
    record: dict[str, Any]


def extend(
    store: DatasetStore,
    name: str,
    rows: Iterable[DatasetRow],
    about: About,
    shaping: Shaping | None = None,
    *,
    replace: bool = False,
) -> Extended:
    """Append rows to a dataset, beside those that are there.

    Args:
        store, name: the dataset; it has to exist.
        rows: the new ones, few enough to be held.
        about: what the new version's manifest shall say.
        shaping: how near-duplicates are found, and in which shares new groups are dealt to the splits; its `sample`
            is not used.
        replace: whether a row with the id of one that is there takes its place; its split stays.

    Raises:
        StoreError: there is no such dataset.
        ConfigError: a row is there with another content, and `replace` was not asked for.
        ConflictError: other writers were first again and again.
    """
    given, wanted = list(rows), shaping or Shaping()
    for attempt in range(_ATTEMPTS):
        latest = store.find(name)
        kept, record = _placed(store, latest, given, wanted)
        try:
            manifest = store.append(name, kept, about, replace=replace, expect=latest.version)
        except ConflictError:
            if attempt + 1 < _ATTEMPTS:
                continue
            raise
        return Extended(manifest, record)
    raise AssertionError  # not reached


def _placed(
    store: DatasetStore, latest: Manifest, given: list[DatasetRow], shaping: Shaping
) -> tuple[list[DatasetRow], dict[str, Any]]:
    there = list(store.rows(latest))
    known = {row.id: row for row in there}
    fresh = [row for row in given if row.id not in known]
    again = [row.moved(split=known[row.id].split, group=known[row.id].group) for row in given if row.id in known]
    if shaping.duplicates == "near":
        doubles = _doubles(there, fresh, shaping.near)
        fresh = [row for i, row in enumerate(fresh) if i not in doubles]
    record: dict[str, Any] = {
        "rows_given": len(given),
        "there_already": len(again),
        "near_duplicates_of_rows_there": len(given) - len(again) - len(fresh),
    }
    if any(row.split for row in there):
        every = [*there, *fresh]
        found = assign_beside(
            [row.id for row in every],
            [row.session for row in every],
            [comparable(row.inputs) for row in every],
            [row.split for row in there] + [None] * len(fresh),
            [row.group for row in there] + [None] * len(fresh),
            fractions=shaping.fractions or FRACTIONS,
            seed=shaping.seed,
        )
        new = range(len(there), len(every))
        fresh = [every[i].moved(split=found.splits[i], group=found.groups[i]) for i in new]
        record["in_no_split"] = sum(row.split is None for row in fresh)
    return [*again, *fresh], record | {"rows_added": len(fresh)}


def _doubles(there: list[DatasetRow], fresh: list[DatasetRow], near: float) -> set[int]:
    """Positions among the fresh rows of those that resemble a row there, or an earlier fresh one."""
    texts = [comparable(row.inputs) for row in (*there, *fresh)]
    return {j - len(there) for i, j, _ in near_pairs(texts, near) if j >= len(there) and i < j}
