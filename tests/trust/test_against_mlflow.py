"""Our paired comparison against MLflow's own, where MLflow has one (3.18 on)."""

from __future__ import annotations

import random

import mlflow
import pytest

from mlflow_assay.trust.compare import compare


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_plain_paired_case_agrees_with_mlflows(store, monkeypatch, seed):
    """Same difference, same exact McNemar p; the intervals differ by method (theirs BCa bootstrap, ours Tango)."""
    if not hasattr(mlflow.genai, "compare_evaluations"):
        pytest.skip(f"MLflow {mlflow.__version__} has no compare_evaluations; it came with 3.18")
    from mlflow.genai.scorers import scorer

    monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_WORKERS", "4")
    mlflow.set_experiment("test")
    rng = random.Random(seed)  # noqa: S311 - test data
    before = [rng.random() < 0.5 for _ in range(40)]
    after = [rng.random() < 0.4 if rng.random() < 0.3 else value for value in before]

    @scorer
    def right(inputs, outputs):
        return bool(outputs["ok"])

    runs = []
    for side in (before, after):
        rows = [{"inputs": {"q": f"question {i}"}, "outputs": {"ok": value}} for i, value in enumerate(side)]
        runs.append(mlflow.genai.evaluate(data=rows, scorers=[right]).run_id)
    theirs = mlflow.genai.compare_evaluations(runs[1], runs[0]).scorers["right"]

    ours = compare(before, after)
    assert ours.difference == pytest.approx(theirs.diff)
    assert ours.p_value == pytest.approx(theirs.p_value)
    assert (ours.method, ours.ties) == ("mcnemar-exact", theirs.ties)
