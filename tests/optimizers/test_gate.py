"""From request to registered version: what is proven is promoted with its evidence, everything else is not."""

from __future__ import annotations

import json

import mlflow
import pytest
from tests.optimizers.conftest import PROMPT, make_rows, route

from mlflow_assay.errors import AssayError, ConfigError, NotTrustedError
from mlflow_assay.optimizers.agent import FunctionAgent
from mlflow_assay.optimizers.procedure import Run
from mlflow_assay.optimizers.request import rows_of
from mlflow_assay.optimizers.running import carry_out
from mlflow_assay.trust.prompt_gate import PromptGate

ALIASES = {"router": "production"}


def versions() -> list[int]:
    return sorted(int(v.version) for v in mlflow.MlflowClient().search_prompt_versions("router"))


def production() -> str:
    return str(mlflow.genai.load_prompt("prompts:/router@production", cache_ttl_seconds=0).template)


def artifact(run_id: str, name: str) -> str:
    return mlflow.artifacts.load_text(f"{mlflow.get_run(run_id).info.artifact_uri}/{name}")


def test_a_better_prompt_becomes_a_version_with_alias_and_evidence(request_for, experiment):
    request = request_for()
    report, outcome = carry_out(request, experiment, ALIASES)

    assert report.accepted, report.reason
    assert report.decision.route == "better"
    assert "- product:" in production()
    assert (outcome.registered, outcome.aliases) == ({"router": 2}, ALIASES)
    tags = mlflow.genai.load_prompt("prompts:/router/2").tags
    assert tags["assay.optimize.dataset_digest"] == request.rows.digest
    assert tags["assay.optimize.judge.desk"] == request.judges[0].digest
    assert tags["assay.optimize.run"] == outcome.run_id
    assert tags["assay.optimize.from_version"] == "1"
    assert "%" in tags["assay.optimize.before"] and "[" in tags["assay.optimize.change"]
    assert tags["assay.optimize.cost_usd"].startswith("$0.0000; the cost of")
    run = mlflow.get_run(outcome.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["assay.optimize.accepted"] == "true"
    assert run.data.tags["assay.optimize.registered.router"] == "2"
    assert run.data.metrics["test_change_low"] > 0
    logged = json.loads(artifact(outcome.run_id, "report.json"))
    assert logged["decision"]["accepted"] is True
    assert "- product:" in artifact(outcome.run_id, "router.new.txt")
    assert "accepted" in artifact(outcome.run_id, "report.md")
    (linked,) = json.loads(run.data.tags["mlflow.linkedPrompts"])
    assert (linked["name"], linked["version"]) == ("router", "2")


def test_the_search_never_sees_a_test_row(request_for, experiment):
    """Test rows are answered exactly twice, by old and new prompts, after everything else."""
    asked: list[str] = []

    def spying(request: str):
        asked.append(request)
        return route(request)

    request = request_for(function=spying)
    report, _ = carry_out(request, experiment, ALIASES)
    held = {row.inputs["request"] for row in request.rows.part("test")}
    tested = [i for i, text in enumerate(asked) if text in held]
    assert len(tested) == 2 * len(held)
    assert tested == list(range(len(asked) - len(tested), len(asked)))
    texts = "\n".join(c.prompts["router"] for c in report.candidates)
    assert not any(text in texts for text in held)


def test_groups_stay_together(rows):
    homes: dict[str, set[str]] = {}
    for row in rows.rows:
        homes.setdefault(row.group, set()).add(str(row.split))
    assert all(len(parts) == 1 for parts in homes.values())


def test_what_is_not_better_changes_nothing_and_is_logged_all_the_same(request_for, experiment):
    """The agent ignores what is added to its prompt, so no candidate can win."""

    def deaf(request: str):
        mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False).template  # noqa: B018 - it reads it
        return {"desk": "billing"}

    report, outcome = carry_out(request_for(function=deaf), experiment, ALIASES)
    assert not report.accepted
    assert "No candidate did better" in report.reason
    assert versions() == [1]
    assert production() == PROMPT
    run = mlflow.get_run(outcome.run_id)
    assert run.data.tags["assay.optimize.accepted"] == "false"
    assert "not accepted" in artifact(outcome.run_id, "report.md")


def test_luck_on_the_validation_rows_is_not_accepted(request_for, experiment):
    """A candidate that wins on the rows it was chosen by and nowhere else is found out by the test."""
    lucky = request_for()
    right = {row.inputs["request"]: row.expectations["desk"] for row in lucky.rows.part("validation")}

    def overfitted(request: str):
        text = str(mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False).template)
        return {"desk": right.get(request, "billing") if "product" in text else "billing"}

    report, _ = carry_out(request_for(function=overfitted), experiment, ALIASES)
    assert report.chosen.number > 0
    assert not report.accepted
    assert "not shown to be better" in report.reason
    assert versions() == [1]


