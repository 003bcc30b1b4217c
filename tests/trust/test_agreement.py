"""Agreement: equal to the reference implementations, and careful where there is little to go on."""

from __future__ import annotations

import json

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, matthews_corrcoef, recall_score

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust.agreement import (
    Ratings,
    agreement,
    agreement_by,
    cohen_kappa,
    confusion,
    human_ceiling,
    kappa_gain,
    krippendorff_alpha,
)

pairs = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=60)
binary_pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=80)


def noisy(n=200, seed=0, right=0.85):
    rng = np.random.default_rng(seed)
    human = rng.random(n) < 0.6
    return np.where(rng.random(n) < right, human, ~human).tolist(), human.tolist()


# --- against the reference implementations --------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(pairs, st.sampled_from([None, "linear", "quadratic"]))
def test_kappa_equals_scikit_learn(rows, weighting):
    judge, human = (list(side) for side in zip(*rows, strict=True))
    assume(len({*judge, *human}) > 1)
    expected = cohen_kappa_score(human, judge, labels=[1, 2, 3, 4], weights=weighting)
    assert cohen_kappa(judge, human, weighting=weighting, categories=[1, 2, 3, 4]) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(binary_pairs)
def test_binary_figures_equal_scikit_learn(rows):
    judge, human = (list(side) for side in zip(*rows, strict=True))
    assume(len(set(judge)) == len(set(human)) == 2)
    found = agreement(judge, human)
    assert found.accuracy.value == pytest.approx(accuracy_score(human, judge))
    assert found.mcc.value == pytest.approx(matthews_corrcoef(human, judge))
    assert found.sensitivity.value == pytest.approx(recall_score(human, judge))
    assert found.specificity.value == pytest.approx(recall_score(human, judge, pos_label=False))


@settings(deadline=None, max_examples=30)
@given(pairs)
def test_mcc_of_more_categories_equals_scikit_learn(rows):
    judge, human = (list(side) for side in zip(*rows, strict=True))
    assume(len(set(judge)) > 1 and len(set(human)) > 1)
    assert agreement(judge, human).mcc.value == pytest.approx(matthews_corrcoef(human, judge))


ratings_rows = st.lists(
    st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=3, max_size=3), min_size=2, max_size=25
)


@settings(deadline=None, max_examples=60)
@given(ratings_rows, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_equals_krippendorffs_package(rows, level):
    paired = [[v for v in row if v is not None] for row in rows]
    assume(len({v for row in paired if len(row) > 1 for v in row}) > 1)
    table = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=float).T
    expected = krippendorff.alpha(
        reliability_data=table, level_of_measurement=level, value_domain=np.array([1.0, 2, 3, 4, 5])
    )
    found = krippendorff_alpha(rows, level=level, categories=[1, 2, 3, 4, 5])
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low <= found.value <= found.high <= 1


# --- intervals ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(binary_pairs)
def test_intervals_contain_their_values_and_stay_in_range(rows):
    found = agreement(*(list(side) for side in zip(*rows, strict=True)))
    for measure in (found.kappa, found.accuracy, found.sensitivity, found.specificity, found.mcc):
        if measure.value is not None:
            assert -1 <= measure.low <= measure.value <= measure.high <= 1


def test_sensitivity_interval_is_the_beta_posterior():
    """The margin of a Dirichlet(1/2) posterior is Jeffreys' Beta, so the draws can be checked exactly."""
    from scipy.stats import beta

    found = agreement([True] * 45 + [False] * 55, [True] * 40 + [False] * 5 + [True] * 10 + [False] * 45)
    expected = beta(40.5, 10.5).ppf([0.025, 0.975])
    assert (found.sensitivity.low, found.sensitivity.high) == pytest.approx(expected, abs=0.01)


def test_perfect_agreement_keeps_room_for_doubt_below_only():
    found = agreement([True, False] * 15, [True, False] * 15)
    assert found.kappa.value == found.kappa.high == 1.0
    assert 0.6 < found.kappa.low < 0.95


