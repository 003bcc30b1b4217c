"""Labelled examples of invented support requests: five desks, a route, and whether it is right."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

SUBJECTS = {
    "account": ["my password", "the login", "my home address", "the surname on file", "my user name"],
    "billing": ["the invoice", "a double charge", "the late fee", "my refund", "the direct debit"],
    "support": ["the slow internet", "dropped calls", "the router lights", "no reception", "the voicemail"],
    "product": ["a new handset", "the family tariff", "an upgrade offer", "the smart watch", "a tablet plan"],
}
FRAMES = [
    "I have a question about {}",
    "please help me with {} today",
    "could someone look into {}",
    "what about {} in the basement flat",
    "hello there, {} worries me a lot",
    "my husband asked about {} yesterday",
    "we need to talk about {}",
    "{} again, third time this month",
]


@pytest.fixture(scope="session")
def requests() -> Callable[..., tuple[list[Any], Any]]:
    """Examples and labels; call as requests(n, seed=…, right=…, slip=…, session=…).

    The route is right with probability `right` and otherwise any other desk, so that neither the request alone nor
    the route alone says anything about the label. `slip` labels are the wrong way round.
    """
    from mlflow_assay.judges.local import Example, LabelSet

    def make(n: int, *, seed: int = 0, right: float = 0.5, slip: float = 0.0, sessions: int | None = None) -> Any:
        draw = random.Random(seed)  # noqa: S311 - test data
        found, passed = [], {}
        for i in range(n):
            desk = draw.choice(list(SUBJECTS))
            route = desk if draw.random() < right else draw.choice([d for d in SUBJECTS if d != desk])
            text = draw.choice(FRAMES).format(draw.choice(SUBJECTS[desk]))
            session = None if sessions is None else f"s{draw.randrange(sessions)}"
            trace_id = f"tr-{seed:04x}{i:028x}"
            found.append(Example(trace_id, {"first_user_message": text, "tag:agent": route}, session, 1_000 + i))
            passed[trace_id] = (route == desk) != (draw.random() < slip)
        return found, LabelSet("correct_route", passed, sources={"human": n})

    return make


@pytest.fixture(scope="session")
def trained(requests) -> Any:
    """A judge good enough to be trusted, trained once a worker."""
    from mlflow_assay.judges.local import Options, train_examples

    found, labels = requests(260, seed=1)
    options = Options(["first_user_message", "tag:agent"], group_by=None)
    return train_examples(found, labels, name="routing", options=options)
