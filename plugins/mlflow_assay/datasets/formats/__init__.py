"""Datasets in other forms: a file format, or another library's own kind of dataset.

A format is one file here (or in any package) and one line in the entry points `mlflow_assay.dataset_formats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from mlflow_assay.datasets.model import DatasetRow

__all__ = ["Format"]


@runtime_checkable
class Format(Protocol):
    """Rows to and from a path."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Write rows to a path that does not exist yet.

        Returns:
            What could not be carried over, by reason, with how many rows it concerns; empty where nothing was lost.

        Raises:
            ConfigError: the library is not installed.
        """
        ...

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """The rows at a path, written by this format or by the library whose it is.

        Raises:
            InputError: it is not in this format; names file and line.
            ConfigError: the library is not installed.
        """
        ...
