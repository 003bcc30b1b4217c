"""Each assessment revision as one line of a JSON Lines file. Bridge entry point `jsonl`.

A line is written whole and flushed to disk before it counts as delivered. The file can be asked what it holds, so a
worker killed between the two does not write a line twice.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from mlflow_assay.contracts import AssessmentRevision, Delivery
from mlflow_assay.errors import SinkError

__all__ = ["RevisionLinesSink"]


class RevisionLinesSink:
    """Appends revisions to a file.

    Args:
        path: the file; made when missing.
    """

    name: ClassVar[str] = "jsonl"

    def __init__(self, path: str | Path = "revisions.jsonl") -> None:
        self._path = Path(path)

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Append a batch; all of it or, as far as the disk lets one take back, nothing."""
        if not revisions:
            return []
        text = "".join(json.dumps(asdict(r), ensure_ascii=False, default=str) + "\n" for r in revisions)
        try:
            self._append(text.encode())
        except OSError as error:
            return [Delivery("retry", f"{self._path}: {error.strerror}")] * len(revisions)
        return [Delivery("delivered")] * len(revisions)

    def _append(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            start = file.tell()
            if start and not _ends_whole(self._path):
                data = b"\n" + data  # a killed writer's half line stays one bad line and spoils no other
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), start)
                raise

    def held(self, revisions: Sequence[AssessmentRevision]) -> Mapping[str, int]:
        """How many lines the file holds of each revision, by key.

        Raises:
            SinkError: the file cannot be read.
        """
        try:
            lines: Iterable[str] = self._path.read_text("utf-8", "replace").splitlines() if self._path.exists() else ()
        except OSError as error:
            raise SinkError(f"The sink 'jsonl' cannot read {self._path}: {error.strerror}.") from error
        found = Counter(key for line in lines if (key := _key(line)) is not None)
        return {revision.key: found[revision.key] for revision in revisions}

    def close(self) -> None:
        """Nothing is kept open."""


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _key(line: str) -> str | None:
    """The line's revision key; None for a line that was cut short."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    return found.get("key") if isinstance(found, dict) else None
