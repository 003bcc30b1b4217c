from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.engine.budget import Budget, SharedBudget, Spend
from mlflow_assay.errors import ConfigError, StoreError

ONE = Spend(1, 100, 10, 0.01)

amounts = st.integers(0, 1000)
spends = st.builds(Spend, st.integers(0, 3), amounts, amounts, st.integers(0, 10**6).map(lambda n: n / 10**6))
# a step is either (estimate, None): reserve, or (None, share): settle the oldest call at that share of its estimate
steps = st.lists(st.tuples(spends, st.none()) | st.tuples(st.none(), st.floats(0, 1)), max_size=40)


def within(spend, usd, tokens, calls):
    return spend.usd <= usd + 1e-12 and spend.tokens <= tokens and spend.calls <= calls


def at_most(estimate, share):
    tokens = int(estimate.input_tokens * share), int(estimate.output_tokens * share)
    return Spend(int(estimate.calls * share), *tokens, estimate.usd * share)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('budget') / 'budget.db'}"


def play(budget, script):
    """Run reserve and settle steps; yields after each."""
    in_flight = []
    for estimate, share in script:
        if estimate is not None and budget.reserve(estimate):
            in_flight.append(estimate)
        elif share is not None and in_flight:
            oldest = in_flight.pop(0)
            budget.settle(oldest, at_most(oldest, share))
        yield in_flight


LIMITS = st.tuples(st.integers(0, 3_000_000).map(lambda n: n / 10**6), st.integers(0, 5000), st.integers(0, 10))


@given(limits=LIMITS, script=steps)
def test_a_hard_limit_is_never_passed_while_calls_cost_no_more_than_reserved(limits, script):
    budget = Budget(*limits)
    for in_flight in play(budget, script):
        assert within(budget.spent + budget.reserved, *limits)
        assert budget.reserved.calls == sum(s.calls for s in in_flight)


@given(limits=LIMITS, script=steps)
@settings(max_examples=15, deadline=None)
def test_the_shared_budget_decides_exactly_as_the_local_one(url, limits, script):
    shared = SharedBudget(url, os.urandom(8).hex(), *limits)
    budget = Budget(*limits)
    for _ in zip(play(budget, script), play(shared, script), strict=True):
        assert (shared.spent, shared.reserved, shared.exhausted) == (budget.spent, budget.reserved, budget.exhausted)
    shared.close()


@given(costs=st.lists(st.integers(0, 50), min_size=1, max_size=30), window=st.integers(1, 8))
def test_the_overshoot_is_at_most_what_the_calls_in_flight_cost_beyond_their_reservation(costs, window):
    """All calls are expected to cost 10 tokens; some cost more. The limit is 100."""
    budget, expected = Budget(max_tokens=100), Spend(1, 10)
    in_flight: list[int] = []
    at_last_admission: list[int] = []
    for cost in costs:
        if budget.reserve(expected):
            in_flight.append(cost)
            at_last_admission = list(in_flight)
        if len(in_flight) == window:
            budget.settle(expected, Spend(1, in_flight.pop(0)))
    for cost in in_flight:
        budget.settle(expected, Spend(1, cost))
    assert budget.spent.tokens <= 100 + sum(max(0, cost - 10) for cost in at_last_admission)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_calls": 2}, "the budget of 2 calls is used up (2 made)"),
        ({"max_tokens": 300}, "the budget of 300 tokens is used up (220 used, the next call needs about 110)"),
        ({"max_usd": 0.02}, "the budget of $0.02 is used up ($0.02 spent, the next call costs about $0.01)"),
    ],
)
def test_the_limit_reached_is_named(limits, sentence):
    budget = Budget(**limits)
    for _ in range(2):
        assert budget.reserve(ONE)
        budget.settle(ONE, ONE)
    assert budget.exhausted is None
    assert not budget.reserve(ONE)
    assert budget.exhausted == sentence


def test_a_refusal_because_of_calls_in_flight_is_not_the_end():
    budget = Budget(max_calls=1)
    assert budget.reserve(ONE)
    assert not budget.reserve(ONE)
    assert budget.exhausted is None
    budget.settle(ONE, Spend())
    assert budget.reserve(ONE)


