"""Stakeholder KPIs: few numbers, each with how sure it is. Entry point `stakeholder-kpis`.

About one measure (a judge) and one agent or all together; every number is a KPI gauge, recomputed from MLflow.
"""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Band, bad_below, bars, grid, note, numbers, traces, trend
from mlflow_assay.dashboards.promql import ANY, Match, by, series, where
from mlflow_assay.dashboards.queries import Query, highest, legend_of, lowest, most
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
)
from mlflow_assay.slo.names import S_BUDGET, S_BUDGET_HIGH, S_BUDGET_LOW

_NO_KPI: Final = "No verdicts in this window: start `assay watch`, or choose a longer KPI window."
_NO_WINDOW_BEFORE: Final = "No KPI one window ago yet."
_NO_COST: Final = "The traces carry no cost."
_SAFETY: Final[Match] = {EVALUATION_NAME: '=~".*(safe|harm|toxic|pii|leak|jailbreak).*"'}
_THUMBS: Final[Match] = {EVALUATION_NAME: '=~".*(feedback|thumb|rating|satisf).*"'}
_SLICES: Final[Match] = {SLICE: '!=""'}

_LOW, _HIGH, _RATE = (query.expr for query in (lowest(M_KPI_LOW), highest(M_KPI_HIGH), highest(M_KPI_RATE)))
_BEFORE: Final = "offset $window"  # of a gauge: the window that ended when this one began
_LOW_BEFORE, _HIGH_BEFORE, _RATE_BEFORE = (
    f"{function}({series(name)} {_BEFORE})"
    for function, name in (("min", M_KPI_LOW), ("max", M_KPI_HIGH), ("max", M_KPI_RATE))
)

GOOD_ENOUGH = [
    numbers(
        "Requests handled well",
        "Share of requests in the KPI window that the chosen judge passes, corrected for the judge's own errors where "
        "people's labels allow it. Read it with the range beside it.",
        highest(M_KPI_RATE),
        unit="percentunit",
        width=5,
        empty=_NO_KPI,
        decimals=0,
    ),
    numbers(
        "The true share lies between (95 % sure)",
        "The 95 % interval: sampling, the judge's errors and the number of labels are all in it. A wide range says: "
        "label more requests.",
        lowest(M_KPI_LOW, legend="from"),
        highest(M_KPI_HIGH, legend="to"),
        unit="percentunit",
        width=6,
        empty=_NO_KPI,
        decimals=0,
        show="value_and_name",
    ),
    numbers(
        "This number is",
        "`corrected`: the judge was checked against people's labels of these very requests and its errors are taken "
        "out. `uncorrected`: too few labels in this window, so this is the judge's own word and may be far off.",
        highest(M_KPI_RATE, METHOD),
        unit="percentunit",
        width=4,
        empty="no labels and no verdicts in this window",
        show="name",
    ),
    numbers(
        "It rests on",
        "Requests in the window, how many of them have a verdict, how many could not be judged, and how many people "
        "labelled.",
        highest(M_KPI_UNITS, legend="requests"),
        highest(M_KPI_JUDGED, legend="judged"),
        highest(M_KPI_UNSCORED, legend="not judgeable"),
        highest(M_KPI_LABELLED, legend="labelled by people"),
        unit="short",
        width=5,
        empty=_NO_KPI,
        decimals=0,
        show="value_and_name",
    ),
    numbers(
        "Error budget left",
        "Of the failures the objective allows, the share not yet used; below zero the objective is missed. With the "
        "two ends of the interval, since the rate is only known within it.",
        lowest(S_BUDGET, legend="best guess"),
        lowest(S_BUDGET_LOW, legend="at worst"),
        highest(S_BUDGET_HIGH, legend="at best"),
        unit="percentunit",
        width=4,
        empty="No objective for this measure: write slo.yaml and run `assay slo build`.",
        decimals=0,
        show="value_and_name",
        steps=bad_below(0.0),
    ),
]

GETTING_BETTER = [
    trend(
        "Requests handled well, over time",
        "Each point is a whole KPI window that ends there, so points a window apart share no requests. The shade is "
        "the 95 % interval. Lines mark releases and prompt versions. Time is when the KPI was computed.",
        lowest(M_KPI_LOW, legend="lower end"),
        highest(M_KPI_HIGH, legend="upper end"),
        highest(M_KPI_RATE, legend="handled well"),
        unit="percentunit",
        width=14,
        empty=_NO_KPI,
        high=1,
        band=Band("lower end", "upper end"),
    ),
    trend(
        "What the correction changes",
        "The judge's own pass rate beside the corrected one. Where they part, the judge is lenient or harsh.",
        highest(M_KPI_RAW, legend="judge's own"),
        highest(M_KPI_RATE, legend="shown above"),
        unit="percentunit",
        width=10,
        empty=_NO_KPI,
        high=1,
    ),
    numbers(
        "Change against the window before",
        "Percentage points gained (+) or lost (-) against the window that ended one window ago. No request is in both.",
        Query(f"{_RATE} - {_RATE_BEFORE}"),
        unit="percentunit",
        width=12,
        height=4,
        empty=_NO_WINDOW_BEFORE,
        decimals=1,
    ),
    numbers(
        "Is that change real?",
        "Better or worse only where the two 95 % ranges do not overlap: a cautious rule. Otherwise it may be chance; "
        "`assay compare` tests two versions on the same requests and sees smaller changes.",
        Query(f"({_LOW} > bool {_HIGH_BEFORE}) - ({_HIGH} < bool {_LOW_BEFORE})"),
        unit="short",
        width=12,
        height=4,
        empty=_NO_WINDOW_BEFORE,
        words={"1": "better", "0": "may be chance", "-1": "worse"},
    ),
]

