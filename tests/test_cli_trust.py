"""`assay agreement`, `kpi` and `compare` on a real store."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import sys
import uuid

import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.cli import assay, main
from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.testing import FakeJudgeServer, answer

START = 1_793_520_000_000  # 2026-11-01T08:00:00Z
_clock = itertools.count()


def run(*arguments, code=0):
    done = CliRunner().invoke(assay, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def asked(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def said(name, value, *, human=None, **metadata):
    """One verdict, or with `human` one label."""
    from mlflow.entities import AssessmentSource, Feedback

    kind, who = ("HUMAN", human) if human else ("LLM_JUDGE", "openai:/judge")
    source = AssessmentSource(source_type=kind, source_id=who)
    return Feedback(name=name, value=value, source=source, metadata={k: v for k, v in metadata.items() if v})


def log(request, *assessments, experiment="test", answer=None, **tags):
    """One trace of a single span with its assessments, written to the store in two calls; returns its id."""
    import mlflow
    from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.client import TracingClient

    location = mlflow.set_experiment(experiment).experiment_id
    store, number = TracingClient().store, uuid.uuid4()
    start = START + next(_clock) * 1000
    attributes = {"mlflow.traceRequestId": f"tr-{number.hex}", "mlflow.spanInputs": {"request": request}}
    if answer is not None:
        attributes["mlflow.spanOutputs"] = answer
    span = {
        "trace_id": base64.b64encode(number.bytes).decode(),
        "span_id": base64.b64encode(number.bytes[:8]).decode(),
        "parent_span_id": "",
        "name": "agent",
        "start_time_unix_nano": start * 1_000_000,
        "end_time_unix_nano": (start + 5) * 1_000_000,
        "attributes": {key: json.dumps(value) for key, value in attributes.items()},
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "events": [],
    }
    store.log_spans(location, [Span.from_dict(span)])
    info = TraceInfo(
        trace_id=f"tr-{number.hex}",
        trace_location=TraceLocation.from_experiment_id(location),
        request_time=start,
        state=TraceState.OK,
        execution_duration=5,
        tags=tags,
        assessments=list(assessments),
    )
    return store.start_trace(info).trace_id


@pytest.fixture(scope="module")
def world(_empty_store, tmp_path_factory):
    """24 requests to version 1 and again to version 2, in a store made once; the judge and the labels prefer 2."""
    import mlflow

    path = tmp_path_factory.mktemp("world") / "mlflow.db"
    shutil.copy(_empty_store, path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    ids = {"1": [], "2": []}
    for version, good in (("1", lambda i: i % 2 == 0), ("2", lambda i: i % 12 != 11)):
        for i in range(24):
            slip = version == "1" and i % 12 == 0
            judged = good(i) != slip
            marks = [said("resolved", judged, **{semconv.OUTCOME: "pass" if judged else "fail"})]
            marks.append(said("resolved", good(i), human="dana"))
            if i < 4:
                marks.append(said("resolved", good(i) != (i == 1), human="eli"))
            ids[version].append(log(f"request {i}", *marks, version=version, task=f"t{i}", model="m`'x"))
    mlflow.set_tracking_uri(before)
    return path, ids


@pytest.fixture
def two_versions(world, store):
    """The world's traces in the test's own store; their ids by version."""
    path, ids = world
    shutil.copy(path, store.removeprefix("sqlite:///"))
    return ids


def test_agreement_says_it_in_plain_words_with_a_table(two_versions):
    text = " ".join(run("agreement", "-e", "test", "-j", "resolved", "--by", "tag:version").stdout.split())
    assert "Against 46 labels by people (resolved), the judge gives the same answer on 44 of 46 traces." in text
    assert "People disagree on 2 traces; 2 are tied and left out; the majority counts." in text
    assert "2 people labelled: their agreement beyond chance (Krippendorff's alpha) is" in text
    assert "dana: good, eli: bad" in text
    assert "sensitivity" in text


def test_agreement_as_json_is_one_object(two_versions):
    found = asked("agreement", "-e", "test", "-j", "resolved", "--by", "tag:version")
    (judge,) = found["judges"]
    assert (judge["agreement"]["n"], judge["labels"]["conflicts"]) == (46, 2)
    assert sorted(judge["slices"]) == ["1", "2"]
    assert len(judge["conflicts"]) == 2


def test_too_few_labels_say_how_many_more(store):
    for i in range(8):
        log(f"r{i}", said("resolved", i % 2 == 0), said("resolved", i % 2 == 0 or i == 1, human="dana"))
    text = " ".join(run("agreement", "-e", "test", "-j", "resolved").stdout.split())
    assert "Too few labels" in text
    assert "more needed for ± 0.2" in text


def test_no_labels_name_what_could_be_one(store):
    log("r", said("resolved", True), said("verified", True, human="dana"))
    text = " ".join(run("agreement", "-e", "test", "-j", "resolved").stdout.split())
    assert "nobody gave feedback under the name 'resolved'" in text
    assert "could be named with --label: verified" in text


def test_kpi_is_corrected_and_is_the_reports_own_estimate(two_versions):
    found = asked("kpi", "-e", "test")
    report = asked("report", "-e", "test")
    (one,) = found["kpis"]
    assert one["estimate"] == report["judges"][0]["estimate"]
    assert one["estimate"]["is_corrected"]
    assert one["estimate"]["n_labelled"] == 46


def test_kpi_without_labels_says_that_it_is_not_corrected(store):
    for i in range(3):
        log(f"r{i}", said("resolved", i == 0))
    text = " ".join(run("kpi", "-e", "test").stdout.split())
    assert not asked("kpi", "-e", "test")["kpis"][0]["estimate"]["is_corrected"]
    assert "Not corrected: no judged trace of this window has a label." in text


def test_the_kpi_table_loses_no_column_on_a_narrow_terminal(two_versions, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    heading = run("kpi", "-e", "test").stdout
    for column in ("pass rate", "corrected", "alone", "judged", "labels", "unscored"):
        assert column in heading


def test_training_traces_are_left_out_of_every_command_and_said(store):
    for i in range(30):
        for version in ("1", "2"):
            trained = "true" if i < 5 and version == "1" else None
            verdict = said("resolved", i % 3 != 0, **{semconv.TRAINED_ON: trained})
            log(f"r{i}", verdict, said("resolved", i % 4 != 0, human="dana"), version=version)
    note = "5 traces were used to train the judge and are left out."
    assert note in " ".join(run("agreement", "-e", "test", "-j", "resolved").stdout.split())
    assert note in " ".join(run("kpi", "-e", "test").stdout.split())
    assert asked("kpi", "-e", "test")["kpis"][0]["estimate"]["n_judged"] == 55
    (report,) = asked("report", "-e", "test")["judges"]
    assert (report["trained_on"], report["estimate"]["n_judged"], report["agreement"]["n"]) == (5, 55, 55)
    assert report["counts"]["judged"] == 60
    text = " ".join(run("compare", *SIDES).stdout.split())
    assert "5 pairs are left out because the judge was trained on a label of theirs." in text


def test_external_rates_give_a_visible_assumption(store):
    for i in range(10):
        log(f"r{i}", said("resolved", i % 2 == 0))
    rates = ("--se", "45/50", "--sp", "80/100", "--rates-from", "gold set of May")
    estimate = asked("kpi", "-e", "test", "-j", "resolved", *rates)["kpis"][0]["estimate"]
    assert estimate["method"] == "rogan-gladen"
    assert estimate["corrected"] == pytest.approx((0.5 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert "gold set of May" in estimate["assumptions"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--se", "45/50"), "need --se, --sp and --rates-from together"),
        (("--se", "0.9", "--sp", "8/9", "--rates-from", "x"), "--se '0.9' is not a count of a count"),
        (("-j", "nobody"), r"No judge 'nobody' gave verdicts on these traces.*Valid: resolved"),
        (("--label", "truth"), r"No assessment or expectation 'truth'.*Valid: resolved"),
        (("--by", "nonsense"), "cannot be broken down by 'nonsense'"),
        (("--filter", "tag.version = '9'"), "No trace of experiment 'test' is selected"),
    ],
)
def test_what_cannot_be_done_is_said(store, arguments, message):
    log("r", said("resolved", True))
    with pytest.raises((ConfigError, StoreError), match=message):
        run("kpi", "-e", "test", *arguments)


def test_the_guide_needs_no_experiment_and_fits_one_screen():
    lines = run("kpi", "--explain").stdout.splitlines()
    assert "What it cannot tell" in lines
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


# --- compare --------------------------------------------------------------------------------------------

SIDES = ("test@tag:version=1", "test@tag:version=2")


def test_compare_pairs_by_inputs_and_corrects_by_the_labels(two_versions):
    found = asked("compare", *SIDES)
    assert (found["pair_by"], found["pairs"]) == ("inputs", 24)
    (judge,) = found["judges"]
    c = judge["comparison"]
    assert (c["wins"], c["losses"], c["outcome"]) == (len([f for f in judge["flips"] if f["better"]]), 0, "better")
    assert c["corrected"]["method"] == "jps-paired"
    assert c["corrected"]["corrected"] > 0
    text = " ".join(run("compare", *SIDES).stdout.split())
    assert f"Corrected for the judge's errors by {c['corrected']['n_labelled']} pairs labelled on both sides: +" in text
    pair = judge["flips"][0]
    first = two_versions["1"].index(pair["trace_a"])
    assert two_versions["2"][first] == pair["trace_b"]


def test_compare_by_a_tag_gives_the_same_pairs(two_versions):
    by_task, by_inputs = asked("compare", *SIDES, "--pair-by", "tag:task"), asked("compare", *SIDES)
    assert by_task["judges"][0]["comparison"] == by_inputs["judges"][0]["comparison"]
    assert {f["case"] for f in by_task["judges"][0]["flips"]} <= {f"t{i}" for i in range(24)}


def test_a_gate_is_an_exit_code(two_versions):
    run("compare", *SIDES, "--gate", "improved")
    done = run("compare", *reversed(SIDES), "--gate", "not-worse", code=1)
    assert "Gate not passed: that B is worse by 5 points is not ruled out." in done.stdout


def test_an_error_of_compare_is_exit_code_two(store, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["assay", "compare", "nowhere", "test"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "'nowhere' is neither a run nor an experiment" in capsys.readouterr().err


def test_markdown_for_a_pull_request_has_a_table_and_links(two_versions, tmp_path):
    target = tmp_path / "new" / "c.md"
    run("compare", *SIDES, "--markdown", target, "--ui-url", "http://mlflow.example:5000/", "--gate", "improved")
    text = target.read_text(encoding="utf-8")
    assert "**Gate passed: B is better.**" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows[:3]}) == 1
    assert "](http://mlflow.example:5000/#/experiments/1/traces?selectedEvaluationId=tr-" in text
    assert "<details><summary>" in text


def test_a_selection_by_awkward_values_and_several_fields(two_versions):
    """A value that MLflow's search syntax cannot quote is compared here."""
    found = asked("compare", "test@tag:version=1,tag:model=m`'x", "test@tag:version=2")
    assert found["a"]["traces"] == 24


