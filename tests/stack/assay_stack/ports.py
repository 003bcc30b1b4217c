"""Ports nobody else takes: blocks of them, held by lock files for the life of the process.

Asking the kernel for a free port and handing the number to a server leaves a gap in which another process can take
it. Blocks below the ephemeral range, one lock file each, close the gap between our own processes.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FIRST, SIZE, BLOCKS = 20_000, 32, 350  # 20000 to 31199; Linux hands out ephemeral ports from 32768


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Ports:
    """Loopback ports; `next()` gives one after the other, `release()` gives all back."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"mlflow-assay-ports-{os.getuid()}"
        self._folder.mkdir(exist_ok=True)
        self._locks: list[IO[str]] = []
        self._ports = self._all()

    def _all(self) -> Iterator[int]:
        for block in range(BLOCKS):
            lock = (self._folder / str(block)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._locks.append(lock)
            yield from filter(_bindable, range(FIRST + block * SIZE, FIRST + (block + 1) * SIZE))

    def next(self) -> int:
        """A port that can be bound and is ours."""
        for port in self._ports:
            return port
        raise RuntimeError(f"every port from {FIRST} on is in use, or held by a lock in {self._folder}")

    def release(self) -> None:
        """Gives the ports back."""
        for lock in self._locks:
            lock.close()
