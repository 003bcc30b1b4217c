"""Every query of every board, put to real servers that the real bridge has filled, and to empty ones."""

from __future__ import annotations

import math
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import requests

from mlflow_assay import semconv
from mlflow_assay.dashboards import preview as page
from mlflow_assay.dashboards.asking import Asker, Range, fill
from mlflow_assay.dashboards.files import generated
from mlflow_assay.slo.prometheus_rules import rule_groups
from mlflow_assay.slo.spec import load

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]

BOARDS = {board.uid: board for board in generated()}
JUDGE, SAFETY = "request_resolved", "content_safety"
# Panels that have nothing to show after this traffic, and why. All others must return data.
EMPTY_FOR_A_REASON = {"Cascades: who answered": "no cascade ran"}
SLO = Path(__file__).parents[2] / "dashboards" / "slo.yaml"
SECONDS = 10.0  # a query may take, on a loaded machine
OBJECTIVE = 0.85  # of requests-resolved in dashboards/slo.yaml
USD_PER_VERDICT = (700 * 2.0 + 40 * 8.0) / 1e6  # what the fake model's tokens cost


@pytest.fixture(scope="module")
def asker(week):
    return Asker(week.stack.prometheus, week.stack.tempo)


@pytest.fixture(scope="module")
def live(week):
    """With the last minutes too: spans as they come, and recording rules that have seen the end of the week."""
    week.runs_now()
    time.sleep(max(0.0, week.said["caught_up"] + 45 - time.time()))
    return week


@pytest.fixture(scope="module")
def ledger(week, measuring):
    """What each panel showed; written where ASSAY_MEASURED says."""
    found = measuring.Ledger(about(week.said, week.stack, measuring.today()))
    yield found
    if path := os.environ.get("ASSAY_MEASURED"):
        found.write(Path(path))


def about(said, stack, date):
    """How the table came to be."""
    planted = said["planted"]
    build = stack.promql("prometheus_build_info")[0][0]["version"]
    return f"""# Every panel, measured

Written by `ASSAY_MEASURED=dashboards/MEASURED.md pytest tests/dashboards/test_live.py` on {date} (UTC), not by hand.
mlflow-assay {version("mlflow-assay")}, MLflow {version("mlflow")}, Python {platform.python_version()},
Prometheus {build}, Tempo 2.8 (`tests/stack/tempo/go.mod`), collector 0.161.0 (`compose/collector/builder.yaml`).

Six days of scripted traffic (seed {said["seed"]}; `tests/dashboards/week.py`), played through the real bridge and
collector under a moved clock: {said["traces"]} requests, of which the fake judge passes {planted["yes"]}, fails
{planted["no"]} and garbles {planted["garbled"]}; {100 * said["truth"]:.1f} % are truly good, and about 40 % get an
expert's label half a day later. Device requests fail for a day, three days before the end. {said["unsafe"]} answers
are flagged unsafe, {said["thumbs"]} users gave a thumb. The stakeholders' judge is `{JUDGE}`; the KPI window is 7 d,
and 24 h where a window is compared with the one before. Series over time stand with their last value, those of the
live minutes (`traces_span_metrics`, `otelcol`, `tempo`, TraceQL) with their highest.

**Expected** is worked out apart from the query: from what the trust code computed last for KPI gauges, from what was
planted for counts. The test fails where the two differ; counts by `increase()` may be a few in a hundred off, since
Prometheus extrapolates. Where it is empty, the test checks that there is data, in time and within bounds, and no more.
A repeat gives other KPIs at another hour of the day (traffic follows the clock), and what is live or by wall time
(spans per second, queues, durations, ages, memory) differs from run to run.
"""


def span_of(week, panel):
    """Up to the end of the script for what the bridge pushed; the last minutes for what is scraped and traced now."""
    text, caught_up = str(panel["targets"]), week.said["caught_up"]
    if any(semconv.prometheus_name(name) in text for name in semconv.METRICS):
        return Range(caught_up + 30 - 6 * 86400, caught_up + 30, step=6 * 3600.0, scrape=285.0)
    if "assay:slo:" in text:
        return Range(caught_up - 600, caught_up + 40, step=20.0)
    if f'= "{semconv.OPERATION_EVALUATION}"' in text and f'!= "{semconv.OPERATION_EVALUATION}"' not in text:
        return Range(week.start, time.time(), step=6 * 3600.0)
    return Range(time.time() - 280, time.time(), step=5.0, scrape=2.0)


def is_live(panel):
    """Whether it shows what is scraped and traced now."""
    return not any(semconv.prometheus_name(name) in str(panel["targets"]) for name in semconv.METRICS) and (
        "assay:slo:" not in str(panel["targets"])
    )


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


