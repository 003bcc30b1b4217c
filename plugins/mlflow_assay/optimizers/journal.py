"""What was asked and answered while optimizing, on disk: so a run that was stopped goes on without paying twice.

One line of JSON an entry, appended and flushed as soon as it is known. A line cut off by a kill is left out when read.
The file holds the agent's outputs, so it is readable by its owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from mlflow_assay.errors import StoreError

__all__ = ["Journal", "digest"]


def digest(*facts: Any) -> str:
    """32 hex digits over JSON-like facts; equal facts give equal digests."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str, ensure_ascii=False).encode()).hexdigest()[:32]


class Journal:
    """Entries by kind and key; several of one key are kept in order.

    Args:
        path: the file, made when missing with its folder; None keeps everything in memory.

    Raises:
        StoreError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._lock = path, Lock()
        self._entries: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self.found = 0
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._repair(path)
        except OSError as error:
            raise StoreError(
                f"The journal {str(path)!r} cannot be opened.", found=error, fix="Name another folder with --state."
            ) from error

    def get(self, kind: str, key: str, number: int = 0) -> dict[str, Any] | None:
        """The entry of that kind and key; `number` counts those of one key from 0."""
        with self._lock:
            entries = self._entries.get((kind, key), [])
            return entries[number] if number < len(entries) else None

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every entry of a kind."""
        with self._lock:
            return [e for (k, _), entries in self._entries.items() if k == kind for e in entries]

    def put(self, kind: str, key: str, entry: Mapping[str, Any]) -> None:
        """Keep an entry.

        Raises:
            StoreError: it cannot be written.
        """
        with self._lock:
            self._entries[(kind, key)].append(dict(entry))
            if self._path is not None:
                self._append({"kind": kind, "key": key, **entry})

    def _append(self, entry: Mapping[str, Any]) -> None:
        assert self._path is not None  # noqa: S101 - the caller has checked
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise StoreError(f"The journal {str(self._path)!r} cannot be written.", found=error) from error

    def _repair(self, path: Path) -> None:
        """Read what is there, and cut off a last line that was not finished."""
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            entry = json.loads(line)
            self._entries[(entry.pop("kind"), entry.pop("key"))].append(entry)
            self.found += 1
