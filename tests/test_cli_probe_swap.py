"""`assay probe --swapped`: a comparing judge's winner when the answers change places, from stored verdicts."""

from __future__ import annotations

import json

import mlflow
from click.testing import CliRunner
from mlflow.entities import AssessmentSource

from mlflow_assay.cli.probe import probe


def test_a_liking_of_the_first_place_is_counted(log_trace):
    source = AssessmentSource("LLM_JUDGE", "openai:/fake")
    for i in range(12):
        trace_id = log_trace(request=f"question {i}", tools=())
        turned = "second" if i < 3 else "first"
        mlflow.log_feedback(trace_id=trace_id, name="better", value="first", source=source)
        mlflow.log_feedback(trace_id=trace_id, name="better_swapped", value=turned, source=source)
    arguments = ["-e", "test", "-j", "better", "--swapped", "better_swapped", "--mirror", "first=second"]
    done = CliRunner().invoke(probe, [*arguments, "--json"])
    found = json.loads(done.stdout)
    assert (found["n"], found["consistent"], found["for_first"]) == (12, 0.25, 9)
    assert "25 %" in CliRunner().invoke(probe, arguments).stdout


def test_a_missing_mirror_is_asked_for(log_trace):
    log_trace()
    done = CliRunner().invoke(probe, ["-e", "test", "-j", "better", "--swapped", "other"])
    assert "--mirror first=second" in str(done.exception)
