from __future__ import annotations

import math

import pytest

from mlflow_assay.demo.expert import ERROR_RATE, INSIST_RATE, opinion


@pytest.fixture(scope="module")
def opinions(faulty):
    """Ten simulated experts on every trace."""
    return [(turn, opinion(turn, expert=f"simulated-{n}")) for turn in faulty for n in range(10)]


def _within(count, total, rate):
    """Whether a count is within 4.4 standard errors of its rate (1 in 100,000 by chance)."""
    return abs(count - total * rate) <= 4.4 * math.sqrt(total * rate * (1 - rate)) + 1


def test_the_expert_errs_at_the_stated_rate(opinions):
    assert _within(sum(said.mistaken for _, said in opinions), len(opinions), ERROR_RATE)


def test_where_not_mistaken_the_thumb_is_the_truth_unless_two_desks_would_do(opinions):
    for turn, said in opinions:
        if not said.mistaken and turn.reply.route not in turn.request.also:
            assert said.correct is not turn.misrouted


def test_on_requests_with_two_right_desks_the_expert_insists_at_the_stated_rate(opinions):
    second = [said for turn, said in opinions if turn.reply.route in turn.request.also and not said.mistaken]

    assert len(second) >= 50
    assert _within(sum(not said.correct for said in second), len(second), INSIST_RATE)


def test_the_expected_route_agrees_with_the_thumb_and_the_rationale_names_it(opinions):
    for turn, said in opinions:
        assert said.correct is (said.expected == turn.reply.route)
        if not said.correct:
            assert said.expected.replace("_", " ") in said.rationale.lower()
        if not said.correct and not said.mistaken:
            assert said.expected == turn.request.desk


def test_a_mistaken_label_is_the_wrong_way_round(opinions):
    wrong = [(t, said) for t, said in opinions if said.mistaken and t.reply.route not in t.request.also]

    assert wrong
    assert all(said.correct is turn.misrouted for turn, said in wrong)


def test_rationales_are_varied(opinions):
    assert len({said.rationale for _, said in opinions}) > 100


def test_an_opinion_depends_on_expert_and_seed_only(faulty):
    ours = [opinion(t) for t in faulty]

    assert ours == [opinion(t) for t in faulty]
    assert [o.mistaken for o in ours] != [opinion(t, expert="simulated-other").mistaken for t in faulty]
    assert [o.mistaken for o in ours] != [opinion(t, seed=99).mistaken for t in faulty]
