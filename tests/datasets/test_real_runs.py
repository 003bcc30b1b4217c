"""Datasets from real agent runs with recorded judges (tau2 telecom)."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import assay
from mlflow_assay.datasets.store import load_dataset


def run(*arguments) -> dict:
    done = CliRunner().invoke(assay, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_failed_real_conversations_become_a_split_dataset_without_leaks(store, shared_data, tmp_path):
    path = shared_data / "tau2_telecom" / "telecom_judge_customer_outcome.json.gz"
    run("traces", "import", "--format", "tau2", path, "--experiment", "real", "--with-verdicts")
    where = ("--where", "judge customer_outcome_v1 failed")
    made = run("dataset", "build", "failed", "-e", "real", *where, "--slice", "tag:task", "--duplicates", "exact")
    dataset = load_dataset("failed")
    rows = list(dataset.rows())
    assert made["rows"] == len(rows) > 20
    assert sum(r.weight for r in rows) == made["about"]["query"]["traces_selected"]
    groups: dict[str, set[str]] = {}
    for row in rows:
        assert row.trace_id and row.inputs
        if row.split:
            groups.setdefault(row.group, set()).add(row.split)
    assert all(len(splits) == 1 for splits in groups.values())
    assert sum(made["splits"].values()) + made["about"]["query"]["shaped"]["split"]["in_no_split"] == len(rows)
    dataset.store.verify(dataset.manifest)
    disputed = ("--where", "judge customer_outcome_v1 wrong", "--label", "task_success", "--split", "none")
    wrong = run("dataset", "build", "wrong", "-e", "real", *disputed, "--duplicates", "none")
    assert 20 < wrong["rows"] < 60, "the judge is right on about two thirds of 114 (kappa 0.31)"