def test_a_gain_that_harms_what_another_judge_asks_is_refused(request_for, experiment):
    """The new prompt routes better, but is too long for the second judge."""
    long = rows_of(make_rows(short="yes"), reference="toy@v2")

    def padded(request: str):
        found = route(request)
        text = str(mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False).template)
        return {**found, "short": "no" if "product" in text else "yes"}

    report, _ = carry_out(request_for(judges=("desk", "short"), rows=long, function=padded), experiment, ALIASES)
    assert report.decision.comparisons["desk"].outcome == "better"
    assert not report.accepted
    assert "by short it is worse" in report.reason
    assert versions() == [1]


def test_a_gain_that_leaves_other_judges_content_is_accepted(request_for, experiment):
    fine = rows_of(make_rows(60, short="yes"), reference="toy@v3")
    report, _ = carry_out(
        request_for(judges=("desk", "short"), rows=fine, options={"terms": [4], "examples": [0]}), experiment, ALIASES
    )
    assert report.accepted, report.reason
    assert "by short it is not worse" in report.reason


def test_an_alias_somebody_moved_meanwhile_is_left_alone(request_for, experiment):
    def meddled(request: str):
        client = mlflow.MlflowClient()
        if len(client.search_prompt_versions("router")) == 1:
            made = mlflow.genai.register_prompt(name="router", template=PROMPT.replace("Send", "Pass"))
            client.set_prompt_alias("router", "production", made.version)
        return route(request)

    report, outcome = carry_out(request_for(agent=FunctionAgent(meddled), threads=1), experiment, ALIASES)
    assert report.accepted
    assert outcome.aliases == {}
    assert "was moved to version 2" in outcome.notes[0]
    assert "Pass each" in production()


def test_too_few_test_rows_are_refused_before_anything_is_called(request_for):
    def never(request: str):
        raise AssertionError("called")

    few = rows_of(make_rows(8), reference="small@v1")
    with pytest.raises(NotTrustedError, match=r"test part has \d+ rows, and 20 are the least"):
        Run(request_for(rows=few, function=never))


def test_a_dataset_whose_groups_cross_its_split_is_refused():
    crossing = [
        row.moved(split=part, session="same" if i < 2 else f"s{i}")
        for i, (row, part) in enumerate(zip(make_rows(2), ["train", "test", "validation"] * 2, strict=True))
    ]
    with pytest.raises(ConfigError, match=r"session 'same' .* is in train and test"):
        rows_of(crossing)


def test_a_dataset_with_some_parts_only_is_refused():
    with pytest.raises(ConfigError, match=r"has only the parts \['train'\]"):
        rows_of([row.moved(split="train") for row in make_rows(2)])


def test_an_agent_that_never_reads_the_prompt_is_refused(request_for, experiment):
    with pytest.raises(ConfigError, match=r"did not read the prompts \['router'\]"):
        carry_out(request_for(function=lambda request: {"desk": "billing"}), experiment, ALIASES)


def test_an_agent_that_always_fails_ends_the_run_with_its_error(request_for, experiment):
    def broken(request: str):
        route(request)
        raise RuntimeError("the line is dead")

    with pytest.raises(AssayError, match="the line is dead"):
        carry_out(request_for(function=broken), experiment, ALIASES)
    (run,) = mlflow.MlflowClient().search_runs([experiment])
    assert run.info.status == "KILLED"
    assert versions() == [1]


def test_an_answer_that_fails_counts_as_not_passed(request_for, experiment):
    """A candidate cannot win by making the agent fail on hard rows."""

    def fragile(request: str):
        text = str(mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False).template)
        if "product" in text and "signal" in request:
            raise ValueError("cannot parse the prompt")
        return route(request)

    report, _ = carry_out(request_for(function=fragile), experiment, ALIASES)
    old, new = report.comparison.value_a, report.comparison.value_b
    assert report.comparison.n == len(report.split["test"])
    assert new < 1
    assert len(report.comparison.losses) > 0
    assert old < new


def test_two_runs_on_the_same_rows_are_counted(request_for, experiment):
    first = carry_out(request_for(), experiment, {"router": "optimized"})[1]
    second = carry_out(request_for(seed=1), experiment, {"router": "optimized"})[1]
    assert (first.attempt, second.attempt) == (1, 2)


def test_a_dataset_of_failures_alone_is_remarked_upon(request_for, experiment):
    """Such a test cannot see what the new prompts break."""
    failures = rows_of([r for r in make_rows(90) if r.expectations["desk"] == "product"], reference="failures@v1")
    report, _ = carry_out(request_for(rows=failures, gate=PromptGate(), options={"label": "desk"}), experiment, ALIASES)
    (note,) = [note for note in report.notes if "holds failures only" in note]
    assert (
        "For example: Expected" in note
    )  # the other cause: a judge that reads another place than the agent answers at
