"""Every metric of DeepEval against the real library and a scripted judge model: direction, reason, number of calls."""

from __future__ import annotations

import re

import pytest

from mlflow_assay import semconv
from mlflow_assay.engine.judging import outcome_of, reason_of
from mlflow_assay.judges.third_party.deepeval_table import METRICS
from mlflow_assay.testing import FakeJudgeServer

ASKING = [name for name, metric in METRICS.items() if metric.calls_llm]
BY_RULE = [name for name, metric in METRICS.items() if not metric.calls_llm]
PASSAGES = 2  # of each exchange, in the traces of these tests


def subject(name, full_trace, full_session, exchanges=1, **said):
    if METRICS[name].scope == "session":
        session = full_session(exchanges)
        return session[0], session
    return full_trace(**said), ()


@pytest.mark.parametrize("name", ASKING)
def test_better_is_higher_and_passes_worse_is_lower_and_fails(of, full_trace, full_session, name):
    """The judge model says all is well, or nothing is: the number, the verdict and the library's own go along."""
    found = {}
    for good in (True, False):
        with FakeJudgeServer(of.replies(name, good)) as server:
            found[good] = of.verdict(of.bind(name, server.model), *subject(name, full_trace, full_session))
        assert found[good].error is None, found[good].error
        assert outcome_of(found[good]).value == ("pass" if good else "fail")
        assert found[good].metadata[semconv.LIBRARY_PASSED] == str(good).lower()
        assert found[good].rationale
    assert found[True].value > found[False].value


@pytest.mark.parametrize(
    ("name", "exchanges"), [(n, 1) for n in ASKING] + [(n, 3) for n in ASKING if METRICS[n].scope == "session"]
)
def test_it_makes_as_many_calls_as_it_declares(of, full_trace, full_session, name, exchanges):
    with FakeJudgeServer(of.replies(name, True)) as server:
        found = of.verdict(of.bind(name, server.model), *subject(name, full_trace, full_session, exchanges))
    assert found.error is None, found.error
    assert len(server.requests) == declared(METRICS[name].calls, exchanges)
    assert found.metadata[semconv.JUDGE_CALLS] == str(len(server.requests))


def declared(calls, exchanges):
    """`1 + 2 per exchange, …` as a number, for the conversations of these tests."""
    windows = sum(PASSAGES * (exchange + 1) for exchange in range(exchanges))
    units = {
        "": 1, "exchange": exchanges, "passage": PASSAGES, "passage in its window": windows,
        "intention": 1, "node asked": 1, "image": 1,
    }  # fmt: skip
    terms = [re.fullmatch(r"(\d+)(?: per (.+))?", term) for term in calls.partition(",")[0].split(" + ")]
    return sum(int(term[1]) * units[term[2] or ""] for term in terms)


@pytest.mark.parametrize("name", METRICS)
def test_without_what_it_reads_it_is_unscored_and_nothing_is_asked(of, name):
    from mlflow_assay.testing import sample_trace

    bare = sample_trace(spans=False)
    with FakeJudgeServer() as server:
        found = of.verdict(of.bind(name, server.model), bare, ())
    assert reason_of(found).value == "missing_field"
    assert re.match(r"needs .+ \(found: .+\)", found.error.error_message)
    assert server.requests == []


GOOD_AND_BAD = {
    "ExactMatchMetric": ({"outputs": {"answer": "It arrives tomorrow."}}, {}),
    "PatternMatchMetric": ({}, {"outputs": {"answer": "No."}}),
    "ToolPermissionMetric": ({}, {"spans": [{"name": "refund", "inputs": {}}]}),
    "AgentLoopDetectionMetric": ({}, {"spans": [{"name": "get_order", "inputs": {"order": 7}}] * 8}),
    "ToolCorrectnessMetric": ({}, {"spans": [{"name": "refund", "inputs": {}}]}),
    "JsonCorrectnessMetric": ({"outputs": '{"due": "tomorrow"}'}, {"outputs": '{"due": 7}'}),
}


@pytest.mark.parametrize("name", BY_RULE)
def test_a_metric_by_rule_tells_good_from_bad_and_asks_nobody(of, full_trace, name):
    good, bad = (of.verdict(of.bind(name, None), full_trace(**said)) for said in GOOD_AND_BAD[name])
    assert good.error is None and bad.error is None, (good.error, bad.error)
    assert good.value > bad.value
    assert (outcome_of(good).value, outcome_of(bad).value) == (
        ("pass", "pass") if name == "AgentLoopDetectionMetric" else ("pass", "fail")
    )
    assert semconv.JUDGE_MODEL not in good.metadata and good.source.source_type == "CODE"


def test_each_rule_is_covered():
    assert set(GOOD_AND_BAD) == set(BY_RULE)
