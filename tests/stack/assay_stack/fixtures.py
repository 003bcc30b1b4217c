"""The fixtures, imported by tests/conftest.py so that any test can ask for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assay_stack import build
from assay_stack.build import MissingError
from assay_stack.services import Service
from assay_stack.stack import Stack


def need(find: Callable[[], Any]) -> Any:
    """What `find` finds; where it is missing the test fails on CI and skips elsewhere, with the reason."""
    try:
        return find()
    except MissingError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


class _TestStack(Stack):
    """A stack whose missing servers skip the test that asks for them."""

    def _up(self, service: Service) -> None:
        need(lambda: Stack._up(self, service))

    def up(self, *names: str) -> None:
        need(lambda: Stack.up(self, *names))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The servers of this test worker: started at first use, shared by its tests, stopped at its end."""
    with _TestStack() as servers:
        yield servers


@pytest.fixture
def fresh_stack() -> Iterator[Stack]:
    """Servers of this test alone, for killing, freezing and wiping."""
    with _TestStack() as servers:
        yield servers


@pytest.fixture(scope="session")
def collector_binary() -> Path:
    """The built collector, for commands such as `validate`."""
    found: Path = need(build.collector)
    return found


@pytest.fixture(scope="session")
def compose_config() -> Path:
    """The reader of compose files."""
    found: Path = need(build.compose)
    return found