def test_sessions_widen_the_interval_and_sessions_of_one_change_nothing():
    judge, human = noisy(60)
    alone = agreement(judge, human)
    assert agreement(judge, human, clusters=range(60)) == alone
    assert agreement(judge, human, clusters=[None] * 60) == alone
    judge, human = np.repeat(judge, 5).tolist(), np.repeat(human, 5).tolist()
    naive, grouped = (agreement(judge, human, clusters=c) for c in (None, np.repeat(np.arange(60), 5).tolist()))
    assert grouped.kappa.value == naive.kappa.value
    assert grouped.kappa.high - grouped.kappa.low > 1.8 * (naive.kappa.high - naive.kappa.low)


def test_label_probabilities_undo_labels_stratified_by_verdict():
    """Fails were labelled nine times as often as passes; agreement on the traffic is the weighted one."""
    rng = np.random.default_rng(1)
    human = rng.random(40_000) < 0.85
    judge = np.where(rng.random(40_000) < 0.9, human, ~human)
    chance = np.where(judge, 0.03, 0.27)
    labelled = rng.random(40_000) < chance
    labels = [bool(h) if on else None for h, on in zip(human, labelled, strict=True)]
    truth = cohen_kappa(judge.tolist(), human.tolist())
    blind = agreement(judge.tolist(), labels)
    weighted = agreement(judge.tolist(), labels, label_probabilities=chance.tolist())
    assert abs(blind.kappa.value - truth) > 0.05
    assert weighted.kappa.low < truth < weighted.kappa.high
    assert sum(map(sum, weighted.confusion)) == weighted.n == labelled.sum()


def test_the_same_seed_gives_the_same_interval():
    assert agreement(*noisy()) == agreement(*noisy())


def test_gain_keeps_the_pairing():
    old, human = noisy(150, right=0.7)
    new = [h if i % 2 else o for i, (o, h) in enumerate(zip(old, human, strict=True))]
    gain = kappa_gain(old, new, human)
    assert gain.value == pytest.approx(cohen_kappa(new, human) - cohen_kappa(old, human))
    assert gain.low > 0
    same = kappa_gain(old, old, human)
    assert (same.value, abs(same.low) < 0.03, abs(same.high) < 0.03) == (0.0, True, True)


# --- few labels, one class, gaps ------------------------------------------------------------------------


def test_too_few_labels_answer_how_many_more():
    found = agreement(*noisy(25))
    assert not found.enough and found.needed > 0
    assert found.summary.startswith(f"too few labels (25): {found.needed} more needed for ± 0.2")
    later = agreement(*noisy(25 + found.needed))
    assert (later.kappa.high - later.kappa.low) / 2 < 0.26


def test_even_perfect_agreement_on_a_handful_is_not_enough():
    found = agreement([True, False] * 4, [True, False] * 4)
    assert not found.enough and found.needed >= 12


def test_one_class_only_has_no_kappa_and_says_what_to_label():
    found = agreement([True] * 40, [True] * 40)
    assert found.kappa.value is None and found.mcc.value is None and found.specificity.value is None
    assert found.accuracy.value == 1.0
    assert not found.enough and "one value only (True)" in found.summary
    assert cohen_kappa([True] * 3, [True] * 3) is None


@pytest.mark.parametrize(("judge", "human"), [([], []), ([True, None], [None, False]), ([float("nan")], [True])])
def test_no_pair_has_no_figures(judge, human):
    found = agreement(judge, human)
    assert found.n == 0 and found.kappa.value is None and found.needed is None
    assert "No trace has both" in found.summary


def test_unscored_and_unlabelled_are_counted_apart():
    found = agreement([True, None, False, True], [True, True, None, False])
    assert (found.n, found.n_unscored, found.n_unlabelled) == (2, 1, 1)


