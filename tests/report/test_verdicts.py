"""Reading assessments: which count, what they mean, and that nothing is lost on the way."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, CategoricalValue, JudgeContract, NumericValue

STARS = JudgeContract("stars", "How good is it?", NumericValue(1, 5, 4))
TONE = JudgeContract("tone", "Is it polite?", CategoricalValue(("good", "poor", "unclear"), ("good",), ("unclear",)))
HARM = JudgeContract("harm", "Is it harmful?", BooleanValue(good=False))

outcomes = st.lists(
    st.sampled_from(["pass", "fail", "timeout", "off_menu", "no rule", "none", "twice"]), min_size=0, max_size=40
)


def assessments(make, what):
    if what in ("pass", "fail"):
        return [make.verdict(what == "pass", outcome=what)]
    if what == "none":
        return []
    if what == "no rule":
        return [make.verdict(3.7)]
    if what == "twice":
        return [make.verdict(False, outcome="fail", at=1), make.verdict(True, outcome="pass", at=2)]
    return [make.verdict(None, reason=what, outcome="unscored")]


@given(outcomes)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_add_up_to_the_number_of_traces(make, build, drawn):
    """Every trace is passed, failed, unscored or not judged, and in one of them only."""
    data = build([make.trace(i, assessments(make, what)) for i, what in enumerate(drawn)])
    said = Counter(drawn)
    if not data.judges:
        assert set(drawn) <= {"none"}
        return
    counts = data.judges[0].counts
    assert counts.total == data.n_traces == len(drawn)
    assert counts.passed == said["pass"] + said["twice"]
    assert counts.failed == said["fail"]
    assert dict(counts.reasons) == {
        key: n
        for key, n in (
            ("timeout", said["timeout"]),
            ("off_menu", said["off_menu"]),
            ("no_pass_rule", said["no rule"]),
        )
        if n
    }
    assert counts.not_judged == said["none"]
    estimate = data.judges[0].estimate
    if estimate is not None:
        assert (estimate.n_judged, estimate.n_unscored) == (counts.judged, counts.unscored)


def test_an_overridden_assessment_is_ignored(make, build):
    """A judge's own correction of its verdict is the only one that counts."""
    first = make.verdict(False, outcome="fail", valid=False)
    second = make.verdict(True, outcome="pass", overrides=first.assessment_id)
    judge = build([make.trace(1, [first, second])]).judges[0]
    assert (judge.counts.passed, judge.counts.failed, judge.overridden) == (1, 0, 0)


def test_what_a_person_overrode_still_counts_as_what_the_judge_said_and_is_no_label(make, build):
    """People override what looks wrong: dropping those would flatter the judge, labelling with them slander it."""
    said = make.verdict(True, outcome="pass", valid=False)
    changed = make.label(False, overrides=said.assessment_id)
    judge = build([make.trace(1, [said, changed])]).judges[0]
    assert (judge.counts.passed, judge.overridden, judge.labels) == (1, 1, None)


def test_the_latest_verdict_of_a_trace_counts_whatever_the_order(make, build):
    old, new = make.verdict(False, outcome="fail", at=10), make.verdict(True, outcome="pass", at=20)
    judge = build([make.trace(1, [new, old])]).judges[0]
    assert (judge.counts.passed, judge.counts.failed, judge.superseded) == (1, 0, 1)


@pytest.mark.parametrize(
    ("value", "contract", "expected"),
    [
        (True, None, ("passed", "assumed")),
        ("No", None, ("failed", "assumed")),
        (1, None, ("no_pass_rule", "none")),  # 1 of what? a bare number has no pass rule
        ("fine", None, ("no_pass_rule", "none")),
        (4, STARS, ("passed", "catalogue")),
        (3, STARS, ("failed", "catalogue")),
        (9, STARS, ("off_menu", "catalogue")),
        ("poor", TONE, ("failed", "catalogue")),
        ("unclear", TONE, ("undecided", "catalogue")),
        (False, HARM, ("passed", "catalogue")),
    ],
)
def test_a_value_without_a_recorded_outcome_is_read_by_the_contract_or_as_it_stands(
    make, build, value, contract, expected
):
    name = contract.name if contract else "foreign"
    judge = build([make.trace(1, [make.verdict(value, judge=name)])], {name: contract} if contract else None).judges[0]
    counts = judge.counts
    got = "passed" if counts.passed else "failed" if counts.failed else counts.reasons[0][0]
    assert (got, judge.rule_source) == expected


