"""One verdict's reservation, which grows call by call and never beyond the run's budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mlflow_assay.engine.allowance import Allowance, allowed, current
from mlflow_assay.engine.budget import Budget, Spend

TWO = Spend(2, 200, 20, 0.02)


def reserved(budget, spend=TWO):
    assert budget.reserve(spend)
    return Allowance(budget, spend)


def test_what_is_reserved_is_taken_before_more_is_asked_for():
    budget = Budget(max_calls=3)
    allowance = reserved(budget)
    assert [allowance.take(), allowance.take()] == [None, None]
    assert budget.reserved.calls == 2
    assert allowance.take() is None and allowance.reserved == Spend(3, 300, 30, pytest.approx(0.03))
    assert "reserved for calls in flight" in allowance.take()


def test_a_spent_budget_says_so():
    budget = Budget(max_calls=2)
    assert budget.reserve(Spend(1)) and budget.reserve(Spend(1))
    budget.settle(Spend(1), Spend(1))
    allowance = Allowance(budget, Spend(1))
    assert allowance.take() is None
    budget.settle(Spend(1), Spend(1))
    assert "budget of 2 calls is used up" in allowance.take()


@given(limit=st.integers(2, 30), wanted=st.integers(0, 40))
def test_threads_together_never_take_more_than_the_limit(limit, wanted):
    budget = Budget(max_calls=limit)
    allowance = reserved(budget)
    with ThreadPoolExecutor(4) as pool:
        taken = sum(answer is None for answer in pool.map(lambda _: allowance.take(), range(wanted)))
    assert taken == min(limit, wanted)
    budget.settle(allowance.reserved, Spend(taken))
    assert (budget.spent.calls, budget.reserved.calls) == (taken, 0)


def test_each_verdict_sees_its_own_while_others_are_reached_beside_it():
    """A library may hand context on to the threads it starts (TruLens replaces ThreadPoolExecutor); each judging thread
    enters its own all the same."""
    both = Barrier(2)

    def judging(allowance: Allowance) -> bool:
        with allowed(allowance):
            both.wait(timeout=10)
            seen = current() is allowance
            both.wait(timeout=10)
        return seen and current() is None

    with ThreadPoolExecutor(2) as pool:
        seen = pool.map(judging, [reserved(Budget(max_calls=2)), reserved(Budget(max_calls=2))])
    assert list(seen) == [True, True]
    assert current() is None
