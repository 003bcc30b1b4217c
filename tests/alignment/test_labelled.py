"""Reading labels: one meaning for all spellings, the majority, and what never counts."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback

from mlflow_assay import semconv
from mlflow_assay.alignment.labelled import read_labels
from mlflow_assay.alignment.prepared import prepare
from mlflow_assay.contracts import BooleanValue, CategoricalValue, JudgeContract, NumericValue

YES_NO = JudgeContract("polite", "?", CategoricalValue(("yes", "no"), ("yes",)))
RUDE = JudgeContract("polite", "?", BooleanValue(good=False))
MOODS = JudgeContract(
    "polite", "?", CategoricalValue(("warm", "cool", "rude", "unclear"), ("warm", "cool"), ("unclear",))
)
SCORE = JudgeContract("polite", "?", NumericValue(1, 5, 4))


def read(contract=YES_NO, source="human"):
    experiment = mlflow.get_experiment_by_name("test").experiment_id
    infos = [t.info for t in mlflow.MlflowClient().search_traces(locations=[experiment], order_by=["timestamp_ms ASC"])]
    return read_labels(infos, "polite", contract, source)


@pytest.mark.parametrize("value", [True, "yes", "YES", "pass", "true"])
def test_every_spelling_of_good_is_the_judges_own_word(value, log_trace, label_trace):
    label_trace(log_trace(), value)
    (label,) = read().labels
    assert (label.passed, label.value) == (True, "yes")


@pytest.mark.parametrize(
    ("contract", "value", "passed", "on_scale"),
    [
        (RUDE, "pass", False, True),  # where true is the fault, "pass" is read as true, as the engine reads it
        (RUDE, False, True, False),
        (MOODS, "Cool", True, "cool"),
        (MOODS, True, True, None),  # warm or cool: both are good
        (MOODS, False, False, "rude"),
        (SCORE, 5, True, 5.0),
        (SCORE, 2, False, 2.0),
        (SCORE, "fail", False, None),
    ],
)
def test_labels_are_read_on_the_judges_scale(contract, value, passed, on_scale, log_trace, label_trace):
    label_trace(log_trace(), value)
    (label,) = read(contract).labels
    assert (label.passed, label.value) == (passed, on_scale)


def test_the_majority_decides_ties_are_left_out_and_each_has_one_last_word(log_trace, label_trace):
    majority, tie, changed = log_trace(), log_trace(), log_trace()
    for by, value in (("ann", True), ("bob", True), ("cid", False)):
        label_trace(majority, value, by=by)
    label_trace(tie, True, by="ann")
    label_trace(tie, False, by="bob")
    label_trace(changed, False, by="ann")
    label_trace(changed, True, by="ann")
    found = read()
    assert {label.trace_id: label.passed for label in found.labels} == {majority: True, changed: True}
    assert (found.conflicts, found.ties) == (1, 1)


def test_only_the_reasons_of_those_who_agree_are_kept(log_trace, label_trace):
    trace_id = log_trace()
    label_trace(trace_id, False, by="ann", rationale="curt")
    label_trace(trace_id, False, by="bob", rationale="cold")
    label_trace(trace_id, True, by="cid", rationale="fine by me")
    assert read().labels[0].rationales == ("curt", "cold")


def test_verdicts_of_judges_other_names_and_nonsense_are_no_labels(log_trace, label_trace):
    trace_id = log_trace()
    label_trace(trace_id, True, name="helpful")
    label_trace(trace_id, "banana")
    for source in (AssessmentSourceType.LLM_JUDGE, AssessmentSourceType.CODE):
        verdict = Feedback(
            name="polite",
            value=True,
            source=AssessmentSource(source, "judge"),
            metadata={semconv.JUDGE_DIGEST: "0" * 16},
        )
        mlflow.log_assessment(trace_id, verdict)
    found = read(source="any")
    assert found.labels == ()
    assert found.unreadable == {"'banana'": 1}
    assert found.seen == ("helpful", "polite")


def test_recorded_ground_truth_counts_where_it_is_asked_for(log_trace):
    trace_id = log_trace()
    source = AssessmentSource(AssessmentSourceType.CODE, "environment")
    mlflow.log_feedback(trace_id=trace_id, name="polite", value=True, source=source)
    assert read().labels == ()
    assert [label.passed for label in read(source="code").labels] == [True]


def test_a_correction_of_a_verdict_is_marked_as_one(log_trace):
    trace_id = log_trace()
    judge = AssessmentSource(AssessmentSourceType.LLM_JUDGE, "m")
    verdict = mlflow.log_feedback(trace_id=trace_id, name="polite", value="yes", source=judge)
    mlflow.override_feedback(
        trace_id=trace_id,
        assessment_id=verdict.assessment_id,
        value="no",
        source=AssessmentSource(AssessmentSourceType.HUMAN, "ann"),
    )
    (label,) = read().labels
    assert (label.passed, label.correction) == (False, True)


def test_mlflows_optimizers_see_one_label_under_the_judges_name_and_in_its_words(log_trace, label_trace, folder):
    """The trap: MLflow compares strings, so a reviewer's True never equals a judge's yes."""
    pytest.importorskip("dspy", reason="MLflow's reading of labels needs DSPy")
    from mlflow.genai.judges import make_judge
    from mlflow.genai.judges.optimizers.dspy_utils import agreement_metric, trace_to_dspy_example

    from mlflow_assay.alignment.labelled import attach
    from mlflow_assay.contracts import BoundJudge

    trace_id = log_trace(request="my bill", answer="thank you")
    label_trace(trace_id, True, name="polite", by="ann", rationale="kind")
    label_trace(trace_id, True, name="polite", by="bob")
    judge = make_judge(
        name="polite", instructions="Is {{ outputs }} polite?", model="openai:/m", feedback_value_type=str
    )
    fields = {"outputs": {"said": "final_answer"}}
    (example,) = attach([mlflow.get_trace(trace_id)], read().labels)
    (copy,) = prepare(BoundJudge(YES_NO, judge, "0" * 16, fields=fields), [example])
    (shown,) = trace_to_dspy_example(copy, judge)
    assert (shown.result, shown.rationale) == ("yes", "kind")
    assert "thank you" in shown.outputs and "said" in shown.outputs
    assert agreement_metric(shown, type("P", (), {"result": "yes"}))
    assert len(mlflow.get_trace(trace_id).info.assessments) == 2
