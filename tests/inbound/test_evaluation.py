"""From OTLP attributes to an assessment: what is taken, what is refused and why, and that the id is stable."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.contracts import Unscored
from mlflow_assay.inbound.evaluation import Evaluation, RefusedError, evaluation

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NAME, SCORE, LABEL = "gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "gen_ai.evaluation.score.label"
EXPLANATION, EVALUATOR = "gen_ai.evaluation.explanation", "gen_ai.evaluation.evaluator"


def read(attributes, **more):
    given = {"trace_id": TRACE, "span_id": SPAN, "time_ns": 1_795_300_000_000_000_000, "scope": "openlit", **more}
    return evaluation({NAME: "Relevance", **attributes}, **given)


def test_score_label_and_explanation_become_value_outcome_and_rationale():
    made = read({SCORE: 0.25, LABEL: "fail", EXPLANATION: "off topic", "gen_ai.response.id": "r-1"}).feedback()
    assert (made.name, made.value, made.rationale) == ("Relevance", 0.25, "off topic")
    assert (made.trace_id, made.span_id) == (f"tr-{TRACE}", SPAN)
    assert (made.source.source_type, made.source.source_id) == ("LLM_JUDGE", "openlit")
    assert made.metadata["assay.outcome"] == "fail"
    assert made.metadata[LABEL] == "fail"
    assert made.metadata["gen_ai.response.id"] == "r-1"
    assert made.metadata["assay.source.time"] == "2026-11-21T22:26:40+00:00"


def test_a_label_alone_is_the_value_and_says_no_outcome_unless_it_is_pass_or_fail():
    assert read({LABEL: "relevant"}).feedback().value == "relevant"
    assert "assay.outcome" not in read({LABEL: "relevant"}).feedback().metadata
    assert read({LABEL: "Passed"}).feedback().metadata["assay.outcome"] == "pass"


def test_a_failed_evaluation_is_unscored_with_its_error_and_never_zero():
    made = read({"error.type": "timeout", EXPLANATION: "took 60 s", SCORE: 0.0}).feedback()
    assert made.value is None
    assert (made.error.error_code, made.error.error_message) == ("timeout", "took 60 s")
    assert made.metadata["assay.outcome"] == "unscored"
    assert made.metadata["assay.unscored.reason"] == Unscored.TIMEOUT.value
    assert read({"error.type": "openai.BoomError"}).feedback().metadata["assay.unscored.reason"] == "judge_error"


@pytest.mark.parametrize(
    ("said", "type_"), [("llm", "LLM_JUDGE"), ("LLM_Judge", "LLM_JUDGE"), ("code", "CODE"), ("heuristic", "CODE")]
)
def test_the_evaluator_says_what_it_is(said, type_):
    made = read({SCORE: 1, f"{EVALUATOR}.type": said, f"{EVALUATOR}.id": "rel", f"{EVALUATOR}.version": "3"})
    assert (made.source_type, made.source_id, made.version) == (type_, "rel", "3")
    assert made.feedback().metadata["assay.judge.version"] == "3"


def test_nobody_speaks_for_people_unless_told_so():
    with pytest.raises(RefusedError, match="human labels are not accepted"):
        read({SCORE: 1, f"{EVALUATOR}.type": "human"})
    assert read({SCORE: 1, f"{EVALUATOR}.type": "human"}, accept_human=True).source_type == "HUMAN"


@pytest.mark.parametrize(
    ("attributes", "more", "why"),
    [
        ({SCORE: 1.0}, {"trace_id": ""}, "no trace context"),
        ({SCORE: 1.0}, {"trace_id": "0" * 32}, "no trace context"),
        ({SCORE: 1.0, NAME: None}, {}, "gen_ai.evaluation.name is not a text"),
        ({SCORE: 1.0, NAME: "  "}, {}, "gen_ai.evaluation.name is not a text"),
        ({SCORE: 1.0, NAME: "x" * 251}, {}, "1 to 250 characters"),
        ({}, {}, "neither score, label nor error"),
        ({EXPLANATION: "fine"}, {}, "neither score, label nor error"),
        ({SCORE: math.nan}, {}, "not a finite number"),
        ({SCORE: math.inf}, {}, "not a finite number"),
        ({SCORE: "0.5"}, {}, "not a finite number"),
        ({SCORE: True}, {}, "not a finite number"),
        ({LABEL: 3}, {}, "label is not a text"),
        ({SCORE: 1.0, f"{EVALUATOR}.type": "oracle"}, {}, "evaluator.type is none of"),
    ],
)
def test_what_cannot_become_an_assessment_is_refused_with_the_reason(attributes, more, why):
    with pytest.raises(RefusedError, match=why):
        read(attributes, **more)


def test_nobody_else_writes_under_our_names():
    facts = read({SCORE: 1.0, "assay.outcome": "pass", "assay.judge.digest": "x", "mlflow.assessment": "x"}).facts
    assert not [key for key in facts if key.startswith(("assay.", "mlflow."))]


def test_further_attributes_are_kept_few_and_short():
    many = {f"k{n}": "v" * 1000 for n in range(100)}
    facts = read({SCORE: 1.0, **many}).facts
    assert len(facts) == 32
    assert max(map(len, facts.values())) == 500
    assert len(read({SCORE: 1.0, EXPLANATION: "x" * 100_000}).explanation) < 33_000


def test_nul_is_taken_out_because_postgresql_refuses_it():
    made = read({NAME: "a\x00b", LABEL: "x\x00", EXPLANATION: "\x00", "k\x00": "v\x00"})
    assert "\x00" not in json.dumps([made.name, made.label, made.explanation, dict(made.facts)])
    assert "\\u0000" not in made.to_json()


TEXTS = st.text(max_size=20)
ATTRIBUTES = st.fixed_dictionaries(
    {SCORE: st.floats(allow_nan=False, allow_infinity=False)},
    optional={LABEL: TEXTS, EXPLANATION: TEXTS, "error.type": TEXTS, "other": TEXTS, f"{EVALUATOR}.id": TEXTS},
)


@given(ATTRIBUTES)
def test_an_evaluation_survives_the_inbox_and_keeps_its_id(attributes):
    made = read(attributes)
    again = Evaluation.from_json(made.to_json())
    assert again == made
    assert again.id == made.id == read(dict(reversed(attributes.items()))).id


@given(ATTRIBUTES, ATTRIBUTES)
def test_ids_differ_exactly_where_something_said_differs(one, other):
    a, b = read(one), read(other)
    said = [{k: v for k, v in vars(x).items() if k != "facts"} for x in (a, b)]
    assert (a.id == b.id) is (json.dumps(said[0]) == json.dumps(said[1]))
