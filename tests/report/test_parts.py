"""Trend, breakdown, sessions, links: the parts of a report beyond the rate itself."""

from __future__ import annotations

import json

import pytest

from mlflow_assay import semconv
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.rows import check_by
from mlflow_assay.report.breakdown import FEW, OTHERS
from mlflow_assay.report.links import Links, ui_base
from mlflow_assay.report.trend import bin_unit

HOUR, DAY = 3_600_000, 86_400_000


# --- trend ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "unit"), [(0, "hour"), (2 * DAY, "hour"), (3 * DAY, "day"), (56 * DAY, "day"), (57 * DAY, "week")]
)
def test_bins_are_as_fine_as_the_span_allows(span, unit):
    assert bin_unit(1000, 1000 + span) == unit


@pytest.mark.parametrize("step", [HOUR // 2, DAY // 3, 5 * DAY])
def test_every_verdict_is_in_one_bin(make, build, step):
    traces = [make.trace(i, [make.verdict(True, outcome="pass")], at=i * step) for i in range(40)]
    trend = build(traces).judges[0].trend
    assert sum(b.estimate.n_judged for b in trend.bins) == 40
    starts = [b.start_ms for b in trend.bins]
    assert starts == sorted(set(starts))
    assert all(s <= make.START + 39 * step for s in starts)


def test_weeks_begin_on_monday(make, build):
    traces = [make.trace(i, [make.verdict(True, outcome="pass")], at=i * 30 * DAY) for i in range(4)]
    starts = [b.start_ms // DAY for b in build(traces).judges[0].trend.bins]
    assert all((day + 3) % 7 == 0 for day in starts)  # 1970-01-01 was a Thursday


def test_a_change_of_the_judge_is_marked_where_it_happened(full):
    judge = next(j for j in full.judges if j.name == "resolved")
    assert [b.judge_changed for b in judge.trend.bins].count(True) == 1
    assert not judge.trend.bins[0].judge_changed


def test_traces_whose_times_were_made_up_are_in_no_trend_and_no_duration(make, build):
    tags = {semconv.SOURCE_TIMES: "not recorded: placed by an import"}
    data = build([make.trace(i, [make.verdict(True, outcome="pass")], tags=tags) for i in range(3)])
    assert (data.judges[0].trend, data.agent.latency, data.first_ms, data.n_untimed) == (None, None, None, 3)


# --- breakdown ------------------------------------------------------------------------------------------


def grouped(make, sizes):
    """`sizes`: value -> (passed, failed); None is a trace without the tag."""
    traces = []
    for value, (passed, failed) in sizes.items():
        for i in range(passed + failed):
            outcome = "pass" if i < passed else "fail"
            tags = {} if value is None else {"desk": value}
            traces.append(make.trace(len(traces), [make.verdict(i < passed, outcome=outcome)], tags=tags))
    return traces


def test_groups_come_worst_first_and_those_with_few_verdicts_last(make, build):
    sizes = {"good": (18, 2), "bad": (10, 10), "tiny": (0, FEW - 1), None: (15, 5)}
    data = build(grouped(make, sizes), by=("tag:desk",))
    (part,) = data.breakdowns[0].judges
    assert [g.value for g in part.groups] == ["bad", None, "good", "tiny"]
    assert sum(g.estimate.n_judged for g in part.groups) == data.judges[0].counts.judged


def test_rare_values_are_put_together(make, build):
    sizes = {f"v{i:02d}": (20 - i, 1) for i in range(20)}
    breakdown = build(grouped(make, sizes), by=("tag:desk",)).breakdowns[0]
    assert len(breakdown.judges[0].groups) == 12
    assert OTHERS in {g.value for g in breakdown.judges[0].groups}
    assert breakdown.merged == 9


def test_without_being_asked_the_report_takes_the_first_tag_that_tells_traces_apart(make, build):
    traces = [
        make.trace(i, [make.verdict(True, outcome="pass")], tags={"agent": "one", "model": f"m{i % 2}"})
        for i in range(4)
    ]
    (breakdown,) = build(traces).breakdowns
    assert (breakdown.by, breakdown.chosen) == ("tag:model", False)


def test_with_no_such_tag_there_is_no_breakdown(make, build):
    assert build([make.trace(1, [make.verdict(True, outcome="pass")])]).breakdowns == ()


@pytest.mark.parametrize(
    "by", ["agent", "tag:a", "metadata:a.b", "expectation:route", "span:router", "span:router.outputs.route"]
)
def test_these_can_be_broken_down_by(by):
    assert check_by(by) == by


@pytest.mark.parametrize("by", ["", "agents!", "tag:", "span:", "steps", "inputs.x"])
def test_anything_else_is_an_error_that_says_what_can(by):
    with pytest.raises(ConfigError, match=r"Valid: |valid"):
        check_by(by)


# --- sessions -------------------------------------------------------------------------------------------


def test_sessions_with_most_failures_come_first_with_the_judges_reasons(make, build):
    fail = {"outcome": "fail", "rationale": "wrong desk"}
    traces = [
        make.trace(1, [make.verdict(False, **fail)], session="one"),
        make.trace(2, [make.verdict(False, **fail), make.verdict(False, judge="tone", **fail)], session="two"),
        make.trace(3, [make.verdict(True, outcome="pass")], session="fine"),
        make.trace(4, [make.verdict(False, **fail)], request="no session"),
    ]
    data = build(traces, ui_url="http://h:1")
    assert [(s.id, s.failures, s.single) for s in data.sessions] == [
        ("two", 2, False),
        (f"tr-{4:032x}", 1, True),
        ("one", 1, False),
    ]
    two = data.sessions[0]
    assert two.by_judge == (("resolved", 1), ("tone", 1))
    assert two.url == "http://h:1/#/experiments/7/chat-sessions/two"
    assert two.traces[0].url == f"http://h:1/#/experiments/7/traces?selectedEvaluationId=tr-{2:032x}"
    assert [v.rationale for v in two.traces[0].verdicts] == ["wrong desk", "wrong desk"]


def test_a_long_session_says_how_many_failures_it_leaves_out(make, build):
    traces = [make.trace(i, [make.verdict(False, outcome="fail")], session="s") for i in range(9)]
    (session,) = build(traces).sessions
    assert session.more == 9 - sum(len(t.verdicts) for t in session.traces) > 0
    times = [t.time_ms for t in session.traces]
    assert times == sorted(times)


def test_sessions_beyond_the_list_are_counted(make, build):
    data = build([make.trace(i, [make.verdict(False, outcome="fail")]) for i in range(20)])
    assert len(data.sessions) + data.sessions_left == 20


# --- links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "store", "base"),
    [
        (None, "sqlite:///mlflow.db", None),
        (None, "http://user:secret@host:5000/", "http://host:5000"),
        (None, "databricks", None),
        ("https://h/mlflow/#/experiments", "sqlite:///x", "https://h/mlflow"),
    ],
)
def test_links_go_to_the_server_or_to_the_address_given_never_with_credentials(given, store, base):
    assert ui_base(given, store) == base


@pytest.mark.parametrize("address", ["javascript:alert(1)", "localhost:5000", "file:///etc/passwd", "http://"])
def test_an_address_that_is_no_web_page_is_an_error(address):
    with pytest.raises(ConfigError, match="not the address of an MLflow UI"):
        ui_base(address, "sqlite:///x")


def test_ids_are_quoted_in_links():
    links = Links("http://h", "7")
    assert links.session("a/b?c#d e") == "http://h/#/experiments/7/chat-sessions/a%2Fb%3Fc%23d%20e"
    assert links.trace('"><script>') == "http://h/#/experiments/7/traces?selectedEvaluationId=%22%3E%3Cscript%3E"


# --- the whole ------------------------------------------------------------------------------------------


def test_the_data_are_json_with_derived_counts_and_no_nan(full):
    text = json.dumps(full.to_json(), allow_nan=False)
    found = json.loads(text)
    judge = found["judges"][0]
    assert judge["counts"]["judged"] + judge["counts"]["unscored"] + judge["counts"]["not_judged"] == found["n_traces"]
    assert judge["estimate"]["value"] is not None
    assert judge["mixed"] is True


def test_a_trace_that_arrives_twice_is_counted_once(make, build):
    once = make.trace(1, [make.verdict(True, outcome="pass")])
    assert build([once, once]).n_traces == 1


def test_simulated_traces_and_customers_are_counted_apart(make, build):
    tags = [{semconv.SIMULATED: "true", "customer": "simulated"}, {"customer": "simulated"}, {}]
    data = build([make.trace(i, tags=t) for i, t in enumerate(tags)])
    assert (data.simulated_traces, data.simulated_customers, data.simulated) == (1, 1, True)


def test_running_figures_of_the_agent(make, build):
    cost = {"mlflow.trace.cost": '{"total_cost": 0.25}', "mlflow.trace.tokenUsage": '{"total_tokens": 40}'}
    data = build([make.trace(1, metadata=cost), make.trace(2, state="ERROR", duration=3000)])
    agent = data.agent
    assert (agent.errors, agent.usd, agent.usd_known, agent.tokens) == (1, 0.25, 1, 40)
    assert (agent.latency.median_ms, agent.latency.n) == (2000.0, 2)
