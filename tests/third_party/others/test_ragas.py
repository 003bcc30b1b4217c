"""Ragas' metrics, each of them, against the real library and a judge model that answers in Ragas' own formats."""

from __future__ import annotations

import pytest

pytest.importorskip("ragas", reason="Ragas is not installed: pip install 'mlflow-assay[ragas]'")

from mlflow_assay.judges.third_party.ragas_metrics import RagasMetrics
from mlflow_assay.judges.third_party.ragas_table import METRICS

LIBRARY = RagasMetrics()
ASKING = [name for name, metric in METRICS.items() if metric.calls_llm]
BY_RULE = [name for name, metric in METRICS.items() if not metric.calls_llm]


@pytest.mark.parametrize("name", ASKING)
def test_the_good_end_is_the_declared_one(of, name):
    of.check_direction(LIBRARY, name)


@pytest.mark.parametrize("name", ASKING)
def test_it_makes_as_many_calls_as_it_declares(of, name):
    of.check_calls(LIBRARY, name)


@pytest.mark.parametrize("name", METRICS)
def test_without_what_it_reads_nothing_is_asked(of, name):
    of.check_missing(LIBRARY, name)


@pytest.mark.parametrize("name", BY_RULE)
def test_a_metric_by_rule_is_scored_and_asks_nobody(of, name):
    found, requests = of.judged(LIBRARY, name, None)
    assert found.error is None, found.error
    assert requests == [] and found.source.source_type == "CODE"
