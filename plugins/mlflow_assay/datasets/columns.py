"""How rows lie in Parquet: one text or number a cell; what may have any shape is JSON.

Inputs of agents have no common schema, so a struct type would change with every version. DuckDB and pandas read JSON
cells as they are (`inputs->>'$.request'`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.model import DatasetRow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "JSON_COLUMNS", "READING", "batches", "from_cells", "rows_of", "schema"]

COLUMNS = (
    "id",
    "inputs",
    "outputs",
    "expectations",
    "trace_id",
    "session",
    "slice",
    "split",
    "group",
    "tags",
    "weight",
    "redacted",
    "content",
)
JSON_COLUMNS = ("inputs", "outputs", "expectations", "tags", "redacted")
_BATCH = 10_000
# How far Arrow reads ahead: by default many batches of every file, which is memory nobody asked for.
READING = {"batch_size": 16_384, "batch_readahead": 2, "fragment_readahead": 1}


def schema() -> pa.Schema:
    """The Arrow schema of every version."""
    import pyarrow as pa

    return pa.schema([(name, pa.float64() if name == "weight" else pa.string()) for name in COLUMNS])


def batches(rows: Iterable[DatasetRow], size: int = _BATCH) -> Iterator[pa.RecordBatch]:
    """Rows as record batches of at most `size` rows."""
    kept: list[Any] = []
    for row in rows:
        kept.append(row.cells)
        if len(kept) == size:
            yield _batch(kept)
            kept = []
    if kept:
        yield _batch(kept)


def _batch(cells: list[Any]) -> pa.RecordBatch:
    import pyarrow as pa

    wanted = schema()
    columns = [pa.array(column, field.type) for column, field in zip(zip(*cells, strict=True), wanted, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def rows_of(batch: pa.RecordBatch) -> Iterator[DatasetRow]:
    """The rows of one record batch."""
    columns = [batch.column(name).to_pylist() for name in COLUMNS[:-1]]
    for cells in zip(*columns, strict=True):
        yield from_cells(dict(zip(COLUMNS, cells, strict=False)))


def from_cells(cells: dict[str, Any]) -> DatasetRow:
    """The row whose cells these are, by column."""
    read = {name: json.loads(cells[name]) if cells[name] is not None else None for name in JSON_COLUMNS}
    return DatasetRow(**{**{name: cells[name] for name in COLUMNS[:-1]}, **read})
