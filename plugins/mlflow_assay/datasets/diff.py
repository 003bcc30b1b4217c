"""What changed from one version to another: rows added, removed and changed, found from 48 bytes a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.appending import compare, only
from mlflow_assay.datasets.columns import READING, rows_of
from mlflow_assay.datasets.dataset import Dataset
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.datasets.snapshot import Index

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Change", "Diff", "diff"]


@dataclass(frozen=True)
class Change:
    """One row that is not the same in both versions.

    Attributes:
        kind: `added`, `removed` or `changed`.
        old, new: the row before and after; None where there is none.
    """

    kind: str
    old: DatasetRow | None
    new: DatasetRow | None

    @property
    def id(self) -> str:
        """The row's id."""
        row = self.new or self.old
        return row.id if row else ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Which fields changed."""
        if self.old is None or self.new is None:
            return ()
        old, new = self.old.to_dict(), self.new.to_dict()
        return tuple(name for name in new if new[name] != old[name])


@dataclass(frozen=True)
class Diff:
    """The difference between two versions; rows are read only when asked for.

    Attributes:
        old, new: the versions.
        added, removed, changed, same: how many rows.
    """

    old: Dataset
    new: Dataset
    added: int
    removed: int
    changed: int
    same: int
    _added: Index = field(repr=False)
    _removed: Index = field(repr=False)
    _changed: Index = field(repr=False)

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows."""
        return not (self.added or self.removed or self.changed)

    def changes(self) -> Iterator[Change]:
        """Every row that is not the same: removed, changed, then added ones."""
        yield from (Change("removed", row, None) for row in _rows(self.old, self._removed))
        before = {row.id: row for row in _rows(self.old, self._changed)}
        yield from (Change("changed", before[row.id], row) for row in _rows(self.new, self._changed))
        yield from (Change("added", None, row) for row in _rows(self.new, self._added))

    def changed_fields(self) -> dict[str, int]:
        """How many changed rows changed in each field."""
        counts = Counter(name for change in self.changes() if change.kind == "changed" for name in change.fields)
        return dict(counts.most_common())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready counts."""
        return {
            "old": {"reference": self.old.reference, "digest": self.old.digest, "rows": len(self.old)},
            "new": {"reference": self.new.reference, "digest": self.new.digest, "rows": len(self.new)},
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "same": self.same,
            "changed_fields": self.changed_fields() if self.changed else {},
        }


def diff(old: Dataset, new: Dataset) -> Diff:
    """What it takes from `old` to `new`. Rows are the same where their ids are; the two may be in different stores."""
    a, b = _index(old), _index(new)
    found = compare(a, b)
    added, changed = b.kept(found.added), b.kept(found.changed)
    removed = a.kept(found.removed)
    same = len(b) - len(added) - len(changed)
    return Diff(old, new, len(added), len(removed), len(changed), same, added, removed, changed)


def _index(dataset: Dataset) -> Index:
    found = dataset.store.arrow(dataset.manifest).to_batches(columns=["id", "content"], **READING)
    return Index.joined(Index.of(batch) for batch in found)


def _rows(dataset: Dataset, some: Index) -> Iterator[DatasetRow]:
    if not len(some):
        return
    batches: Iterator[pa.RecordBatch] = iter(dataset.store.arrow(dataset.manifest).to_batches(**READING))
    for batch in only(batches, some):
        yield from rows_of(batch)
