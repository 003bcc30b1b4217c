"""The fixtures, imported by tests/conftest.py so that any test can ask for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from assay_stack import build
from assay_stack.build import MissingError
from assay_stack.ports import Ports
from assay_stack.services import Mlflow, Service
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
def mlflow_server() -> Callable[..., AbstractContextManager[str]]:
    """A function that starts an MLflow server in a folder, for a `with`: its URL. Stopped with all its children.

    Called with the folder, and `database`, an SQLite file to copy, or `variables` of its environment.
    """

    @contextmanager
    def served(folder: Path, *, database: Path | None = None, variables: dict[str, str] | None = None) -> Iterator[str]:
        ports = Ports()
        server = Mlflow(folder, ports, variables=variables)
        if database is not None:
            shutil.copy(database, folder / "mlflow.db")
        try:
            server.start()
            yield server.url
        finally:
            server.stop()
            ports.release()

    return served


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
