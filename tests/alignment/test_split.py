"""The split: groups stay whole, the parts are fair, and nothing near the test is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.alignment.split import PARTS, split
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges.local.groups import near_duplicates


def apart(n):
    """Texts that resemble one another in nothing."""
    rng = np.random.default_rng(0)
    return ["".join(chr(97 + c) for c in rng.integers(0, 26, 30)) for _ in range(n)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=12, max_size=80),
    st.integers(0, 5),
)
def test_a_session_is_in_one_part_only_and_no_row_is_lost(rows, seed):
    passed, sessions = [p for p, _ in rows], [f"s{s}" for _, s in rows]
    try:
        found = split(passed, sessions, [""] * len(rows), seed=seed)
    except NotTrustedError:
        assert len(set(sessions)) < 3
        return
    parts = [set(getattr(found, name)) for name in PARTS]
    assert sorted(i for part in parts for i in part) == list(range(len(rows)))
    in_part = [{sessions[i] for i in part} for part in parts]
    assert not (in_part[0] & in_part[1] or in_part[0] & in_part[2] or in_part[1] & in_part[2])
    assert all(parts)


def test_near_duplicates_of_the_test_are_never_learnt_from():
    """Twenty requests, each worded three ways: wherever one wording is tested, none of the others is trained on."""
    texts = [f"{text} {extra}" for text in apart(20) for extra in ("please", "please!", "pleasee")]
    passed = [i % 2 == 0 for i in range(60)]
    found = split(passed, [None] * 60, texts)
    later = {*found.validation, *found.test}
    linked = {(i, j) for i, j, _ in near_duplicates(texts)}
    assert found.near_duplicates == 60
    assert not [(i, j) for i, j in linked if (i in found.train) != (j in found.train) and (i in later or j in later)]
    assert not [(i, j) for i, j in linked if {i, j} & set(found.test) and {i, j} & set(found.validation)]


def test_the_very_same_request_is_on_one_side_whatever_was_answered():
    requests = [text for text in apart(15) for _ in range(4)]
    found = split([i % 2 == 0 for i in range(60)], [None] * 60, apart(60), requests=requests)
    sides = [{requests[i] for i in getattr(found, name)} for name in PARTS]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert not found.purged


def test_a_wording_that_everybody_shares_is_cut_and_purged_rather_than_one_giant_group():
    texts = ["my phone has no signal since this morning"] * 25 + apart(35)
    found = split([i % 2 == 0 for i in range(60)], [f"s{i}" for i in range(60)], texts)
    assert found.test
    assert not {*found.train, *found.validation} & set(range(25)) or not set(found.test) & set(range(25))
    assert found.purged


def test_both_kinds_of_label_are_in_every_part_in_the_same_share():
    passed = [i % 4 == 0 for i in range(200)]
    found = split(passed, [f"s{i // 2}" for i in range(200)], [""] * 200)
    for name, fraction in zip(PARTS, (0.4, 0.2, 0.4), strict=True):
        rows = getattr(found, name)
        assert len(rows) == pytest.approx(200 * fraction, abs=4)
        assert sum(passed[i] for i in rows) == pytest.approx(len(rows) / 4, abs=2)


def test_corrections_of_verdicts_teach_but_never_test():
    """They were picked because the judge looked wrong: tested on them, any change looks better."""
    pinned = [i < 30 for i in range(90)]
    found = split([i % 2 == 0 for i in range(90)], [f"s{i // 3}" for i in range(90)], [""] * 90, only_train=pinned)
    assert set(range(30)) <= set(found.train)


def test_the_seed_decides_and_nothing_else():
    rows = [i % 3 == 0 for i in range(60)], [f"s{i // 2}" for i in range(60)], [""] * 60
    assert split(*rows, seed=4) == split(*rows, seed=4)
    assert split(*rows, seed=4).test != split(*rows, seed=5).test


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_groups_are_refused(n):
    with pytest.raises(NotTrustedError):
        split([True] * n, [None] * n, [""] * n)


def test_one_session_cannot_be_split():
    with pytest.raises(NotTrustedError, match="in 1 groups"):
        split([True, False] * 10, ["s"] * 20, [""] * 20)


@pytest.mark.parametrize(("sessions", "texts", "fractions"), [(3, 4, (1, 1, 1)), (4, 3, (1, 1, 1)), (4, 4, (1, 0, 1))])
def test_input_that_does_not_fit_is_refused(sessions, texts, fractions):
    with pytest.raises(ConfigError):
        split([True] * 4, [None] * sessions, [""] * texts, fractions=fractions)
