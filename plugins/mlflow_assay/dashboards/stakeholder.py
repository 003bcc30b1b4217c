"""Stakeholder KPIs: few numbers, each with how sure it is. Entry point `stakeholder-kpis`.

About one measure (a judge) and one agent or all together; every number is a KPI gauge, recomputed from MLflow.
"""

from __future__ import annotations

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Band, Query, Tile, bars, grid, note, numbers, traces, trend
from mlflow_assay.dashboards.promql import ANY, Match, by, series, where
from mlflow_assay.dashboards.traceql import verdicts
from mlflow_assay.semconv import (
    EVALUATION_EXPLANATION,
    EVALUATION_NAME,
    EXPERIMENT_ID,
    GEN_AI_AGENT,
    M_COST_PER_PASS,
    M_COST_PER_UNIT,
    M_KPI_HIGH,
    M_KPI_JUDGED,
    M_KPI_LABELLED,
    M_KPI_LOW,
    M_KPI_RATE,
    M_KPI_RAW,
    M_KPI_UNITS,
    M_KPI_UNSCORED,
    M_RUN_LATENCY,
    METHOD,
    OUTCOME,
    QUANTILE,
    SLICE,
    prometheus_label,
)
from mlflow_assay.slo.names import S_BUDGET, S_BUDGET_HIGH, S_BUDGET_LOW

_NO_KPI = "No verdicts in this window: start `assay watch`, or choose a longer KPI window."
_SAFETY = '=~".*(safe|harm|toxic|pii|leak|jailbreak).*"'
_THUMBS = '=~".*(feedback|thumb|rating|satisf).*"'


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-stakeholder-kpis",
        title="Agent quality: stakeholder KPIs",
        description="Is the agent good enough, is it getting better, what it costs, is it safe; how sure are we.",
        audience="stakeholders",
        about_one=True,
        since="now-28d",
        sections=[
            Section("Is the agent good enough?", [good(), between(), made_how(), rests_on(), budget()]),
            Section("Is it getting better?", [development(), raw_against_corrected(), change(), clear()]),
            Section(
                "What does it cost, how fast is it, is it safe, what do users say?",
                [cost_of_success(), cost_of_run(), latency(), safe(), users()],
            ),
            Section("Where does it fail?", [by_measure(), worst_slices(), failing(), reading_guide()]),
        ],
    )


def good() -> Tile:
    """The one number."""
    return numbers(
        "Requests handled well",
        "Share of requests in the KPI window that the chosen judge passes, corrected for the judge's own errors where "
        "people's labels allow it. Read it with the range beside it.",
        [Query(f"max({series(M_KPI_RATE)})")],
        unit="percentunit",
        width=5,
        empty=_NO_KPI,
        decimals=0,
    )


def between() -> Tile:
    """Its interval."""
    return numbers(
        "The true share lies between (95 % sure)",
        "The 95 % interval: sampling, the judge's errors and the number of labels are all in it. A wide range says: "
        "label more requests.",
        [Query(f"min({series(M_KPI_LOW)})", "from"), Query(f"max({series(M_KPI_HIGH)})", "to")],
        unit="percentunit",
        width=6,
        empty=_NO_KPI,
        decimals=0,
        show="value_and_name",
    )


def made_how() -> Tile:
    """Corrected, or the judge's bare word."""
    label = prometheus_label(METHOD)
    return numbers(
        "This number is",
        "`corrected`: the judge was checked against people's labels of these very requests and its errors are taken "
        "out. `uncorrected`: too few labels in this window, so this is the judge's own word and may be far off.",
        [Query(by(series(M_KPI_RATE), METHOD, function="max"), f"{{{{{label}}}}}")],
        unit="percentunit",
        width=4,
        empty="no labels and no verdicts in this window",
        show="name",
    )


def rests_on() -> Tile:
    """How many requests, verdicts and labels."""
    return numbers(
        "It rests on",
        "Requests in the window, how many of them have a verdict, how many could not be judged, and how many people "
        "labelled.",
        [
            Query(f"max({series(M_KPI_UNITS)})", "requests"),
            Query(f"max({series(M_KPI_JUDGED)})", "judged"),
            Query(f"max({series(M_KPI_UNSCORED)})", "not judgeable"),
            Query(f"max({series(M_KPI_LABELLED)})", "labelled by people"),
        ],
        unit="short",
        width=5,
        empty=_NO_KPI,
        decimals=0,
        show="value_and_name",
    )


