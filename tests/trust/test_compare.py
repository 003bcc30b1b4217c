"""Paired comparison: exact where it can be, clustered where it must be, and plain about what it shows."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust import _paired, detectable_difference, labels_needed, rows_needed
from mlflow_assay.trust._paired import (
    bootstrap_interval,
    sign_flip,
    sign_flip_exact,
    tango_interval,
    tango_statistic,
)
from mlflow_assay.trust.compare import (
    compare,
    compare_pass_k,
    corrected_difference,
    holm,
    holm_adjust,
    mcnemar_exact,
    pass_k,
    pass_k_values,
)

verdict_pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


def wins_and_losses(wins, losses, ties):
    return [False] * wins + [True] * losses + [True] * ties, [True] * wins + [False] * losses + [True] * ties


# --- tests and intervals --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_statsmodels(wins, losses):
    expected = mcnemar([[5, wins], [losses, 7]], exact=True).pvalue
    assert mcnemar_exact(wins, losses) == pytest.approx(min(1.0, expected))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_the_exact_sign_flip_test_is_the_enumeration_of_all_flips(sums):
    sums = np.array(sums)
    flips = [abs(int(np.dot(signs, sums))) >= abs(int(sums.sum())) for signs in product((-1, 1), repeat=sums.size)]
    assert sign_flip_exact(sums) == pytest.approx(np.mean(flips))
    assert sign_flip(sums.astype(float)) == pytest.approx(np.mean(flips))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(0, 40))
def test_without_repeats_the_sign_flip_test_is_mcnemars(wins, losses):
    assert sign_flip_exact(np.array([1] * wins + [-1] * losses)) == pytest.approx(mcnemar_exact(wins, losses))


def test_the_limit_for_many_clusters_joins_on_smoothly(monkeypatch):
    """With many clusters the normal limit takes over; at the seam it agrees with what it replaces."""
    rng = np.random.default_rng(0)
    sums, clusters = rng.integers(-2, 3, 900) + (rng.random(900) < 0.08), np.arange(900)
    exact, drawn = sign_flip_exact(sums), sign_flip(sums.astype(float))
    interval = bootstrap_interval(sums.astype(float), clusters, 0.95)
    monkeypatch.setattr(_paired, "_LARGE", 100)
    assert sign_flip_exact(sums) == pytest.approx(exact, abs=0.01)
    assert sign_flip(sums.astype(float)) == pytest.approx(drawn, abs=0.01)
    assert bootstrap_interval(sums.astype(float), clusters, 0.95) == pytest.approx(interval, abs=0.01)


def test_random_sign_flips_approach_the_exact_p():
    sums = np.random.default_rng(0).integers(-3, 5, 30)
    assert sign_flip(sums.astype(float)) == pytest.approx(sign_flip_exact(sums), abs=0.01)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_tangos_interval_contains_the_difference_mirrors_and_solves_its_equation(wins, losses, ties):
    n = wins + losses + ties
    assume(n > 0)
    low, high = tango_interval(wins, losses, n, 0.95)
    assert -1 <= low <= (wins - losses) / n <= high <= 1
    assert tango_interval(losses, wins, n, 0.95) == pytest.approx((-high, -low), abs=1e-6)
    for end, z in ((low, 1.959964), (high, -1.959964)):
        if abs(end) < 0.999:
            assert tango_statistic(wins, losses, n, end) == pytest.approx(z, abs=1e-3)
    if wins + losses:
        assert tango_statistic(wins, losses, n, 0) == pytest.approx((wins - losses) / np.sqrt(wins + losses))


@settings(deadline=None, max_examples=40)
@given(verdict_pairs)
def test_a_comparison_mirrors_when_the_versions_change_places(rows):
    a, b = (list(side) for side in zip(*rows, strict=True))
    there, back = compare(a, b), compare(b, a)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert there.p_value == back.p_value and there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-6)
    assert {there.outcome, back.outcome} in ({"better", "worse"}, {"inconclusive"})


def test_sessions_that_repeat_weaken_the_evidence_and_sessions_of_one_do_not():
    a, b = wins_and_losses(12, 2, 36)
    plain = compare(a, b)
    assert compare(a, b, clusters=range(50)) == plain
    grouped = compare(np.repeat(a, 4).tolist(), np.repeat(b, 4).tolist(), clusters=np.repeat(range(50), 4).tolist())
    assert grouped.p_value == pytest.approx(plain.p_value)  # four copies of a session are one session
    assert grouped.method == "sign-flip-exact"
    assert grouped.low <= plain.low + 0.01 and grouped.high >= plain.high - 0.01
    assert any("200 pairs count as" in n for n in grouped.notes)


@pytest.mark.parametrize("clusters", [None, [i // 2 for i in range(60)]])
def test_scores_are_compared_by_sign_flips_and_a_bootstrap_close_to_students_interval(clusters):
    from scipy import stats

    rng = np.random.default_rng(6)
    a = rng.normal(3, 1, 60)
    b = a + rng.normal(0.3, 0.8, 60)
    found = compare(a.tolist(), b.tolist(), clusters=clusters)
    gap = (b - a) if clusters is None else (b - a).reshape(30, 2).mean(1)
    expected = stats.ttest_1samp(gap, 0)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.015)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), abs=0.05)
    assert compare(a.tolist(), b.tolist(), clusters=clusters) == found


def test_where_less_is_better_fewer_is_a_win():
    rng = np.random.default_rng(1)
    slow = rng.normal(5, 0.3, 40)
    found = compare(
        slow.tolist(), (slow - 1 + rng.normal(0, 0.1, 40)).tolist(), better="lower", margin=0.5, name="turns"
    )
    assert found.outcome == "better" and len(found.wins) == 40 and found.non_inferior
    with pytest.raises(ConfigError, match="always the better"):
        compare([True], [False], better="lower")


# --- verdicts -------------------------------------------------------------------------------------------


def test_the_verdict_says_who_won_by_how_much_and_how_sure():
    found = compare(*wins_and_losses(12, 0, 28), name="resolved", margin=0.05)
    assert found.verdict.startswith("resolved: B is better: +30.0 points [")
    assert "12 wins, 0 losses, 28 ties in 40 pairs, p = 0.00049" in found.verdict
    assert found.non_inferior and "is ruled out" in found.verdict


def test_no_difference_shown_says_how_many_rows_would_show_five_points():
    found = compare(*wins_and_losses(3, 2, 45), margin=0.02)
    assert found.outcome == "inconclusive" and not found.non_inferior
    assert f"{found.n_needed} more rows are needed to see 5 points" in found.verdict
    assert found.n_needed == rows_needed(0.05, variance=5.5 / 51) - 50


def test_non_inferior_without_being_better():
    found = compare(*wins_and_losses(20, 22, 1958), margin=0.03)
    assert found.outcome == "inconclusive" and found.non_inferior


def test_wins_and_losses_carry_the_ids_given():
    found = compare([True, False, None, True], [False, True, True, True], ids=["t1", "t2", "t3", "t4"])
    assert (found.wins, found.losses, found.ties, found.n, found.n_dropped) == (("t2",), ("t1",), 1, 3, 1)


@pytest.mark.parametrize(("a", "b"), [([], []), ([None], [True]), ([float("nan")], [1.5])])
def test_no_usable_pair_is_inconclusive_without_numbers(a, b):
    found = compare(a, b)
    assert (found.n, found.p_value, found.difference, found.outcome) == (0, None, None, "inconclusive")
    assert "no pair" in found.verdict


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([True], [True, False], {}, "aligned by position"),
        ([True], ["yes"], {}, "not a number"),
        ([1, 2], [2, 3], {"kind": "share"}, "not a pass/fail"),
        ([True], [False], {"margin": 0}, "margin must be above 0"),
        ([True], [False], {"effect": -1}, "effect must be above 0"),
        ([True], [False], {"better": "bigger"}, "Unknown direction"),
    ],
)
def test_input_that_cannot_be_compared_is_named(a, b, options, message):
    with pytest.raises(ConfigError, match=message):
        compare(a, b, **options)


def test_a_comparison_is_json_ready():
    rng = np.random.default_rng(0)
    a, b = (rng.random(60) < 0.5).tolist(), (rng.random(60) < 0.7).tolist()
    found = compare(a, b, labels_a=a, labels_b=b, margin=0.05)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["corrected"]["method"] == "jps-paired" and data["verdict"] == found.verdict


# --- several judges -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=6)  # statsmodels takes a second over one
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_equals_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_win_that_does_not_survive_adjustment_is_no_win():
    lucky, plain = compare(*wins_and_losses(7, 0, 40), name="a"), compare(*wins_and_losses(4, 3, 40), name="b")
    empty = compare([], [], name="c")
    adjusted = holm_adjust([lucky, *[plain] * 4, empty])
    assert lucky.outcome == "better" and adjusted[0].outcome == "inconclusive"
    assert "Holm-adjusted p" in adjusted[0].verdict
    assert adjusted[-1] == empty


# --- corrected difference -------------------------------------------------------------------------------


def biased_world(n, seed, labelled):
    """The judge is lenient with B only: it sees a gain where there is none."""
    rng = np.random.default_rng(seed)
    truth_a = rng.random(n) < 0.6
    truth_b = np.where(rng.random(n) < 0.15, rng.random(n) < 0.6, truth_a)
    a = np.where(rng.random(n) < 0.9, truth_a, ~truth_a)
    b = np.where(~truth_b & (rng.random(n) < 0.4), True, truth_b)
    on = rng.permutation(n) < labelled
    labels = [[bool(t) if o else None for t, o in zip(v, on, strict=True)] for v in (truth_a, truth_b)]
    return a.tolist(), b.tolist(), labels


def test_labels_of_both_versions_correct_a_difference_the_judge_invented():
    a, b, labels = biased_world(600, 0, 150)
    found = compare(a, b, labels_a=labels[0], labels_b=labels[1])
    assert found.outcome == "better" and found.difference > 0.1
    assert found.corrected.low < 0 < found.corrected.high
    assert found.corrected.n_labelled == 150


def test_corrected_difference_covers_the_truth():
    covered = 0
    for seed in range(100):
        a, b, labels = biased_world(300, seed, 60)
        found = corrected_difference(a, b, *labels)
        covered += found.low <= 0 <= found.high
    assert covered >= 90


def test_too_few_pairs_labelled_leave_the_difference_as_judged_and_say_so():
    a, b, labels = biased_world(100, 0, 19)
    found = compare(a, b, labels_a=labels[0], labels_b=labels[1])
    assert found.corrected is None and any("Not corrected" in n for n in found.notes)
    with pytest.raises(NotTrustedError, match="19 pairs"):
        corrected_difference(a, b, *labels)


def test_all_labelled_pairs_gained_or_lost_reach_the_border():
    won = corrected_difference([0] * 40, [1] * 40, [0] * 25 + [None] * 15, [1] * 25 + [None] * 15)
    lost = corrected_difference([1] * 40, [0] * 40, [1] * 25 + [None] * 15, [0] * 25 + [None] * 15)
    assert won.high == 1.0 and won.low > 0.5
    assert lost.low == -1.0 and lost.high < -0.5


# --- trials and planning --------------------------------------------------------------------------------


def test_pass_k_is_the_unbiased_count_of_all_passing_subsets():
    trials, tasks = [1, 1, 1, 0, 1, 0], ["a"] * 4 + ["b"] * 2
    assert pass_k_values(trials, tasks, 2) == {"a": 3 / 6, "b": 0.0}
    assert pass_k_values(trials, tasks, 3) == {"a": 1 / 4}
    estimate = pass_k([*trials, None], [*tasks, "b"], 3)
    assert estimate.raw == 0.25 and estimate.n_unscored == 1
    assert any("1 tasks with fewer than 3" in a for a in estimate.assumptions)


def test_pass_1_is_the_mean_over_tasks_and_pass_k_falls_with_k():
    rng = np.random.default_rng(0)
    rates = rng.beta(3, 1, 50)
    trials, tasks = (rng.random((50, 4)) < rates[:, None]).ravel().tolist(), np.repeat(np.arange(50), 4).tolist()
    found = [pass_k(trials, tasks, k) for k in (1, 2, 3, 4)]
    assert found[0].raw == pytest.approx(np.mean(trials))
    assert [f.raw for f in found] == sorted((f.raw for f in found), reverse=True)
    assert all(0 <= f.low <= f.raw <= f.high <= 1 for f in found)


@pytest.mark.parametrize("passed", [0, 1])
def test_pass_k_at_the_border_keeps_an_interval(passed):
    found = pass_k([passed] * 40, [i // 4 for i in range(40)], 4)
    assert found.raw == passed and 0.2 < found.high - found.low < 0.4


def test_pass_k_without_enough_trials_has_no_number():
    assert pass_k([1, 1], ["a", "b"], 2).raw is None
    with pytest.raises(ConfigError, match="k of 1 or more"):
        pass_k([1], ["a"], 0)


def test_pass_k_is_compared_task_by_task():
    tasks = [i // 4 for i in range(80)]
    a, b = [i % 4 != 0 for i in range(80)], [i % 4 != 0 or i % 8 == 0 for i in range(80)]
    found = compare_pass_k(a, tasks, b, tasks, 4, name="pass^4")
    assert found.n == 20 and found.difference == 0.5 and found.outcome == "better"


def test_rows_needed_give_the_power_promised():
    rng = np.random.default_rng(0)
    n = rows_needed(0.1, variance=0.25)
    wins = rng.binomial(n, [0.175] * 4000)
    losses = rng.binomial(n - wins, 0.075 / (1 - 0.175))
    shown = np.abs(wins - losses) / np.sqrt(np.maximum(wins + losses, 1)) > 1.96
    assert np.mean(shown & (wins > losses)) == pytest.approx(0.8, abs=0.03)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 1), st.integers(30, 5000))
def test_the_detectable_difference_needs_about_the_rows_there_are(variance, n):
    found = detectable_difference(n, variance=variance)
    assume(found is not None)
    assert rows_needed(found, variance=variance) <= n < rows_needed(found * 0.97, variance=variance)


def test_label_planning_reproduces_the_measured_table():
    """p = .75, 5 points: 288 labels without a judge's help, 216, 147 and 104 at correlations .5, .7, .8."""
    found = [labels_needed(0.05, rate=0.75, correlation=r) for r in (0, 0.5, 0.7, 0.8)]
    assert found == pytest.approx([288, 216, 147, 104], abs=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: rows_needed(0, variance=0.2),
        lambda: rows_needed(0.1, variance=0.2, power=1),
        lambda: detectable_difference(0, variance=0.2),
        lambda: labels_needed(0),
        lambda: labels_needed(0.1, correlation=2),
    ],
)
def test_planning_refuses_impossible_wishes(call):
    with pytest.raises(ConfigError):
        call()
