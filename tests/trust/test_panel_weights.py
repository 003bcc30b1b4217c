"""Learned weights of a panel: they find who is right, and gain is measured on rows not learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust.panel_weights import learn_weights, pass_probability


def panel(rates, n=300, seed=0):
    draw = np.random.default_rng(seed)
    truth = draw.random(n) < 0.5
    return [(np.where(draw.random(n) < r, truth, ~truth)).tolist() for r in rates], truth.tolist()


def test_a_good_judge_outweighs_two_poor_ones_and_gains():
    votes, truth = panel([0.95, 0.55, 0.55])
    found = learn_weights(votes, truth)
    assert found.weights[0] > 2 > max(found.weights[1:])
    assert found.improves
    assert "agree better" in found.summary


def test_a_judge_that_is_mostly_wrong_counts_the_other_way():
    votes, truth = panel([0.9, 0.2, 0.6])
    assert learn_weights(votes, truth).weights[1] < 0


def test_equal_judges_gain_nothing():
    votes, truth = panel([0.8, 0.8, 0.8])
    assert not learn_weights(votes, truth).improves


def test_the_fit_is_scikit_learns():
    votes, truth = panel([0.9, 0.7, 0.6], n=120)
    x = 2 * np.array(votes).T - 1
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, truth)
    found = learn_weights(votes, truth)
    assert found.weights == pytest.approx(oracle.coef_[0], abs=1e-4)
    assert found.bias == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_a_missing_vote_says_nothing():
    assert pass_probability([None, None], 0.0, [3.0, 1.0]) == 0.5
    assert pass_probability([True, None], 0.0, [3.0, 1.0]) == pytest.approx(1 / (1 + np.exp(-3.0)))
    votes, truth = panel([0.9, 0.8], n=100)
    votes[1][::3] = [None] * len(votes[1][::3])
    assert learn_weights(votes, truth).weights[0] > 0


@pytest.mark.parametrize(("n", "good"), [(40, 20), (60, 2)])
def test_too_few_labels_are_refused(n, good):
    truth = [i < good for i in range(n)]
    with pytest.raises(NotTrustedError, match=rf"{n} labelled rows \({good} good\)"):
        learn_weights([truth, truth], truth)


def test_one_member_is_no_panel():
    with pytest.raises(ConfigError, match="two members or more"):
        learn_weights([[True] * 60], [True] * 60)