def test_without_limits_everything_fits_and_is_counted():
    budget = Budget()
    for _ in range(3):
        assert budget.reserve(ONE)
        budget.settle(ONE, ONE)
    assert budget.spent == Spend(3, 300, 30, 0.03)
    assert budget.reserved == Spend()


def test_cents_add_up_exactly():
    """0.1 + 0.2 is above 0.3 in binary floating point; a budget of 30 cents takes both."""
    budget = Budget(max_usd=0.3)
    assert budget.reserve(Spend(usd=0.1))
    assert budget.reserve(Spend(usd=0.2))
    assert not budget.reserve(Spend(usd=1e-9))


def test_the_soft_limit_warns_once():
    said: list[str] = []
    budget = Budget(max_calls=10, soft=0.5, on_soft=said.append)
    for _ in range(10):
        budget.reserve(ONE)
        budget.settle(ONE, ONE)
    assert said == ["5 of the budget of 10 calls are made."]


def test_a_resumed_run_starts_from_what_was_spent():
    budget = Budget(max_calls=3, spent=Spend(calls=2))
    assert budget.reserve(ONE)
    assert not budget.reserve(ONE)


@pytest.mark.parametrize(
    "wrong", [{"max_usd": -1}, {"max_calls": -1}, {"max_usd": float("nan")}, {"soft": 0}, {"soft": 1.1}]
)
def test_a_wrong_limit_is_refused(wrong):
    with pytest.raises(ConfigError, match="budget"):
        Budget(**wrong)


@pytest.mark.parametrize("wrong", [Spend(calls=-1), Spend(usd=-0.1), Spend(usd=float("nan"))])
def test_a_negative_or_endless_spend_is_refused(wrong):
    with pytest.raises(ConfigError, match="spend"):
        Budget().reserve(wrong)


def test_threads_never_pass_the_limit_together():
    budget = Budget(max_calls=500)

    def work():
        for _ in range(200):
            if budget.reserve(ONE):
                budget.settle(ONE, ONE)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.spent.calls == 500
    assert budget.reserved == Spend()


WORKER = """
import sys
from mlflow_assay.engine.budget import SharedBudget, Spend
one = Spend(1, 100, 10, 0.01)
budget = SharedBudget(sys.argv[1], "run", max_calls=40, soft=0.5, on_soft=lambda text: print("soft"))
done = 0
for _ in range(40):
    if budget.reserve(one):
        budget.settle(one, one)
        done += 1
print(done)
"""


def test_processes_never_pass_the_limit_together(tmp_path):
    """Three processes race for 40 calls: together they make exactly 40, and one of them warns."""
    url = f"sqlite:///{tmp_path / 'budget.db'}"
    command = [sys.executable, "-c", WORKER, url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = []
    for worker in workers:
        out, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
        said += out.split()
    assert sum(int(word) for word in said if word != "soft") == 40
    assert said.count("soft") == 1
    again = SharedBudget(url, "run", max_calls=41)
    assert again.spent == Spend(40, 4000, 400, 0.4)
    assert again.reserve(ONE)
    assert not again.reserve(ONE)
    again.close()


def test_what_a_killed_worker_had_reserved_can_be_released(url):
    killed = SharedBudget(url, "killed", max_calls=2)
    assert killed.reserve(ONE)
    killed.close()
    resumed = SharedBudget(url, "killed", max_calls=2)
    assert resumed.reserved == ONE
    resumed.release()
    assert resumed.reserved == Spend()
    resumed.close()


def test_a_shared_budget_that_cannot_be_opened_says_so():
    with pytest.raises(StoreError, match=r"shared budget.*all workers"):
        SharedBudget("sqlite:////proc/nowhere/budget.db", "run")


@pytest.mark.skipif(not os.environ.get("ASSAY_TEST_POSTGRES_URL"), reason="ASSAY_TEST_POSTGRES_URL is not set")
def test_a_budget_shared_on_postgresql():
    budget = SharedBudget(os.environ["ASSAY_TEST_POSTGRES_URL"], os.urandom(8).hex(), max_usd=0.015, max_tokens=10**6)
    assert budget.reserve(ONE)
    assert not budget.reserve(ONE)
    budget.settle(ONE, ONE)
    assert not budget.reserve(ONE)
    assert budget.spent == ONE
    assert budget.exhausted == "the budget of $0.015 is used up ($0.01 spent, the next call costs about $0.01)"
    budget.close()