def test_two_runs_over_the_same_traces_are_paired_by_trace_each_with_its_own_verdicts(store):
    """The later run replaced the earlier one's verdicts; the earlier one's are still what it is judged by."""
    import mlflow

    client, experiment = mlflow.MlflowClient(), mlflow.set_experiment("test").experiment_id
    traces = [log(f"r{i}") for i in range(12)]
    for name, good in (("before", lambda i: i < 3), ("after", lambda i: i < 10)):
        made = client.create_run(experiment, run_name=name)
        client.link_traces_to_run(run_id=made.info.run_id, trace_ids=traces)
        for i, trace in enumerate(traces):
            verdict = said("resolved", good(i), **{"mlflow.assessment.sourceRunId": made.info.run_id})
            mlflow.log_assessment(trace, verdict)
    found = asked("compare", "before", "after")
    c = found["judges"][0]["comparison"]
    assert (found["pair_by"], found["pairs"], c["wins"], c["losses"]) == ("trace", 12, 7, 0)


def test_runs_of_the_engine_are_found_by_name(log_trace):
    """What `assay score` leaves behind is what `assay compare` reads."""
    import mlflow

    for name, tools in (("old", ("look_up",) * 4), ("new", ("look_up",))):
        mlflow.set_experiment(name)
        for i in range(4):
            log_trace(f"r{i}", tools=tools)
        run("score", "-e", name, "-j", "repeated_steps")
    runs = mlflow.search_runs(experiment_names=["old", "new"], output_format="list")
    by_name = {mlflow.get_experiment(r.info.experiment_id).name: r.info for r in runs}
    found = asked("compare", by_name["old"].run_id, by_name["new"].run_id)
    assert found["judges"][0]["comparison"]["wins"] == 4
    with pytest.raises(ConfigError, match=r"2 runs are called 'assay: repeated_steps'.*by its id"):
        run("compare", by_name["old"].run_name, "new")


