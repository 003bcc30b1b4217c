"""Choosing traces to label: optimal, repeatable, and with probabilities that keep estimates unbiased."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust import corrected_kpi, neyman_allocation, stratified_sample


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(4, 30), st.integers(0, 4)), min_size=2, max_size=3), st.integers(0, 12))
def test_no_other_whole_number_allocation_has_less_variance(strata, count):
    sizes = {i: n for i, (n, _) in enumerate(strata)}
    pilot = {i: (good, 4) for i, (_, good) in enumerate(strata)}
    found = neyman_allocation(sizes, count, pilot=pilot)
    count = min(count, sum(sizes.values()) - 4 * len(sizes))
    assert sum(found.values()) == count

    def variance(extra):
        rates = [(pilot[h][0] + 1) / 6 for h in sizes]
        return sum(sizes[h] ** 2 * rates[h] * (1 - rates[h]) / (4 + e) for h, e in enumerate(extra))

    options = (e for e in product(range(count + 1), repeat=len(sizes)) if sum(e) == count)
    best = min(variance(e) for e in options if all(4 + x <= sizes[h] for h, x in enumerate(e)))
    assert variance([found[h] for h in sizes]) == pytest.approx(best)


def test_uncertain_strata_get_the_labels():
    found = neyman_allocation({"pass": 500, "fail": 500}, 100, pilot={"pass": (20, 20), "fail": (10, 20)})
    assert found["fail"] > 2 * found["pass"]


def test_without_a_pilot_labels_are_split_evenly_and_never_exceed_a_stratum():
    assert neyman_allocation({"pass": 900, "fail": 100}, 60) == {"pass": 30, "fail": 30}
    assert neyman_allocation({"pass": 900, "fail": 10}, 60) == {"pass": 50, "fail": 10}
    assert neyman_allocation({"pass": 5, "fail": 10}, 60) == {"pass": 5, "fail": 10}


def test_small_strata_reach_the_minimum_first():
    found = neyman_allocation({"a": 5000, "b": 40, "c": 3}, 9, minimum=3)
    assert found == {"a": 3, "b": 3, "c": 3}
    assert sum(neyman_allocation({"a": 5000, "b": 40, "c": 3}, 2, minimum=3).values()) == 2


@pytest.mark.parametrize(
    ("sizes", "count", "pilot"),
    [({"a": 5}, -1, None), ({"a": 5}, 1, {"a": (1, 6)}), ({"a": 5}, 1, {"b": (1, 1)}), ({"a": -1}, 1, None)],
)
def test_impossible_allocations_are_refused(sizes, count, pilot):
    with pytest.raises(ConfigError, match="An allocation needs"):
        neyman_allocation(sizes, count, pilot=pilot)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["pass", "fail", None]), max_size=60),
    st.integers(0, 40),
    st.integers(0, 3),
)
def test_a_selection_is_repeatable_within_its_strata_and_knows_its_probabilities(strata, count, seed):
    found = stratified_sample(strata, count, seed=seed)
    assert found == stratified_sample(strata, count, seed=seed)
    sizes = Counter(s for s in strata if s is not None)
    assert len(set(found.chosen)) == len(found.chosen) == min(count, sum(sizes.values()))
    taken = Counter(strata[i] for i in found.chosen)
    assert {h: n for h, n in found.allocation.items() if n} == dict(taken)
    for stratum, p in zip(strata, found.probabilities, strict=True):
        assert p == (None if stratum is None else pytest.approx(taken[stratum] / sizes[stratum]))


def test_labelled_traces_are_not_drawn_again_and_count_in_the_probability():
    strata, labels = ["pass"] * 10 + ["fail"] * 10, [True] * 4 + [None] * 6 + [False] * 2 + [None] * 8
    found = stratified_sample(strata, 6, labels=labels)
    assert not {0, 1, 2, 3, 10, 11} & set(found.chosen)
    for at, stratum in ((0, "pass"), (10, "fail")):
        had = 4 if stratum == "pass" else 2
        assert found.probabilities[at] == (had + found.allocation[stratum]) / 10


def test_every_trace_of_a_stratum_is_equally_likely():
    drawn = Counter(i for seed in range(600) for i in stratified_sample(["a"] * 12, 3, seed=seed).chosen)
    assert all(110 < drawn[i] < 190 for i in range(12))


def test_estimates_from_strata_finer_than_the_verdict_are_unbiased_with_the_probabilities():
    """A rare slice is labelled as often as the common one; unweighted, its bad traces would drag the KPI down."""
    rng = np.random.default_rng(0)
    corrected, blind, truths = [], [], []
    for seed in range(20):
        rare = rng.random(1000) < 0.05
        truth = rng.random(1000) < np.where(rare, 0.3, 0.9)
        verdict = np.where(rng.random(1000) < 0.9, truth, ~truth).tolist()
        picked = stratified_sample(list(zip(verdict, rare.tolist(), strict=True)), 160, seed=seed)
        chosen = set(picked.chosen)
        labels = [bool(t) if i in chosen else None for i, t in enumerate(truth)]
        corrected.append(corrected_kpi(verdict, labels, label_probabilities=picked.probabilities).corrected)
        blind.append(corrected_kpi(verdict, labels).corrected)
        truths.append(truth.mean())
    assert abs(np.mean(corrected) - np.mean(truths)) < 0.015
    assert abs(np.mean(blind) - np.mean(truths)) > 0.03
