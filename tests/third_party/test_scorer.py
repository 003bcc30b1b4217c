"""A library's answer as a verdict: number, pass and reason kept, what failed unscored with the reason and the bill."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import BoundJudge, DeclaringScorer, NumericValue
from mlflow_assay.engine.judging import judge, outcome_of, reason_of, subject_of
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.metric import Measured, Metric, MetricLibrary
from mlflow_assay.testing import FakeJudgeServer, Reply


class Toy(MetricLibrary):
    """A library whose metrics do what a test says."""

    name, package, module, extra = "toy", "openai", "openai", "toy"
    metrics = {  # noqa: RUF012 - as an adapter writes it
        "asks": Metric("asks", "Is it?", ("input", "output"), "2"),
        "rule": Metric("rule", "Is it?", ("output",), "0"),
        "needy": Metric("needy", "Is it?", ("expected_output",), "0", required=("how",)),
        "talk": Metric("talk", "Is it?", ("turns",), "0", scope="session"),
    }
    unsupported = {"pictures": "judges images"}  # noqa: RUF012

    def __init__(self, does):
        self._does = does

    def exported(self):
        return {*self.metrics, *self.unsupported}

    def measure(self, metric, params):
        return self._does


def bound(does, name="rule", model=None, value=None, **params):
    library = Toy(does)
    scorer = library.build(name, params, model)
    contract = replace(library.metrics[name].contract("toy", "toy"), needs=scorer.needs)
    if value is not None:
        contract = replace(contract, value=value)
        scorer.declare(contract)
    return BoundJudge(contract, scorer, "0" * 16, model)


def verdict(made, trace, session=()):
    return judge(made, subject_of(made, trace, session))


def asking(sample, client, value):
    """Two calls; the second reply is the score."""
    client.complete([{"role": "user", "content": "first"}])
    return Measured(float(client.complete([{"role": "user", "content": "second"}])), reason="said so")


def test_the_number_the_pass_and_the_reason_are_kept(full_trace):
    found = verdict(bound(lambda *_: Measured(0.7, passed=False, reason="since", metadata={"a": 1})), full_trace())
    assert (found.value, found.rationale, outcome_of(found).value) == (0.7, "since", "pass")
    assert found.metadata[semconv.LIBRARY_PASSED] == "false" and found.metadata["a"] == "1"
    assert (found.source.source_type, found.source.source_id) == ("CODE", "toy/rule")


def test_the_metric_is_shown_the_scale_and_threshold_in_force(full_trace):
    """A definition's threshold, not the library's, decides; the metric is told, so that its words agree."""
    shown = []

    def does(sample, client, value):
        shown.append(value.threshold)
        return Measured(0.7)

    strict = NumericValue(0.0, 1.0, 0.9)
    assert outcome_of(verdict(bound(does, value=strict), full_trace())).value == "fail"
    assert shown == [0.9]


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (Measured(None), "empty_reply"),
        (Measured(float("nan")), "empty_reply"),
        (Measured(7.0), "off_menu"),
        (Measured(float("inf")), "off_menu"),
        (Measured(0.0, error="the library gave up"), "judge_error"),
    ],
)
def test_what_is_no_score_is_unscored_and_never_zero(full_trace, measured, reason):
    found = verdict(bound(lambda *_: measured), full_trace())
    assert (outcome_of(found).value, found.value, reason_of(found).value) == ("unscored", None, reason)


def test_an_exception_of_the_library_is_one_verdict_unscored(full_trace):
    def does(sample, client, value):
        raise RuntimeError("no such thing")

    found = verdict(bound(does), full_trace())
    assert reason_of(found).value == "judge_error" and "RuntimeError: no such thing" in found.error.error_message


def test_what_the_metrics_own_calls_cost_is_on_the_verdict(full_trace):
    with FakeJudgeServer(["x", "0.5"], tokens=(100, 10)) as server:
        model = replace(server.model, usd_per_million=(1.0, 10.0))
        found = verdict(bound(asking, "asks", model), full_trace())
    assert (found.value, found.metadata[semconv.JUDGE_CALLS]) == (0.5, "2")
    assert found.metadata["mlflow.assessment.judgeInputTokens"] == "200"
    assert float(found.metadata["mlflow.assessment.judgeCost"]) == pytest.approx(400e-6)


@pytest.mark.parametrize(
    ("replies", "reason", "calls"),
    [
        (["x", "no number"], "garbled_reply", 2),
        (["x", Reply("no key", 401)], "unauthorized", 1),
        (["x", Reply("cut", finish_reason="length")], "truncated", 2),
        (["x", Reply("", refusal="no")], "refused", 2),
        ([Reply("late", delay_s=2)], "timeout", 0),
    ],
)
def test_a_call_that_failed_is_the_reason_and_what_was_paid_before_is_kept(full_trace, replies, reason, calls):
    with FakeJudgeServer(replies, tokens=(100, 10)) as server:
        found = verdict(bound(asking, "asks", replace(server.model, timeout_s=0.5)), full_trace())
    assert (reason_of(found).value, found.value) == (reason, None)
    assert found.metadata[semconv.JUDGE_CALLS] == str(calls)
    assert int(found.metadata.get("mlflow.assessment.judgeInputTokens", 0)) == 100 * calls


def test_a_library_that_swallows_the_failure_and_gives_nan_does_not_hide_it(full_trace):
    def does(sample, client, value):
        try:
            client.complete([{"role": "user", "content": "x"}])
        except Exception:
            return Measured(float("nan"))

    with FakeJudgeServer(Reply("who are you?", 403)) as server:
        found = verdict(bound(does, "asks", server.model), full_trace())
    assert reason_of(found).value == "unauthorized" and "who are you?" in found.error.error_message


def test_a_missing_field_is_said_before_anything_is_measured(full_trace):
    measured = []
    made = bound(lambda *_: measured.append(1), "needy", how=1)
    found = verdict(made, full_trace(expectations={"tone": "polite"}))
    told = "needs expectations.expected_response (found: inputs, outputs, expectations.tone, 4 spans)"
    assert (reason_of(found).value, found.error.error_message, measured) == ("missing_field", told, [])


def test_a_field_read_from_elsewhere_is_needed_from_there(full_trace):
    seen = []

    def does(sample, client, value):
        seen.append(sample.expected_output)
        return Measured(1.0)

    made = bound(does, "needy", how=1, fields={"expected_output": "expectation:gold"})
    assert verdict(made, full_trace(expectations={"gold": "Yes."})).value == 1.0
    assert seen == ["Yes."]
    told = verdict(made, full_trace()).error.error_message
    assert told.startswith("needs expectation:gold (found: ")


def test_a_session_needs_a_field_in_one_of_its_traces(full_trace, full_session):
    made = bound(lambda sample, *_: Measured(len(sample.turns) / 10), "talk")
    session = full_session(2)
    assert verdict(made, session[0], session).value == 0.4
    assert reason_of(verdict(made, full_trace())).value == "missing_field"


def test_it_can_be_used_as_a_plain_scorer_of_mlflow(full_trace):
    scorer = bound(lambda sample, *_: Measured(1.0, reason=sample.output)).scorer
    found = scorer(inputs={"q": "?"}, outputs="Yes.")
    assert (found.value, found.rationale) == (1.0, "Yes.")
    assert isinstance(scorer, DeclaringScorer)


def test_forty_rows_by_ten_workers_are_judged_as_one_at_a_time(full_trace):
    """Nothing is shared between verdicts but the connections."""

    def reply(request):
        time.sleep(0.002)
        return request.prompt.split()[-1]

    def does(sample, client, value):
        score = float(client.complete([{"role": "user", "content": f"say 0.{sample.input[-2]}"}]))
        return Measured(score, reason=sample.output)

    traces = [full_trace(number) for number in range(10, 50)]
    with FakeJudgeServer(reply) as server:
        made = bound(does, "asks", server.model)
        alone = [verdict(made, trace) for trace in traces]
        with ThreadPoolExecutor(10) as pool:
            together = list(pool.map(lambda trace: verdict(made, trace), traces))
    assert [(f.value, f.rationale) for f in together] == [(f.value, f.rationale) for f in alone]
    assert len(Counter(f.value for f in together)) == 10
    assert {f.metadata[semconv.JUDGE_CALLS] for f in together} == {"1"}


@pytest.mark.parametrize(
    ("name", "model", "params", "told"),
    [
        ("asks", None, {}, "needs a judge model"),
        ("needy", None, {}, r"needs the parameter 'how'.*`uses: toy/needy` and `with:`"),
        ("aks", None, {}, "no metric 'aks'. Valid: asks"),
        ("pictures", None, {}, "toy/pictures is not supported: judges images"),
        ("rule", None, {"fields": {"outptu": "outputs"}}, "no field 'outptu'"),
    ],
)
def test_what_is_wrong_is_refused_when_the_judge_is_built(name, model, params, told):
    with pytest.raises(ConfigError, match=told):
        Toy(lambda *_: Measured(1.0)).build(name, params, model)


def test_a_library_that_is_not_installed_says_which_extra_brings_it():
    class Absent(Toy):
        module, package, extra = "no_such_module_anywhere", "nowhere", "nowhere"

    with pytest.raises(ConfigError, match=r"pip install 'mlflow-assay\[nowhere\]'"):
        Absent(lambda *_: Measured(1.0)).build("rule", {}, None)


@pytest.mark.parametrize(
    ("calls", "least"),
    [("0", 0), ("1", 1), ("2, 1 with evaluation_steps", 2), ("1 + 2 per exchange", 3), ("one or more", 1), ("", 1)],
)
def test_the_budget_reserves_what_is_declared(calls, least):
    contract = replace(Metric("m", "Is it?", (), calls).contract("toy", "toy"), calls_llm=calls != "0")
    assert contract.least_calls == least
