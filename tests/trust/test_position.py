"""Position swap: a judge that looks at the answers keeps its winner, one that looks at the place does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust.position import position_swap

MIRROR = {"first": "second"}
TURNED = {"first": "second", "second": "first", "tie": "tie"}
CHOICES = st.lists(st.sampled_from(["first", "second", "tie"]), min_size=1, max_size=60)


@given(CHOICES)
def test_a_judge_that_keeps_its_winner_is_wholly_consistent(choices):
    found = position_swap(choices, [TURNED[c] for c in choices], MIRROR)
    assert (found.consistent, found.for_first, found.for_second) == (1.0, 0, 0)
    assert found.high == pytest.approx(1.0)


@given(CHOICES)
def test_swapping_both_the_order_and_the_names_changes_nothing(choices):
    """Which run is called the original does not matter."""
    other = list(reversed(choices))
    a, b = position_swap(choices, other, MIRROR), position_swap(other, choices, MIRROR)
    assert (a.consistent, a.for_first, a.for_second) == (b.consistent, b.for_first, b.for_second)


def test_a_judge_that_always_takes_the_first_place_is_found_out():
    found = position_swap(["first"] * 20, ["first"] * 20, MIRROR)
    assert (found.consistent, found.for_first) == (0.0, 20)
    assert found.p_value == pytest.approx(2 * 0.5**20)


def test_unscored_sides_are_left_out_and_counted():
    found = position_swap(["first", None, "tie"], ["second", "first", None], MIRROR)
    assert (found.n, found.n_dropped, found.consistent) == (1, 2, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "mirror"), [(["first"], [], MIRROR), ([None], ["tie"], MIRROR), (["first"], ["first"], {"x": "x"})]
)
def test_what_cannot_be_compared_is_an_error(a, b, mirror):
    with pytest.raises(ConfigError):
        position_swap(a, b, mirror)
