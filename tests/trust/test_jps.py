"""The Jeffreys post-stratified interval: exact by quadrature, symmetric, and honest at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust import VerdictCounts, _jps, jps, jps_share
from mlflow_assay.trust.estimate import jps_interval


@st.composite
def verdict_counts(draw):
    judged = draw(st.integers(0, 2000))
    labelled = draw(st.integers(0, min(judged, 120)))
    return VerdictCounts(judged, labelled, draw(st.integers(0, labelled)))


def mirrored(counts):
    return VerdictCounts(counts.judged, counts.labelled, counts.labelled - counts.good)


def by_simulation(passed, failed, draws=400_000):
    rng = np.random.default_rng(1)
    share = rng.beta(passed.judged + 0.5, failed.judged + 0.5, draws)
    first, second = (rng.beta(c.good + 0.5, c.labelled - c.good + 0.5, draws) for c in (passed, failed))
    theta = share * first + (1 - share) * second
    return theta.mean(), *np.quantile(theta, [0.025, 0.975])


@pytest.mark.parametrize(
    ("passed", "failed"),
    [((50, 20, 15), (64, 20, 2)), ((900, 80, 79), (100, 20, 2)), ((10, 1, 1), (500, 25, 1)), ((5, 0, 0), (50, 30, 3))],
)
def test_quadrature_agrees_with_posterior_draws(passed, failed):
    passed, failed = VerdictCounts(*passed), VerdictCounts(*failed)
    assert jps_interval(passed, failed) == pytest.approx(by_simulation(passed, failed), abs=0.0015)


def test_more_nodes_change_nothing_that_is_shown(monkeypatch):
    cases = [((27, 13, 11), (116, 83, 83)), ((900, 80, 79), (100, 20, 2)), ((20000, 150, 149), (40000, 30, 0))]
    cases = [[VerdictCounts(*c) for c in pair] for pair in cases]
    usual = [jps_interval(*pair) for pair in cases]
    monkeypatch.setattr(_jps, "_NODES", 200)
    _jps._rule.cache_clear()
    try:
        assert np.abs(np.array(usual) - np.array([jps_interval(*pair) for pair in cases])).max() < 1e-4
    finally:
        _jps._rule.cache_clear()


@settings(deadline=None, max_examples=40)
@given(verdict_counts(), verdict_counts())
def test_interval_lies_in_the_unit_range_contains_the_mean_and_mirrors(passed, failed):
    assume(passed.labelled + failed.labelled > 0)
    centre, low, high = jps_interval(passed, failed)
    assert 0 <= low <= centre <= high <= 1
    # calling good bad mirrors the result; which verdict is called "pass" does not matter. (With one or two labels
    # the posterior is U-shaped and the quadrature errs by some 1e-4.)
    m_centre, m_low, m_high = jps_interval(mirrored(passed), mirrored(failed))
    assert (m_centre, m_low, m_high) == pytest.approx((1 - centre, 1 - high, 1 - low), abs=1e-3)
    assert jps_interval(failed, passed) == pytest.approx((centre, low, high), abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 200), st.integers(0, 200))
def test_edge_rule_reaches_the_border_when_all_labels_agree(n, m):
    good = jps_interval(VerdictCounts(1000, n, n), VerdictCounts(1000, m, m))
    bad = jps_interval(VerdictCounts(1000, n, 0), VerdictCounts(1000, m, 0))
    assert good[2] == 1.0 and good[1] > 0
    assert bad[1] == 0.0 and bad[2] < 1


def test_more_labels_narrow_the_interval():
    widths = []
    for n in (10, 40, 160):
        _, low, high = jps_interval(VerdictCounts(1000, n, n * 0.9), VerdictCounts(1000, n, n * 0.2))
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_a_useless_judge_gives_about_the_humans_own_interval():
    """Both verdicts equally often good: post-stratification neither helps nor hurts much."""
    _, low, high = jps_interval(VerdictCounts(5000, 50, 35), VerdictCounts(5000, 50, 35))
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 100), rel=0.03)


def test_counts_and_arrays_give_the_same_estimate():
    verdicts = [True] * 50 + [False] * 64 + [None] * 3
    labels = [True] * 15 + [False] * 5 + [None] * 30 + [True] * 2 + [False] * 18 + [None] * 44 + [None] * 3
    from_counts = jps(VerdictCounts(50, 20, 15), VerdictCounts(64, 20, 2), n_unscored=3)
    assert jps_share(verdicts, labels) == from_counts
    assert from_counts.raw == pytest.approx(50 / 114)
    assert (from_counts.n_judged, from_counts.n_labelled, from_counts.n_unscored) == (114, 40, 3)
    assert from_counts.method == "jps" and from_counts.is_corrected


def test_sessions_that_repeat_widen_and_sessions_of_one_do_not():
    rng = np.random.default_rng(5)
    truth = np.repeat(rng.random(60) < 0.7, 5)
    verdicts, labels = truth.tolist(), [bool(t) if i % 3 else None for i, t in enumerate(truth)]
    alone = jps_share(verdicts, labels)
    assert jps_share(verdicts, labels, clusters=range(300)) == alone
    repeated = jps_share(verdicts, labels, clusters=np.repeat(np.arange(60), 5).tolist())
    assert repeated.high - repeated.low > 1.5 * (alone.high - alone.low)
    assert (repeated.n_judged, repeated.n_labelled) == (alone.n_judged, alone.n_labelled)


def test_label_probabilities_undo_a_draw_that_favours_bad_traces():
    """Within each verdict bad traces were labelled five times as often; only the weighted estimate is right."""
    rng = np.random.default_rng(7)
    truth = rng.random(20_000) < 0.8
    verdicts = np.where(rng.random(20_000) < 0.85, truth, ~truth)
    chance = np.where(truth, 0.02, 0.1)
    labels = [bool(t) if r < c else None for t, r, c in zip(truth, rng.random(20_000), chance, strict=True)]
    blind = jps_share(verdicts.tolist(), labels)
    weighted = jps_share(verdicts.tolist(), labels, label_probabilities=chance.tolist())
    assert blind.high < 0.7
    assert weighted.low < truth.mean() < weighted.high


def test_trace_weights_undo_sampling_of_the_traffic():
    """Failures were kept whole and passes one in ten; each kept trace carries one over its keep rate."""
    verdicts = [True] * 90 + [False] * 100
    labels = ([True] * 30 + [None] * 60) + ([False] * 30 + [None] * 70)
    weights = [10.0] * 90 + [1.0] * 100
    assert jps_share(verdicts, labels, weights=weights).raw == pytest.approx(0.9)
    assert jps_share(verdicts, labels, weights=weights).corrected == pytest.approx(0.9, abs=0.02)


def test_no_label_at_all_is_refused():
    with pytest.raises(NotTrustedError, match="needs labels"):
        jps(VerdictCounts(50, 0, 0), VerdictCounts(50, 0, 0))
    with pytest.raises(NotTrustedError, match="there are none"):
        jps_share([True, None], [None, True])


def test_a_verdict_without_labels_is_said_to_widen_the_interval():
    estimate = jps(VerdictCounts(50, 30, 28), VerdictCounts(20, 0, 0))
    assert any("No label on the 20 traces the judge failed" in a for a in estimate.assumptions)


@pytest.mark.parametrize("counts", [(5, 6, 3), (5, 3, 4), (5, 3, -1)])
def test_contradicting_counts_are_refused(counts):
    with pytest.raises(ConfigError, match="0 <= good <= labelled <= judged"):
        VerdictCounts(*counts)


@pytest.mark.parametrize(
    ("verdicts", "labels", "options", "message"),
    [
        ([True], [True, False], {}, "aligned by position"),
        ([0.5], [True], {}, r"verdicts\[0\] is not a pass/fail"),
        (["yes"], [True], {}, "not a number"),
        ([True], [True], {"weights": [0.0]}, "above 0"),
        ([True], [True], {"label_probabilities": [None]}, r"must lie in \(0, 1\]"),
        ([True], [True], {"confidence": 1.0}, "between 0 and 1"),
        ([True, False], [True, None], {"clusters": ["a"]}, "clusters has 1"),
    ],
)
def test_degenerate_input_is_named(verdicts, labels, options, message):
    with pytest.raises(ConfigError, match=message):
        jps_share(verdicts, labels, **options)


def test_nan_counts_as_missing_never_as_a_verdict():
    nan = float("nan")
    estimate = jps_share([1.0, 0.0, nan] * 20, [1.0, nan, 1.0] * 20)
    assert (estimate.n_judged, estimate.n_labelled, estimate.n_unscored) == (40, 40, 20)
    assert estimate.raw == 0.5