def test_rows_are_the_humans_and_columns_the_judges():
    categories, table = confusion(["b", "b", "a"], ["a", "a", "b"])
    assert categories == ("a", "b") and table.tolist() == [[0, 2], [1, 0]]


def test_slices_share_categories_and_take_their_own_sessions():
    judge, human = noisy(90)
    tags = ["de", "en", None] * 30
    found = agreement_by(judge, human, tags, name="resolved", clusters=list(range(90)))
    assert list(found) == ["de", "en", None] and {a.n for a in found.values()} == {30}
    assert found["de"].name == "resolved, de"
    assert found["de"].kappa.value == pytest.approx(cohen_kappa(judge[::3], human[::3]))


@pytest.mark.parametrize(
    ("judge", "human", "options", "message"),
    [
        ([True], [True, False], {}, "aligned by position"),
        (["yes", "no"], [True, False], {}, "never agree"),
        (["yes", "maybe"], ["yes", "no"], {"categories": ["yes", "no"]}, "'maybe'"),
        ([1, 2], [1, 2], {"categories": [1, 1, 2]}, "each given once"),
        ([1, 2], [1, 2], {"weighting": "cubic"}, "linear, quadratic"),
        ([1, 2], [1, 2], {"label_probabilities": [0.5, 0]}, r"\(0, 1\]"),
    ],
)
def test_input_that_would_mislead_is_refused(judge, human, options, message):
    with pytest.raises(ConfigError, match=message):
        agreement(judge, human, **options)


def test_agreement_is_json_ready():
    found = json.loads(json.dumps(agreement(*noisy(50)).to_dict()))
    assert found["kappa"].keys() == {"value", "low", "high"} and found["enough"] in (True, False)


# --- several experts ------------------------------------------------------------------------------------


def test_conflicts_are_kept_and_ties_have_no_consensus():
    ratings = Ratings.collect(
        [("t1", "ann", True), ("t1", "bob", False), ("t2", "ann", True), ("t2", "bob", True), ("t3", "bob", None)]
    )
    assert ratings.units == ("t1", "t2") and ratings.raters == ("ann", "bob")
    assert ratings.consensus() == [None, True]
    assert ratings.conflicts() == {"t1": {"ann": True, "bob": False}}


def test_a_label_given_twice_is_merged_if_equal_and_refused_if_not():
    assert Ratings.collect([("t", "ann", 1), ("t", "ann", 1)]).values == ((1,),)
    with pytest.raises(ConfigError, match="'ann' labelled trace 't' twice"):
        Ratings.collect([("t", "ann", 1), ("t", "ann", 2)])


def test_ceiling_is_pairwise_kappa_for_humans_and_judge_alike():
    rng = np.random.default_rng(3)
    truth = rng.random(300) < 0.5
    sides = {r: np.where(rng.random(300) < 0.9, truth, ~truth) for r in ("a", "b", "c")}
    ratings = Ratings.collect((i, r, bool(v[i])) for r, v in sides.items() for i in range(300))
    judge = [bool(v) for v in np.where(rng.random(300) < 0.9, truth, ~truth)]
    found = human_ceiling(ratings, judge)
    expected = np.mean([cohen_kappa_score(sides[x], sides[y]) for x, y in ("ab", "ac", "bc")])
    assert found.humans == pytest.approx(expected)
    assert found.judge == pytest.approx(np.mean([cohen_kappa_score(judge, v) for v in sides.values()]))
    assert human_ceiling(Ratings.collect([("t", "a", 1)])).humans is None


def test_alpha_without_overlap_or_variation_is_undefined():
    assert krippendorff_alpha([[1, None], [None, 2]]).value is None
    assert krippendorff_alpha([[1, 1], [1, 1]]).value is None
    assert krippendorff_alpha([]).value is None


def test_alpha_refuses_distances_between_words():
    with pytest.raises(ConfigError, match="needs numbers"):
        krippendorff_alpha([["a", "b"]], level="interval")
