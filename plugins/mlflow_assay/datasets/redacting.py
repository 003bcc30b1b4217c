"""Personal data in rows: replaced before they are stored, counted, and noted in the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mlflow_assay.datasets.canonical import sha256
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.redaction import Redactor

__all__ = ["Redacting"]


class Redacting:
    """Replaces personal data row by row, and keeps count.

    Args:
        redactor: None replaces nothing.
    """

    def __init__(self, redactor: Redactor | None) -> None:
        self._redactor = redactor
        self._counts: Counter[str] = Counter()
        self._touched = 0

    def row(self, row: DatasetRow) -> DatasetRow:
        """The row without personal data in inputs, outputs, expectations, tags, slice and session."""
        if self._redactor is None:
            return row
        parts = {"inputs": row.inputs, "outputs": row.outputs, "expectations": dict(row.expectations)}
        found = self._redactor.redact({**parts, "tags": dict(row.tags), "slice": row.slice})
        changed: dict[str, Any] = dict(found.value)
        counts = Counter(found.counts)
        session = row.session
        if session is not None and (masked := self._redactor.redact(session)).counts:
            # A number in its place, not a mask: the rows of one session must still be seen to belong together.
            session = sha256(session)[:16]
            counts += Counter(masked.counts)
        if not counts:
            return row
        self._counts += counts
        self._touched += 1
        id_ = row.id if changed["inputs"] == row.inputs else ""
        return replace(row, **changed, session=session, redacted=dict(Counter(row.redacted) + counts), id=id_)

    def rows(self, rows: Iterable[DatasetRow]) -> Iterator[DatasetRow]:
        """The rows, each as `row` gives it."""
        return map(self.row, rows)

    def record(self) -> dict[str, Any] | None:
        """What the manifest says of it: over all rows seen, those merged or not drawn later included."""
        if self._redactor is None:
            return None
        return {
            "redactor": f"{type(self._redactor).__module__}.{type(self._redactor).__qualname__}",
            "digest": self._redactor.digest,
            "kinds": list(self._redactor.kinds),
            "replaced": dict(self._counts),
            "rows": self._touched,
        }
