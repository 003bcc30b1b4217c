"""Ports nobody else takes: a block of them, held by a lock file for the life of the process.

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
from typing import TextIO

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
    """Blocks of loopback ports; `next()` gives one after the other, from a further block when one is used up.

    A block may be used up by servers that outlived the process that held it.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"mlflow-assay-ports-{os.getuid()}"
        self._folder.mkdir(exist_ok=True)
        self._locks: list[TextIO] = []
        self._blocks = iter(range(BLOCKS))
        self._left: Iterator[int] = iter(())

    def _take_block(self) -> None:
        for block in self._blocks:
            lock = (self._folder / str(block)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._locks.append(lock)
            self._left = iter(range(FIRST + block * SIZE, FIRST + (block + 1) * SIZE))
            return
        raise RuntimeError(f"all {BLOCKS} blocks of ports in {self._folder} are in use")

    def next(self) -> int:
        """The next port that can be bound."""
        while True:
            for port in self._left:
                if _bindable(port):
                    return port
            self._take_block()

    def release(self) -> None:
        """Gives the blocks back."""
        for lock in self._locks:
            lock.close()
