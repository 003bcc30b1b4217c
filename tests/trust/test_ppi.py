"""PPI++: equal to the published implementations, never worse than the labels alone by much."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust import ppi_mean
from mlflow_assay.trust.estimate import power_tuning, ppi_interval


def draw(seed=0, n=120, size=1500, noise=0.6):
    rng = np.random.default_rng(seed)
    truth = rng.normal(3, 1, n + size)
    scores = 0.8 * truth + rng.normal(0.7, noise, n + size)
    return truth[:n], scores[:n], scores[n:]


@pytest.mark.parametrize("seed", range(4))
def test_equals_ppi_python(seed):
    """ppi-python divides variances by n where we divide by n - 1; asked for its divisor we agree to the digits."""
    ppi_py = pytest.importorskip("ppi_py", reason="ppi-python is not installed")
    y, f, rest = draw(seed, noise=0.3 + 0.4 * seed)
    low, high = ppi_py.ppi_mean_ci(y, f, rest, alpha=0.05)
    centre = ppi_py.ppi_mean_pointestimate(y, f, rest)
    assert ppi_interval(y, f, rest, ddof=0) == pytest.approx(
        (np.ravel(centre)[0], np.ravel(low)[0], np.ravel(high)[0]), rel=1e-10
    )


@pytest.mark.parametrize("seed", range(4))
def test_equals_glide(seed):
    estimators = pytest.importorskip("glide.estimators", reason="glide-py is not installed (Python 3.12 and later)")
    y, f, rest = draw(seed)
    found = estimators.PPIMeanEstimator().estimate(
        np.concatenate([y, np.full(rest.size, np.nan)]), np.concatenate([f, rest])
    )
    interval = found.confidence_interval
    assert ppi_interval(y, f, rest) == pytest.approx((interval.mean, interval.lower_bound, interval.upper_bound))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_lambda_0_is_the_labels_alone_and_lambda_1_plain_ppi(seed):
    y, f, rest = draw(seed)
    centre, _, high = ppi_interval(y, f, rest, tuning=0)
    half = 1.959963984540054 * y.std(ddof=1) / np.sqrt(y.size)
    assert (centre, high - centre) == pytest.approx((y.mean(), half))
    assert ppi_interval(y, f, rest, tuning=1)[0] == pytest.approx(rest.mean() + (y - f).mean())
    assert 0 <= power_tuning(y, f, rest) <= 1


def test_the_tuned_interval_is_narrower_than_labels_alone_and_than_plain_ppi():
    y, f, rest = draw(noise=1.2)
    widths = [np.ptp(ppi_interval(y, f, rest, tuning=lam)[1:]) for lam in (None, 0, 1)]
    assert widths[0] < min(widths[1:])


def test_a_judge_that_says_one_thing_is_given_no_weight():
    y, _, _ = draw()
    assert power_tuning(y, np.ones(y.size), np.ones(50)) == 0.0
    assert np.isfinite(ppi_interval(y, np.ones(y.size), np.ones(50))).all()


def test_arrays_with_gaps_give_the_plain_interval():
    y, f, rest = draw()
    scores = [*f, *rest, None, float("nan")]
    labels = [*y, *[None] * rest.size, 3.0, None]
    estimate = ppi_mean(scores, labels)
    assert (estimate.corrected, estimate.low, estimate.high) == pytest.approx(ppi_interval(y, f, rest))
    assert (estimate.n_judged, estimate.n_labelled, estimate.n_unscored) == (1620, 120, 2)
    assert estimate.raw == pytest.approx(np.concatenate([f, rest]).mean())


def test_every_trace_labelled_is_the_labels_mean():
    y, f, _ = draw()
    estimate = ppi_mean(f.tolist(), y.tolist())
    assert estimate.method == "labels-t" and estimate.corrected == pytest.approx(y.mean())


def test_sessions_widen_and_sessions_of_one_hardly_matter():
    rng = np.random.default_rng(3)
    truth = np.repeat(rng.normal(size=120), 10)
    scores = truth + rng.normal(0, 0.3, 1200)
    labels = [float(t) if i % 5 == 0 else None for i, t in enumerate(truth)]
    plain = ppi_mean(scores.tolist(), labels)
    own = ppi_mean(scores.tolist(), labels, clusters=list(range(1200)))
    grouped = ppi_mean(scores.tolist(), labels, clusters=np.repeat(np.arange(120), 10).tolist())
    assert own.high - own.low == pytest.approx(plain.high - plain.low, rel=0.05)
    assert grouped.high - grouped.low > 1.5 * (plain.high - plain.low)


def test_label_probabilities_undo_a_draw_that_favours_low_scores():
    rng, covered = np.random.default_rng(11), 0
    for _ in range(100):
        truth = rng.normal(3, 1, 1500)
        scores = truth + rng.normal(0, 0.5, 1500)
        chance = np.where(scores < 2.5, 0.3, 0.06)
        labels = [float(t) if r < c else None for t, r, c in zip(truth, rng.random(1500), chance, strict=True)]
        estimate = ppi_mean(scores.tolist(), labels, label_probabilities=chance.tolist())
        covered += estimate.low <= 3 <= estimate.high
    assert covered >= 88


def test_too_few_labels_or_one_session_are_refused():
    y, f, rest = draw(n=99)
    scores, labels = [*f, *rest], [*y, *[None] * rest.size]
    with pytest.raises(NotTrustedError, match="99 labels"):
        ppi_mean(scores, labels)
    with pytest.raises(NotTrustedError, match="one session"):
        ppi_mean(scores, labels, min_labels=50, clusters=["s"] * 99 + list(range(rest.size)))


@pytest.mark.parametrize("bad", ["high", float("inf")])
def test_a_score_that_is_no_finite_number_is_named(bad):
    with pytest.raises(ConfigError, match=r"scores\[1\]"):
        ppi_mean([1.0, bad], [1.0, 1.0])