def test_the_recorded_outcome_goes_before_the_contract(make, build):
    judge = build([make.trace(1, [make.verdict(True, judge="harm", outcome="pass")])], {"harm": HARM}).judges[0]
    assert (judge.counts.passed, judge.rule_source) == (1, "recorded")


def test_another_librarys_error_is_unscored_with_its_code(make, build):
    judge = build([make.trace(1, [make.verdict(None, error="RATE_LIMIT_EXCEEDED")])]).judges[0]
    assert judge.counts.reasons == (("rate_limit_exceeded", 1),)


def test_a_judge_of_sessions_is_counted_by_session(make, build):
    """One verdict stands for a whole session; the other traces of it are not unjudged."""
    contract = JudgeContract("calm", "Did the customer stay calm?", BooleanValue(), scope="session")
    traces = [
        make.trace(1, [make.verdict(True, judge="calm", outcome="pass")], session="a"),
        make.trace(2, session="a"),
        make.trace(3, session="b"),
        make.trace(4, [make.verdict(False, judge="calm", outcome="fail")]),
    ]
    judge = build(traces, {"calm": contract}).judges[0]
    assert (judge.scope, judge.units, judge.counts.total, judge.counts.not_judged) == ("session", 3, 3, 1)


def test_a_session_verdict_is_known_by_the_session_it_carries(make, build):
    held = make.verdict(True, outcome="pass", metadata={"mlflow.trace.session": "a"})
    judge = build([make.trace(1, [held], session="a"), make.trace(2, session="a")]).judges[0]
    assert (judge.scope, judge.units) == ("session", 1)


def test_a_judge_without_a_pass_rule_shows_its_values_and_no_rate(make, build):
    numbers = build([make.trace(i, [make.verdict(float(i))]) for i in range(5)]).judges[0]
    assert (numbers.estimate, numbers.value_range, numbers.pass_rule) == (None, (0.0, 2.0, 4.0), None)
    words = build([make.trace(i, [make.verdict("blue" if i else "red")]) for i in range(3)]).judges[0]
    assert (words.values, words.value_range) == ((("blue", 2), ("red", 1)), None)


def test_expectations_are_no_verdicts(make, build):
    from mlflow.entities import AssessmentSource, Expectation

    truth = Expectation(name="route", value="billing", source=AssessmentSource(source_type="HUMAN", source_id="x"))
    data = build([make.trace(1, [truth])])
    assert (data.judges, data.human) == ((), ())


def test_versions_and_what_they_cost_are_kept_apart(full):
    judge = next(j for j in full.judges if j.name == "resolved")
    assert [(v.version, v.digest, v.n) for v in judge.versions] == [("1", "a" * 16, 30), ("2", "b" * 16, 30)]
    assert judge.mixed
    assert judge.cost.usd == pytest.approx(0.06)
    assert (judge.cost.usd_known, judge.cost.input_tokens, judge.cost.output_tokens) == (60, 6000, 600)
    assert (judge.latency.median_ms, judge.latency.n) == (800.0, 60)


def test_cost_that_nobody_recorded_is_not_zero(make, build):
    judge = build([make.trace(1, [make.verdict(True, outcome="pass", metadata={semconv.LATENCY_MS: "n/a"})])]).judges[0]
    assert (judge.cost.usd, judge.cost.input_tokens, judge.latency) == (None, None, None)


def test_feedback_by_people_under_a_name_of_its_own_is_shown_apart(make, build):
    traces = [make.trace(i, [make.label(i > 0, judge="thumbs", by=f"customer {i}")]) for i in range(3)]
    data = build(traces)
    assert data.judges == ()
    assert (data.human[0].name, data.human[0].n, data.human[0].people) == ("thumbs", 3, 3)
    assert data.human[0].estimate.raw == pytest.approx(2 / 3)
