"""Code judges: exact at the limit, unscored where nothing was recorded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.contracts import UnscoredError


def said(trace, judge) -> str:
    return judge(trace=trace).value


def call(name: str = "get", arguments=None, result=None, error=None, **more):
    return {"name": name, "inputs": arguments, "outputs": result, "error": error, **more}


@pytest.fixture(scope="module")
def judges():
    from mlflow_assay.judges import code

    return code


@pytest.mark.parametrize(("repeats", "value"), [(0, "clean"), (2, "clean"), (3, "repeated")])
def test_a_step_may_be_repeated_max_repeats_times_after_the_first(make_trace, judges, repeats, value):
    trace = make_trace(inputs={"q": "x"}, spans=[call(arguments={"a": 1}, result=5)] * (repeats + 1))
    assert said(trace, judges.RepeatedSteps(max_repeats=2)) == value


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (call(arguments={"a": 2}, result=5), "arguments"),
        (call(arguments={"a": 1}, result=6), "result"),
        (call(arguments={"a": 1}, error="timeout"), "error"),
        (call("put", {"a": 1}, 5), "name"),
        (call(arguments={"a": 1}, result=5, type="CHAIN"), "type"),
    ],
)
def test_a_step_that_differs_is_no_repetition(make_trace, judges, other, what):
    trace = make_trace(inputs={"q": "x"}, spans=[call(arguments={"a": 1}, result=5), other])
    assert said(trace, judges.RepeatedSteps(max_repeats=0)) == "clean", what


def test_the_order_of_arguments_makes_no_difference(make_trace, judges):
    spans = [call(arguments={"a": 1, "b": 2}), call(arguments={"b": 2, "a": 1})]
    assert said(make_trace(inputs={"q": "x"}, spans=spans), judges.RepeatedSteps(max_repeats=0)) == "repeated"


def test_outcomes_that_always_differ_can_be_ignored(make_trace, judges):
    spans = [call(arguments={"a": 1}, result={"at": second}) for second in range(4)]
    trace = make_trace(inputs={"q": "x"}, spans=spans)
    assert said(trace, judges.RepeatedSteps()) == "clean"
    assert said(trace, judges.RepeatedSteps(ignore_outcome=True)) == "repeated"


def test_the_rationale_names_the_step_and_the_count(make_trace, judges):
    trace = make_trace(inputs={"q": "x"}, spans=[call("cancel", {"order": 7}, error="no")] * 5)
    assert 'cancel({"order": 7}) ran 5 times' in judges.RepeatedSteps()(trace=trace).rationale


def test_the_root_itself_is_no_step(make_trace, judges):
    assert said(make_trace(inputs={"q": "x"}, outputs={"a": "y"}), judges.RepeatedSteps(max_repeats=0)) == "clean"


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(st.sampled_from("abc"), max_size=12), allowed=st.integers(0, 4))
def test_repeated_exactly_when_some_step_runs_more_often_than_allowed(calls, allowed):
    """Holds for every sequence, whatever the order of the steps."""
    from mlflow_assay.judges.case_traces import trace_of
    from mlflow_assay.judges.code import RepeatedSteps
    from mlflow_assay.judges.definition import Case

    spans = [call(name) for name in calls]
    case = Case.model_validate({"name": "n", "kind": "good", "expect": "x", "inputs": {"q": 1}, "spans": spans})
    most = max((calls.count(name) for name in calls), default=0)
    value = RepeatedSteps(max_repeats=allowed)(trace=trace_of(case, "n")).value
    assert (value == "repeated") == (most > allowed + 1)


@pytest.mark.parametrize(("seconds", "value"), [(2.0, "within"), (3.0, "within"), (3.001, "exceeded")])
def test_latency_at_the_limit_is_within(make_trace, judges, seconds, value):
    trace = make_trace(inputs={"q": "x"}, spans=[call(seconds=seconds)])
    assert said(trace, judges.LatencyLimit(seconds=3)) == value


@pytest.mark.parametrize(("cost", "value"), [(0.0, "within"), (0.1, "within"), (0.11, "exceeded")])
def test_cost_at_the_limit_is_within(make_trace, judges, cost, value):
    prices = {"mlflow.llm.cost": {"input_cost": cost, "output_cost": 0.0, "total_cost": cost}}
    trace = make_trace(inputs={"q": "x"}, spans=[call(type="CHAT_MODEL", attributes=prices)])
    feedback = judges.CostLimit(usd=0.1)(trace=trace)
    assert (feedback.value, feedback.metadata["assay.raw_value"]) == (value, str(cost))


@pytest.mark.parametrize(("tokens", "value"), [(100, "within"), (101, "exceeded")])
def test_tokens_at_the_limit_are_within(make_trace, judges, tokens, value):
    usage = {"mlflow.chat.tokenUsage": {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}}
    trace = make_trace(inputs={"q": "x"}, spans=[call(type="CHAT_MODEL", attributes=usage)])
    assert said(trace, judges.TokenLimit(tokens=100)) == value


@pytest.mark.parametrize("name", ["LatencyLimit", "CostLimit", "TokenLimit"])
def test_what_was_not_recorded_is_unscored_and_not_within(make_trace, judges, name):
    with pytest.raises(UnscoredError) as raised:
        getattr(judges, name)()(trace=make_trace())
    assert raised.value.reason.value == "missing_field"


def test_code_judges_run_in_mlflows_own_evaluation(store, log_trace, judges):
    """They are plain scorers: mlflow.genai.evaluate takes them, a missing cost being an error of that row."""
    import mlflow

    log_trace()
    traces = mlflow.search_traces(return_type="list")
    result = mlflow.genai.evaluate(data=traces, scorers=[judges.LatencyLimit(), judges.CostLimit()])
    (row,) = result.result_df.to_dict("records")
    assert row["latency_limit/value"] == "within"
    found = {a.name: a for a in mlflow.get_trace(traces[0].info.trace_id).info.assessments}
    assert "needs the trace's cost" in found["cost_limit"].error.error_message