def chosen_on(uid, title):
    """The judge where a board is about one, all elsewhere; a window that is there twice where two are compared."""
    compared = title in ("Change against the window before", "Is that change real?")
    judge = {"judge": JUDGE} if uid == "assay-stakeholder-kpis" else {}
    return {"window": "24h" if compared else "7d", **judge}


@pytest.mark.parametrize(("uid", "number"), panels("prometheus", "tempo"))
def test_a_panel_returns_data_in_time_and_as_expected(live, asker, ledger, measuring, uid, number):
    """Within bounds too; KPI gauges equal what the trust code computed, counts what was planted."""
    board, panel = BOARDS[uid], panel_of(uid, number)
    values = asker.variables(board, chosen_on(uid, panel["title"]), span_of(live, panel))
    asked = [target.get("expr") or target["query"] for target in panel["targets"]]
    if panel["title"] in EMPTY_FOR_A_REASON:
        assert answers(asker, panel, values | span_of(live, panel).macros, span_of(live, panel)) == []
        ledger.add(board.title, panel["title"], asked[0], "empty", EMPTY_FOR_A_REASON[panel["title"]])
        return

    def ask():
        span, begun = span_of(live, panel), time.monotonic()
        return answers(asker, panel, values | span.macros, span), time.monotonic() - begun

    found, seconds = live.stack.eventually(lambda: (got := ask())[0] and got, timeout=60)
    assert seconds < SECONDS
    assert len(found) <= 200
    if not hasattr(found[0], "ref"):
        ledger.add(board.title, panel["title"], asked[0], f"{len(found)} spans")
        return
    known = PLANTED.get((uid, panel["title"]), lambda said, week: {})(live.said, live)
    for target in panel["targets"]:
        of_target = [frame for frame in found if frame.ref == target["refId"]]
        unit, own = unit_of(panel, target["refId"]), measuring.names(of_target)
        said = measuring.values(measuring.names(of_target, highest=is_live(panel)), unit) or "no series"
        trusted = measuring.trusted(fill(target.get("expr", ""), values), live.said["gauges"])
        if trusted is not None:
            got = measuring.by_labels(of_target, span_of(live, panel).end)
            assert got == {labels: pytest.approx(trusted.get(labels)) for labels in got}
            assert len(got) == len(trusted) or "topk(" in asked_of(target) or "bottomk(" in asked_of(target)
            ledger.add(
                board.title, panel["title"], asked_of(target), said, f"the same {len(of_target)}, by the trust code"
            )
            continue
        expected = {name: value for name, value in known.items() if name in own}
        for name, (value, tolerance) in expected.items():
            assert own[name] == pytest.approx(value, abs=tolerance), name
        planted = measuring.values({name: value for name, (value, _) in expected.items()}, unit)
        ledger.add(board.title, panel["title"], asked_of(target), said, planted)
    assert set(known) <= set(measuring.names(found)), "what was planted is not shown"


def asked_of(target):
    return target.get("expr") or target["query"]


def unit_of(panel, ref):
    """A query's unit: the column's in a table, the series' own, or the panel's."""
    moved = next((t["options"]["renameByName"] for t in panel.get("transformations", []) if t["id"] == "organize"), {})
    legend = next(t.get("legendFormat", "") for t in panel["targets"] if t["refId"] == ref)
    return page.unit_of(panel, moved.get(f"Value #{ref}", legend))


def kpi(week, name, window="28d", judge=JUDGE):
    labels = {"gen_ai__evaluation__name": judge, "assay__window": window, "gen_ai__agent__name": semconv.ALL_AGENTS}
    return week.gauge(name, **labels)


def left(rate):
    return 1 - (1 - rate) / (1 - OBJECTIVE)


