"""`assay bridge kpis`."""

from __future__ import annotations

import json

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.entities import AssessmentSource

from mlflow_assay.cli import assay
from mlflow_assay.testing import FarEnd


@pytest.fixture
def judged(log_trace):
    for value in (True, True, False):
        trace_id = log_trace(tags={"domain": "billing"})
        mlflow.log_feedback(trace_id=trace_id, name="my_judge", value=value, source=AssessmentSource("LLM_JUDGE", "j"))


def run(*arguments):
    return CliRunner().invoke(assay, ["bridge", "kpis", "-e", "test", *arguments])


def test_it_shows_what_the_worker_publishes(judged):
    done = run("--by", "tag:domain", "--json")
    assert done.exit_code == 0, done.output
    gauges = json.loads(done.stdout)["gauges"]

    raw = {row["labels"].get("assay_slice"): row["value"] for row in gauges if row["metric"] == "assay_kpi_raw"}
    assert raw[None] == raw["domain=billing"] == pytest.approx(2 / 3)


def test_for_people_it_is_a_table_of_rates(judged):
    """One line a judge, agent, slice and window; not one a gauge."""
    said = run().output
    assert "my_judge" in said and "67 % [" in said and "uncorrected" in said
    assert "assay_kpi_" not in said


def test_without_verdicts_it_says_so(store):
    mlflow.set_experiment("test")
    assert "nothing to show" in run().output


def test_a_cron_job_pushes_them_once(judged):
    with FarEnd() as far_end:
        done = run("--otlp-endpoint", far_end.url)
    assert "gauges pushed." in done.output
    assert far_end.paths() == ["/v1/metrics"]


@pytest.mark.parametrize("target", ["tone", "tone=2", "=0.5", "tone=much"])
def test_a_target_that_is_none_is_refused(judged, target):
    done = run("--kpi-target", target)
    assert done.exit_code != 0
    assert "is no target" in str(done.exception or done.output)
