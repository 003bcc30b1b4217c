"""The whole loop, from a script and from the command line, with the dataset in a folder and on a real S3 server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from tests.datasets.dataset_servers import SERVERS

from mlflow_assay.cli import assay
from mlflow_assay.datasets.store import load_dataset
from mlflow_assay.demo import expert, runner
from mlflow_assay.demo.improving import RIGHT_DESK
from mlflow_assay.demo.prompt import FIRST_PROMPT

pytestmark = pytest.mark.slow
PLACES = ["file", pytest.param("s3", marks=pytest.mark.integration)]


@pytest.fixture(scope="module", params=PLACES)
def datasets(request, tmp_path_factory) -> Iterator[str]:
    """The URL of an empty dataset store; an S3 server is started for it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "file":
        yield str(folder / "datasets")
        return
    with SERVERS["s3"](folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "s3://tests/datasets"


@pytest.fixture(scope="module")
def played(_empty_store: Path, tmp_path_factory) -> Path:
    """A store with labelled traffic of the demo's agent; tests take copies."""
    folder = tmp_path_factory.mktemp("played")
    shutil.copy(_empty_store, folder / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        traffic = runner.run("support", requests=320, seed=7)
        expert.label(traffic, sample=220, seed=7)
    finally:
        mlflow.set_tracking_uri(before)
    return folder / "mlflow.db"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(assay, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_from_the_command_line(datasets, played, store, tmp_path):
    """Failures to a dataset, the dataset to a better prompt, the proof to the registry: two commands."""
    shutil.copy(played, store.removeprefix("sqlite:///"))
    mlflow.create_experiment("optimizing", artifact_location=(tmp_path / "artifacts").as_uri())
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "right_desk.yaml").write_text(RIGHT_DESK)
    built = ["dataset", "build", "routing", "-e", "support", "--where", "label routing_accuracy any"]
    built += ["--input", "request=span:router.inputs.request", "--slice", "expectation:expected_route"]
    built += ["--split", "40/20/40", "--duplicates", "exact", "--alias", "golden", "--store", datasets, "--json"]
    run(*built)

    optimized = ["optimize", "prompts:/telecom_router@production", "-d", "routing@golden", "--store", datasets]
    optimized += ["-j", "right_desk", "--path", "judges", "-o", "categories", "--option", "label=expected_route"]
    optimized += ["--predict", "mlflow_assay.demo.predict:route", "-e", "optimizing"]
    plan = json.loads(run(*optimized, "--dry-run", "--json"))
    assert plan["test"] >= 60
    assert plan["dataset"].startswith("routing@v1")
    assert mlflow.search_experiments(filter_string="name = 'optimizing'")
    assert len(mlflow.MlflowClient().search_prompt_versions("telecom_router")) == 1

    result = json.loads(run(*optimized, "--json"))
    assert result["accepted"] is True, result["reason"]
    assert result["registered"] == {"telecom_router": 2}
    assert result["aliases"] == {"telecom_router": "production"}
    version = mlflow.genai.load_prompt("prompts:/telecom_router@production", cache_ttl_seconds=0)
    assert "- product:" in version.template
    assert str(mlflow.genai.load_prompt("prompts:/telecom_router/1").template) == FIRST_PROMPT
    dataset = load_dataset("routing@golden", datasets)
    assert version.tags["assay.optimize.dataset_digest"] == dataset.digest == result["dataset"]["digest"]
    assert result["dataset"]["uri"].startswith(datasets)


def test_as_a_notebook_script(datasets, store, tmp_path):
    """The script in the docs runs as it stands, and what it says at the end was measured on rows never seen."""
    environment = {**os.environ, "ASSAY_DATASETS": f"{datasets}/script", "ASSAY_LOOP_REQUESTS": "320"}
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_assay.demo.whole_loop"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The new is better on test rows no optimizer saw" in done.stdout
    assert re.search(r"registered: \{'telecom_router': 2\}, aliases: \{'telecom_router': 'production'\}", done.stdout)
    share = float(re.search(r"'right_desk/mean': (?:np\.float64\()?([\d.]+)", done.stdout)[1])
    tested = int(re.search(r"(\d+) % of \d+ rows pass against", done.stdout)[1])
    assert round(100 * share) == tested  # the evaluation run agrees with the gate
    dataset = load_dataset("routing@golden", f"{datasets}/script")
    assert dataset.manifest.short in done.stdout
    assert len(dataset) > 100
