"""Cascades, through `pipeline.score`: a cheap panel in front of a dear judge, calibrated on experts' labels."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from mlflow_assay import pipeline, semconv
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.budget import Budget
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.limits import RetryPolicy
from mlflow_assay.engine.run import Options
from mlflow_assay.errors import ConfigError, DefinitionError, NotTrustedError
from mlflow_assay.judges import calibrating, calibration_file, definition
from mlflow_assay.judges.calibrating import LabelledUnit, StoredVerdict
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.judges.composite import confidence_of
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, Reply, answer

FITS = """
name: fits
purpose: Does the answer fit the request at all?
value: {type: boolean}
instructions: Compare {{ inputs }} with {{ outputs }} and answer whether they fit.
"""
CHEAP = """
name: fits_cheap
purpose: Do three small models find that the answer fits?
value: {type: boolean}
panel: {judge: fits, models: ["openai:/a", "openai:/b", "openai:/c"]}
"""
CASCADE = """
name: fits_cascade
purpose: Does the answer fit, asked of small models first?
value: {type: boolean}
cascade:
  tiers:
    - {judge: fits_cheap}
    - {judge: fits, model: "openai:/dear"}
  calibration: fits_cascade.calibration.json
"""
QUICK = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "judges"
    path.mkdir()
    for text in (FITS, CHEAP, CASCADE):
        put(path, text)
    return path


def put(folder: Path, text: str) -> None:
    (folder / f"{definition.loads(text).name}.yaml").write_text(text)


def by_model(**replies):
    return FakeJudgeServer(lambda request: replies[request.body["model"]])


def settings(server: FakeJudgeServer | None = None) -> ModelSettings:
    return ModelSettings("openai:/any", server.url if server else "http://127.0.0.1:9/v1/chat/completions")


def gates(*thresholds):
    return {"gates": [{"threshold": t} for t in thresholds], "summary": "found by the test"}


def calibrated(folder, *thresholds, name="fits_cascade"):
    """Put a calibration in place, as `assay judges calibrate` would have found it."""
    catalogue = Catalogue([folder])
    spec = catalogue.get(name).definition.composite
    digests = [m.digest for m in catalogue.members(name, settings())][: spec.gated]
    calibration_file.write(folder / spec.calibration, name, "cascade", digests, gates(*thresholds), {})


def run(folder, server, judge="fits_cascade", **options):
    judges = pipeline.build_judges([judge], model=settings(server), paths=[folder])
    return pipeline.score(MlflowSource("test"), judges, options=Options(retry=QUICK, **options))


def standing(trace_id, name="fits_cascade"):
    found = mlflow.get_trace(trace_id).info.assessments
    (one,) = [a for a in found if a.valid is not False and a.name == name and a.source.source_type != "HUMAN"]
    return one


def test_a_confident_tier_answers_and_the_dear_judge_is_not_asked(folder, log_trace):
    calibrated(folder, 0.9)
    trace_id = log_trace()
    with by_model(a=answer(True, "all fine"), b=answer(True), c=answer(True)) as server:
        run(folder, server)
        assert {r.body["model"] for r in server.requests} == {"a", "b", "c"}
    verdict = standing(trace_id)
    assert (verdict.value, verdict.metadata[semconv.CASCADE_STAGE]) == (True, "1")
    assert verdict.metadata[semconv.CONFIDENCE] == "1"
    assert "all fine" in verdict.rationale
    assert verdict.metadata[semconv.JUDGE_KIND] == "cascade"
    assert verdict.metadata[semconv.JUDGE_NAME] == "fits_cascade"


def test_an_unsure_tier_hands_on_and_both_are_paid_and_told(folder, log_trace):
    calibrated(folder, 0.9)
    trace_id = log_trace()
    replies = {"a": answer(True), "b": answer(False), "c": answer(True), "dear": answer(False, "no, it does not")}
    with FakeJudgeServer(lambda r: replies[r.body["model"]], tokens=(100, 10)) as server:
        report = run(folder, server)
    verdict = standing(trace_id)
    assert (verdict.value, verdict.rationale) == (False, "no, it does not")
    assert verdict.metadata[semconv.CASCADE_STAGE] == "2"
    assert verdict.metadata[semconv.JUDGE_MODEL] == "openai:/dear"
    assert verdict.source.source_id == "openai:/dear"
    assert verdict.metadata["mlflow.assessment.judgeInputTokens"] == "400"
    assert report.tallies[0].output_tokens == 40
    members = json.loads(verdict.metadata[semconv.MEMBERS])
    assert [(m["judge"], m["value"], m.get("confidence")) for m in members] == [
        ("fits_cheap", True, 0.6667),
        ("fits openai:/dear", False, None),
    ]


def test_a_tier_without_a_verdict_hands_on(folder, log_trace):
    calibrated(folder, 0.9)
    trace_id = log_trace()
    broken = Reply("broken", 500)
    with by_model(a=broken, b=broken, c=broken, dear=answer(True)) as server:
        run(folder, server)
    assert standing(trace_id).metadata[semconv.CASCADE_STAGE] == "2"


def test_a_tier_that_may_never_answer_is_not_asked(folder, log_trace):
    text = CASCADE.replace("  tiers:\n", "  tiers:\n    - {judge: fits_cheap}\n").replace(
        "    - {judge: fits_cheap}\n    - {judge: fits_cheap}\n",
        "    - {judge: fits_other}\n    - {judge: fits_cheap}\n",
    )
    put(folder, text)
    put(folder, CHEAP.replace("fits_cheap", "fits_other").replace("openai:/a", "openai:/x"))
    calibrated(folder, None, 0.5)
    trace_id = log_trace()
    with by_model(a=answer(True), b=answer(True), c=answer(True)) as server:
        run(folder, server)
        assert {r.body["model"] for r in server.requests} == {"a", "b", "c"}
    assert standing(trace_id).metadata[semconv.CASCADE_STAGE] == "2"


def test_a_budget_that_ends_mid_cascade_leaves_it_unscored_for_it_and_the_next_run_goes_on(folder, log_trace, tmp_path):
    calibrated(folder, 0.9)
    trace_id = log_trace()
    replies = {"a": answer(True), "b": answer(False), "c": answer(True), "dear": answer(True)}
    with VerdictCache(f"sqlite:///{tmp_path}/cache.db") as cache, by_model(**replies) as server:
        report = run(folder, server, budget=Budget(max_calls=3), cache=cache)
        assert dict(report.tallies[0].unscored) == {"budget": 1}
        assert report.stopped
        assert standing(trace_id).metadata["mlflow.assessment.judgeInputTokens"]
        again = run(folder, server, cache=cache)
        assert [r.body["model"] for r in server.requests][3:] == ["dear"]
    assert (again.tallies[0].passed, standing(trace_id).metadata[semconv.CASCADE_STAGE]) == (1, "2")


def test_the_last_tier_abstains_too_where_the_definition_says_so(folder, log_trace):
    put(folder, CASCADE.replace('    - {judge: fits, model: "openai:/dear"}\n', "").rstrip() + "\n  last: calibrated\n")
    calibrated(folder, 0.9)
    trace_id = log_trace()
    with by_model(a=answer(True), b=answer(False), c=answer(True)) as server:
        report = run(folder, server)
    assert dict(report.tallies[0].unscored) == {"low_confidence": 1}
    assert "gave a confidence of 0.667" in standing(trace_id).error.error_message


def test_sessions_go_down_a_cascade_too(folder, log_trace):
    session = "value: {type: boolean}\nscope: session\n"
    put(
        folder,
        FITS.replace("value: {type: boolean}\n", session).replace(
            "{{ inputs }} with {{ outputs }}", "the {{ conversation }}"
        ),
    )
    put(folder, CHEAP.replace("value: {type: boolean}\n", session))
    put(folder, CASCADE.replace("value: {type: boolean}\n", session))
    calibrated(folder, 0.9)
    first = log_trace(request="hello", session="s1")
    log_trace(request="and now?", session="s1")
    with by_model(a=answer(True), b=answer(True), c=answer(True)) as server:
        run(folder, server)
        assert all("hello" in r.prompt and "and now?" in r.prompt for r in server.requests)
    assert standing(first).metadata["mlflow.trace.session"] == "s1"


# --- refusing -------------------------------------------------------------------------------------------


def test_without_calibration_it_refuses_and_says_what_to_run(folder):
    with pytest.raises(NotTrustedError, match=r"is not calibrated.*Run: assay judges calibrate fits_cascade"):
        pipeline.build_judges(["fits_cascade"], model=settings(), paths=[folder])


def test_a_definition_without_calibration_is_valid_all_the_same(folder):
    assert Catalogue().check(folder / "fits_cascade.yaml").contract.kind == "cascade"


def test_a_calibration_of_other_judges_is_refused(folder):
    calibrated(folder, 0.9)
    put(folder, FITS.replace("fit.", "fit well."))
    with pytest.raises(NotTrustedError, match="of other judges"):
        Catalogue([folder]).build("fits_cascade", settings())


def test_a_change_of_the_last_judge_needs_no_new_calibration_but_changes_the_digest(folder):
    calibrated(folder, 0.9)
    before = Catalogue([folder]).build("fits_cascade", settings())
    put(folder, CASCADE.replace("openai:/dear", "openai:/dearer"))
    assert Catalogue([folder]).build("fits_cascade", settings()).digest != before.digest


def test_the_digest_changes_with_a_threshold(folder):
    digests = set()
    for threshold in (0.9, 0.8):
        calibrated(folder, threshold)
        digests.add(Catalogue([folder]).build("fits_cascade", settings()).digest)
    assert len(digests) == 2


def test_a_calibration_that_lets_no_tier_answer_is_refused(folder):
    calibrated(folder, None)
    with pytest.raises(NotTrustedError, match=r"let no tier .* answer.*found by the test"):
        Catalogue([folder]).build("fits_cascade", settings())


@pytest.mark.parametrize("text", ["not json", "{}", '{"kind": "panel", "result": {}, "digests": []}', "[]"])
def test_a_file_that_is_no_calibration_is_named(folder, text):
    (folder / "fits_cascade.calibration.json").write_text(text)
    with pytest.raises(DefinitionError, match=r"fits_cascade.calibration.json:1: not a calibration"):
        Catalogue([folder]).build("fits_cascade", settings())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('    - {judge: fits, model: "openai:/dear"}\n', "", "two tiers or more"),
        ("judge: fits, model", "judge: fits_cheap, modell", "unknown key; valid: judge, model"),
        ("  calibration: fits_cascade.calibration.json\n", "", "Field required"),
        ("purpose", "parameters: {temperature: 0}\npurpose", "`parameters` is for the members"),
    ],
)
def test_a_cascade_that_is_wrong_is_refused_with_the_reason(old, new, message):
    with pytest.raises(DefinitionError, match=message):
        definition.loads(CASCADE.replace(old, new))


def test_judges_of_traces_and_sessions_do_not_mix(folder):
    put(
        folder,
        "name: calm\npurpose: Was the customer calm all along?\nscope: session\nvalue: {type: boolean}\n"
        "instructions: Read the {{ conversation }} and say.\n",
    )
    put(folder, CASCADE.replace("judge: fits, model", "judge: calm, model"))
    with pytest.raises(ConfigError, match=r"must judge a trace.*calm judges a session"):
        Catalogue([folder]).check(folder / "fits_cascade.yaml")


# --- calibrating ----------------------------------------------------------------------------------------


def test_the_command_calibrates_on_stored_verdicts_and_labels_then_the_cascade_runs(folder, log_trace, monkeypatch):
    from click.testing import CliRunner

    from mlflow_assay.cli import assay

    # Small models agree on 40 traces and are right there; on 20 they differ and are no better than chance.
    expert = AssessmentSource("HUMAN", "expert@example.com")
    for n in range(60):
        trace_id = log_trace(request=f"question {n}.", tools=())
        mlflow.log_feedback(trace_id=trace_id, name="expert_says", value=n % 2 == 0, source=expert)

    def reply(request):
        n = int(request.prompt.split("question ")[1].split(".")[0])
        if request.body["model"] == "dear" or n < 40:
            return answer(n % 2 == 0)
        return answer(request.body["model"] != "b" if n % 4 < 2 else request.body["model"] == "b")

    with FakeJudgeServer(reply) as server:
        run(folder, server, "fits_cheap")
        command = ["judges", "calibrate", "fits_cascade", "-e", "test", "-l", "expert_says", "--path", str(folder)]
        command += ["--model", "openai:/any", "--base-url", server.url]
        too_much = CliRunner().invoke(assay, [*command, "--agreement", "0.99"])
        assert isinstance(too_much.exception, NotTrustedError)
        assert "tier 1 never answers" in str(too_much.exception)
        assert not (folder / "fits_cascade.calibration.json").exists()
        done = CliRunner().invoke(assay, [*command, "--json"])
        assert done.exit_code == 0, done.output
        server.requests.clear()
        run(folder, server)
        dear = sum(r.body["model"] == "dear" for r in server.requests)
    said = json.loads(done.output)
    assert said["result"]["gates"][0] | {"lower": None} == {
        "threshold": 1.0, "rows": 60, "accepted": 40, "agreed": 40, "lower": None, "delta": 0.05,
    }  # fmt: skip
    assert Path(said["path"]) == folder / "fits_cascade.calibration.json"
    assert dear == 20
    text = CliRunner().invoke(assay, command).output
    assert "tier 1 answers from a confidence of 1 (40 of 40 agree, at least 0.928)" in text


def test_what_was_never_judged_cannot_be_calibrated(folder, log_trace):
    trace_id = log_trace()
    expert = AssessmentSource("HUMAN", "expert@example.com")
    with pytest.raises(ConfigError, match="None of the traces carries such a label"):
        pipeline.calibrate("fits_cascade", MlflowSource("test"), "expert_says", model=settings(), paths=[folder])
    mlflow.log_feedback(trace_id=trace_id, name="expert_says", value=True, source=expert)
    with pytest.raises(ConfigError, match=r"'fits_cheap' has no verdicts.*--judge fits_cheap"):
        pipeline.calibrate("fits_cascade", MlflowSource("test"), "expert_says", model=settings(), paths=[folder])
    with pytest.raises(ConfigError, match="nothing to calibrate"):
        pipeline.calibrate("fits", MlflowSource("test"), "expert_says", model=settings(), paths=[folder])


def evidence(folder, verdicts, labels, **given):
    """`calibrating.calibrate` on verdicts and labels that are handed to it."""
    catalogue = Catalogue([folder])
    members = catalogue.members("fits_cascade", settings())
    said = {members[0].digest: verdicts, members[1].digest: {}}
    return calibrating.calibrate(
        "fits_cascade", catalogue.get("fits_cascade").definition.composite, members, said, labels, **given
    )


def test_verdicts_on_traces_that_taught_the_judge_prove_nothing(folder):
    verdicts = {f"t{n}": StoredVerdict(True, 0.99, n < 50, 0) for n in range(60)}
    labels = {f"t{n}": LabelledUnit(True, f"t{n}") for n in range(60)}
    found = evidence(folder, verdicts, labels)
    assert (found.used, found.learnt, found.trusted) == (10, 50, False)


def test_labels_drawn_with_unequal_chances_are_thinned_to_equal_ones(folder):
    verdicts = {f"t{n:03}": StoredVerdict(True, 0.99, False, 0) for n in range(400)}
    labels = {f"t{n:03}": LabelledUnit(True, f"t{n}", 0.8 if n < 300 else 0.2) for n in range(400)}
    found = evidence(folder, verdicts, labels)
    assert found.used + found.thinned == 400
    assert found.used == pytest.approx(75 + 100, abs=25)


def test_one_trace_of_a_session_counts(folder):
    verdicts = {f"t{n}": StoredVerdict(True, 0.99, False, 0) for n in range(60)}
    labels = {f"t{n}": LabelledUnit(True, f"session {n % 20}") for n in range(60)}
    found = evidence(folder, verdicts, labels)
    assert (found.result["rows"], found.result["left_out"], found.trusted) == (20, 40, False)


def test_a_judge_that_never_says_how_sure_it_is_cannot_be_a_first_tier(folder):
    verdicts = {f"t{n}": StoredVerdict(True, None, False, 0) for n in range(60)}
    labels = {f"t{n}": LabelledUnit(True, f"t{n}") for n in range(60)}
    with pytest.raises(ConfigError, match="says of none of its 60 verdicts how sure it is"):
        evidence(folder, verdicts, labels)


@pytest.mark.parametrize(
    ("metadata", "value", "confidence"),
    [
        ({semconv.CONFIDENCE: "0.75"}, True, 0.75),
        ({"openai.decisions.probability": "0.9"}, True, 0.9),
        ({"openai.decisions.probability": "0.1"}, False, 0.9),
        ({"openai.decisions.confidence": "0.8", "openai.decisions.probabilities": "[]"}, "kind", 0.8),
        ({semconv.PANEL_AGREEMENT: "0.6667"}, True, 0.6667),
        ({}, True, None),
    ],
)
def test_a_confidence_is_read_wherever_a_judge_puts_it(metadata, value, confidence):
    from mlflow.entities import Feedback

    assert confidence_of(Feedback(value=value, metadata=metadata)) == confidence


def test_it_is_listed_and_shown_without_calibration_and_says_why_there_is_no_digest(folder):
    from click.testing import CliRunner

    from mlflow_assay.cli import assay

    done = CliRunner().invoke(assay, ["judges", "show", "fits_cascade", "--path", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output)
    assert facts["members"] == ["fits_cheap", "fits openai:/dear"]
    assert (facts["kind"], facts["digest"], facts["registrable"]) == ("cascade", None, False)
    assert "is not calibrated" in facts["digest_needs"]
