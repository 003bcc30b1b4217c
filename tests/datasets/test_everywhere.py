"""The loop from the command line, the same in a folder, in S3, in Azure Blob and in Google Cloud Storage."""

from __future__ import annotations

import json

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.genai import scorer

from mlflow_assay.cli import assay
from mlflow_assay.datasets.store import load_dataset

TOPICS = ("parcel lost abroad", "invoice far too high", "router blinks red", "contract of my mother", "voicemail full")


@scorer
def short(outputs) -> bool:
    return len(str(outputs)) < 20


def run(*arguments: str) -> str:
    done = CliRunner().invoke(assay, ["dataset", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_traces_to_version_to_evaluation_run_and_back(judged, url, tmp_path, monkeypatch):
    pytest.importorskip("duckdb", reason="pip install 'mlflow-assay[datasets]'")
    monkeypatch.setenv("ASSAY_DATASETS", url)
    for i in range(15):
        judged(f"{TOPICS[i % 5]} {'abc'[i // 5] * 8}", verdict=False, session=f"s{i}", expectations={"route": "x"})
    made = json.loads(run("build", "d", "-e", "test", "--where", "judge request_resolved failed", "--json"))
    assert made["rows"] == 15
    judged("one more, of another kind", verdict=False, session="late")
    run("append", "d", "-e", "test", "--where", "judge request_resolved failed")
    run("tag", "d", "--alias", "golden")
    assert json.loads(run("diff", "d@v1", "d@golden", "--json"))["added"] == 1
    counted = run("query", "d@golden", 'SELECT count(*) AS n, count(DISTINCT "group") AS g FROM dataset', "--json")
    assert json.loads(counted) == {"n": 16, "g": 6}, "one group a topic"
    assert "All files are as they were written" in run("show", "d@golden", "--verify")
    run("export", "d@golden", str(tmp_path / "out.jsonl"))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 16

    dataset = load_dataset("d@golden")
    data = dataset.to_evaluation("test")
    result = mlflow.genai.evaluate(data=data, scorers=[short], predict_fn=lambda request: request[:10])
    (used,) = mlflow.get_run(result.run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("d@v2/test", dataset.digest[:36])
    assert json.loads(used.dataset.source)["store"] == dataset.store.url
    assert sorted(mlflow.data.get_source(used).load()["id"]) == sorted(r.id for r in dataset.rows("test"))
