from __future__ import annotations

from datetime import datetime, timezone

import pytest

from mlflow_assay.demo.agent import Agent
from mlflow_assay.demo.prompt import FIRST_PROMPT, REPAIRED_PROMPT, parse
from mlflow_assay.demo.requests import Request, generate
from mlflow_assay.demo.runner import Turn, play

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def fixed_prompt() -> str:
    return REPAIRED_PROMPT


@pytest.fixture(scope="session")
def traffic() -> list[Request]:
    return generate(400, seed=7)


@pytest.fixture(scope="session")
def faulty(traffic: list[Request]) -> tuple[Turn, ...]:
    """The demo's own traffic, answered with the shipped prompt."""
    return play(Agent(parse(FIRST_PROMPT)), traffic, now=NOW)


@pytest.fixture(scope="session")
def repaired(traffic: list[Request]) -> tuple[Turn, ...]:
    """The same traffic, answered with the repaired prompt."""
    return play(Agent(parse(REPAIRED_PROMPT)), traffic, now=NOW)