def test_runs_of_mlflows_own_evaluation_are_paired_by_their_inputs(store):
    import mlflow
    from mlflow.genai.scorers import scorer

    @scorer
    def right(inputs, outputs):
        return outputs == inputs["q"]

    def agent(wrong):
        return lambda q: "?" if q in wrong else q

    mlflow.set_experiment("test")
    data = [{"inputs": {"q": f"question {i}"}} for i in range(4)]
    for name, wrong in (("v1", "question 1 question 2"), ("v2", "question 3")):
        with mlflow.start_run(run_name=name):
            mlflow.genai.evaluate(data=data, predict_fn=agent(wrong), scorers=[right])
    found = asked("compare", "v1", "v2")
    c = found["judges"][0]["comparison"]
    assert (found["pair_by"], found["pairs"], c["wins"], c["losses"]) == ("inputs", 4, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", "test"), "A and B are both 'test'"),
        (("test", "test@tag:version=1"), "traces are in both A and B"),
        (("test@tag", "test"), r"selection 'tag' in 'test@tag' cannot be read"),
        (("test@agent=x", "test"), "agent"),
        (("test@inputs=x", "test"), "Traces cannot be selected by 'inputs'"),
        (("test", "f" * 32), "neither a run nor an experiment"),
        (("test@tag:version=9", "test"), "holds no traces"),
        ((*SIDES, "--pair-by", "nonsense"), "nonsense"),
        ((*SIDES, "--pair-by", "tag:nowhere"), "nothing in common to pair by"),
        ((*SIDES, "-j", "nobody"), "No verdicts of 'nobody' on both sides"),
    ],
)
def test_what_cannot_be_compared_is_said(store, arguments, message):
    for version in ("1", "2"):
        log("r", said("resolved", True), version=version)
    with pytest.raises((ConfigError, StoreError), match=message):
        run("compare", *arguments)


