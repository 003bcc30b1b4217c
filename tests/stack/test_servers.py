"""The servers behind the other tests: ports that are ours, and no server left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from assay_stack import build
from assay_stack.fixtures import need
from assay_stack.ports import SIZE, Ports


def test_two_holders_never_have_a_port_in_common():
    one, other = Ports(), Ports()
    try:
        first, second = [{ports.next() for _ in range(SIZE + 5)} for ports in (one, other)]
        assert len(first) == len(second) == SIZE + 5
        assert first & second == set()
    finally:
        one.release()
        other.release()


OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from assay_stack import Stack
stack = Stack()
stack.up("prometheus")
print(stack.service("prometheus").pid, flush=True)
time.sleep(300)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_servers_end_with_a_test_run_that_is_killed():
    need(build.prometheus)
    command = [sys.executable, "-c", OWNER, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        assert alive(server)
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(server)
