"""Abstention: confidence is the chance of being right, and the promised agreement is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from mlflow_assay.judges.local.confidence import (
    RISK,
    choose_threshold,
    fit_confidence,
    lower_bound,
)


def test_confidence_is_calibrated_on_the_verdicts_it_was_fitted_on():
    draw = np.random.default_rng(0)
    scores = draw.normal(0, 2, 4000)
    correct = draw.random(4000) < 1 / (1 + np.exp(-0.5 - 0.8 * np.abs(scores)))
    sure = fit_confidence(scores, correct).of(scores)
    for low, high in ((0.6, 0.75), (0.75, 0.9), (0.9, 1.0)):
        band = (sure >= low) & (sure < high)
        assert band.sum() > 100
        assert correct[band].mean() == pytest.approx(sure[band].mean(), abs=0.04)


@pytest.mark.parametrize("right", [True, False])
def test_confidence_is_never_0_or_1_and_grows_with_the_score(right):
    sure = fit_confidence(np.array([-3.0, -1.0, 1.0, 2.0]), np.full(4, right)).of(np.array([0.1, 1.0, 5.0]))
    assert 0 < sure[0] < sure[1] < sure[2] < 1


@given(st.integers(1, 200), st.data())
def test_the_lower_bound_is_clopper_and_pearsons(n, data):
    agreeing = data.draw(st.integers(1, n))
    low = lower_bound(agreeing, n)
    assert binom.sf(agreeing - 1, n, low) == pytest.approx(RISK, abs=1e-6)
    assert low <= agreeing / n
    assert lower_bound(0, n) == 0.0


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 120), st.floats(0.55, 0.95), st.integers(0, 10_000))
def test_what_is_answered_agrees_at_least_as_often_as_asked(n, target, seed):
    draw = np.random.default_rng(seed)
    sure, correct = draw.random(n).round(1), draw.random(n) < 0.8
    found = choose_threshold(sure, correct, np.arange(n), target)
    if found is not None:
        answered = sure >= found.value
        assert answered.sum() == found.answered
        assert found.coverage == pytest.approx(answered.mean())
        assert found.agreement == pytest.approx(correct[answered].mean())
        assert found.agreement >= target
        assert found.proven == (found.low >= target) or not found.proven


def test_a_judge_whose_surest_verdicts_are_wrong_too_often_has_no_threshold():
    sure, correct = np.linspace(0.99, 0.5, 100), np.arange(100) % 4 > 0
    assert choose_threshold(sure, correct, np.arange(100), 0.9) is None


def test_too_few_labels_prove_nothing_and_say_so():
    found = choose_threshold(np.linspace(0.99, 0.5, 15), np.ones(15, dtype=bool), np.arange(15), 0.9)
    assert found.coverage == 1.0
    assert not found.proven
    assert found.low < 0.9


def test_traces_of_one_session_count_as_fewer():
    sure, correct = np.linspace(0.99, 0.5, 60), np.ones(60, dtype=bool)
    assert choose_threshold(sure, correct, np.arange(60), 0.9).proven
    assert not choose_threshold(sure, correct, np.arange(60) // 20, 0.9).proven


def test_a_proven_agreement_is_missed_no_more_often_than_promised():
    """300 judges at the edge of the target: the true agreement of the answered verdicts is known."""
    draw = np.random.default_rng(1)
    n, target, missed, proven = 150, 0.9, 0, 0
    chance = 0.99 - 0.19 * np.arange(n) / n  # from the most confident down
    true = np.cumsum(chance) / np.arange(1, n + 1)
    for _ in range(300):
        found = choose_threshold(-np.arange(n) / n, draw.random(n) < chance, np.arange(n), target)
        if found is not None and found.proven:
            proven += 1
            missed += true[found.answered - 1] < target
    assert proven > 60
    assert missed <= 300 * RISK
