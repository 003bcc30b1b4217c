"""Estimates: what travels, what is refused, and what a number says about itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust import ErrorRates, Estimate, corrected_kpi, mean, proportion, rogan_gladen, share
from mlflow_assay.trust.estimate import jeffreys, wilson

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# --- the object -----------------------------------------------------------------------------------------


def test_an_estimate_survives_json():
    estimate = corrected_kpi([True] * 40 + [False] * 20 + [None], [True] * 30 + [None] * 31, name="resolved")
    assert Estimate.from_dict(json.loads(json.dumps(estimate.to_dict()))) == estimate
    assert estimate.to_dict()["value"] == estimate.corrected


def test_value_is_corrected_where_there_is_one_else_raw():
    assert Estimate("k", 0.4, 0.3, 0.2, 0.5).value == 0.3
    assert Estimate("k", 0.4, None, 0.3, 0.5).value == 0.4
    assert Estimate("k", None).value is None
    assert not Estimate("k", 0.4).is_corrected


@pytest.mark.parametrize(
    "fields",
    [
        {"raw": 0.4, "low": 0.5, "high": 0.6},
        {"raw": 0.4, "low": 0.3},
        {"raw": None, "low": 0.1, "high": 0.2},
        {"raw": 0.4, "corrected": 0.9, "low": 0.3, "high": 0.5},
        {"raw": 0.4, "n_judged": -1},
        {"raw": 0.4, "confidence": 95},
    ],
)
def test_an_estimate_that_contradicts_itself_cannot_be_made(fields):
    with pytest.raises(ConfigError):
        Estimate("k", **fields)


@pytest.mark.parametrize("broken", [{"name": "k"}, Estimate("k", 0.5).to_dict() | {"extra": 1}])
def test_a_mapping_that_is_no_estimate_is_refused(broken):
    with pytest.raises(ConfigError, match="not an estimate"):
        Estimate.from_dict(broken)


# --- uncorrected shares ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(counts, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_and_jeffreys_equal_statsmodels(case, confidence):
    passed, total = case
    expected = proportion_confint(passed, total, 1 - confidence, method="wilson")
    assert wilson(passed, total, confidence) == pytest.approx(expected, abs=1e-12)
    low, high = proportion_confint(passed, total, 1 - confidence, method="jeffreys")
    ours = jeffreys(passed, total, confidence)
    assert ours[0] == (0.0 if passed == 0 else pytest.approx(low, abs=1e-9))
    assert ours[1] == (1.0 if passed == total else pytest.approx(high, abs=1e-9))


def test_an_uncorrected_share_says_so_and_counts_unscored_apart():
    estimate = share([True] * 7 + [False] * 3 + [None] * 5)
    assert estimate.raw == pytest.approx(0.7) and estimate.corrected is None
    assert (estimate.n_judged, estimate.n_unscored) == (10, 5)
    assert any(a.startswith("Uncorrected") for a in estimate.assumptions)
    assert any("5 unscored" in a for a in estimate.assumptions)


@pytest.mark.parametrize("verdicts", [[], [None, float("nan")]])
def test_nothing_judged_gives_no_number_and_no_interval(verdicts):
    for estimate in (share(verdicts), mean(verdicts), corrected_kpi(verdicts)):
        assert (estimate.raw, estimate.low, estimate.high, estimate.n_judged) == (None, None, None, 0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(2, 5))
def test_copies_of_sessions_add_no_information(verdicts, copies):
    """Every verdict repeated within its own session: the interval is at least as wide as without the copies."""
    once = share(verdicts)
    many = share(np.repeat(verdicts, copies).tolist(), clusters=np.repeat(np.arange(len(verdicts)), copies).tolist())
    assert many.raw == pytest.approx(once.raw)
    assert many.low <= once.low + 1e-9 and many.high >= once.high - 1e-9


def test_one_session_counts_as_one_observation():
    estimate = share([True] * 50, clusters=["s"] * 50)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(1, 1))


def test_a_trace_without_session_stands_alone():
    verdicts = [True, False] * 20
    assert share(verdicts, clusters=[None] * 40) == share(verdicts)


@pytest.mark.parametrize("case", [{"passed": 3, "total": 2}, {"passed": -1, "total": 2}])
def test_impossible_counts_are_refused(case):
    with pytest.raises(ConfigError, match="0 <= passed <= total"):
        proportion(**case)


# --- means ----------------------------------------------------------------------------------------------


def test_clustered_mean_equals_statsmodels_cluster_robust_error():
    import statsmodels.api as sm
    from scipy.stats import t

    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), rng.integers(1, 7, 20))
    scores = rng.normal(size=20)[groups] + rng.normal(size=groups.size)
    fit = sm.OLS(scores, np.ones((groups.size, 1))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True}
    )
    estimate = mean(scores.tolist(), clusters=groups.tolist())
    # statsmodels' correction is G/(G-1) * (n-1)/(n-k), which with one coefficient is ours
    half = t.ppf(0.975, 19) * fit.bse[0]
    assert (estimate.raw, estimate.low) == pytest.approx((scores.mean(), scores.mean() - half))


def test_a_mean_of_one_session_or_of_equal_scores_has_no_interval():
    for estimate in (mean([1.0, 2.0], clusters=["s", "s"]), mean([3, 3, 3]), mean([4])):
        assert estimate.low is None and estimate.method == "none"
        assert any("no interval" in a for a in estimate.assumptions)


# --- the chooser ----------------------------------------------------------------------------------------


def verdicts_and_labels(n_labels, n=200):
    rng = np.random.default_rng(0)
    truth = rng.random(n) < 0.7
    verdicts = np.where(rng.random(n) < 0.9, truth, ~truth)
    return verdicts.tolist(), [bool(t) if i < n_labels else None for i, t in enumerate(truth)]


def test_enough_labels_choose_the_post_stratified_interval():
    estimate = corrected_kpi(*verdicts_and_labels(30))
    assert estimate.method == "jps" and estimate.n_labelled == 30 and estimate.is_corrected


@pytest.mark.parametrize(
    ("n_labels", "options", "reason"),
    [
        (0, {}, "no judged trace of this window has a label"),
        (19, {}, "label 1 more"),
        (60, {"same_window": False}, "do not travel"),
        (30, {"min_labels": 40}, "label 10 more"),
    ],
)
def test_too_few_or_foreign_labels_leave_the_number_uncorrected_and_say_why(n_labels, options, reason):
    estimate = corrected_kpi(*verdicts_and_labels(n_labels), **options)
    assert estimate.corrected is None and estimate.method == "wilson" and estimate.n_labelled == n_labels
    assert any(a.startswith("Uncorrected") for a in estimate.assumptions)
    assert any(reason in a for a in estimate.assumptions)


def test_labels_left_out_altogether_equal_no_labels():
    verdicts, labels = verdicts_and_labels(0)
    assert corrected_kpi(verdicts) == corrected_kpi(verdicts, labels)


def test_scores_use_ppi_from_100_labels_and_the_labels_alone_below():
    rng = np.random.default_rng(4)
    truth = rng.normal(3, 1, 600)
    scores = (truth + rng.normal(0.5, 0.5, 600)).tolist()
    for n_labels, method in ((100, "ppi++"), (99, "labels-t"), (20, "labels-t"), (19, "t")):
        labels = [float(v) if i < n_labels else None for i, v in enumerate(truth)]
        estimate = corrected_kpi(scores, labels)
        assert estimate.method == method and estimate.is_corrected == (method != "t")


def test_constant_labels_of_scores_are_refused_not_given_a_zero_width_interval():
    scores = np.random.default_rng(0).normal(size=60).tolist()
    estimate = corrected_kpi(scores, [3.0] * 30 + [None] * 30)
    assert not estimate.is_corrected and any("equal" in a for a in estimate.assumptions)


def test_external_error_rates_serve_only_where_labels_do_not():
    rates = ErrorRates(90, 100, 80, 100, "the May study of 200 calls")
    verdicts, labels = verdicts_and_labels(5)
    estimate = corrected_kpi(verdicts, labels, external=rates)
    assert estimate.method == "rogan-gladen" and "the May study" in estimate.assumptions[0]
    assert corrected_kpi(*verdicts_and_labels(30), external=rates).method == "jps"


def test_kind_is_read_from_the_values_or_said():
    assert corrected_kpi([1, 0, 1] * 20).method == "wilson"
    assert corrected_kpi([1, 0, 1] * 20, kind="mean").method == "t"
    assert corrected_kpi([1, 0, 3] * 20).method == "t"
    with pytest.raises(ConfigError, match="not a pass/fail"):
        corrected_kpi([1, 0, 3] * 20, kind="share")
    with pytest.raises(ConfigError, match="Unknown kind"):
        corrected_kpi([1], kind="median")


# --- Rogan-Gladen ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.integers(60, 100), st.integers(60, 100))
def test_rogan_gladen_inverts_the_judges_errors(truth, hits, rejections):
    se, sp = hits / 100, rejections / 100
    seen = truth * se + (1 - truth) * (1 - sp)
    estimate = rogan_gladen(seen * 10_000, 10_000, ErrorRates(hits, 100, rejections, 100, "a study"))
    assert estimate.corrected == pytest.approx(truth, abs=1e-9)
    assert 0 <= estimate.low <= estimate.corrected <= estimate.high <= 1


def test_rogan_gladen_covers_when_its_assumption_holds():
    rng, covered = np.random.default_rng(8), 0
    for _ in range(600):
        hits, rejections = rng.binomial(80, 0.85), rng.binomial(120, 0.8)
        seen = rng.binomial(500, 0.3 * 0.85 + 0.7 * 0.2)
        found = rogan_gladen(seen, 500, ErrorRates(int(hits), 80, int(rejections), 120, "a study"))
        covered += found.low <= 0.3 <= found.high
    assert 0.92 <= covered / 600 <= 0.98


def test_a_judge_no_better_than_chance_is_not_corrected():
    chance = ErrorRates(50, 100, 50, 100, "a study")
    with pytest.raises(NotTrustedError, match="no better than chance"):
        rogan_gladen(50, 100, chance)
    estimate = corrected_kpi([True, False] * 50, external=chance)
    assert not estimate.is_corrected and any("chance" in a for a in estimate.assumptions)


@pytest.mark.parametrize("case", [(5, 4, 1, 2, "x"), (1, 2, 1, 0, "x"), (1, 2, 1, 2, " ")])
def test_error_rates_that_cannot_be_are_refused(case):
    with pytest.raises(ConfigError, match="External error rates"):
        ErrorRates(*case)
