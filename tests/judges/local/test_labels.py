"""Labels: values normalised, conflicts settled and counted, and no judge learning from itself."""

from __future__ import annotations

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, CategoricalValue, Label
from mlflow_assay.judges.local import of_traces, settle


def said(trace, value, by="ann", name="ok"):
    return Label(trace, name, value, by)


@pytest.mark.parametrize(
    ("value", "passed"), [(True, True), ("YES", True), ("pass", True), ("No", False), (False, False)]
)
def test_yes_true_and_pass_are_one_value(value, passed):
    assert settle([said("t", value)], "ok").passed == {"t": passed}


def test_where_yes_is_the_fault_no_passes():
    assert settle([said("t", "yes")], "ok", BooleanValue(good=False)).passed == {"t": False}


def test_any_scale_can_be_learnt_from():
    scale = CategoricalValue(("good", "fair", "poor"), ("good", "fair"))
    found = settle([said("a", "Fair"), said("b", "poor"), said("c", "awful")], "ok", scale)
    assert found.passed == {"a": True, "b": False}
    assert found.unreadable == {"'awful'": 1}


def test_the_majority_counts_ties_are_left_out_and_both_are_counted():
    labels = [
        said("a", True, "ann"),
        said("a", False, "bob"),
        said("a", True, "cy"),
        said("b", True, "ann"),
        said("b", False, "bob"),
        said("c", True, "ann"),
        said("c", True, "bob"),
        said("d", "maybe"),
        said("e", False, name="other"),
    ]
    found = settle(labels, "ok")
    assert found.passed == {"a": True, "c": True}
    assert (found.conflicts, found.ties) == (1, 1)
    assert found.unreadable == {"'maybe'": 1}


def test_a_labellers_last_word_counts():
    found = settle([said("a", True), said("a", False)], "ok")
    assert (found.passed, found.conflicts) == ({"a": False}, 0)


def test_some_traces_can_be_kept_for_checking():
    found = settle([said("a", True), said("b", False)], "ok")
    assert found.only({"b"}).passed == {"b": False}


@pytest.fixture
def info(make_trace):
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    trace = make_trace(inputs={"q": "?"}, outputs="!")

    def add(value, source="HUMAN", kind=Feedback, **more):
        found = kind(name="ok", value=value, source=AssessmentSource(source, more.pop("by", "x")), **more)
        found.valid = more.get("valid", found.valid)
        trace.info.assessments.append(found)

    add.trace = trace
    add.expectation = Expectation
    return add


def test_only_the_chosen_source_is_read(info):
    info(True, "HUMAN")
    info(False, "CODE")
    trace = info.trace.info
    assert of_traces([trace], "ok").passed == {trace.trace_id: True}
    assert of_traces([trace], "ok", "code").passed == {trace.trace_id: False}
    both = of_traces([trace], "ok", "any")
    assert (both.ties, both.sources) == (1, {"human": 1, "code": 1})


def test_recorded_ground_truth_may_be_an_expectation(info):
    info(False, "CODE", info.expectation)
    assert list(of_traces([info.trace.info], "ok", "code").passed.values()) == [False]


def test_overridden_and_failed_assessments_and_verdicts_of_local_judges_are_no_labels(info):
    from mlflow.entities import AssessmentError

    info(True, "HUMAN")
    info.trace.info.assessments[-1].valid = False
    info(None, "CODE", error=AssessmentError("x", "y"))
    info(True, "CODE", metadata={semconv.JUDGE_KIND: "local"})
    assert of_traces([info.trace.info], "ok", "any").passed == {}
