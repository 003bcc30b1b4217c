"""JSON lines: one row a line, every field by its name. Nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mlflow_assay.datasets.formats.parts import from_mapping, new_path
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import InputError

__all__ = ["JsonLines"]


class JsonLines:
    """Entry point `jsonl` of `mlflow_assay.dataset_formats`."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Write rows to a file, one JSON object a line."""
        with new_path(path).open("x", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row.to_dict(), ensure_ascii=True) + "\n")
        return {}

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """Rows of a file; only `inputs` is needed in each."""
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from_mapping(_object(line, f"{path}:{number}"), f"{path}:{number}")


def _object(line: str, where: str) -> Mapping[str, object]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: this is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: a row is a JSON object.", found=type(found).__name__)
    return found
