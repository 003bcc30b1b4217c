"""Hugging Face `datasets` on disk: a `DatasetDict` by split, or a `Dataset` where there are none.

Columns are those of a snapshot, JSON as text, since a struct type cannot hold inputs of differing shape. Nothing is
lost. A dataset of somebody else's is read as a CSV file of theirs would be; its parts are the splits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_assay.datasets.columns import COLUMNS
from mlflow_assay.datasets.formats.parts import from_columns, library, new_path
from mlflow_assay.datasets.model import SPLITS, DatasetRow
from mlflow_assay.datasets.snapshot import stage
from mlflow_assay.errors import ConfigError, InputError

__all__ = ["HuggingFace"]

_REST = "unassigned"  # rows in no split, beside rows that are in one


class HuggingFace:
    """Entry point `huggingface` of `mlflow_assay.dataset_formats`."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Save rows to a folder, to be opened by `datasets.load_from_disk`."""
        hf = library("datasets", "datasets")
        with tempfile.TemporaryDirectory() as folder:
            staged = stage(rows, Path(folder))
            files = [str(file) for file, _ in staged.files]
            if not files:
                raise ConfigError("There are no rows to write.", fix="The library cannot open a saved dataset of none.")
            cache = {"cache_dir": str(Path(folder) / "cache"), "keep_in_memory": False}
            whole = hf.Dataset.from_parquet(files, **cache).remove_columns("content")
            if not staged.splits:
                whole.save_to_disk(str(new_path(path)))
                return {}
            parts = whole.with_format("numpy", columns=["split"])["split"]
            places: dict[str, list[int]] = {}
            for i, split in enumerate(parts):
                places.setdefault(str(split) if split else _REST, []).append(i)
            made = {name: whole.select(places[name]) for name in (*SPLITS, _REST) if name in places}
            hf.DatasetDict(made).save_to_disk(str(new_path(path)))
        return {}

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """Rows of a folder written by `save_to_disk`."""
        hf = library("datasets", "datasets")
        try:
            found = hf.load_from_disk(str(path))
        except (FileNotFoundError, OSError) as error:
            raise InputError(f"{path}: this is no dataset on disk: {error}") from error
        parts: Mapping[str, Any] = found if isinstance(found, hf.DatasetDict) else {"": found}
        for name, part in parts.items():
            for number, cells in enumerate(part):
                row = from_columns(cells, f"{path}/{name}:{number}")
                ours = set(COLUMNS[:-1]) <= set(part.column_names)
                yield row if ours or name not in SPLITS else row.moved(split=name)