# --- recalibrate ----------------------------------------------------------------------------------------

STARS = """\
name: stars
purpose: How helpful is the answer?
version: "3"
value: {type: numeric, low: 1, high: 5, threshold: 5, integer: true}
instructions: |
  How helpful is {{ outputs }} as an answer to {{ inputs }}?
"""


def strict(n=60):
    """A judge whose 4 and 5 are good answers, while only its 5 passes."""
    for i in range(n):
        stars = 1 + i % 5
        good = stars >= 4
        if i % 20 == 7:
            good = not good
        log(f"r{i}", said("stars", stars), said("stars", good, human="dana"))


def test_a_judge_that_is_too_strict_gets_a_lower_threshold_and_nothing_is_changed(store, tmp_path):
    folder = tmp_path / "judges"
    folder.mkdir()
    (folder / "stars.yaml").write_text(STARS)
    strict()
    found = asked("recalibrate", "-e", "test", "-j", "stars", "--path", folder)
    assert (found["on"], found["old_threshold"], found["threshold"]) == ("value", 5, 3.5)
    assert found["improves"]
    assert found["after"]["kappa"]["value"] > found["before"]["kappa"]["value"]
    assert '-version: "3"' in found["diff"]
    assert '+version: "4"' in found["diff"]
    assert "threshold: 3.5" in found["diff"]
    assert (folder / "stars.yaml").read_text() == STARS
    text = " ".join(run("recalibrate", "-e", "test", "-j", "stars", "--path", folder).stdout.split())
    assert "Passing at 3.5 instead of 5 improves the judge" in text


def test_a_judge_outside_the_catalogue_needs_its_threshold_said(store):
    strict()
    with pytest.raises(ConfigError, match="Nobody says from which score on 'stars' passes"):
        run("recalibrate", "-e", "test", "-j", "stars")
    found = asked("recalibrate", "-e", "test", "-j", "stars", "--threshold", "5")
    assert (found["threshold"], found["diff"]) == (3.5, None)


def test_confidences_are_turned_into_the_chance_of_a_pass(store):
    """The judge calls a pass from 50 % on, and is right only from 80 % on."""
    for i in range(60):
        chance = (i % 10 + 0.5) / 10
        passed = chance >= 0.5
        sure = chance if passed else 1 - chance
        verdict = said(
            "local", passed, **{semconv.CONFIDENCE: f"{sure:.3f}", semconv.OUTCOME: "pass" if passed else "fail"}
        )
        log(f"r{i}", verdict, said("local", chance > 0.8, human="dana"))
    found = asked("recalibrate", "-e", "test", "-j", "local")
    assert (found["on"], found["threshold"]) == ("confidence", pytest.approx(0.8))


def test_a_judge_without_scores_has_no_threshold(two_versions):
    with pytest.raises(ConfigError, match="neither a score nor a confidence"):
        run("recalibrate", "-e", "test", "-j", "resolved")


# --- drift and probe ------------------------------------------------------------------------------------

FITS = """\
name: fits
purpose: Does it fit?
value: {type: boolean}
instructions: Does {{ inputs }} fit?
"""


