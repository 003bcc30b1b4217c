"""CSV: a column for each field, JSON in the cells that hold more than a text. Nothing is lost.

A table of somebody else's is read too: `expectations.NAME` are expectations, and where there is no column `inputs`,
the columns that are no field of a row are the inputs.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mlflow_assay.datasets.columns import COLUMNS
from mlflow_assay.datasets.formats.parts import from_columns, new_path
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import InputError

__all__ = ["Csv"]


class Csv:
    """Entry point `csv` of `mlflow_assay.dataset_formats`."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Write rows to a file in UTF-8, with a header."""
        with new_path(path).open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS[:-1])
            for row in rows:
                cells = row.cells[:-1]
                writer.writerow(repr(c) if isinstance(c, float) else c for c in cells)
        return {}

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """Rows of a file with a header; an empty cell is None."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a conversation may be longer than a spreadsheet's cell
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise InputError(f"{path}: there is no header.", valid="column names in the first line")
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if None in cells or None in cells.values():
                    raise InputError(f"{where}: the line has another number of cells than the header.")
                yield from_columns(cells, where)
