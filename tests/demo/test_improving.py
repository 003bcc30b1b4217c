"""The demo's second half: what the report says of dataset, prompt and proof, and what is promoted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from mlflow_assay.demo import EXPERIMENT, expert, improving, predict, prompt, runner, sections
from mlflow_assay.trust.compare import compare


class Silent:
    def steps(self, label):
        return lambda done, of: None


@pytest.fixture(scope="module")
def played(_empty_store: Path, tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A folder with labelled traffic of the demo, MLflow set to it, and the prompt's URI."""
    folder = tmp_path_factory.mktemp("improving")
    shutil.copy(_empty_store, folder / "mlflow.db")
    (folder / "judges").mkdir()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment(EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
    try:
        traffic = runner.run(EXPERIMENT, requests=300, seed=7)
        expert.label(traffic, sample=200, seed=7)
        yield folder, traffic.prompt_uri
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_failures_to_dataset_to_prompt_to_promotion(played):
    folder, first = played
    failures = improving.build_dataset(folder, 7)
    assert 30 < failures.misrouted < len(failures.dataset)
    assert failures.desks[0][0] == "product"
    homes = [(row.group, row.split) for row in failures.dataset.rows()]
    assert len({group for group, _ in homes}) == len(set(homes))

    found = improving.improve(folder, failures, first, 7, Silent())
    assert found.accepted, found.reason
    assert found.calls.keys() == {"agent"}  # no model wrote, and none judged
    assert "- product:" in prompt.load(f"prompts:/{prompt.PROMPT_NAME}@{improving.CANDIDATE}").text
    assert prompt.load(f"prompts:/{prompt.PROMPT_NAME}@{prompt.ALIAS}").text == prompt.FIRST_PROMPT

    fix = improving.verify(first, 100, 8, Silent())
    assert fix.outcome == "better"
    assert improving.promote(fix) == 2
    assert "- product:" in prompt.load(f"prompts:/{prompt.PROMPT_NAME}@{prompt.ALIAS}").text

    dataset, changed, proof = (
        sections.dataset_section(failures),
        sections.prompt_section(found, 2),
        sections.comparison_section(fix),
    )
    assert [s.key for s in (dataset, changed, proof)] == ["dataset", "prompt_fix", "comparison"]
    assert dict(dataset.facts)["Version"] == "routing@v1"
    assert any(desk == "product" and added.startswith("Examples:") for desk, added in changed.rows)
    assert dict(changed.facts)["In production now"] == "version 2"
    assert "promoted" in changed.summary
    assert "not accepted" in sections.prompt_section(_refused(found), None).summary


def _refused(found):
    from dataclasses import replace

    return replace(found, decision=replace(found.decision, accepted=False))


def test_nothing_is_promoted_without_proof(store):
    same = compare([True, False] * 20, [True, False] * 20)
    worse = compare([True] * 40, [True] * 20 + [False] * 20)
    assert [improving.promote(c) for c in (None, same, worse)] == [None, None, None]


def test_the_router_as_a_function_follows_the_registered_prompt(store):
    prompt.register()
    asked = "Which phones do you have with a good camera?"
    assert predict.route(asked)["route"] != "product"
    better = prompt.register(prompt.REPAIRED_PROMPT)
    mlflow.MlflowClient().set_prompt_alias(prompt.PROMPT_NAME, prompt.ALIAS, better.version)
    mlflow.genai.load_prompt(f"prompts:/{prompt.PROMPT_NAME}@{prompt.ALIAS}", cache_ttl_seconds=0)
    assert predict.route(asked)["route"] == "product"
