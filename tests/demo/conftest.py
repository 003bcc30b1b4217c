from __future__ import annotations

from datetime import datetime, timezone

import pytest

from mlflow_assay.demo.agent import Agent
from mlflow_assay.demo.prompt import FIRST_PROMPT, parse
from mlflow_assay.demo.requests import Request, generate
from mlflow_assay.demo.runner import Turn, play

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)

# A person's repair of the router prompt: the missing desk, described. Not shipped with the demo.
PRODUCT = """\
- product: phones, watches, tablets and plans on sale. Which phone or device to choose, comparing models, what a
  device supports (camera, battery, storage, colours, eSIM), stock, delivery, pre-order and launch of a new phone,
  upgrade and trade-in, insurance; plans and tariffs: what they include, data allowance, changing plan, family
  bundles, travel pass, home internet, fibre and TV offers.
"""
FIXED_PROMPT = FIRST_PROMPT.replace("- technical_support:", PRODUCT + "- technical_support:")


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def fixed_prompt() -> str:
    return FIXED_PROMPT


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
    return play(Agent(parse(FIXED_PROMPT)), traffic, now=NOW)
