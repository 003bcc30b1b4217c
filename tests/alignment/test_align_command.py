"""`assay align` end to end: labels in a store, a scripted judge model, the gate, and what is (not) changed."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from tests.alignment.conftest import DEFINITION, case_of, deaf, learner

from mlflow_assay.alignment import record
from mlflow_assay.cli.align import align as command
from mlflow_assay.errors import AssayError, ConfigError
from mlflow_assay.judges import definition as definitions
from mlflow_assay.testing import FakeJudgeServer, answer


def run(server: FakeJudgeServer, folder: Path, *more: str, judge="polite", optimizer="nearest_examples", traces=60):
    arguments = [judge, "-e", "test", "-o", optimizer, "--path", str(folder), "--out", "new", "--json", *more]
    arguments += ["--max-traces", str(traces)]
    arguments += ["--model", "openai:/fake-judge", "--base-url", server.url]
    result = CliRunner().invoke(command, arguments, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def machine_verdicts(ids):
    return [a for i in ids for a in mlflow.get_trace(i).info.assessments if str(a.source.source_type) != "HUMAN"]


def test_examples_that_help_are_accepted_written_and_logged(labelled, folder, store):
    ids = labelled[:60]
    with FakeJudgeServer(learner) as server:
        code, found = run(server, folder)
    assert code == 0
    assert (found["accepted"], found["decision"]["route"], found["forced"]) == (True, "better", False)
    assert found["decision"]["kappa_old"]["value"] == 0
    assert found["decision"]["kappa_new"]["value"] == 1
    new = definitions.load(Path("new/polite.yaml"))
    assert (new.version, "SHRUG" in new.instructions) == ("2", True)
    assert found["run_id"] in new.notes
    assert (folder / "polite.yaml").read_text() == DEFINITION
    assert machine_verdicts(ids) == []
    logged = mlflow.get_run(found["run_id"])
    assert logged.data.tags[record.ACCEPTED] == "true"
    kept = {a.path for a in mlflow.MlflowClient().list_artifacts(found["run_id"])}
    assert {"report.json", "report.md", "split.json", "old.yaml", "new.yaml"} <= kept
    report = mlflow.artifacts.load_text(f"runs:/{found['run_id']}/report.md")
    assert "# Alignment of polite: accepted" in report


def test_the_gates_figures_are_those_of_the_installed_definition(labelled, folder, store):
    """Judging the held-out traces with the written file gives the verdicts the gate decided on."""
    from mlflow_assay.alignment.labelled import attach, read_labels
    from mlflow_assay.alignment.verdicts import Asker
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.sources.mlflow_store import MlflowSource, load_ids

    with FakeJudgeServer(learner) as server:
        _, found = run(server, folder)
        bound = Catalogue(["new"]).build("polite", server.model)
        labels = read_labels(MlflowSource("test", max_traces=60).infos(), "polite", bound.contract)
        test = attach(load_ids(found["split"]["test"]), labels.labels)
        said = Asker().ask(bound, test)
    assert bound.digest == found["new"]["digest"]
    assert {i: v.passed for i, v in said.items()} == {i: v["new"]["passed"] for i, v in found["verdicts"].items()}


def test_examples_that_do_not_help_are_rejected_and_nothing_changes(labelled, folder, store):
    ids = labelled[:60]
    with FakeJudgeServer(deaf) as server:
        code, found = run(server, folder)
    assert code == 1
    assert not found["accepted"]
    assert found["decision"]["reason"].startswith("The old stays.")
    assert not Path("new").exists()
    assert (folder / "polite.yaml").read_text() == DEFINITION
    assert machine_verdicts(ids) == []
    assert mlflow.get_run(found["run_id"]).data.tags[record.ACCEPTED] == "false"


def test_force_accepts_all_the_same_and_is_recorded(labelled, folder, store):
    with FakeJudgeServer(deaf) as server:
        code, found = run(server, folder, "--force")
    assert (code, found["accepted"], found["forced"]) == (0, True, True)
    assert not found["decision"]["accepted"]
    assert "--force against the gate" in definitions.load(Path("new/polite.yaml")).notes
    assert mlflow.get_run(found["run_id"]).data.tags[record.FORCED] == "true"


def test_nothing_of_the_test_part_reaches_the_prompt_or_the_optimizer(labelled, folder, store):
    """Every request is either about a case without test text in its instructions, or about the test case itself."""
    with FakeJudgeServer(learner) as server:
        _, found = run(server, folder)
        requests = list(server.requests)
    test = set(found["split"]["test"])
    answers = {json.loads(mlflow.get_trace(i).data.response)["answer"] for i in test}
    questions = {json.loads(mlflow.get_trace(i).data.request)["request"] for i in test}
    for request in requests:
        instructions = request.body["messages"][0]["content"]
        assert not any(text in instructions for text in answers | questions)
        assert not any(i in request.prompt for i in test)
    assert not test & set(found["used"])
    assert not test & set(found["split"]["train"]) | test & set(found["split"]["validation"])
    asked = [request for request in requests if any(text in case_of(request) for text in answers)]
    assert len(asked) == 2 * len(test)  # once by the old judge, once by the new


def test_the_same_seed_and_labels_give_the_same_judge(labelled, folder, store):
    with FakeJudgeServer(learner) as server:
        first = run(server, folder, traces=60)[1]
        second = run(server, folder, "--no-cache", traces=60)[1]
        other = run(server, folder, "--seed", "1", traces=60)[1]
    assert first["new"]["digest"] == second["new"]["digest"]
    assert first["split"] == second["split"]
    assert other["split"] != first["split"]
    assert [first["attempt"], second["attempt"], other["attempt"]] == [1, 2, 3]


def test_verdicts_that_stand_are_not_paid_for_again(labelled, folder, store):
    from mlflow_assay import pipeline
    from mlflow_assay.sources.mlflow_store import MlflowSource

    with FakeJudgeServer(learner) as server:
        judges = pipeline.build_judges(["polite"], model=server.model, paths=[folder])
        pipeline.score(MlflowSource("test", max_traces=60), judges)
        _, found = run(server, folder, "--no-cache", traces=60)
    assert found["calls"]["old judge"] == 0
    assert found["reused"] == 60


def test_where_no_call_is_needed_no_key_is_needed(labelled, folder, store):
    from mlflow_assay import pipeline
    from mlflow_assay.sources.mlflow_store import MlflowSource

    with FakeJudgeServer(deaf) as server:
        judges = pipeline.build_judges(["polite"], model=server.model, paths=[folder])
        pipeline.score(MlflowSource("test"), judges)
    arguments = ["polite", "-e", "test", "-o", "local", "--path", str(folder), "--out", "new", "--json"]
    result = CliRunner().invoke(command, [*arguments, "--model", "openai:/fake-judge"])
    assert (result.exit_code, json.loads(result.stdout)["calls"]["old judge"]) == (0, 0)


def test_a_text_for_another_judge_is_refused(labelled, folder, store):
    with FakeJudgeServer(deaf) as server, pytest.raises(ConfigError, match="which is not aligned"):
        run(server, folder, "--set", "plite.policy=x")


def test_the_limit_of_calls_holds(labelled, folder, store):
    with FakeJudgeServer(learner) as server:
        with pytest.raises(ConfigError, match="--max-calls 20 does not suffice: 84"):
            run(server, folder, "--max-calls", "20", traces=60)
        assert server.requests == []
        _, found = run(server, folder, "--max-calls", "100", traces=60)
        assert len(server.requests) == sum(found["calls"].values()) <= 100
        assert len(found["details"]["tried"]) == 1  # there was no room to try more numbers of cases


def test_a_dry_run_calls_and_changes_nothing(labelled, folder, store):
    ids = labelled[:30]
    with FakeJudgeServer(learner) as server:
        code, found = run(server, folder, "--dry-run", traces=30)
        assert server.requests == []
    assert code == 0
    assert (found["labels"], found["train"] + found["validation"] + found["test"]) == (30, 30)
    assert machine_verdicts(ids) == []
    assert mlflow.search_runs(search_all_experiments=True).empty


def test_few_labels_are_refused_with_the_number_missing(labelled, folder, store):
    with FakeJudgeServer(learner) as server:
        code, found = run(server, folder, traces=24)
        assert server.requests == []
    assert (code, found["accepted"]) == (1, False)
    assert "Too few held-out labels: 9, and 20 are the least; 11 more are needed." in found["reason"]
    assert "Label about 30 more traces." in found["reason"]


def test_an_optimizer_that_fails_leaves_everything_unchanged(labelled, folder, store, monkeypatch):
    from mlflow_assay.alignment.nearest import NearestExamples

    def broken(self, task):
        raise RuntimeError("the library fell over")

    monkeypatch.setattr(NearestExamples, "propose", broken)
    ids = labelled[:60]
    with FakeJudgeServer(learner) as server, pytest.raises(AssayError, match=r"failed; nothing was changed.*fell over"):
        run(server, folder, traces=60)
    assert not Path("new").exists()
    assert (folder / "polite.yaml").read_text() == DEFINITION
    assert machine_verdicts(ids) == []
    assert mlflow.search_runs(search_all_experiments=True).empty


def test_a_registered_version_appears_in_mlflow(labelled, folder, store):
    from mlflow.genai.scorers import get_scorer

    with FakeJudgeServer(learner) as server:
        code, found = run(server, folder, "--register")
    assert (code, found["registered_version"]) == (0, 1)
    experiment = mlflow.get_experiment_by_name("test").experiment_id
    registered = get_scorer(name="polite", experiment_id=experiment)
    assert registered.instructions.strip() == definitions.load(Path("new/polite.yaml")).instructions.strip()
    assert mlflow.get_run(found["run_id"]).data.tags[record.REGISTERED] == "1"


def test_a_threshold_is_moved_without_a_single_call(labelled, folder, store):
    """The judge gives a shrug 3 of 5 and passes from 2; the experts do not pass it. Standing scores suffice."""
    from mlflow_assay import pipeline
    from mlflow_assay.sources.mlflow_store import MlflowSource

    with FakeJudgeServer(lambda r: answer(3 if "SHRUG" in case_of(r) else 5)) as server:
        judges = pipeline.build_judges(["helpful"], model=server.model, paths=[folder])
        pipeline.score(MlflowSource("test"), judges)
        before = len(server.requests)
        options = {"judge": "helpful", "optimizer": "recalibrate", "traces": 90}
        code, found = run(server, folder, "--label", "polite", **options)
        assert len(server.requests) == before
    assert (code, found["accepted"], sum(found["calls"].values())) == (0, True, 0)
    new = definitions.load(Path("new/helpful.yaml"))
    assert new.value.threshold == 4
    assert [case.name for case in new.cases] == ["best"]  # the other case no longer says what it said


def test_a_boolean_judge_has_no_threshold_to_move(labelled, folder, store):
    with FakeJudgeServer(learner) as server, pytest.raises(ConfigError, match="gives no score"):
        run(server, folder, traces=30, optimizer="recalibrate")


def test_a_local_classifier_takes_the_judges_place_when_it_is_better(labelled, folder, store):
    with FakeJudgeServer(deaf) as server:
        code, found = run(server, folder, traces=150, optimizer="local")
        calls = len(server.requests)
    assert (code, found["accepted"]) == (0, True)
    assert calls == len(found["split"]["test"])  # the old judge, on the held-out part only
    assert found["decision"]["new_cost"] == 0
    new = definitions.load(Path("new/polite.yaml"))
    assert new.uses == "local/classifier"
    assert Path("new/polite.judge.zip").is_file()


def test_a_local_classifier_cannot_be_registered_and_says_so_before_anything_is_paid(labelled, folder, store):
    with FakeJudgeServer(deaf) as server, pytest.raises(ConfigError, match="could not be registered"):
        try:
            run(server, folder, "--register", traces=30, optimizer="local")
        finally:
            assert server.requests == []


def test_missing_labels_name_those_that_are_there(labelled, folder, store):
    with FakeJudgeServer(deaf) as server:
        code, found = run(server, folder, "--label", "niceness", traces=6)
    assert code == 1
    assert "niceness" in found["reason"]
    assert "labels polite" in found["reason"]


def test_the_table_speaks_plainly(labelled, folder, store):
    with FakeJudgeServer(learner) as server:
        arguments = [
            "polite",
            "-e",
            "test",
            "-o",
            "nearest_examples",
            "--max-traces",
            "60",
            "--path",
            str(folder),
            "--out",
            "new",
        ]
        result = CliRunner().invoke(command, [*arguments, "--model", "openai:/fake-judge", "--base-url", server.url])
    assert result.exit_code == 0
    for words in ("agrees with the experts", "before", "after", "Accepted. The new is better", "Written to new/polite"):
        assert words in result.stdout
