"""Every query of every board, put to real servers that the real bridge has filled, and to empty ones."""

from __future__ import annotations

import math
import time

import pytest

from mlflow_assay import semconv
from mlflow_assay.dashboards import preview as page
from mlflow_assay.dashboards.asking import Asker, Range
from mlflow_assay.dashboards.files import generated

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]

BOARDS = {board.uid: board for board in generated()}
JUDGE = "request_resolved"
# Panels that have nothing to show after this traffic, and why. All others must return data.
EMPTY_FOR_A_REASON = {
    "Error budget left": "no recording rules are loaded here; tests/rules run them",
    **dict.fromkeys(
        ("Objectives", "Burns at least so fast", "Burns so fast, as seen", "Events it rests on"),
        "no recording rules are loaded here; tests/rules run them",
    ),
    "Is it safe?": "no safety judge ran",
    "Gold set: agreement now less at baseline": "no gold set",
    "Waiting for a label": "labels came without a draw",
    "Oldest one waiting": "labels came without a draw",
    "Cascades: who answered": "no cascade ran",
    "Judging budget spent": "no budget was set",
    "Scores": "the judge answers in words",
    "Mean score": "the judge answers in words",
}
SECONDS = 10.0  # a query may take, on a loaded machine


@pytest.fixture(scope="module")
def asker(week):
    return Asker(week.stack.prometheus, week.stack.tempo)


@pytest.fixture(scope="module")
def live(week):
    """The last minutes, for what the collector and Tempo make of spans as they come."""
    week.runs_now()
    return week


def span_of(week, panel):
    """Up to the end of the script for what the bridge pushed; the last minutes for what is scraped and traced now."""
    text = str(panel["targets"])
    if any(semconv.prometheus_name(name) in text for name in semconv.METRICS):
        return Range(week.start, week.end + 60, step=6 * 3600.0, scrape=285.0)
    if f'= "{semconv.OPERATION_EVALUATION}"' in text and f'!= "{semconv.OPERATION_EVALUATION}"' not in text:
        return Range(week.start, time.time(), step=6 * 3600.0)
    return Range(time.time() - 280, time.time(), step=5.0, scrape=2.0)


def panels(*types):
    return [
        pytest.param(board.uid, panel["id"], id=f"{board.uid}-{panel['title']}")
        for board in BOARDS.values()
        for panel in board.panels
        if panel["type"] != "text" and panel["targets"][0]["datasource"]["type"] in types
    ]


def panel_of(uid, number):
    return next(panel for panel in BOARDS[uid].panels if panel["id"] == number)


def answers(asker, panel, values, span):
    if panel["type"] == "table" and panel["targets"][0]["datasource"]["type"] == "tempo":
        return asker.spans(panel, values, span)
    return [frame for frame in asker.frames(panel, values, span) if not math.isnan(frame.last)]


@pytest.mark.parametrize(("uid", "number"), panels("prometheus", "tempo"))
def test_a_panel_returns_data_in_time_and_within_bounds(live, asker, uid, number):
    board, panel = BOARDS[uid], panel_of(uid, number)
    chosen = {"judge": JUDGE, "window": "24h"}  # there are days enough for a window before
    values = asker.variables(board, chosen, Range(live.start, live.end + 60, step=3600.0))
    if panel["title"] in EMPTY_FOR_A_REASON:
        assert answers(asker, panel, values | span_of(live, panel).macros, span_of(live, panel)) == []
        return

    def ask():
        span, begun = span_of(live, panel), time.monotonic()
        return answers(asker, panel, values | span.macros, span), time.monotonic() - begun

    found, seconds = live.stack.eventually(lambda: (got := ask())[0] and got, timeout=60)
    assert seconds < SECONDS
    assert len(found) <= 200


def test_a_reason_for_being_empty_is_given_for_real_panels_only():
    assert set(EMPTY_FOR_A_REASON) <= {panel["title"] for board in BOARDS.values() for panel in board.panels}


# --- the numbers are the trust code's ------------------------------------------------------------------------


def shown(asker, week, uid, title, **chosen):
    """Legend to last value of a panel."""
    board = BOARDS[uid]
    panel = next(panel for panel in board.panels if panel["title"] == title)
    span = Range(week.end - 3600, week.end + 60, step=60.0, scrape=285.0)
    values = asker.variables(board, {"judge": JUDGE, **chosen}, span)
    return {frame.legend: frame.last for frame in answers(asker, panel, values, span)}


