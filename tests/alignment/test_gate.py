"""The gate: what it lets through, how often it errs, and what it says."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust.gate import Gate


def rows(n, right_old, right_new, seed, good=0.6, shared=0.5):
    """Labels and two judges right with these chances; `shared` is the share of rows on which luck is common."""
    rng = np.random.default_rng(seed)
    human = rng.random(n) < good
    luck = rng.random((2, n))
    luck[1] = np.where(rng.random(n) < shared, luck[0], luck[1])
    old = np.where(luck[0] < right_old, human, ~human)
    new = np.where(luck[1] < right_new, human, ~human)
    return old.tolist(), new.tolist(), human.tolist()


def rate(n, right_old, right_new, runs=80, **costs):
    gate = Gate()
    return np.mean([gate.decide(*rows(n, right_old, right_new, seed), **costs).accepted for seed in range(runs)])


def test_changes_that_change_nothing_are_accepted_at_most_at_alpha():
    """80 simulated alignments without effect: at most 5 % accepted, plus three standard errors of the simulation."""
    assert rate(60, 0.75, 0.75) <= 0.05 + 3 * (0.05 * 0.95 / 80) ** 0.5


def test_changes_that_are_worse_by_the_margin_are_accepted_at_most_at_alpha_when_cheaper():
    assert rate(150, 0.80, 0.75, old_cost=2.0, new_cost=1.0) <= 0.05 + 3 * (0.05 * 0.95 / 80) ** 0.5


def test_real_gains_are_accepted():
    """From 70 % to 90 % right on 80 held-out labels: power above 80 % (at least 70 % seen in 30 runs)."""
    assert rate(80, 0.7, 0.9, runs=30) > 0.7


def test_an_equal_but_cheaper_judge_is_accepted_with_enough_labels():
    accepted = [
        Gate().decide(*rows(600, 0.9, 0.9, seed, shared=0.9), old_cost=1.0, new_cost=0.1).route for seed in range(10)
    ]
    assert accepted.count("cheaper") >= 8


def test_the_same_judge_is_never_accepted_without_being_cheaper():
    old, _, human = rows(200, 0.8, 0.8, 1)
    decision = Gate().decide(old, old, human, old_cost=1.0, new_cost=1.0)
    assert not decision.accepted
    assert "not cheaper" in decision.reason
    assert Gate().decide(old, old, human, old_cost=1.0, new_cost=0.5).route == "cheaper"
    assert "not known" in Gate().decide(old, old, human).reason


def test_guessing_the_commoner_verdict_is_not_better():
    """More rows right, kappa lower: 90 % of labels are good and the new always passes."""
    human = [True] * 180 + [False] * 20
    old = [i % 4 != 0 for i in range(180)] + [i % 4 == 0 for i in range(20)]
    decision = Gate().decide(old, [True] * 200, human)
    assert decision.comparison.outcome == "better"
    assert not decision.accepted
    assert "kappa does not rise" in decision.reason


def test_unscored_rows_do_not_help_the_judge_that_leaves_them():
    """The new is right on all it answers, but answers only what the old got right too."""
    human = [True, False] * 40
    old = [h if i % 4 else not h for i, h in enumerate(human)]
    new = [h if i % 4 else None for i, h in enumerate(human)]
    decision = Gate().decide(old, new, human)
    assert not decision.accepted
    assert decision.unscored_new == 20
    assert decision.comparison.difference == 0


@pytest.mark.parametrize(
    ("n", "good", "words"),
    [
        (8, 4, "Too few held-out labels: 8, and 20 are the least; 12 more"),
        (40, 38, "2 say bad, and 5 are the least; label 3 more"),
    ],
)
def test_too_few_labels_is_an_answer_with_the_number_missing(n, good, words):
    human = [True] * good + [False] * (n - good)
    decision = Gate().decide([not h for h in human], human, human)
    assert not decision.accepted
    assert words in decision.reason
    assert decision.n_needed == int(words.split("; ")[1].removeprefix("label ").split()[0])


def test_an_inconclusive_decision_says_how_many_labels_would_settle_it():
    old, new, human = rows(40, 0.7, 0.75, 3)
    decision = Gate().decide(old, new, human)
    assert not decision.accepted
    assert decision.n_needed and decision.n_needed > 0


def test_repeated_sessions_count_as_fewer_rows():
    """Twelve rows of evidence copied eight times each are no stronger than twelve."""
    old, new, human = [False] * 7 + [True] * 5, [True] * 12, [True] * 12
    human[8:] = [False] * 4
    new[8:] = [False] * 4
    many = [v * 8 for v in (old, new, human)]
    apart = Gate().decide(*many)
    together = Gate().decide(*many, clusters=list(range(12)) * 8)
    assert apart.accepted
    assert apart.comparison.p_value < together.comparison.p_value


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([True, False, None])] * 3), max_size=60))
def test_any_rows_give_a_decision_with_a_reason(triples):
    old, new, human = ([t[i] for t in triples] for i in range(3))
    decision = Gate().decide(old, new, human, old_cost=1.0, new_cost=0.5)
    assert decision.reason
    assert decision.accepted == (decision.route is not None)
    if decision.route == "better":
        assert len(decision.comparison.wins) > len(decision.comparison.losses)
    assert decision.to_dict()["comparison"]["n"] == sum(h is not None for h in human)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_swapping_old_and_new_never_accepts_both_as_better(seed):
    old, new, human = rows(50, 0.6, 0.8, seed)
    assert not (Gate().decide(old, new, human).accepted and Gate().decide(new, old, human).accepted)


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 0.5}, {"margin": 0.0}, {"min_class": 0}])
def test_a_gate_that_means_nothing_is_refused(options):
    with pytest.raises(ConfigError):
        Gate(**options)


# --- real judges ------------------------------------------------------------------------------------------------


@pytest.fixture
def telecom(shared_data):
    """Verdicts of two prompts on the same 114 telecom runs, and the environment's final check."""
    passes = {"pass", "satisfied", "satisfactory", "compliant", "success"}

    def load(prompt):
        with gzip.open(shared_data / "tau2_telecom" / f"telecom_judge_{prompt}.json.gz") as file:
            entries = json.load(file)["entries"]
        verdicts = [e["judge_verdict"].strip().lower() in passes for e in entries]
        return verdicts, [bool(e["tau2_success"]) for e in entries]

    return load


def test_on_real_runs_the_better_prompt_is_let_through_and_the_worse_is_not(telecom):
    """gpt-4o on telecom: quick triage judges 91 % as the truth says, customer outcome 68 %; 28 against 1 discordant."""
    (worse, truth), (better, _) = telecom("customer_outcome"), telecom("triage")
    forth = Gate().decide(worse, better, truth)
    assert (forth.route, len(forth.comparison.wins), len(forth.comparison.losses)) == ("better", 28, 1)
    back = Gate().decide(better, worse, truth, old_cost=2.10, new_cost=0.01)
    assert not back.accepted
    assert "worse on held-out labels" in back.reason


def test_on_real_runs_two_prompts_that_differ_little_are_not_told_apart(telecom):
    """Two policy prompts, kappa 0.40 and 0.46: no reason to change, and the answer says how many labels are missing."""
    (one, truth), (other, _) = telecom("policy_conv"), telecom("policy_cot")
    decision = Gate().decide(one, other, truth)
    assert not decision.accepted
    assert decision.n_needed > 0
