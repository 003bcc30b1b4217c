"""Each assessment revision as one line of a JSON Lines file. Bridge entry point `jsonl`.

A line is written whole and flushed to disk before it counts as delivered. The file can be asked what it holds, so a
worker killed between the two does not write a line twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
    guarantee: ClassVar[str] = (
        "Never doubled by one worker: the file is asked first. Every revision is a line, on disk before it counts."
    )

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
        found = dict.fromkeys((revision.key for revision in revisions), 0)
        try:
            for key in _keys(self._path):
                if key in found:
                    found[key] += 1
        except OSError as error:
            raise SinkError(f"The sink 'jsonl' cannot read {self._path}: {error.strerror}.") from error
        return found

    def close(self) -> None:
        """Nothing is kept open."""


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _keys(path: Path) -> Iterator[str]:
    """The lines' revision keys, one line in memory at a time."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        yield from (key for line in lines if (key := _key(line)) is not None)


def _key(line: str) -> str | None:
    """The line's revision key; None for a line that was cut short."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    return found.get("key") if isinstance(found, dict) else None
