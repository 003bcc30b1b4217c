"""Labels: where they come from, what they correct, and when they do not suffice."""

from __future__ import annotations

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, JudgeContract, NumericValue
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.verdicts import read_label
from mlflow_assay.report.data import parse_label
from mlflow_assay.trust.estimate import corrected_kpi


def run(make, n=80, labelled=40, name="resolved", kind="HUMAN", session=None):
    """The judge passes three of four; the label says that of its passes one in five is bad."""
    traces = []
    for i in range(n):
        good = i % 4 != 0
        given = [make.verdict(good, outcome="pass" if good else "fail")]
        if i < labelled:
            given.append(make.verdict(good and i % 5 != 0, judge=name, kind=kind, by="dana"))
        traces.append(make.trace(i, given, session=session(i) if session else None))
    return traces


def test_enough_labels_correct_the_rate_and_give_the_agreement(make, build):
    """The report's numbers are those of the trust package on the same verdicts, labels and sessions."""
    traces = run(make, session=lambda i: f"s{i // 2}")
    judge = build(traces).judges[0]
    verdicts = [i % 4 != 0 for i in range(80)]
    labels = [(i % 4 != 0 and i % 5 != 0) if i < 40 else None for i in range(80)]
    expected = corrected_kpi(verdicts, labels, clusters=[f"s{i // 2}" for i in range(80)], name="resolved")
    assert judge.estimate == expected
    assert judge.estimate.is_corrected
    assert judge.estimate.corrected < judge.uncorrected.raw == 0.75
    assert (judge.agreement.n, judge.agreement.n_unlabelled) == (40, 40)
    assert judge.agreement.confusion == ((10, 6), (0, 24))
    assert (judge.labels.n, judge.labels.sources, judge.labels.human) == (40, ("dana",), True)


def test_too_few_labels_leave_the_rate_uncorrected_and_say_so(make, build):
    judge = build(run(make, labelled=7)).judges[0]
    assert not judge.estimate.is_corrected
    assert judge.estimate.n_labelled == 7
    assert any("7 labels" in note for note in judge.estimate.assumptions)


def test_without_labels_there_is_no_agreement_and_the_rate_says_it_is_uncorrected(make, build):
    judge = build(run(make, labelled=0)).judges[0]
    assert (judge.labels, judge.agreement) == (None, None)
    assert any(note.startswith("Uncorrected") for note in judge.estimate.assumptions)


def test_named_labels_may_be_recorded_ground_truth_and_are_then_no_judge(make, build):
    judges = build(run(make, name="task_success", kind="CODE"), labels=(("task_success", "resolved"),)).judges
    assert [j.name for j in judges] == ["resolved"]
    assert judges[0].estimate.is_corrected
    assert (judges[0].labels.names, judges[0].labels.human) == (("task_success",), False)


def test_an_expectation_can_be_the_label(make, build):
    from mlflow.entities import AssessmentSource, Expectation

    source = AssessmentSource(source_type="HUMAN", source_id="dana")
    truth = [Expectation(name="solved", value=i % 2 == 0, source=source) for i in range(30)]
    traces = [make.trace(i, [make.verdict(True, outcome="pass"), t]) for i, t in enumerate(truth)]
    judge = build(traces, labels=(("solved", "resolved"),)).judges[0]
    assert (judge.labels.n, judge.agreement.confusion) == (30, ((0, 15), (0, 15)))


def test_where_people_disagree_the_majority_counts_and_a_tie_is_left_out(make, build):
    said = make.verdict(True, outcome="pass")
    two_to_one = [make.label(False, by="a"), make.label(False, by="b"), make.label(True, by="c")]
    tie = [make.label(False, by="a"), make.label(True, by="b")]
    data = build([make.trace(1, [said, *two_to_one]), make.trace(2, [make.verdict(True, outcome="pass"), *tie])])
    labels = data.judges[0].labels
    assert (labels.n, labels.conflicts, labels.ties, labels.sources) == (1, 2, 1, ("a", "b", "c"))
    assert data.judges[0].agreement.confusion == ((0, 1), (0, 0))


def test_a_person_who_changes_their_mind_counts_once_with_the_last_word(make, build):
    marks = [make.verdict(True, outcome="pass"), make.label(True, at=9), make.label(False, at=5)]
    judge = build([make.trace(1, marks)]).judges[0]
    assert (judge.labels.n, judge.labels.conflicts) == (1, 0)
    assert judge.agreement.confusion == ((0, 0), (0, 1))


def test_a_label_that_says_neither_good_nor_bad_is_counted_as_unreadable(make, build):
    judge = build([make.trace(1, [make.verdict(True, outcome="pass"), make.label("hm")])]).judges[0]
    assert (judge.labels.n, judge.labels.unreadable) == (0, 1)


def test_simulated_labels_are_counted(make, build):
    simulated = make.label(True, metadata={semconv.SIMULATED: "true"})
    data = build([make.trace(1, [make.verdict(True, outcome="pass"), simulated])])
    assert data.judges[0].labels.simulated == 1
    assert data.simulated


def test_a_judge_named_as_its_own_label_is_checked_against_people_only(make, build):
    judge = build(run(make), labels=(("resolved", "resolved"),)).judges[0]
    assert judge.labels.sources == ("dana",)


@pytest.mark.parametrize(
    ("value", "contract", "expected"),
    [
        (1, None, True),
        (0.0, BooleanValue(), False),
        ("fail", BooleanValue(), False),
        (1, NumericValue(1, 5, 4), False),  # one star is not "true"
        (5, NumericValue(1, 5, 4), True),
        (True, NumericValue(1, 5, 4), True),  # a thumb is
        (7, NumericValue(1, 5, 4), None),
        (0.5, None, None),
    ],
)
def test_labels_are_read_on_the_judges_scale(value, contract, expected):
    assert read_label(value, contract and JudgeContract("j", "?", contract)) is expected


def test_a_label_that_is_not_there_is_an_error_that_lists_what_is(make, build):
    with pytest.raises(ConfigError, match=r"No assessment or expectation 'truth'.*Valid: resolved"):
        build(run(make, n=4), labels=(("truth", "resolved"),))
    with pytest.raises(ConfigError, match=r"No judge 'tone'.*Valid: resolved"):
        build(run(make, n=4), labels=(("resolved", "tone"),))


@pytest.mark.parametrize("text", ["resolved", "=x", "x=", ""])
def test_a_label_option_of_another_form_is_an_error(text):
    with pytest.raises(ConfigError, match="NAME=JUDGE"):
        parse_label(text)


def test_a_label_option_may_hold_an_equals_sign_in_its_first_part():
    assert parse_label("a=b=judge") == ("a=b", "judge")
