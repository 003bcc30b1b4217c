"""Who a worker is, and whether another one is certainly dead, so that a restart need not wait for old leases."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

__all__ = ["is_gone", "make_owner"]

_SEPARATOR = "|"


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
