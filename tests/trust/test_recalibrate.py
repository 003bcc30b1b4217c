"""Recalibration: finds the cut, never judges rows by a cut chosen on them, refuses too little."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust.agreement import cohen_kappa
from mlflow_assay.trust.recalibrate import _best_cut, grouped_folds, recalibrate


def harsh_judge(n=120, seed=0):
    """Scores 1 to 5 whose good answers start at 3, while the judge passes from 5."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.7
    scores = np.clip(np.round(np.where(truth, 4, 2) + rng.normal(0, 0.7, n)), 1, 5)
    return scores.tolist(), truth.tolist()


def test_a_wrong_threshold_is_found_and_the_gain_is_held_out():
    found = recalibrate(*harsh_judge(), 5)
    assert found.threshold in (2.5, 3.5) and found.improves
    assert found.before.kappa.value < 0.4 < found.after.kappa.value
    assert found.gain.value == pytest.approx(found.after.kappa.value - found.before.kappa.value)
    assert "improves the judge" in found.summary and len(found.fold_thresholds) == 5


def test_a_right_threshold_is_not_called_improved():
    assert not recalibrate(*harsh_judge(), 3).improves


def test_noise_is_not_turned_into_agreement():
    """Scores that know nothing: choosing and judging on the same rows would show kappa well above 0."""
    rng = np.random.default_rng(3)
    kappas = []
    for seed in range(15):
        scores, truth = rng.random(60).tolist(), (rng.random(60) < 0.5).tolist()
        kappas.append(recalibrate(scores, truth, 0.5, seed=seed).after.kappa.value or 0.0)
    assert abs(np.mean(kappas)) < 0.1


def test_where_lower_is_better_the_cut_is_mirrored():
    scores, truth = harsh_judge()
    up, down = recalibrate(scores, truth, 5), recalibrate([-s for s in scores], truth, -5, better="lower")
    assert down.threshold == -up.threshold and down.after.kappa == up.after.kappa


def test_missing_scores_and_labels_are_left_out():
    scores, truth = harsh_judge()
    gaps = recalibrate([*scores, None, 3.0], [*truth, True, None], 5)
    assert gaps.after.n == 120 and gaps.threshold == recalibrate(scores, truth, 5).threshold


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40))
def test_no_other_cut_agrees_better(rows):
    x, truth = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    cut = _best_cut(x, truth)
    best = cohen_kappa((x >= cut).tolist(), (truth == 1).tolist())
    for other in np.arange(0.5, 9):
        if len(np.unique(x >= other)) > 1 and len(np.unique(truth)) > 1:
            assert best is not None
            assert cohen_kappa((x >= other).tolist(), (truth == 1).tolist()) <= best + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 20), min_size=30, max_size=80), st.integers(0, 5))
def test_groups_are_never_split_over_folds(groups, seed):
    groups = np.array(groups)
    labels = (np.arange(groups.size) % 3 == 0).astype(float)
    fold = grouped_folds(groups, labels, 5, seed)
    assert all(len(set(fold[groups == g])) == 1 for g in np.unique(groups))


@pytest.mark.parametrize(
    ("n", "truth", "groups"),
    [(49, [True, False] * 25, None), (60, [True] * 57 + [False] * 3, None), (60, [True, False] * 30, ["g"] * 60)],
)
def test_too_little_is_refused(n, truth, groups):
    with pytest.raises(NotTrustedError, match="would be noise"):
        recalibrate(list(range(n)), truth[:n], 10, groups=groups)


def test_bad_arguments_are_refused():
    scores, truth = harsh_judge()
    for options in ({"folds": 1}, {"better": "bigger"}):
        with pytest.raises(ConfigError):
            recalibrate(scores, truth, 3, **options)


def test_the_report_is_json_ready():
    assert json.loads(json.dumps(recalibrate(*harsh_judge(), 5).to_dict()))["improves"] is True
