"""The alternative-annotator test: the judge replaces experts it represents, and not others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust.agreement import Ratings, alt_test, by_rejections


def panel(n=100, experts=4, right=0.8, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)

    def view(rate):
        return np.where(rng.random(n) < rate, truth, rng.integers(0, 3, n))

    ratings = Ratings.collect((i, f"e{e}", int(v)) for e in range(experts) for i, v in enumerate(view(right)))
    return ratings, view


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_false_discovery_control_equals_statsmodels(p_values):
    assert by_rejections(p_values) == multipletests(p_values, 0.05, method="fdr_by")[0].tolist()


def test_a_judge_as_good_as_the_experts_wins_and_a_random_one_loses():
    ratings, view = panel()
    good, random = alt_test(ratings, view(0.9).tolist()), alt_test(ratings, view(0.0).tolist())
    assert good.passed and good.winning_rate == 1.0 and good.advantage > 0.8
    assert not random.passed and random.winning_rate == 0.0 and random.advantage < good.advantage
    assert "wins against 4 of 4" in good.summary and "may not yet" in random.summary


def test_p_values_are_those_of_the_one_sided_t_test():
    ratings, view = panel(n=60, experts=3, seed=2)
    judge = view(0.7).tolist()
    columns = np.array(ratings.values)
    for e, expert in enumerate(alt_test(ratings, judge, epsilon=0.1).experts):
        others = np.delete(columns, e, axis=1)
        ours, theirs = ((others == np.array(v)[:, None]).mean(1) for v in (judge, columns[:, e]))
        gap = (theirs >= ours).astype(float) - (ours >= theirs)
        assert expert[4] == pytest.approx(ttest_1samp(gap, 0.1, alternative="less").pvalue)


def test_by_distance_a_near_miss_counts_more_than_a_far_one():
    ratings = Ratings.collect((i, e, 3 + (i % 2)) for i in range(40) for e in "abc")
    near, far = ([3.5] * 40, [9.0] * 40)
    assert not alt_test(ratings, far, scoring="distance").passed
    assert alt_test(ratings, near, scoring="distance").advantage == alt_test(ratings, far).advantage == 0.0
    exact = [3 + (i % 2) for i in range(40)]
    assert alt_test(ratings, exact, scoring="distance").passed


def test_experts_with_little_overlap_are_skipped_and_named():
    ratings, view = panel(n=50, experts=3)
    more = Ratings.collect(
        [
            (u, r, v)
            for u, row in zip(ratings.units, ratings.values, strict=True)
            for r, v in zip(ratings.raters, row, strict=True)
        ]
        + [(i, "new", 1) for i in range(10)]
    )
    found = alt_test(more, view(0.8).tolist())
    assert found.skipped == ("new",) and len(found.experts) == 3


def test_sessions_count_once():
    ratings, view = panel(n=120, seed=4)
    judge = view(0.75).tolist()
    alone, grouped = alt_test(ratings, judge), alt_test(ratings, judge, clusters=[i // 6 for i in range(120)])
    assert [e[:4] for e in alone.experts] == [e[:4] for e in grouped.experts]
    assert [e[4] for e in alone.experts] != [e[4] for e in grouped.experts]


def test_one_expert_alone_cannot_be_tested():
    with pytest.raises(NotTrustedError, match="another expert"):
        alt_test(Ratings.collect((i, "ann", 1) for i in range(60)), [1] * 60)


def test_bad_arguments_are_refused():
    ratings, view = panel()
    with pytest.raises(ConfigError, match="aligned"):
        alt_test(ratings, [1])
    with pytest.raises(ConfigError, match="epsilon"):
        alt_test(ratings, view(0.8).tolist(), epsilon=1.5)
    words = Ratings.collect((i, e, "yes") for i in range(40) for e in "ab")
    with pytest.raises(ConfigError, match="needs numbers"):
        alt_test(words, ["no"] * 40, scoring="distance")


def test_unscored_traces_are_left_out():
    ratings, view = panel()
    judge = [int(v) if i % 2 else None for i, v in enumerate(view(0.9))]
    assert {e[1] for e in alt_test(ratings, judge).experts} == {50}


def test_outcome_is_json_ready():
    ratings, view = panel()
    assert json.loads(json.dumps(alt_test(ratings, view(0.9).tolist()).to_dict()))["experts"][0]["n"] == 100