@pytest.mark.parametrize("window", ["24h", "7d"])
def test_the_stakeholders_number_and_its_range_are_what_the_trust_code_says(asker, week, window):
    labels = {"gen_ai__evaluation__name": JUDGE, "assay__window": window, "gen_ai__agent__name": semconv.ALL_AGENTS}
    said = {name: week.gauge(name, **labels) for name in (semconv.M_KPI_RATE, semconv.M_KPI_LOW, semconv.M_KPI_HIGH)}
    rate = shown(asker, week, "assay-stakeholder-kpis", "Requests handled well", window=window)
    ends = shown(asker, week, "assay-stakeholder-kpis", "The true share lies between (95 % sure)", window=window)
    assert list(rate.values()) == pytest.approx([said[semconv.M_KPI_RATE]])
    assert ends == pytest.approx({"from": said[semconv.M_KPI_LOW], "to": said[semconv.M_KPI_HIGH]})


def test_the_number_says_it_is_corrected(asker, week):
    assert set(shown(asker, week, "assay-stakeholder-kpis", "This number is", window="7d")) == {"corrected"}


def test_the_counts_it_rests_on_are_those_planted(asker, week):
    counts = shown(asker, week, "assay-stakeholder-kpis", "It rests on", window="28d")
    planted = week.said["planted"]
    assert counts["judged"] == planted["yes"] + planted["no"]
    assert counts["not judgeable"] == planted["garbled"]
    assert counts["requests"] == week.said["traces"]


def test_the_counter_counts_every_verdict_once(asker, week):
    """By arrival, over the whole time: as many as were planted, none twice."""
    tally = week.promql(
        f"sum by (assay_outcome) (max_over_time({semconv.prometheus_name(semconv.M_VERDICTS)}"
        f'{{gen_ai_evaluation_name="{JUDGE}", assay_source_type="llm_judge", assay_change="created"}}[30d]))'
    )
    got = {labels["assay_outcome"]: value for labels, value in tally if value}
    planted = week.said["planted"]
    assert got == {"pass": planted["yes"], "fail": planted["no"], "unscored": planted["garbled"]}


def test_the_incident_stands_out_in_the_trend(asker, week):
    """Three days before the end device requests fail for a day: the 24-hour rate falls clearly, and comes back."""
    board = BOARDS["assay-stakeholder-kpis"]
    panel = next(p for p in board.panels if p["title"] == "Requests handled well, over time")
    span = Range(week.start, week.end, step=3600.0, scrape=285.0)
    values = asker.variables(board, {"judge": JUDGE, "window": "24h"}, span)
    series = next(f for f in asker.frames(panel, values, span) if f.legend == "handled well")
    day = 86400.0
    before = [v for t, v in series.points if week.end - 4 * day < t < week.end - 3 * day]
    during = [v for t, v in series.points if week.end - 2.3 * day < t < week.end - 1.9 * day]
    after = [v for t, v in series.points if t > week.end - 0.5 * day]
    assert min(before) - max(during) > 0.08
    assert min(after) - max(during) > 0.08


def test_the_worst_slice_during_the_incident_is_the_one_that_broke(asker, week):
    rate = week.promql(
        f'{semconv.prometheus_name(semconv.M_KPI_RATE)}{{gen_ai_evaluation_name="{JUDGE}", assay_window="7d", '
        'assay_slice=~"topic=.*"}',
        at=week.end + 60,
    )
    assert min(rate, key=lambda row: row[1])[0]["assay_slice"] == "topic=device"


# --- nothing there yet -------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", BOARDS)
def test_an_empty_store_gives_an_honest_empty(fresh_stack, uid):
    """Every query is answered without an error, and each panel that is empty says what that means."""
    fresh_stack.up("prometheus", "tempo")
    asker = Asker(fresh_stack.prometheus, fresh_stack.tempo)
    span = Range(time.time() - 3600, time.time(), step=60.0)
    html = page.preview(BOARDS[uid], asker, span)
    assert 'class="error"' not in html
    assert html.count('class="empty"') >= len(BOARDS[uid].panels) // 3


@pytest.mark.parametrize("uid", BOARDS)
def test_a_preview_shows_every_panel(live, asker, uid):
    minutes = BOARDS[uid].model["tags"][-1] == "platform"  # Tempo 2 answers metrics queries of the last hour only
    span = Range(time.time() - 900 if minutes else live.start, time.time(), step=15.0 if minutes else 3600.0)
    html = page.preview(BOARDS[uid], asker, span, {"judge": JUDGE})
    assert 'class="error"' not in html
    for panel in BOARDS[uid].panels:
        assert panel["title"].replace("'", "&#39;") in html
