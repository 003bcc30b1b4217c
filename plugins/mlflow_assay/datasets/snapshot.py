"""Rows into Parquet files named after their bytes, and the digest of a version, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.datasets.columns import batches, schema
from mlflow_assay.datasets.model import DataFile, DatasetRow
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Index", "Staged", "file_sha256", "stage"]

_ROWS_A_FILE = 250_000
_ROWS_A_GROUP = 20_000
_READ = 1 << 20


@dataclass(frozen=True)
class Index:
    """Identity and content of every row as raw bytes: 48 bytes a row.

    Attributes:
        ids: shape (n, 16), uint8.
        contents: shape (n, 32), uint8.
    """

    ids: npt.NDArray[np.uint8]
    contents: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Index:
        """The index of a batch that has the columns `id` and `content`."""
        ids, contents = (b"".join(map(bytes.fromhex, batch.column(c).to_pylist())) for c in ("id", "content"))
        return cls(np.frombuffer(ids, np.uint8).reshape(-1, 16), np.frombuffer(contents, np.uint8).reshape(-1, 32))

    @classmethod
    def joined(cls, parts: Iterable[Index]) -> Index:
        """All rows of these, in order."""
        found = list(parts) or [cls(np.empty((0, 16), np.uint8), np.empty((0, 32), np.uint8))]
        return cls(np.concatenate([p.ids for p in found]), np.concatenate([p.contents for p in found]))

    @property
    def keys(self) -> npt.NDArray[np.bytes_]:
        """The ids in a form NumPy sorts and compares, shape (n,): hex, since it cuts zero bytes off raw ones."""
        return np.frombuffer(self.ids.tobytes().hex().encode(), "S32")

    def kept(self, mask: npt.NDArray[np.bool_]) -> Index:
        """The rows where the mask, shape (n,), is true."""
        return Index(self.ids[mask], self.contents[mask])

    def digest(self) -> str:
        """SHA-256 over ids and contents in order of id, 64 hex digits.

        Raises:
            ConfigError: two rows have one id.
        """
        keys = self.keys
        order = np.argsort(keys, kind="stable")
        twice = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if twice.size:
            raise ConfigError(
                f"{twice.size} rows have the id of another row, first {keys[order][twice[0]].decode()}.",
                valid="one row an input; `row_id(inputs, trace_id)` tells rows of one input apart",
                fix="Leave duplicates out (assay dataset build does so unless told otherwise).",
            )
        both = np.concatenate([self.ids[order], self.contents[order]], axis=1)
        return hashlib.sha256(both.tobytes()).hexdigest()


@dataclass
class Staged:
    """Files written to a local folder, on their way into a store.

    Attributes:
        files: local path of each with what the manifest will say of it.
        index: of all rows.
        splits: rows in each split.
    """

    files: list[tuple[Path, DataFile]] = field(default_factory=list)
    index: Index = field(default_factory=lambda: Index.joined([]))
    splits: Mapping[str, int] = field(default_factory=dict)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, read back from the local files."""
        import pyarrow.parquet as pq

        for path, _ in self.files:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(_ROWS_A_GROUP)


def stage(rows: Iterable[DatasetRow] | Iterable[pa.RecordBatch], folder: Path) -> Staged:
    """Write rows (or record batches of the datasets' schema) to Parquet files in a local folder.

    Never more than a few thousand rows are held, save 48 bytes of index a row.
    """
    import pyarrow as pa

    writer = _Writer(folder)
    pending: list[DatasetRow] = []
    try:
        for item in rows:
            if isinstance(item, pa.RecordBatch):
                writer.write(item)
            else:
                pending.append(item)
                if len(pending) == _ROWS_A_GROUP:
                    writer.write_all(pending)
                    pending = []
        writer.write_all(pending)
    finally:
        writer.close()
    return writer.staged()


class _Writer:
    def __init__(self, folder: Path) -> None:
        self._folder, self._open, self._rows = folder, None, 0
        self._path = folder
        self._done: list[tuple[Path, DataFile]] = []
        self._index: list[Index] = []
        self._splits: Counter[str] = Counter()

    _open: Any

    def write_all(self, rows: list[DatasetRow]) -> None:
        for batch in batches(rows, _ROWS_A_GROUP):
            self.write(batch)

    def write(self, batch: pa.RecordBatch) -> None:
        import pyarrow.parquet as pq

        if not batch.num_rows:
            return
        if self._open is None:
            self._path = self._folder / f"part-{len(self._done):05}.parquet"
            self._open = pq.ParquetWriter(self._path, schema(), compression="zstd")
        self._open.write_batch(batch)
        self._rows += batch.num_rows
        self._index.append(Index.of(batch))
        self._splits.update(s for s in batch.column("split").to_pylist() if s is not None)
        if self._rows >= _ROWS_A_FILE:
            self.close()

    def close(self) -> None:
        if self._open is None:
            return
        self._open.close()
        digest = file_sha256(self._path)
        size = self._path.stat().st_size
        self._done.append((self._path, DataFile(f"data/{digest}.parquet", digest, size, self._rows)))
        self._open, self._rows = None, 0

    def staged(self) -> Staged:
        return Staged(self._done, Index.joined(self._index), dict(self._splits))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ):
            found.update(piece)
    return found.hexdigest()
