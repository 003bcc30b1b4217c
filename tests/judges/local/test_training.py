"""Training: the evidence in the report, what is refused and why, and what --force does and does not allow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges.local import Example, LabelSet, LocalScorer, Options, TrainingReport, train, train_examples

FIELDS = ["first_user_message", "tag:agent"]


def learn(found, labels, **options):
    options = {"fields": FIELDS, "group_by": None, **options}
    return train_examples(found, labels, name="routing", options=Options(**options))


def test_the_report_tells_what_unseen_traces_say(requests, trained):
    report = trained.report
    assert report.trusted and not report.refusals
    assert report.kappa_low < report.kappa < report.kappa_high <= 1
    assert (report.n, sum(report.confusion.values())) == (260, 260)
    assert report.n_passed == report.confusion["pass_pass"] + report.confusion["pass_fail"]
    right = report.confusion["pass_pass"] + report.confusion["fail_fail"]
    assert report.agreement == pytest.approx(right / 260)
    assert report.label_sources == {"human": 260}
    assert report.reads == ("first_user_message (text)", "tag:agent (category)")
    assert report.crossed == ("first_user_message by tag:agent",)
    assert (report.first_ms, report.last_ms) == (1_000, 1_259)


def test_the_reported_kappa_is_what_new_traces_of_the_same_kind_show(requests, trained):
    from sklearn.metrics import cohen_kappa_score

    found, labels = requests(600, seed=99)
    said = trained.scores(found) > 0
    kappa = cohen_kappa_score([labels.passed[e.trace_id] for e in found], said)
    assert trained.report.kappa_low - 0.05 < kappa < trained.report.kappa_high + 0.1


def test_the_promised_agreement_holds_on_new_traces(requests):
    found, labels = requests(500, seed=5, slip=0.05)
    judge = learn(found, labels, target_agreement=0.85)
    assert judge.report.target_proven
    new, truth = requests(1500, seed=77, slip=0.05)
    scores = judge.scores(new)
    answered = judge.confidence.of(scores) >= judge.threshold
    agreed = (scores > 0) == [truth.passed[e.trace_id] for e in new]
    assert agreed[answered].mean() > 0.85
    assert answered.mean() == pytest.approx(judge.report.coverage, abs=0.15)


def test_twins_in_training_and_test_flatter_a_judge_and_grouping_shows_it():
    """Labels at random, each text four times with its label: there is nothing to learn but the twins."""
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "mesa"]
    draw = np.random.default_rng(0)
    found, passed = [], {}
    for i in range(40):
        text, label = " ".join(draw.choice(words, 9)) + f" nr{i}", bool(draw.random() < 0.5)
        for copy in range(4):
            trace_id = f"tr-{i}-{copy}"
            found.append(Example(trace_id, {"first_user_message": f"{text} {'again ' * copy}"}))
            passed[trace_id] = label
    judge = learn(found, LabelSet("ok", passed), fields=["first_user_message=text"], group_by="", force=True)
    assert judge.report.kappa_random > 0.9
    assert judge.report.kappa < 0.35
    assert judge.report.n_groups <= 40
    assert judge.report.n_near_duplicates == 160
    assert any("random split would have looked better" in note for note in judge.report.notes)
    assert any("Its agreement with the labels" in reason for reason in judge.report.refusals)


def test_sessions_are_kept_together(requests):
    found, labels = requests(200, seed=2, sessions=30)
    report = learn(found, labels, force=True).report
    assert report.n_groups == len({e.session for e in found})
    assert report.near_field is None


def test_a_judge_that_agrees_too_little_is_refused_with_the_reason(requests, tmp_path):
    found, labels = requests(120, seed=4, slip=0.4)
    judge = learn(found, labels)
    assert not judge.report.trusted
    for use in (lambda: LocalScorer(judge), lambda: judge.save(tmp_path / "x.judge.zip")):
        with pytest.raises(NotTrustedError, match=r"may be as low as -?0\.\d\d .*--force"):
            use()
    assert not list(tmp_path.iterdir())


def test_what_was_forced_is_recorded_in_file_and_verdict(requests, tmp_path, make_trace):
    found, labels = requests(120, seed=4, slip=0.4)
    judge = learn(found, labels, force=True)
    from mlflow_assay.judges.local import LocalJudge

    loaded = LocalJudge.load(judge.save(tmp_path / "x.judge.zip"))
    assert loaded.report.forced and loaded.report.refusals == judge.report.refusals
    trace = make_trace(inputs={"q": found[0].values["first_user_message"]}, tags={"agent": "billing"})
    verdict = LocalScorer(replace(loaded, threshold=0.0))(trace=trace)
    assert "kappa" in verdict.metadata[semconv.LOCAL_FORCED]
    assert "Used by force" in verdict.rationale


@pytest.mark.parametrize(
    ("n", "right", "reason"),
    [(25, 0.5, "25 usable labels; 30 are the least"), (60, 0.94, r"Only \d labels say fail; 8 are the least")],
)
def test_too_few_labels_are_refused(requests, n, right, reason):
    report = learn(*requests(n, seed=8, right=right)).report
    assert any(__import__("re").search(reason, r) for r in report.refusals)


@pytest.mark.parametrize("force", [True, False])
def test_nothing_is_learnt_from_one_class_even_by_force(requests, force):
    found, labels = requests(50, right=1.0)
    with pytest.raises(NotTrustedError, match="all 50 usable labels say pass"):
        learn(found, labels, force=force)


def test_nothing_is_learnt_from_no_labels(requests):
    found, _ = requests(5)
    with pytest.raises(NotTrustedError, match=r"No trace has a usable label 'ok'.*2 ties"):
        learn(found, LabelSet("ok", {}, ties=2))


def test_a_class_from_one_session_only_cannot_be_checked(requests):
    found, labels = requests(40, seed=1)
    bad = [e.trace_id for e in found if not labels.passed[e.trace_id]]
    found = [replace(e, session="one" if e.trace_id in bad else None) for e in found]
    with pytest.raises(NotTrustedError, match="come from one session"):
        learn(found, labels)


def test_traces_without_what_the_judge_reads_are_left_out_and_counted(requests):
    found, labels = requests(120, seed=1)
    found[3] = replace(found[3], values={"tag:agent": "billing"})
    found[4] = replace(found[4], values={**found[4].values, "first_user_message": " "})
    report = learn(found, labels).report
    assert report.n == 118
    assert report.n_missing == {
        "the judge reads first_user_message, which is absent here": 1,
        "the judge reads first_user_message, which is empty here": 1,
    }


def test_the_same_labels_give_the_same_judge(requests):
    found, labels = requests(100, seed=6)
    assert learn(found, labels, force=True).digest == learn(found, labels, force=True).digest
    assert learn(found, labels, force=True, seed=1).digest != learn(found, labels, force=True).digest


def test_a_route_never_seen_in_training_is_not_judged(trained):
    example = Example("tr-x", {"first_user_message": "what about my refund", "tag:agent": "sales"})
    with pytest.raises(UnscoredError, match="no labelled trace had tag:agent = sales") as caught:
        trained.predict(example)
    assert caught.value.reason is Unscored.LOW_CONFIDENCE


def test_below_the_threshold_it_abstains_and_says_what_it_would_have_said(trained, requests):
    strict = replace(trained, threshold=0.9999)
    with pytest.raises(UnscoredError, match=r"(pass|fail) with confidence 0\.\d\d; it answers from 1\.00 up") as caught:
        strict.predict(requests(1)[0][0])
    assert caught.value.reason is Unscored.LOW_CONFIDENCE
    assert caught.value.metadata[semconv.RAW_VALUE] in ("pass", "fail")
    assert 0 < float(caught.value.metadata[semconv.CONFIDENCE]) < 1


def test_numbers_and_names_teach_too():
    draw = np.random.default_rng(0)
    found, passed = [], {}
    for i in range(200):
        steps, ask = int(draw.integers(2, 60)), bool(draw.random() < 0.5)
        tools = ["lookup"] * int(draw.integers(1, 4)) + (["transfer_to_human"] if ask else [])
        found.append(Example(f"tr-{i}", {"steps": steps, "tools_called": tools}))
        passed[f"tr-{i}"] = not ask and steps < 30
    judge = learn(found, LabelSet("resolved", passed), fields=["steps", "tools_called"])
    assert judge.report.kappa > 0.8
    said = judge.predict(Example("tr-x", {"steps": 58, "tools_called": ["lookup", "transfer_to_human"]}))
    assert not said.passed
    assert "tools_called = transfer_to_human" in said.towards_fail
    assert "steps = 58" in said.towards_fail


def test_train_reads_the_fields_from_traces(make_trace, requests):
    found, labels = requests(120, seed=1)
    traces = []
    for example in found:
        trace = make_trace(
            inputs={"query": example.values["first_user_message"]}, tags={"agent": example.values["tag:agent"]}
        )
        trace.info.trace_id = example.trace_id
        traces.append(trace)
    unlabelled = make_trace(inputs={"query": "who am I"})
    options = Options(FIELDS, group_by=None)
    from_traces = train([*traces, unlabelled], labels, name="routing", options=options)
    direct = train_examples(found, labels, name="routing", options=options)
    assert from_traces.report.kappa == direct.report.kappa
    assert from_traces.needs == ("spans",)


def test_the_report_travels_as_json(trained):
    again = TrainingReport.from_dict(json.loads(json.dumps(trained.report.to_dict())))
    assert again == trained.report
    with pytest.raises(ConfigError, match="not complete"):
        TrainingReport.from_dict({"n": 3})


def test_the_report_in_words_names_every_figure_a_reader_needs(trained):
    rows = dict(trained.report.rows())
    assert {"labels", "groups", "reads", "kappa", "a random split", "answers", "agreement then"} <= rows.keys()
    assert f"{trained.report.kappa:.2f} [" in rows["kappa"]


@pytest.mark.parametrize("wrong", [{"target_agreement": 1.0}, {"target_agreement": 0.5}, {"min_kappa": 2.0}])
def test_impossible_demands_are_refused(wrong):
    with pytest.raises(ConfigError, match="between"):
        Options(FIELDS, **wrong)