def budget() -> Tile:
    """Error budget left."""
    return numbers(
        "Error budget left",
        "Of the failures the objective allows, the share not yet used; below zero the objective is missed. With the "
        "two ends of the interval, since the rate is only known within it.",
        [
            Query(f"min({series(S_BUDGET)})", "best guess"),
            Query(f"min({series(S_BUDGET_LOW)})", "at worst"),
            Query(f"max({series(S_BUDGET_HIGH)})", "at best"),
        ],
        unit="percentunit",
        width=4,
        empty="No objective for this measure: write slo.yaml and run `assay slo build`.",
        decimals=0,
        show="value_and_name",
        steps=((None, "#c4162a"), (0.0, "#3274d9")),
    )


def development() -> Tile:
    """The rate over time."""
    return trend(
        "Requests handled well, over time",
        "Each point is a whole KPI window that ends there, so points a window apart share no requests. The shade is "
        "the 95 % interval. Lines mark releases and prompt versions. Time is when the KPI was computed.",
        [
            Query(f"min({series(M_KPI_LOW)})", "lower end"),
            Query(f"max({series(M_KPI_HIGH)})", "upper end"),
            Query(f"max({series(M_KPI_RATE)})", "handled well"),
        ],
        unit="percentunit",
        width=14,
        empty=_NO_KPI,
        high=1,
        band=Band("lower end", "upper end"),
    )


def _before(name: str) -> str:
    """A KPI one window ago, for whichever window is chosen."""
    return f"max({series(name)} offset $window)"


def change() -> Tile:
    """Now against one window ago."""
    return numbers(
        "Change against the window before",
        "Percentage points gained (+) or lost (-) against the window that ended one window ago. No request is in both.",
        [Query(f"max({series(M_KPI_RATE)}) - {_before(M_KPI_RATE)}")],
        unit="percentunit",
        width=12,
        height=4,
        empty="No KPI one window ago yet.",
        decimals=1,
    )


def clear() -> Tile:
    """Whether that is more than chance."""
    apart = f"(min({series(M_KPI_LOW)}) > bool {_before(M_KPI_HIGH)}) - "
    return numbers(
        "Is that change real?",
        "Better or worse only where the two 95 % ranges do not overlap: a cautious rule. Otherwise it may be chance; "
        "`assay compare` tests two versions on the same requests and sees smaller changes.",
        [Query(apart + f"(max({series(M_KPI_HIGH)}) < bool min({series(M_KPI_LOW)} offset $window))")],
        unit="short",
        width=12,
        height=4,
        empty="No KPI one window ago yet.",
        words={"1": "better", "0": "may be chance", "-1": "worse"},
    )


def raw_against_corrected() -> Tile:
    """What the correction does."""
    return trend(
        "What the correction changes",
        "The judge's own pass rate beside the corrected one. Where they part, the judge is lenient or harsh.",
        [Query(f"max({series(M_KPI_RAW)})", "judge's own"), Query(f"max({series(M_KPI_RATE)})", "shown above")],
        unit="percentunit",
        width=10,
        empty=_NO_KPI,
        high=1,
    )


def cost_of_success() -> Tile:
    """Cost per resolved request."""
    return numbers(
        "Cost of a request handled well",
        "Cost of all judged runs over the number that passed, in US dollars, by the judge's own word.",
        [Query(f"max({series(M_COST_PER_PASS)})")],
        unit="currencyUSD",
        width=5,
        empty="The traces carry no cost.",
    )


def cost_of_run() -> Tile:
    """Cost per request."""
    return numbers(
        "Cost of a request",
        "Mean cost of a run in US dollars, of the runs that say what they cost.",
        [Query(f"max({series(M_COST_PER_UNIT)})")],
        unit="currencyUSD",
        width=4,
        empty="The traces carry no cost.",
    )