COST_SPEED_SAFETY_USERS = [
    numbers(
        "Cost of a request handled well",
        "Cost of all judged runs over the number that passed, in US dollars, by the judge's own word.",
        highest(M_COST_PER_PASS),
        unit="currencyUSD",
        width=5,
        empty=_NO_COST,
    ),
    numbers(
        "Cost of a request",
        "Mean cost of a run in US dollars, of the runs that say what they cost.",
        highest(M_COST_PER_UNIT),
        unit="currencyUSD",
        width=4,
        empty=_NO_COST,
    ),
    numbers(
        "How long a request takes",
        "Half of the requests are faster than the first number, 95 in 100 faster than the second.",
        highest(M_RUN_LATENCY, match=where(QUANTILE, "0.5"), legend="half are faster than"),
        highest(M_RUN_LATENCY, match=where(QUANTILE, "0.95"), legend="95 % are faster than"),
        unit="s",
        width=5,
        empty="No finished runs in this window.",
        show="value_and_name",
    ),
    numbers(
        "Is it safe?",
        "Lower end of the 95 % interval of each safety measure (judges whose name says safe, harm, toxic, pii, leak or "
        "jailbreak): at least this share is harmless, as far as the judge can tell.",
        lowest(M_KPI_LOW, EVALUATION_NAME, match=_SAFETY, legend="{}: at least"),
        unit="percentunit",
        width=5,
        empty="No safety judge runs: add one, for example content_safety or personal_data_leak.",
        decimals=1,
        show="value_and_name",
    ),
    numbers(
        "What do users say?",
        "Share of users' own feedback that is positive, with how many gave any. Few and unhappy people tend to answer: "
        "it is no estimate for all users.",
        highest(M_KPI_RAW, match=_THUMBS, legend="positive"),
        highest(M_KPI_JUDGED, match=_THUMBS, legend="answers"),
        unit="percentunit",
        width=5,
        empty="No users' feedback on these traces.",
        decimals=0,
        units={"answers": "short"},
        show="value_and_name",
    ),
]

WHERE_IT_FAILS = [
    bars(
        "Top reasons for failing, by measure",
        "Share of requests each judge fails in the window, corrected where labels allow; the eight highest.",
        most(
            8,
            Query(
                by(f"(1 - {series(M_KPI_RATE, {EVALUATION_NAME: ANY})})", EVALUATION_NAME, function="max"),
                legend_of([EVALUATION_NAME]),
            ),
        ),
        unit="percentunit",
        width=10,
        empty=_NO_KPI,
        high=1,
    ),
    grid(
        "Where it is worst",
        "Slices of the requests by the upper end of the interval, so that a slice with few requests is not called bad "
        "by chance.",
        rows={SLICE: "Slice"},
        values={
            "At best": most(8, highest(M_KPI_HIGH, SLICE, match=_SLICES), "bottomk"),
            "Handled well": highest(M_KPI_RATE, SLICE, match=_SLICES),
            "Judged": highest(M_KPI_JUDGED, SLICE, match=_SLICES),
        },
        order=("Slice", "Handled well", "At best", "Judged"),
        unit="percentunit",
        units={"Judged": "short"},
        sort="-At best",
        width=14,
        empty="No slices: `assay watch --slice TAG` breaks the requests down by a tag of theirs.",
    ),
    traces(
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
    ),
    note(
        "How to read this board",
        "What corrected, uncorrected and the range mean.",
        "A judge is a model and errs. **Corrected** numbers use people's labels of some of these requests to take its "
        "errors out; the **range** holds the true share in 95 of 100 cases. **Uncorrected** numbers are the judge's "
        "bare word: label some requests (`assay labels pick`). Requests a judge could not decide are neither good nor "
        "bad and are counted apart.",
        width=24,
        height=3,
    ),
]


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
            Section("Is the agent good enough?", GOOD_ENOUGH),
            Section("Is it getting better?", GETTING_BETTER),
            Section("What does it cost, how fast is it, is it safe, what do users say?", COST_SPEED_SAFETY_USERS),
            Section("Where does it fail?", WHERE_IT_FAILS),
        ],
    )
