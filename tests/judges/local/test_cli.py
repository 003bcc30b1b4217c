"""`assay judges train`, from labelled traces in MLflow to verdicts on them."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.cli import assay


@pytest.fixture(scope="module")
def _labelled(requests, _empty_store, tmp_path_factory):
    """A store with 44 traces with people's labels, 6 without; some labels conflict, one cannot be read."""
    import mlflow
    from mlflow.entities import AssessmentSource

    path = tmp_path_factory.mktemp("labelled") / "mlflow.db"
    shutil.copy(_empty_store, path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.set_experiment("test")
    found, labels = requests(50, seed=3)
    for number, example in enumerate(found):
        with mlflow.start_span("agent", span_type="AGENT") as root:
            root.set_inputs({"request": example.values["first_user_message"]})
            mlflow.update_current_trace(tags={"agent": example.values["tag:agent"]})
        right = labels.passed[example.trace_id]
        said = [("ann", right)] + ([("bob", not right)] if number in (3, 4) else [])
        said += [("cy", right)] if number == 3 else []
        said = [("ann", "perhaps")] if number == 5 else said if number < 44 else []
        for who, value in said:
            source = AssessmentSource("HUMAN", who)
            mlflow.log_feedback(trace_id=root.trace_id, name="ok", value=value, source=source)
    mlflow.tracing.reset()
    mlflow.set_tracking_uri(before)
    return path


@pytest.fixture
def labelled(store, _labelled):
    """A copy of that store, for one test."""
    shutil.copy(_labelled, store.removeprefix("sqlite:///"))
    return store


def run(*arguments):
    return CliRunner().invoke(assay, [str(a) for a in arguments])


TRAIN = ["judges", "train", "routing_local", "-e", "test", "--label", "ok"]
TRAIN += ["-f", "first_user_message", "-f", "tag:agent"]


def test_train_then_score_gives_every_trace_a_verdict_or_a_reason(labelled, tmp_path):
    import mlflow

    trained = run(*TRAIN, "--group-by", "session", "--force", "--target-agreement", "0.8")
    assert trained.exit_code == 0, trained.output
    assert "42 traces" in trained.output  # of 44 labelled: one tie, one label that cannot be read
    assert "traces whose labels tie" in trained.output and "'perhaps'" in trained.output
    assert "a random split" in trained.output
    assert (tmp_path / "judges" / "routing_local.judge.zip").is_file()
    assert "assay score -e test -j routing_local --path judges" in trained.output.replace("\n", " ")

    scored = run("score", "-e", "test", "-j", "routing_local", "--path", "judges", "--json")
    assert scored.exit_code == 0, scored.output
    experiment = mlflow.get_experiment_by_name("test")
    verdicts = []
    for trace in mlflow.MlflowClient().search_traces(locations=[experiment.experiment_id], include_spans=False):
        verdicts += [a for a in trace.info.assessments if a.name == "routing_local"]
    assert len(verdicts) == 50
    answered = [v for v in verdicts if v.metadata[semconv.OUTCOME] != "unscored"]
    assert answered
    assert {v.metadata[semconv.UNSCORED_REASON] for v in verdicts if v not in answered} <= {"low_confidence"}
    learnt = sum(v.metadata.get(semconv.TRAINED_ON) == "true" for v in answered)
    assert 0 < learnt <= 42


def test_a_refused_judge_is_reported_in_full_and_not_written(labelled, tmp_path):
    found = run(*TRAIN, "--min-kappa", "0.95", "--json")
    assert found.exit_code != 0
    said = json.loads(found.stdout)
    assert said["model"] is None and said["next"] is None
    assert said["report"]["kappa"] is not None
    assert any("0.95 is the least" in r for r in said["report"]["refusals"])
    assert "must not be used" in str(found.exception)
    assert not (tmp_path / "judges").exists()


def test_json_is_one_object_with_report_files_and_next_command(labelled):
    found = run(*TRAIN, "--group-by", "session", "--force", "--json")
    said = json.loads(found.stdout)
    assert said["model"].endswith("routing_local.judge.zip")
    assert said["report"]["forced"] is True
    assert len(said["digest"]) == 64
    assert said["next"].startswith("assay score -e test -j routing_local")


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--label", "okay"], r"no.*assessment 'okay' from source human.*ok \(human\)"),
        (["--source", "code"], r"None of the 50 traces.*ok \(human\)"),
        (["-f", "route"], "no trace field 'route'"),
        (["--embedder", "absent"], "not an embedding model folder"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_valid(labelled, extra, told):
    found = run(*TRAIN, *extra)
    assert found.exit_code != 0
    assert re.search(told, str(found.exception), re.IGNORECASE)


def test_a_bad_name_is_refused_before_anything_is_read(store):
    found = run("judges", "train", "My-Judge", "-e", "nowhere", "--label", "ok", "-f", "steps")
    assert "cannot be a judge's name" in str(found.exception)
