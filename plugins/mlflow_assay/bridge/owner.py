"""Who a worker is, whether another one is certainly dead, and for how long what another one holds stands unrenewed."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Tenure", "is_gone", "make_owner"]

_SEPARATOR = "|"
H = TypeVar("H", bound=Hashable)


def make_owner() -> str:
    """A name for this process that no other bears: host, process namespace, process id, and a random part."""
    return _SEPARATOR.join((_place(), str(os.getpid()), uuid.uuid4().hex[:12]))


def is_gone(owner: str, me: str) -> bool:
    """Whether that owner's process is dead for certain; False where it cannot be known.

    Args:
        me: this process's own owner name; nobody else can have its process id in its process namespace.
    """
    place, _, rest = owner.partition(_SEPARATOR)
    pid = rest.partition(_SEPARATOR)[0]
    if owner == me or place != _place() or not _namespace() or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return True  # an earlier process that bore this one's number
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _place() -> str:
    return f"{socket.gethostname()[:80]}/{_boot()}/{_namespace()}"


def _namespace() -> str:
    """Two containers may share a host's name, not its process namespace. Empty where the system has none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return ""


class Tenure(Generic[H]):
    """For how long what others hold has stood unrenewed, by this process's own clock, which only goes forward.

    A holder renews by writing a new stamp. Who waits looks whether the stamp changes, and never reads it as a time: no
    two clocks are compared, so neither a wrong clock nor one that jumps makes a live worker seem dead. Kubernetes'
    leader election works so (k8s.io/client-go/tools/leaderelection).

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[H, float] = {}

    def unrenewed(self, held: Iterable[H], seconds: float) -> list[H]:
        """Those of what is held (by whom, with which stamp) that were first seen so long ago; all others are forgotten.

        Args:
            held: all there is now.
            seconds: how long a holder may take to renew.
        """
        now = self._clock()
        self._since = {one: self._since.get(one, now) for one in held}
        return [one for one, since in self._since.items() if now - since >= seconds]
