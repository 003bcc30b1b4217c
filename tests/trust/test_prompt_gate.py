"""The gate for prompts: better by one judge and not worse by any other, or nothing changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust.prompt_gate import PromptGate

N = 80


def side(right: int, n: int = N) -> list[bool]:
    return [i < right for i in range(n)]


def decide(old, new, **more):
    return PromptGate().decide("a", {"a": old, **more.pop("olds", {})}, {"a": new, **more.pop("news", {})}, **more)


def test_a_clear_gain_is_accepted():
    found = decide(side(30), side(60))
    assert (found.accepted, found.route, found.n_needed) == (True, "better", 0)
    assert "75 % of 80 rows pass against 38 %" in found.reason
    json.dumps(found.to_dict(), default=str)


def test_a_gain_that_may_be_chance_is_not_and_says_how_many_rows_are_needed():
    old = [i % 2 == 0 for i in range(N)]
    found = decide(old, [not v if i % 3 == 0 else v for i, v in enumerate(old)])
    assert not found.accepted
    assert "not shown to be better" in found.reason
    assert found.n_needed > 0


def test_a_loss_is_said():
    found = decide(side(60), side(30))
    assert not found.accepted
    assert "The new is worse" in found.reason


@pytest.mark.parametrize(("cost", "accepted"), [(0.5, True), (2.0, False), (None, False)])
def test_equal_and_cheaper_is_accepted(cost, accepted):
    found = decide(side(40), side(40), old_cost=1.0, new_cost=cost)
    assert (found.accepted, found.route) == (accepted, "cheaper" if accepted else None)


def test_another_judges_loss_refuses_a_gain():
    found = decide(side(30), side(60), olds={"b": side(70)}, news={"b": side(50)})
    assert not found.accepted
    assert "by b it is worse" in found.reason
    assert found.n_needed == 0


def test_another_judge_that_cannot_be_sure_refuses_a_gain_and_names_the_rows_needed():
    mixed = [not v if i % 11 == 0 else v for i, v in enumerate(side(60))]
    found = decide(side(30), side(60), olds={"b": side(60)}, news={"b": mixed})
    assert not found.accepted
    assert "by b it may be worse by 5 points or more" in found.reason


def test_another_judge_without_verdicts_refuses_a_gain():
    found = decide(side(30), side(60), olds={"b": [None] * N}, news={"b": [None] * N})
    assert not found.accepted
    assert "b reached no verdict" in found.reason


def test_another_judge_that_is_content_lets_it_pass():
    found = decide(side(30), side(60), olds={"b": side(60)}, news={"b": side(60)})
    assert found.accepted
    assert "by b it is not worse by 5 points or more" in found.reason


def test_too_few_rows_decide_nothing():
    found = decide(side(0, 19), side(19, 19))
    assert not found.accepted
    assert "Too few test rows: 19" in found.reason
    assert found.n_needed == 1


def test_rows_without_a_verdict_on_a_side_are_left_out():
    found = decide([None, *side(30)], [True, *side(60)])
    assert found.n == N


def test_sessions_count_as_one():
    """Twenty requests of one customer are not twenty proofs."""
    old, new = side(40), side(54)
    assert decide(old, new).accepted
    together = [0 if a != b else i for i, (a, b) in enumerate(zip(old, new, strict=True))]
    assert not decide(old, new, clusters=together).accepted


def test_the_sides_need_the_same_judges():
    with pytest.raises(ConfigError, match="same judges"):
        PromptGate().decide("a", {"a": side(1)}, {"b": side(1)})
    with pytest.raises(ConfigError, match="margin"):
        PromptGate(margin=0)


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=20, max_size=60), st.integers(0, 2**32 - 1))
def test_nothing_is_accepted_against_itself(verdicts, seed):
    assert not decide(verdicts, verdicts).accepted


def test_luck_is_accepted_as_often_as_the_level_says():
    """2,000 pairs of equally good prompts: at most 5 % and a little are accepted."""
    rng = np.random.default_rng(1)
    gate, hits = PromptGate(), 0
    for _ in range(2000):
        old, new = (rng.random(60) < 0.6 for _ in range(2))
        hits += gate.decide("a", {"a": old.tolist()}, {"a": new.tolist()}).accepted
    assert hits / 2000 < 0.065
