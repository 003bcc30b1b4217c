"""Unscored traces in a corrected pass rate: a stratum of their own where they carry labels, left out where not."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_assay.trust.estimate import jps_share

ABSTAINING = {True: 0.1, False: 0.5}  # a judge that abstains on what is bad


def window(rng: np.random.Generator, n: int = 400, labels: int = 100):
    good = rng.random(n) < 0.7
    verdict = np.where(rng.random(n) < 0.85, good, ~good).astype(object)
    verdict[rng.random(n) < np.where(good, ABSTAINING[True], ABSTAINING[False])] = None
    label = np.full(n, None, dtype=object)
    chosen = rng.choice(n, labels, replace=False)
    label[chosen] = good[chosen]
    return list(verdict), list(label), good.mean()


def test_labels_on_unscored_traces_keep_an_abstaining_judge_honest():
    """Over 150 windows the interval covers the rate of all traces; without those labels it covers another thing."""
    rng = np.random.default_rng(5)
    honest = naive = 0
    for _ in range(150):
        verdicts, labels, truth = window(rng)
        found = jps_share(verdicts, labels)
        honest += found.low <= truth <= found.high
        hidden = [label if verdict is not None else None for verdict, label in zip(verdicts, labels, strict=True)]
        found = jps_share(verdicts, hidden)
        naive += found.low <= truth <= found.high

    assert honest / 150 >= 0.9
    assert naive / 150 <= 0.6


def test_without_labels_on_them_they_are_left_out_and_said():
    found = jps_share([True] * 60 + [False] * 20 + [None] * 20, [True] * 30 + [None] * 30 + [False] * 20 + [None] * 20)
    assert found.n_unscored == 20
    assert not any("count too" in note for note in found.assumptions)


def test_with_labels_on_them_it_says_that_they_count():
    labels = [True] * 30 + [None] * 30 + [False] * 20 + [True] * 10 + [None] * 10
    found = jps_share([True] * 60 + [False] * 20 + [None] * 20, labels)
    assert any("20 unscored traces count too" in note for note in found.assumptions)
    assert (found.n_judged, found.n_labelled) == (80, 60)
    assert found.corrected == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("value", "end"), [(True, "high"), (False, "low")])
def test_the_edge_rule_counts_their_labels(value, end):
    found = jps_share([True] * 50 + [None] * 50, [value] * 100)
    assert getattr(found, end) == (1.0 if value else 0.0)


def test_no_unscored_traces_change_nothing():
    """The three-strata quadrature agrees with the exact two-strata one as the unscored stratum vanishes."""
    verdicts, labels = (
        [True] * 3000 + [False] * 1000,
        ([True] * 40 + [False] * 10 + [None] * 2950 + [False] * 40 + [None] * 960),
    )
    two = jps_share(verdicts, labels)
    three = jps_share([*verdicts, None], [*labels, True])
    assert three.corrected == pytest.approx(two.corrected, abs=2e-3)
    assert (three.low, three.high) == pytest.approx((two.low, two.high), abs=5e-3)
