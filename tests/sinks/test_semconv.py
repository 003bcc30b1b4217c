"""Names: unique, complete, and what they are called in Prometheus."""

from __future__ import annotations

import re

import pytest

from mlflow_assay import semconv
from mlflow_assay.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (semconv.M_VERDICTS, "gen_ai_evaluation_verdicts_total"),
        (semconv.M_SCORE, "gen_ai_evaluation_score"),
        (semconv.M_JUDGE_LATENCY, "assay_judge_duration_seconds"),
        (semconv.M_JUDGE_COST, "assay_judge_cost_usd_total"),
        (semconv.M_KPI_RATE, "assay_kpi_rate"),
        (semconv.M_BUDGET_SPENT, "assay_watch_budget_spent_ratio"),
        (semconv.M_LAG, "assay_bridge_lag_seconds"),
    ],
)
def test_names_in_prometheus(name, expected):
    """As the collector's remote-write exporter translates them (checked against a real one in test_real_stack)."""
    assert semconv.prometheus_name(name) == expected


def test_a_histograms_series():
    assert semconv.prometheus_name(semconv.M_SCORE, "bucket") == "gen_ai_evaluation_score_bucket"


def test_every_metric_constant_is_described_and_every_name_is_its_own():
    constants = {value for key, value in vars(semconv).items() if key.startswith("M_")}
    assert constants == set(semconv.METRICS)
    in_prometheus = [semconv.prometheus_name(name) for name in semconv.METRICS]
    assert len(set(in_prometheus)) == len(in_prometheus)


@pytest.mark.parametrize("metric", semconv.METRICS.values(), ids=lambda m: m.name)
def test_labels_stay_apart_in_prometheus(metric):
    labels = [semconv.prometheus_label(label) for label in metric.labels]
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[a-z_][a-z0-9_]*", label) for label in labels)
    assert metric.help.endswith(".")


def test_the_profile_comes_from_the_option_then_the_environment_then_the_pin(monkeypatch):
    assert semconv.profile() == "1.41.1"
    monkeypatch.setenv(semconv.PROFILE_VARIABLE, "next")
    assert semconv.profile() == "next"
    assert semconv.profile("1.41.1") == "1.41.1"
    monkeypatch.setenv(semconv.PROFILE_VARIABLE, "later")
    with pytest.raises(ConfigError, match="no names profile 'later'"):
        semconv.profile()