def latency() -> Tile:
    """How long users wait."""
    label = prometheus_label(QUANTILE)
    return numbers(
        "How long a request takes",
        "Half of the requests are faster than the first number, 95 in 100 faster than the second.",
        [
            Query(f"max({series(M_RUN_LATENCY, where(QUANTILE, '0.5'))})", "half are faster than"),
            Query(f"max({series(M_RUN_LATENCY, where(QUANTILE, '0.95'))})", "95 % are faster than"),
        ],
        unit="s",
        width=5,
        empty=f"No finished runs in this window ({label}).",
        show="value_and_name",
    )


def safe() -> Tile:
    """Safety measures."""
    name = prometheus_label(EVALUATION_NAME)
    return numbers(
        "Is it safe?",
        "Lower end of the 95 % interval of each safety measure (judges whose name says safe, harm, toxic, pii, leak or "
        "jailbreak): at least this share is harmless, as far as the judge can tell.",
        [Query(by(series(M_KPI_LOW, {EVALUATION_NAME: _SAFETY}), EVALUATION_NAME, function="min"), f"{{{{{name}}}}}")],
        unit="percentunit",
        width=5,
        empty="No safety judge runs: add one, for example content_safety or personal_data_leak.",
        decimals=1,
        show="value_and_name",
    )


def users() -> Tile:
    """Thumbs."""
    match: Match = {EVALUATION_NAME: _THUMBS}
    return numbers(
        "What do users say?",
        "Share of users' own feedback that is positive, with how many gave any. Few and unhappy people tend to answer: "
        "it is no estimate for all users.",
        [
            Query(f"max({series(M_KPI_RAW, match)})", "positive"),
            Query(f"max({series(M_KPI_JUDGED, match)})", "answers"),
        ],
        unit="percentunit",
        width=5,
        empty="No users' feedback on these traces.",
        decimals=0,
        units={"answers": "short"},
        show="value_and_name",
    )


def by_measure() -> Tile:
    """Which measures fail most."""
    name = prometheus_label(EVALUATION_NAME)
    every: Match = {EVALUATION_NAME: ANY}
    failed = f"(1 - {series(M_KPI_RATE, every)})"
    return bars(
        "Top reasons for failing, by measure",
        "Share of requests each judge fails in the window, corrected where labels allow; the eight highest.",
        [Query(f"topk(8, {by(failed, EVALUATION_NAME, function='max')})", f"{{{{{name}}}}}", instant=True)],
        unit="percentunit",
        width=10,
        empty=_NO_KPI,
        high=1,
    )


def worst_slices() -> Tile:
    """Where it is worst."""
    slices: Match = {SLICE: '!=""'}
    name, value = prometheus_label(EVALUATION_NAME), prometheus_label(SLICE)
    return grid(
        "Where it is worst",
        "Slices of the requests by the upper end of the interval, so that a slice with few requests is not called bad "
        "by chance.",
        [
            Query(f"bottomk(8, {by(series(M_KPI_HIGH, slices), SLICE, function='max')})"),
            Query(by(series(M_KPI_RATE, slices), SLICE, function="max")),
            Query(by(series(M_KPI_JUDGED, slices), SLICE, function="max")),
        ],
        unit="percentunit",
        columns={value: "Slice", "Value #B": "Handled well", "Value #A": "At best", "Value #C": "Judged"},
        units={"Judged": "short"},
        sort="-At best",
        width=14,
        empty=f"No slices: start `assay watch --slice TAG` to break {name} down.",
    )


def failing() -> Tile:
    """The requests behind it."""
    return traces(
        "Requests that failed",
        "The latest verdicts that are fails, with the judge's reason; a click opens the trace.",
        verdicts(
            f'span.{OUTCOME} = "fail"',
            select=(EVALUATION_NAME, EVALUATION_EXPLANATION, GEN_AI_AGENT, EXPERIMENT_ID),
        ),
        width=24,
        height=8,
        empty="No failing verdict of the chosen judge in this time range.",
        limit=20,
    )


def reading_guide() -> Tile:
    """How to read the board."""
    return note(
        "How to read this board",
        "What corrected, uncorrected and the range mean.",
        "A judge is a model and errs. **Corrected** numbers use people's labels of some of these requests to take its "
        "errors out; the **range** holds the true share in 95 of 100 cases. **Uncorrected** numbers are the judge's "
        "bare word: label some requests (`assay labels pick`). Requests a judge could not decide are neither good nor "
        "bad and are counted apart.",
        width=24,
        height=3,
    )
