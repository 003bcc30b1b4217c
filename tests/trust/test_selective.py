"""Thresholds of a cascade: what is guaranteed holds in simulation, and too little evidence opens nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust.selective import calibrate_cascade, clopper_pearson_lower, labels_for_gate

DELTA = 0.1


@given(st.integers(1, 300), st.data(), st.floats(0.001, 0.5))
@settings(deadline=None, max_examples=60)
def test_the_bound_is_scipys_exact_one(trials, data, delta):
    successes = data.draw(st.integers(0, trials))
    exact = stats.binomtest(successes, trials, alternative="greater").proportion_ci(1 - delta, method="exact").low
    assert clopper_pearson_lower(successes, trials, delta) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("agreement", "delta"), [(0.9, 0.05), (0.8, 0.05), (0.95, 0.01)])
def test_the_fewest_labels_are_those_at_which_the_bound_passes(agreement, delta):
    n = labels_for_gate(agreement, delta)
    assert clopper_pearson_lower(n, n, delta) >= agreement > clopper_pearson_lower(n - 1, n - 1, delta)


def rate(confidence, top, bottom, knee=0.6):
    """True agreement at a confidence: from `bottom` rising to `top`, flat from `knee` on."""
    return bottom + (top - bottom) * np.minimum(1, confidence / knee)


def agreement_above(threshold, top, bottom):
    """True agreement of what is accepted, for confidences spread evenly over [0, 1]."""
    grid = np.linspace(threshold, 1, 400) if threshold < 1 else np.array([1.0])
    return rate(grid, top, bottom).mean()


@pytest.mark.parametrize(("top", "bottom"), [(0.9, 0.9), (0.93, 0.5), (0.99, 0.5), (0.85, 0.4)])
def test_accepted_verdicts_agree_as_stated_but_for_delta(top, bottom):
    """Over many samples of 150 labels, the true agreement falls below the aim in at most a share delta."""
    draw, broken, repeats = np.random.default_rng(7), 0, 400
    # (0.9, 0.9): agreement just at the aim everywhere would never break it; a hair below it is the worst case.
    top, bottom = (top - 1e-6, bottom - 1e-6) if top == bottom else (top, bottom)
    for _ in range(repeats):
        confidence = draw.random(150)
        agrees = draw.random(150) < rate(confidence, top, bottom)
        (gate,) = calibrate_cascade([confidence.tolist()], [agrees.tolist()], agreement=0.9, delta=DELTA).gates
        broken += gate.threshold is not None and agreement_above(gate.threshold, top, bottom) < 0.9
    assert broken / repeats <= DELTA + 2.6 * np.sqrt(DELTA * (1 - DELTA) / repeats)


def test_a_cascade_of_two_gated_tiers_keeps_the_promise_together():
    """The second tier sees only what the first, chosen on the same labels, hands on."""
    draw, broken, repeats, answered = np.random.default_rng(11), 0, 250, []
    pool_hard = draw.random(40_000)  # how hard each row of a big pool is; both judges suffer from it

    def rows(hard):
        confidence = [np.clip(1 - hard + draw.normal(0, noise, hard.size), 0, 1) for noise in (0.3, 0.15)]
        agrees = [draw.random(hard.size) < 0.5 + 0.5 * (1 - hard) ** power for power in (0.5, 0.3)]
        return confidence, agrees

    pool_sure, pool_right = rows(pool_hard)
    for _ in range(repeats):
        confidence, agrees = rows(draw.random(250))
        found = calibrate_cascade(
            [c.tolist() for c in confidence], [a.tolist() for a in agrees], agreement=0.85, delta=DELTA
        )
        left, bad = np.ones(pool_hard.size, dtype=bool), False
        for gate, sure, right in zip(found.gates, pool_sure, pool_right, strict=True):
            taken = left & (sure >= gate.threshold) if gate.threshold is not None else np.zeros_like(left)
            bad |= bool(taken.any()) and right[taken].mean() < 0.85
            left &= ~taken
        broken += bad
        answered.append(found.answered)
    assert broken / repeats <= DELTA + 2.6 * np.sqrt(DELTA * (1 - DELTA) / repeats)
    assert np.mean(answered) > 0.2  # the promise is not kept by never answering


def test_good_judges_get_to_answer_most():
    draw = np.random.default_rng(3)
    confidence = draw.random(300)
    agrees = draw.random(300) < rate(confidence, 0.995, 0.6, knee=0.4)
    found = calibrate_cascade([confidence.tolist()], [agrees.tolist()], agreement=0.9)
    assert found.supported
    assert found.answered >= 0.5
    assert "tier 1 answers from a confidence of" in found.summary


def test_a_confident_judge_that_is_wrong_never_answers():
    confidence = [0.99] * 200
    found = calibrate_cascade([confidence], [[n % 3 > 0 for n in range(200)]])
    assert not found.supported
    assert found.gates[0].accepted == 200
    assert "tier 1 never answers (134 of 200 agree, at least" not in found.summary  # 133 do
    assert "tier 1 never answers (133 of 200 agree, at least" in found.summary


def test_too_few_labels_open_nothing_and_say_how_many_it_takes():
    found = calibrate_cascade([[0.99] * 20], [[True] * 20], agreement=0.9, delta=0.05)
    assert found.gates[0].threshold is None
    assert "20 rows with a confidence reached it; it takes 29 or more without one mistake" in found.summary
    assert calibrate_cascade([[0.99] * 29], [[True] * 29]).supported


def test_delta_is_split_over_the_tiers_and_the_later_ones_pay_for_the_choices_before():
    rows = 200
    sure = [n / rows for n in range(rows)]
    found = calibrate_cascade([sure, sure], [[n > 100 for n in range(rows)], [True] * rows], delta=0.1)
    assert found.gates[0].delta == pytest.approx(0.05)
    assert found.gates[1].delta < 0.05
    assert found.gates[1].threshold is not None


def test_rows_without_a_verdict_reach_the_next_tier():
    first = [None] * 50 + [0.9] * 50
    found = calibrate_cascade(
        [first, [0.9] * 100],
        [[None] * 50 + [True] * 50, [True] * 100],
        agreement=0.8,
        delta=0.2,
    )
    assert [g.rows for g in found.gates] == [50, 50]


def test_what_is_left_for_the_last_judge_is_reported():
    sure = [0.9] * 60 + [0.1] * 40
    right = [True] * 60 + [False] * 40
    found = calibrate_cascade([sure], [right], last=[True] * 90 + [False] * 10)
    assert (found.answered, found.last_rows, found.last_agreed) == (0.6, 40, 30)


def test_one_row_a_group_is_used():
    found = calibrate_cascade([[0.9] * 90], [[True] * 90], groups=[n % 30 for n in range(90)])
    assert (found.rows, found.left_out, found.gates[0].rows) == (30, 60, 30)


@given(st.permutations(range(60)), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_rows_does_not_matter(order, wrong):
    sure = [(n % 7) / 7 for n in range(60)]
    right = [n >= wrong for n in range(60)]
    shuffled = calibrate_cascade([[sure[n] for n in order]], [[right[n] for n in order]], agreement=0.8)
    assert shuffled == calibrate_cascade([sure], [right], agreement=0.8)


@pytest.mark.parametrize(
    ("confidences", "agrees", "given", "message"),
    [
        ([], [], {}, "one or more gated tiers"),
        ([[0.5]], [[True, False]], {}, "aligned by position"),
        ([[1.5]], [[True]], {}, r"confidences\[0\] holds 1.5"),
        ([[0.5]], [[True]], {"agreement": 1.0}, "between 0 and 1"),
        ([[0.5]], [["yes"]], {}, "not a number"),
    ],
)
def test_wrong_input_is_refused(confidences, agrees, given, message):
    with pytest.raises(ConfigError, match=message):
        calibrate_cascade(confidences, agrees, **given)
