"""`assay judges`: what each command prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import assay
from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.testing import FakeJudgeServer, answer

GOOD = """\
name: polite
purpose: Is the answer polite to the customer?
value: {type: boolean}
instructions: "Decide whether {{ outputs }} is polite."
cases:
  - {name: thanks, kind: good, outputs: {answer: Thank you!}, expect: true}
  - {name: rude, kind: bad, outputs: {answer: Go away.}, expect: false}
  - {name: nothing, kind: unscorable, unscored: missing_field}
"""
BAD = GOOD.replace("purpose:", "porpoise:").replace("boolean", "bool")


def run(*arguments: str, code: int = 0) -> str:
    """The command's output; an AssayError is raised to the test, as it is to the user in `main`."""
    result = CliRunner().invoke(assay, ["judges", *arguments], terminal_width=200)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def folder(write, tmp_path) -> Path:
    write(GOOD, "mine/polite.yaml")
    return tmp_path / "mine"


# --- list, show ------------------------------------------------------------------------------------------


def test_the_group_lists_its_commands():
    shown = run("--help")
    assert all(command in shown for command in ("list", "show", "validate", "test", "register", "schema"))


def test_list_shows_question_pass_rule_and_needs(folder):
    shown = run("list", "--path", str(folder))
    flat = " ".join(shown.split())
    assert "polite" in flat and "Is the answer polite to the customer?" in flat and "true/false, true passes" in flat
    assert "mlflow/UserFrustration" in flat and "needs session" in flat


def test_list_json_is_one_object_a_judge(folder):
    judges = {judge["name"]: judge for judge in json.loads(run("list", "--json", "--path", str(folder)))}
    assert judges["polite"]["value"] == {"type": "boolean", "good": True}
    assert judges["polite"]["origin"] == str(folder) and judges["polite"]["cases"] == 3
    assert judges["latency_limit"]["calls_llm"] is False and judges["latency_limit"]["registrable"] is False
    assert judges["routing_accuracy"]["not_registrable_because"].startswith("it reads mapped trace fields (agents")
    assert judges["session_resolved"]["scope"] == "session"
    assert judges["policy_adherence"]["variables"] == {"policy": None}


def test_list_of_a_library_has_its_judges_and_the_definitions_that_wrap_them():
    names = {judge["name"] for judge in json.loads(run("list", "--library", "mlflow", "--json"))}
    assert {"mlflow/Safety", "content_safety"} <= names and "tone" not in names
    with pytest.raises(ConfigError, match=r"No library 'nope' provides judges\. Valid: .*mlflow"):
        run("list", "--provider", "nope")


def test_show_tells_instructions_variables_cases_and_digest(folder):
    shown = run("show", "polite", "--path", str(folder), "--model", "openai:/m")
    assert "Decide whether {{ outputs }} is polite." in shown and "thanks" in shown
    digest = json.loads(run("show", "polite", "--path", str(folder), "--model", "openai:/m", "--json"))["digest"]
    assert digest in shown and len(digest) == 16
    other = json.loads(run("show", "polite", "--path", str(folder), "--model", "openai:/n", "--json"))["digest"]
    assert other != digest


def test_show_says_which_text_the_digest_waits_for():
    shown = json.loads(run("show", "policy_adherence", "--json"))
    assert shown["digest"] is None and "--set policy_adherence.policy" in shown["digest_needs"]
    given = json.loads(run("show", "policy_adherence", "--set", "policy_adherence.policy=Be kind.", "--json"))
    assert len(given["digest"]) == 16


def test_show_of_an_unknown_judge_suggests_near_ones():
    with pytest.raises(ConfigError, match=r"no judge 'tonne'\. Valid: tone"):
        run("show", "tonne")


# --- validate --------------------------------------------------------------------------------------------


def test_validate_passes_good_files_and_folders(folder):
    assert "1 definitions, 0 not valid" in run("validate", str(folder))
    assert "1 definitions, 0 not valid" in run("validate", str(folder / "polite.yaml"))


def test_validate_tells_every_problem_of_every_file_with_its_line(folder, write):
    write(BAD, "mine/bad.yaml")
    write(GOOD.replace("polite", "other").replace("{{ outputs }}", "{{ answer }}"), "mine/other.yaml")
    shown = run("validate", str(folder), code=1)
    assert f"{folder}/bad.yaml:2: porpoise: unknown key" in shown
    assert f"{folder}/bad.yaml:3: value" in shown
    assert f"{folder}/other.yaml:4: the definition: instructions use {{{{ answer }}}}" in shown
    assert "polite.yaml" not in shown and "3 definitions, 2 not valid" in shown