# By board and panel, from what was planted: legend to (value, tolerance).
PLANTED = {
    ("assay-stakeholder-kpis", "Error budget left"): lambda said, week: {
        "best guess": (left(kpi(week, semconv.M_KPI_RATE)), 1e-6),
        "at worst": (left(kpi(week, semconv.M_KPI_LOW)), 1e-6),
        "at best": (left(kpi(week, semconv.M_KPI_HIGH)), 1e-6),
    },
    ("assay-judges", "Verdicts from the cache"): lambda said, week: {JUDGE: (0.0, 0.0)},
    ("assay-judges", "Share of traffic judged"): lambda said, week: {
        judge: (kpi(week, semconv.M_KPI_JUDGED, "7d", judge) / kpi(week, semconv.M_KPI_UNITS, "7d", judge), 1e-6)
        for judge in (JUDGE, SAFETY)
    },
    ("assay-judges", "Judges' cost in this time range"): lambda said, week: {
        f"{JUDGE} (openai:/fake-judge)": (said["traces"] * USD_PER_VERDICT, 0.05 * said["traces"] * USD_PER_VERDICT)
    },
    ("assay-judges", "Failed judge calls in this time range"): lambda said, week: {
        f"{JUDGE}: garbled_reply": (said["planted"]["garbled"], 0.1 * said["planted"]["garbled"])
    },
    ("assay-quality-by-judge", "Who gave the verdicts"): lambda said, week: {
        f"{JUDGE} 1 (llm_judge)": (said["traces"], 0.05 * said["traces"]),
        f"{SAFETY}  (llm_judge)": (said["traces"], 0.05 * said["traces"]),
        "user_feedback  (human)": (said["thumbs"], 0.05 * said["thumbs"]),
    },
    ("assay-judges", "Judging budget spent"): lambda said, week: {"": (said["budget_spent"], 1e-6)},
    ("assay-judges", "Traces the worker saw"): lambda said, week: {
        "judged": (said["traces"], 0.03 * said["traces"]),
        "sampled_out": (0.0, 0.0),
        "filtered": (0.0, 0.0),
    },
    ("assay-pipeline-health", "Dead letters"): lambda said, week: dict.fromkeys(said["sinks"], (0.0, 0.0)),
    ("assay-agents", "Share of runs that end in an error"): lambda said, week: {
        "billing-agent": (0.25, 0.15)
    },  # each fourth run breaks
    ("assay-agents", "Steps per run"): lambda said, week: {"steps": (2.0, 0.2)},  # a model call and a tool call
    ("assay-pipeline-health", "Scrape targets"): lambda said, week: dict.fromkeys(
        ("collector", "prometheus", "tempo"), (1.0, 0.0)
    ),
    ("assay-objectives", "Error budget left"): lambda said, week: {
        "requests-resolved": (left(kpi(week, semconv.M_KPI_RATE)), 1e-6),
        "requests-resolved (at worst)": (left(kpi(week, semconv.M_KPI_LOW)), 1e-6),
    },
}


def test_a_reason_for_being_empty_is_given_for_real_panels_only():
    assert set(EMPTY_FOR_A_REASON) <= {panel["title"] for board in BOARDS.values() for panel in board.panels}


def test_every_rule_is_evaluated_without_an_error(live):
    """Recording rules and alerts of the shipped slo.yaml, by Prometheus itself, on the week's series."""
    groups = requests.get(f"{live.stack.prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    made = rule_groups(load(SLO))["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in made)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


# --- the numbers are the trust code's ------------------------------------------------------------------------


def shown(asker, week, uid, title, **chosen):
    """Legend to last value of a panel."""
    board = BOARDS[uid]
    panel = next(panel for panel in board.panels if panel["title"] == title)
    end = week.said["caught_up"] + 30
    span = Range(end - 3600, end, step=60.0, scrape=285.0)
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


@pytest.mark.parametrize(("breakdown", "worst"), [("topic", "device"), ("prompt_version", "router/2")])
def test_the_worst_slice_during_the_incident_is_the_one_that_broke(asker, week, breakdown, worst):
    rate = week.promql(
        f'{semconv.prometheus_name(semconv.M_KPI_RATE)}{{gen_ai_evaluation_name="{JUDGE}", assay_window="7d", '
        f'gen_ai_agent_name="all", assay_slice=~"{breakdown}=.*"}}',
        at=week.said["caught_up"] + 30,
    )
    assert len(rate) == 3
    assert min(rate, key=lambda row: row[1])[0]["assay_slice"] == f"{breakdown}={worst}"


def test_the_failing_requests_shown_are_the_newest(asker, week):
    """Tempo left alone returns whichever it finds first: the list must hold the last fails, not some."""
    board = BOARDS["assay-stakeholder-kpis"]
    panel = next(panel for panel in board.panels if panel["title"] == "Requests that failed")
    span = Range(week.start, time.time(), step=3600.0)
    values = asker.variables(board, {"judge": JUDGE}, span)
    every = {**panel, "targets": [{**panel["targets"][0], "limit": 1000}]}
    shown, newest = (asker.spans(p, values, span)[:10] for p in (panel, every))
    assert [row.started for row in shown] == [row.started for row in newest]


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
    """Kept in the folder that ASSAY_PREVIEWS names."""
    end = live.said["caught_up"] + 60  # when gauges, rules and spans are all there
    minutes = BOARDS[uid].model["tags"][-1] == "platform"  # Tempo 2 answers metrics queries of the last hour only
    span = Range(end - 600, end, step=5.0, scrape=2.0) if minutes else Range(live.start, end, 1800.0, scrape=285.0)
    html = page.preview(BOARDS[uid], asker, span, {"judge": JUDGE} if uid == "assay-stakeholder-kpis" else {})
    assert 'class="error"' not in html
    for panel in BOARDS[uid].panels:
        assert panel["title"].replace("'", "&#39;") in html
    if folder := os.environ.get("ASSAY_PREVIEWS"):
        (Path(folder) / f"{uid}.html").write_text(html, encoding="utf-8")