@pytest.fixture
def fits(store, tmp_path):
    """Options that name the judge `fits` asked of a server."""
    folder = tmp_path / "judges"
    folder.mkdir()
    (folder / "fits.yaml").write_text(FITS)

    def options(server):
        return ("--path", folder, "--model", "openai:/fake", "--base-url", server.url)

    return options


def gold(n=40):
    """Gold traces judged once: request 0 to n, the even ones pass; labels agree."""
    for i in range(n):
        log(f"number {i}.", said("fits", i % 2 == 0), said("fits", i % 2 == 0, human="dana"))


def number(request):
    return int(request.prompt.split("number ")[-1].split(".")[0])


def test_a_judge_that_says_the_same_again_has_not_drifted(fits):
    gold()
    with FakeJudgeServer(lambda r: answer(number(r) % 2 == 0)) as server:
        found = asked("drift", "-e", "test", "-j", "fits", *fits(server))
        assert len(server.requests) == 40
    assert (found["cause"], found["gold"]["flips"]["raw"]) == ("none", 0.0)
    assert found["gold"]["now"]["kappa"]["value"] == 1.0


def test_a_judge_that_became_lenient_has_drifted_and_nothing_is_written(fits):
    import mlflow

    gold()
    with FakeJudgeServer(lambda r: answer(number(r) % 2 == 0 or number(r) % 3 == 0)) as server:
        done = run("drift", "-e", "test", "-j", "fits", *fits(server), code=1)
    assert "The judge changed (+17.5 points on 40 gold traces)" in " ".join(done.stdout.split())
    traces = mlflow.search_traces(locations=["1"], return_type="list", include_spans=False)
    assert all(len(trace.info.assessments) == 2 for trace in traces)


def test_a_drop_with_an_unmoved_judge_is_the_agents(fits):
    gold(200)
    with FakeJudgeServer(lambda r: answer(number(r) % 2 == 0)) as server:
        for i in range(60):
            log(f"live {i}", said("fits", i % 5 == 0), experiment="live")
        live = ("--watch", "live", "--baseline", "0.9")
        done = run("drift", "-e", "test", "-j", "fits", *live, *fits(server), code=1)
    assert "The agent got worse" in " ".join(done.stdout.split())


def test_stored_verdicts_need_to_be_there_twice(fits):
    gold(3)
    with pytest.raises(ConfigError, match="No gold trace carries two verdicts of 'fits'"):
        run("drift", "-e", "test", "-j", "fits", "--stored")


def test_watch_and_baseline_belong_together(store):
    with pytest.raises(ConfigError, match="--watch and --baseline belong together"):
        run("drift", "-e", "test", "-j", "fits", "--watch", "live")


def test_a_judge_that_changes_its_mind_is_found_out(fits):
    """On every fifth request the server contradicts itself each time it is asked again."""
    for i in range(20):
        log(f"number {i}.")
    seen = {}

    def reply(request):
        i = number(request)
        seen[i] = seen.get(i, 0) + 1
        return answer(i % 2 == 0 if i % 5 else seen[i] % 2 == 0)

    with FakeJudgeServer(reply) as server:
        found = asked("probe", "-e", "test", "-j", "fits", "--sample", "20", "--repeats", "3", *fits(server))
        assert len(server.requests) == 60
    assert (found["n"], found["verdicts"], len(found["unstable"])) == (20, 60, 4)
    assert found["changing"]["raw"] == 0.2


def test_a_probe_of_stored_verdicts_without_repeats_says_what_to_do(fits):
    gold(3)
    with pytest.raises(ConfigError, match=r"No trace has two scored verdicts.*Leave out --stored"):
        run("probe", "-e", "test", "-j", "fits", "--stored")


def test_a_liking_of_long_answers_shows_at_equal_quality(fits):
    for i in range(60):
        good, long = i % 2 == 0, i % 4 > 1
        marks = said("fits", good or long), said("fits", good, human="dana")
        log(f"number {i}.", *marks, answer="x" * (500 if long else 5))
    with FakeJudgeServer(lambda r: answer(True)) as server:
        found = asked("probe", "-e", "test", "-j", "fits", "--sample", "2", "--repeats", "2", *fits(server))
    assert found["length"]["difference"]["value"] == pytest.approx(0.5)
    assert found["length"]["biased"]


def test_probe_says_it_in_words(fits):
    for i in range(6):
        log(f"number {i}.")
    with FakeJudgeServer(lambda r: answer(number(r) % 2 == 0)) as server:
        text = run("probe", "-e", "test", "-j", "fits", "--repeats", "2", *fits(server)).stdout
    assert "It said the same every time on 6 of 6 traces (12 verdicts)." in " ".join(text.split())