def test_validate_tells_of_unreadable_files_of_clashes_and_of_missing_cases(folder, write, tmp_path):
    assert "none.yaml:1: cannot be read" in run("validate", str(tmp_path / "none.yaml"), code=1)
    write(GOOD, "mine/twin.yaml")
    assert "twin.yaml:1: name:" in run("validate", str(folder), code=1)
    bare = write(GOOD.split("cases:")[0], "bare/polite.yaml")
    assert "hint: no unscorable case" in run("validate", str(bare))


def test_validate_checks_the_library_and_its_parameters(write):
    path = write(
        'name: quick\npurpose: "Is it quick?"\nvalue: {type: boolean}\nuses: latency_limit\nwith: {second: 3}\n'
    )
    assert f"{path}:5: The judge 'latency_limit' has no parameter 'second'" in run("validate", str(path), code=1)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no definitions"):
        run("validate", str(tmp_path))


# --- test ------------------------------------------------------------------------------------------------


def test_offline_says_plainly_what_it_does_not_test(folder):
    shown = run("test", "polite", "repeated_steps", "--offline", "--path", str(folder))
    assert "8 cases passed, 0 failed, 0 skipped" in shown
    assert "not how well any model judges" in " ".join(shown.split())


def test_a_model_is_asked_and_a_failed_case_is_exit_code_1(folder):
    with FakeJudgeServer(reply=answer(True, "fine by me")) as server:
        arguments = ("test", "polite", "--path", str(folder), "--model", "openai:/m", "--base-url", server.url)
        shown = run(*arguments, code=1)
        found = json.loads(run(*arguments, "--json", code=1))
    assert "2 cases passed, 1 failed, 0 skipped" in shown and "fine by me" in shown
    assert (found["passed"], found["failed"], found["offline"], found["note"]) == (2, 1, False, None)
    assert [case["case"] for case in found["cases"] if case["status"] == "failed"] == ["rude"]


def test_no_model_is_asked_that_nobody_named(folder, monkeypatch):
    """MLflow's default model is not called, and billed, by surprise."""
    monkeypatch.delenv("MLFLOW_GENAI_JUDGE_DEFAULT_MODEL", raising=False)
    with pytest.raises(ConfigError, match=r"'polite' asks a model; say which.*--offline"):
        run("test", "polite", "--path", str(folder))
    assert "5 cases passed" in run("test", "repeated_steps")


def test_a_judge_without_cases_is_told():
    with pytest.raises(ConfigError, match="'mlflow/Safety' has no cases"):
        run("test", "mlflow/Safety", "--offline")


# --- schema ----------------------------------------------------------------------------------------------


def test_schema_prints_and_checks(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(run("schema"), encoding="utf-8")
    assert json.loads(path.read_text())["title"] == "JudgeDefinition"
    assert "is current" in run("schema", "--check", str(path))
    path.write_text("{}")
    assert "not the current schema" in run("schema", "--check", str(path), code=1)


# --- register --------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(store) -> str:
    import mlflow

    return str(mlflow.set_experiment("support").experiment_id)


def test_register_makes_the_judge_a_scorer_of_the_experiment(experiment, folder):
    from mlflow.genai.scorers import list_scorers

    shown = run("register", "polite", "tone", "-e", "support", "--path", str(folder), "--model", "openai:/m")
    assert "polite: registered as version 1 in 'support', asks openai:/m" in shown
    again = json.loads(
        run("register", "polite", "-e", experiment, "--path", str(folder), "--model", "openai:/m", "--json")
    )
    assert [(r["judge"], r["version"], r["unchanged"]) for r in again] == [("polite", 1, True)]
    assert {s.name for s in list_scorers(experiment_id=experiment)} == {"polite", "tone"}


def test_nothing_is_registered_when_one_of_the_names_cannot_be(experiment):
    from mlflow.genai.scorers import list_scorers

    with pytest.raises(
        ConfigError, match=r"cannot register the judge 'repeated_steps': it is code.*assay score --judge"
    ):
        run("register", "tone", "repeated_steps", "-e", "support", "--model", "openai:/m")
    assert list_scorers(experiment_id=experiment) == []


def test_start_needs_a_gateway_model_and_sampling_needs_start(experiment):
    with pytest.raises(ConfigError, match=r"starts only judges that ask a model of its AI Gateway.*openai:/m"):
        run("register", "tone", "-e", "support", "--model", "openai:/m", "--start")
    with pytest.raises(ConfigError, match="they need --start"):
        run("register", "tone", "-e", "support", "--sample-rate", "0.5")


def test_an_unknown_experiment_is_told(experiment):
    with pytest.raises(StoreError, match="no experiment 'suport'"):
        run("register", "tone", "-e", "suport", "--model", "openai:/m")
