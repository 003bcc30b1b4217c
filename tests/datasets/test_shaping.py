"""Duplicates, samples and splits as properties; differences against a plain comparison."""

from __future__ import annotations

import random
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.datasets import near as near_module
from mlflow_assay.datasets import splitting
from mlflow_assay.datasets.dataset import Dataset
from mlflow_assay.datasets.diff import diff
from mlflow_assay.datasets.model import SPLITS, About, DatasetRow
from mlflow_assay.datasets.near import near_pairs
from mlflow_assay.datasets.shaping import Shaping, shape
from mlflow_assay.datasets.splitting import assign, parse_fractions
from mlflow_assay.datasets.store import open_store
from mlflow_assay.datasets.texts import Texts
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local.groups import group

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


def some_texts(seed: int, n: int, length: int) -> list[str]:
    """Texts of made-up words, and of every third one a copy with some of its words replaced."""
    rng = random.Random(seed)  # noqa: S311 - test data
    words = ["".join(rng.choices("abcdefghijklmnopü", k=rng.randint(2, 9))) for _ in range(500)]
    said = [rng.choices(words, k=length) for _ in range(n)]
    copies = [[rng.choice(words) if rng.random() < 0.07 * (i % 4) else w for w in t] for i, t in enumerate(said[::3])]
    return [" ".join(t) for t in (*said, *copies)]


@pytest.mark.parametrize("near", [0.5, 0.8])
@pytest.mark.parametrize("length", [4, 40, 600])
def test_hashing_finds_what_comparing_all_finds(monkeypatch, near, length):
    said = [*some_texts(length, 150, length), "", "x", "x!", " ? "]
    exactly = {(i, j) for i, j, _ in near_pairs(said, near)}
    monkeypatch.setattr(near_module, "EXACT", 0)
    hashed = {(i, j) for i, j, _ in near_pairs(said, near)}
    assert len(exactly) > 20
    assert hashed <= exactly
    assert len(hashed) >= 0.95 * len(exactly)


def test_a_crowd_of_like_texts_is_linked_without_comparing_each_with_each(monkeypatch):
    compared = []
    checked = near_module._checked

    def counting(texts, pairs, near):
        compared.append(len(pairs))
        return checked(texts, pairs, near)

    monkeypatch.setattr(near_module, "_checked", counting)
    monkeypatch.setattr(near_module, "EXACT", 0)
    said = [f"my router blinks red since monday and i cannot work from home, ticket {i}" for i in range(1500)]
    pairs = near_pairs(said, 0.6)
    assert set(group([None] * len(said), pairs).codes.tolist()) == {0}
    assert compared[0] < len(said) * (len(said) - 1) / 2 / 3


def test_texts_on_disk_are_those_that_were_put_there(tmp_path):
    kept = ["", "ä", "\ud800 half a pair", "x" * 100_000]
    with Texts(tmp_path / "texts") as texts:
        for text in kept:
            texts.append(text)
        assert list(texts) == texts[:] == kept
        assert list(texts.at(np.array([3, 0]))) == [kept[3], kept[0]]


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
