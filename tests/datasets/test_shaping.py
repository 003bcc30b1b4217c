"""Duplicates, samples and splits as properties; differences against a plain comparison."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.datasets import near, splitting
from mlflow_assay.datasets.diff import diff
from mlflow_assay.datasets.model import SPLITS, About, Dataset, DatasetRow
from mlflow_assay.datasets.near import near_pairs
from mlflow_assay.datasets.shaping import Shaping, shape
from mlflow_assay.datasets.splitting import assign, parse_fractions
from mlflow_assay.datasets.store import open_store
from mlflow_assay.errors import ConfigError

WORDS = ["parcel", "invoice", "router", "contract", "roaming", "voicemail", "tariff", "landline", "refund", "passport"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
found_rows = st.lists(st.tuples(texts, st.sampled_from([None, "a", "b", "c", "d"])), min_size=1, max_size=25)


def versions(*sets: list[DatasetRow]) -> list[Dataset]:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    return [Dataset(store.write(f"d{i}", rows, About()), store) for i, rows in enumerate(sets)]


# --- duplicates ---------------------------------------------------------------------------------------------


@given(found_rows)
@settings(max_examples=30)
def test_each_input_is_kept_once_and_weights_count_all(found):
    rows = [DatasetRow({"q": text}, session=session) for text, session in found]
    with shape(rows, Shaping(duplicates="exact", fractions=None)) as shaped:
        kept = list(shaped.rows())
    assert {r.inputs["q"] for r in kept} == {text for text, _ in found}
    assert len(kept) == len({text for text, _ in found})
    assert sum(r.weight for r in kept) == len(found)


def test_similarity_is_the_share_of_common_grams_without_regard_to_case_and_punctuation():
    said = ["Where is my parcel?", "where IS my parcel!!", "where is my invoice?", "", "x"]
    pairs = {(i, j): s for i, j, s in near_pairs(said, 0.01)}
    assert pairs[0, 1] == 1.0
    assert 0.2 < pairs[0, 2] < 0.8
    assert not any(3 in pair for pair in pairs)
    assert near_pairs(["", " ! "], 0.1) == []


def test_hashing_finds_what_comparing_all_finds(monkeypatch):
    pytest.importorskip("datasketch", reason="pip install 'mlflow-assay[datasets]'")
    said = [f"{' '.join(WORDS[i % 10] + str(i * k) for k in range(1, 9))}" for i in range(60)]
    said += [f"{text} indeed" for text in said[:20]]
    exactly = {(i, j) for i, j, _ in near_pairs(said, 0.8)}
    monkeypatch.setattr(near, "EXACT", 0)
    hashed = {(i, j) for i, j, _ in near_pairs(said, 0.8)}
    assert {(i, i + 60) for i in range(1, 20)} <= exactly
    assert hashed <= exactly
    assert len(hashed) >= 0.9 * len(exactly)


# --- splits -------------------------------------------------------------------------------------------------


def check_apart(assigned, sessions, slices=None):
    """No session and no group is in two splits."""
    for keys in (sessions, assigned.groups):
        met: dict[str, set[str]] = {}
        for key, split in zip(keys, assigned.splits, strict=True):
            if key is not None and split is not None:
                met.setdefault(key, set()).add(split)
        assert all(len(s) == 1 for s in met.values())


@given(st.integers(30, 80), st.integers(0, 1000), st.integers(2, 5))
@settings(max_examples=15)
def test_no_session_and_no_group_is_in_two_splits(n, seed, size):
    said = [f"{WORDS[i % 10]} {chr(97 + i // 10) * 6} {i * 37}" for i in range(n)]
    sessions = [f"s{i // size}" for i in range(n)]
    done = assign([f"{i:032x}" for i in range(n)], sessions, said, [None] * n, fractions=(0.6, 0.2, 0.2), seed=seed)
    check_apart(done, sessions)
    assert set(done.splits) - {None} == set(SPLITS)


def test_many_groups_are_dealt_at_random_within_each_slice(monkeypatch):
    monkeypatch.setattr(splitting, "MANY", 500)
    monkeypatch.setattr(splitting, "_pairs", lambda texts: ([(0, 1, 0.9), (2, 700, 0.9)], "made up"))
    n = 900
    sessions, slices = [f"s{i // 2}" for i in range(n)], ["rare" if i < 60 else "common" for i in range(n)]
    done = assign([f"{i:032x}" for i in range(n)], sessions, [""] * n, slices, fractions=(0.5, 0.25, 0.25), seed=3)
    check_apart(done, sessions)
    assert done.splits[2] == done.splits[700]
    for kind in ("rare", "common"):
        own = [s for s, k in zip(done.splits, slices, strict=True) if k == kind]
        assert abs(own.count("train") / len(own) - 0.5) < 0.08


@pytest.mark.parametrize("text", ["60/20", "a/b/c", "60/20/0", "60/20/-1", ""])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="--split"):
        parse_fractions(text)


def test_shares_are_scaled_and_none_is_none():
    assert parse_fractions("6/2/2") == parse_fractions("60/20/20") == (0.6, 0.2, 0.2)
    assert parse_fractions("none") is None


# --- differences --------------------------------------------------------------------------------------------

held = st.dictionaries(st.integers(0, 12), st.integers(0, 2), max_size=12)


@given(held, held)
@settings(max_examples=40)
def test_a_difference_is_what_a_plain_comparison_finds(before, after):
    sides = [[DatasetRow({"i": i}, v) for i, v in side.items()] for side in (before, after)]
    old, new = versions(*sides)
    found = diff(old, new)
    added, removed = set(after) - set(before), set(before) - set(after)
    changed = {i for i in set(after) & set(before) if after[i] != before[i]}
    assert (found.added, found.removed, found.changed) == (len(added), len(removed), len(changed))
    assert found.same == len(after) - len(added) - len(changed)
    assert found.equal == (before == after)
    listed = {
        kind: {(c.new or c.old).inputs["i"] for c in found.changes() if c.kind == kind}
        for kind in ("added", "removed", "changed")
    }
    assert listed == {"added": added, "removed": removed, "changed": changed}
    assert found.changed_fields() == ({"outputs": len(changed)} if changed else {})
