"""Splits: sessions and near-duplicates stay together, and nothing linked to a test trace is in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.judges.local.crossval import group_folds
from mlflow_assay.judges.local.groups import group, near_duplicates


def test_edited_copies_are_near_duplicates_and_other_questions_are_not():
    texts = [
        "Is the Kite Pro available in green, and with 256 GB?",
        "Hi, is the Pulse 3 available in green, and with 256 GB? Thanks!",
        "Why did I get a late fee? I always pay on time!",
        "",
        "",
    ]
    assert [(i, j) for i, j, _ in near_duplicates(texts)] == [(0, 1)]


def test_no_text_at_all_gives_no_pairs():
    assert near_duplicates(["", "  "]) == []


def test_sessions_and_near_duplicates_are_united_transitively():
    found = group(["a", "a", None, None, "b"], [(1, 2, 0.9), (2, 3, 0.7)])
    assert found.codes.tolist() == [0, 0, 0, 0, 1]
    assert (found.count, found.duplicates, len(found.cut)) == (2, 3, 0)


def test_the_most_similar_are_united_first_and_what_a_cap_parts_is_purged():
    found = group([None] * 4, [(0, 1, 0.7), (1, 2, 0.9), (2, 3, 0.8)], cap=2)
    assert found.codes[1] == found.codes[2]
    assert sorted(map(tuple, found.cut.tolist())) == [(0, 1), (2, 3)]
    train, test = np.array([1, 2]), np.array([0, 3])
    assert found.allowed(train, test).size == 0


def test_a_cap_never_splits_a_session():
    assert group(["s"] * 5, [], cap=2).count == 1


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(12, 60))
def test_no_fold_trains_on_a_session_mate_or_near_duplicate_of_what_it_tests(data, n):
    sessions = data.draw(st.lists(st.one_of(st.none(), st.integers(0, n // 2).map(str)), min_size=n, max_size=n))
    places = st.integers(0, n - 1)
    drawn = data.draw(st.lists(st.tuples(places, places), max_size=n))
    pairs = [(min(p), max(p), 0.6 + 0.01 * k) for k, p in enumerate(drawn) if p[0] != p[1]]
    passed = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    _, folds = group_folds(passed, sessions, pairs, seed=0)
    linked = {frozenset(p[:2]) for p in pairs}
    linked |= {frozenset((i, j)) for i in range(n) for j in range(i) if sessions[i] and sessions[i] == sessions[j]}
    tested = sorted(int(i) for _, test in folds for i in test)
    assert tested == (list(range(n)) if folds else [])
    for train, test in folds:
        assert not [p for p in linked if len(p & set(train.tolist())) == 1 and len(p & set(test.tolist())) == 1]


def test_a_class_in_one_group_only_cannot_be_checked():
    passed = np.array([True, True, False, False])
    assert group_folds(passed, [None, None, "s", "s"], [], seed=0)[1] == []


@pytest.mark.parametrize("n", [30, 200])
def test_chained_sessions_do_not_become_one_giant_fold(n):
    """Each session shares a wording with the next: all would be one group."""
    sessions = [f"s{i // 2}" for i in range(n)]
    pairs = [(i, i + 1, 0.8) for i in range(1, n - 1, 2)]
    passed = np.arange(n) % 3 > 0
    groups, folds = group_folds(passed, sessions, pairs, seed=0)
    assert len(folds) == 5
    assert np.bincount(groups.codes).max() <= n // 3
    assert min(train.size for train, _ in folds) > n // 2
