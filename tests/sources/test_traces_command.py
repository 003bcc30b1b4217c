from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_assay.cli.traces import traces
from mlflow_assay.errors import ConfigError, InputError, PluginError
from mlflow_assay.judges import definition


def assay(*arguments):
    """Run `assay traces …` and return what it printed; errors come through as they are."""
    done = CliRunner().invoke(traces, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def import_(*arguments):
    return assay("import", "--format", "tau2", "--experiment", "runs", *arguments)


def test_it_says_what_came_in_and_what_to_do_next(store, simulation_file, judge_file, entry):
    said = import_(simulation_file, judge_file(entry()), "--with-verdicts").stdout

    assert "Imported into 'runs'" in said
    assert next(line.split("│")[2].strip() for line in said.splitlines() if "spans" in line) == "19"
    assert "assay score --experiment runs" in said
    assert f"mlflow ui --backend-store-uri {store}" in said


def test_it_says_how_each_spelling_was_read(store, judge_file, entry):
    entries = [entry("a", "satisfied"), entry("b", "Satisfied"), entry("c", "unknown")]
    said = json.loads(import_(judge_file(*entries), "--with-verdicts", "--json").stdout)

    assert [(r["spelling"], r["count"], r["read_as"]) for r in said["readings"]] == [
        ("Satisfied", 1, "pass"),
        ("satisfied", 1, "pass"),
        ("unknown", 1, "unscored: off_menu"),
    ]
    assert said["unscored"] == {"off_menu": 1}


def test_json_is_one_object_and_nothing_else(store, simulation_file):
    said = json.loads(import_(simulation_file, "--json").stdout)

    assert (said["traces_new"], said["spans_new"], said["new"]) == (1, 10, {"expectation": 2, "feedback": 1})
    assert (said["experiment"], said["tracking_uri"], said["spans_planned"]) == ("runs", store, 10)


def test_verdicts_left_out_are_counted(store, judge_file, entry):
    assert "1 recorded verdicts were left out; --with-verdicts logs them" in import_(judge_file(entry())).stdout


def test_written_judges_are_valid_definitions_of_the_recorded_prompts(store, judge_file, entry, tmp_path):
    import_(judge_file(entry(), entry(judge="b_v1", run="x")), "--write-judges", tmp_path / "judges")
    judges = dict(definition.load_folder(tmp_path / "judges"))

    assert [d.name for d in judges.values()] == ["b_v1", "lamp_check_v2"]
    made = judges[tmp_path / "judges" / "lamp_check_v2.yaml"]
    assert (made.version, made.model, made.parameters) == ("2-assay", "azure:/gpt-judge", {"temperature": 0.0})
    assert made.template_variables == ("inputs", "outputs")
    text = made.render({})
    assert text.startswith("You judge lamps.\n\nDomain: lamps\n\nDomain policy:\nBe kind to lamps.")
    assert "- Look at the lamp.\n- Cite turns." in text
    assert "JSON" not in text
    assert "true when by these instructions the run passes" in text


def test_writing_judges_twice_is_harmless_but_never_overwrites_another_file(store, judge_file, entry, tmp_path):
    path = judge_file(entry())
    import_(path, "--write-judges", tmp_path / "judges")
    import_(path, "--write-judges", tmp_path / "judges")
    (tmp_path / "judges" / "lamp_check_v2.yaml").write_text("mine")

    with pytest.raises(ConfigError, match="exists already and says something else"):
        import_(path, "--write-judges", tmp_path / "judges")


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"judge_system_prompt": "Be strict."}, "2 different prompts in these files are called 'lamp_check_v2'"),
        ({"judge_prompt_name": "Lamp check!"}, "'Lamp check!' cannot be written as a definition"),
    ],
)
def test_prompts_that_cannot_be_told_apart_or_named_are_refused_before_anything_is_imported(
    store, judge_file, entry, tmp_path, second, complaint
):
    import mlflow

    with pytest.raises(ConfigError, match=complaint):
        import_(judge_file(entry(), {**entry("x"), **second}), "--write-judges", tmp_path / "judges")
    assert mlflow.get_experiment_by_name("runs") is None


def test_writing_judges_where_none_are_recorded_is_an_error(store, simulation_file, tmp_path):
    with pytest.raises(ConfigError, match="record no judges"):
        import_(simulation_file, "--write-judges", tmp_path / "judges")


def test_an_unknown_format_lists_the_known_ones(store, simulation_file):
    with pytest.raises(PluginError, match=r"No importers plugin 'tau3'.*otlp-json, tau2.*Did you mean 'tau2'"):
        assay("import", "--format", "tau3", "--experiment", "runs", simulation_file)


def test_files_without_runs_are_an_error(store, tmp_path):
    path = tmp_path / "none.json"
    path.write_text('{"simulations": []}')

    with pytest.raises(InputError, match=r"There are no runs in .*none\.json"):
        import_(path)


def test_help_teaches_with_examples():
    said = assay("import", "--help").stdout

    assert "assay traces import --format otlp-json traces.jsonl" in said
    assert "--with-verdicts" in said


def test_the_example_command_names_an_experiment_with_a_space_in_quotes(store, simulation_file):
    said = assay("import", "--format", "tau2", "--experiment", "my runs", simulation_file).stdout

    assert "assay score --experiment 'my runs'" in said
    assert Path(simulation_file).exists()
