"""Labels in a CSV file: read with every fault named by its line, and written so that they can be read again."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mlflow_assay.contracts import Label
from mlflow_assay.errors import InputError

__all__ = ["COLUMNS", "CsvLabels", "CsvRow", "read_csv", "write_csv"]

# What import reads; export adds further columns, which import passes over.
COLUMNS = ("trace_id", "name", "value", "rationale", "by", "probability")
_NEEDED = ("trace_id", "value")


@dataclass(frozen=True)
class CsvRow:
    """One line of the file, texts stripped, empty ones None.

    Attributes:
        line: number of the file's line on which the record ends, from 1.
        trace_id, value: None where the field is empty.
        name, by: None where the column is absent or the field empty.
        rationale: why, or None.
        probability: with which the trace was chosen for labelling, as written.
    """

    line: int
    trace_id: str | None
    name: str | None
    value: str | None
    rationale: str | None
    by: str | None
    probability: str | None


def read_csv(path: Path) -> list[CsvRow]:
    """The lines of a CSV file with a header; columns in any order, unknown ones passed over, blank lines skipped.

    Raises:
        InputError: the file cannot be read, is no UTF-8 CSV, or lacks a column that is needed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_rows(file, path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}.", valid="UTF-8 text, comma-separated") from error


def _rows(file: TextIO, path: Path) -> Iterator[CsvRow]:
    reader = csv.reader(file, strict=True)
    header = [column.strip().lower() for column in next(reader, [])]
    missing = [c for c in _NEEDED if c not in header]
    doubled = [c for c in COLUMNS if header.count(c) > 1]
    if missing or doubled:
        raise InputError(
            f"{path} needs the columns trace_id and value once each.", found=header or "nothing", valid=COLUMNS
        )
    for record in reader:
        if not any(field.strip() for field in record):
            continue
        if len(record) != len(header):
            raise InputError(
                f"{path}, line {reader.line_num}: {len(record)} fields under {len(header)} columns.",
                fix="Put a text that holds commas or line breaks in double quotes.",
            )
        texts = {column: field.strip() or None for column, field in zip(header, record, strict=True)}
        yield CsvRow(reader.line_num, *(texts.get(c) for c in COLUMNS))


def write_csv(file: TextIO, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> int:
    """Write a header and rows: true and false as words, None as nothing, lists and objects as JSON.

    Returns:
        How many rows were written.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([_text(value) for value in row])
        count += 1
    return count


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


class CsvLabels:
    """The labels of a CSV file. Entry point `csv` of `mlflow_assay.label_sources`.

    Args:
        path: the file.
        name: assessment name of lines that have none.
        by: who gave the labels of lines that do not say.
    """

    def __init__(self, path: str | Path, name: str | None = None, by: str | None = None) -> None:
        self._path, self._name, self._by = Path(path), name, by

    def labels(self) -> Iterator[Label]:
        """All labels in the file's order, values as written.

        Raises:
            InputError: the file cannot be read, or a line lacks trace id, name, value or labeller.
        """
        for row in read_csv(self._path):
            name, by = row.name or self._name, row.by or self._by
            if not (row.trace_id and row.value and name and by):
                raise InputError(f"{self._path}, line {row.line}: trace_id, name, value and by are needed.", found=row)
            yield Label(row.trace_id, name, row.value, by, row.rationale)
