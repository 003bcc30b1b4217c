"""Quality by judge: raw and corrected rates, scores, slices, and the failing traces. Entry point `quality-by-judge`."""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import bars, grid, heat, traces, trend
from mlflow_assay.dashboards.promql import Match, by, increase, series, where
from mlflow_assay.dashboards.queries import EACH_STEP, Query, grown, highest, legend_of
from mlflow_assay.dashboards.traceql import verdicts
from mlflow_assay.semconv import (
    CHANGE,
    EVALUATION_EXPLANATION,
    EVALUATION_LABEL,
    EVALUATION_NAME,
    EVALUATION_SCORE,
    EXPERIMENT_ID,
    GEN_AI_AGENT,
    GEN_AI_REQUEST_MODEL,
    JUDGE_VERSION,
    M_KPI_HIGH,
    M_KPI_JUDGED,
    M_KPI_LABELLED,
    M_KPI_LOW,
    M_KPI_RATE,
    M_KPI_RAW,
    M_KPI_UNSCORED,
    M_SCORE,
    M_VERDICTS,
    METHOD,
    OUTCOME,
    PROMPT_VERSION,
    SLICE,
    SOURCE_TYPE,
)

_NO_KPI: Final = "No verdicts in this window."
_NO_VERDICTS: Final = "No verdicts arrived in this time range: is `assay watch` running?"
_NO_SCORES: Final = (
    "No verdict with a number arrived in this time range: categories, such as yes and partly, have no score."
)
_KEYS: Final = (EVALUATION_NAME, GEN_AI_AGENT)
_CREATED: Final[Match] = where(CHANGE, "created")
_SLICES: Final[Match] = {SLICE: '!=""'}
_SCORE_SUM, _SCORE_COUNT = (
    by(increase(M_SCORE, part=part, over=EACH_STEP), EVALUATION_NAME) for part in ("sum", "count")
)

STANDING = [
    grid(
        "Judges",
        "Pass rate with its 95 % interval, the judge's own rate, and on how many verdicts and labels it rests. "
        "Corrected: people's labels took the judge's errors out; else it is the judge's word. `all` is every agent.",
        rows={EVALUATION_NAME: "Judge", GEN_AI_AGENT: "Agent"},
        values={
            "Pass rate": highest(M_KPI_RATE, *_KEYS),
            "Low": highest(M_KPI_LOW, *_KEYS),
            "High": highest(M_KPI_HIGH, *_KEYS),
            "Judge's own": highest(M_KPI_RAW, *_KEYS),
            "Judged": highest(M_KPI_JUDGED, *_KEYS),
            "Labelled": highest(M_KPI_LABELLED, *_KEYS),
            "Unscored": highest(M_KPI_UNSCORED, *_KEYS),
            "Corrected": Query(
                by(series(M_KPI_RATE, where(METHOD, "corrected")), *_KEYS, function="count")
                + f" or 0 * {highest(M_KPI_RATE, *_KEYS).expr}"
            ),
        },
        unit="percentunit",
        units=dict.fromkeys(("Judged", "Labelled", "Unscored", "Corrected"), "short"),
        words={"Corrected": {"1": "yes", "0": "no"}},
        sort="-Pass rate",
        width=24,
        empty=_NO_KPI,
    ),
    bars(
        "Verdicts in this time range",
        "New verdicts that arrived, by outcome; unscored is neither pass nor fail. By arrival, not by the run's time. "
        "Prometheus estimates counts between two looks, a few in a hundred off: exact ones are in the table above.",
        grown(M_VERDICTS, OUTCOME, match=_CREATED),
        unit="short",
        width=8,
        height=7,
        empty=_NO_VERDICTS,
    ),
    trend(
        "Verdicts arriving",
        "New verdicts by outcome in each step. By arrival: a late verdict counts when it came.",
        grown(M_VERDICTS, OUTCOME, match=_CREATED, over=EACH_STEP, exemplars=True),
        unit="short",
        width=16,
        height=7,
        empty=_NO_VERDICTS,
        stacked=True,
    ),
]

OVER_TIME = [
    trend(
        "Pass rate, corrected and raw",
        "Per judge; dashes apart, the judge's own rate and the one to believe. Each point is a whole KPI window.",
        highest(M_KPI_RATE, *_KEYS),
        highest(M_KPI_RAW, *_KEYS, legend="{} {} (judge's own)"),
        unit="percentunit",
        width=12,
        empty=_NO_KPI,
        high=1,
    ),
    trend(
        "How wide the 95 % interval is",
        "Upper less lower end. It narrows with labels first, with verdicts second.",
        Query(f"{highest(M_KPI_HIGH, *_KEYS).expr} - {highest(M_KPI_LOW, *_KEYS).expr}", legend_of(_KEYS)),
        unit="percentunit",
        width=12,
        empty=_NO_KPI,
    ),
    heat(
        "Scores",
        "How scores are spread over time, by bucket: booleans are 0 and 1, ratings keep their scale.",
        Query(by(increase(M_SCORE, part="bucket", over=EACH_STEP), "le"), "{{le}}"),
        width=12,
        empty=_NO_SCORES,
    ),
    trend(
        "Mean score",
        "Mean of the scores that arrived in each step, by judge, in the judge's own scale.",
        Query(f"{_SCORE_SUM} / ({_SCORE_COUNT} > 0)", legend_of([EVALUATION_NAME]), exemplars=True),
        unit="short",
        width=12,
        empty=_NO_SCORES,
    ),
]

BROKEN_DOWN = [
    bars(
        "Pass rate by agent",
        "Corrected where that agent's own labels allow it; `all` is every agent together.",
        highest(M_KPI_RATE, *_KEYS, legend="{1} · {0}"),
        unit="percentunit",
        width=8,
        empty=_NO_KPI,
        high=1,
    ),
    grid(
        "Slices, worst first",
        "By model, prompt version and the tags given to `assay watch --slice`. Sorted by the interval's upper end: "
        "the first rows are bad even at best.",
        rows={EVALUATION_NAME: "Judge", SLICE: "Slice"},
        values={
            heading: highest(metric, EVALUATION_NAME, SLICE, match=_SLICES)
            for heading, metric in (
                ("High", M_KPI_HIGH),
                ("Pass rate", M_KPI_RATE),
                ("Low", M_KPI_LOW),
                ("Judged", M_KPI_JUDGED),
            )
        },
        order=("Judge", "Slice", "Pass rate", "Low", "High", "Judged"),
        unit="percentunit",
        units={"Judged": "short"},
        sort="-High",
        width=10,
        empty="No slices: start `assay watch --slice TAG`.",
    ),
    bars(
        "Who gave the verdicts",
        "New verdicts by judge version and kind of source: two versions in one window make rates hard to compare.",
        grown(M_VERDICTS, EVALUATION_NAME, JUDGE_VERSION, SOURCE_TYPE, match=_CREATED, legend="{} {} ({})"),
        unit="short",
        width=6,
        empty=_NO_VERDICTS,
    ),
]

TRACES = [
    traces(
        "Verdicts that are fails",
        "The latest fails with the judge's reason. A click opens the trace in Tempo, the cell's link in MLflow.",
        verdicts(
            f'span.{OUTCOME} = "fail"',
            select=(
                EVALUATION_NAME,
                EVALUATION_SCORE,
                EVALUATION_EXPLANATION,
                GEN_AI_AGENT,
                PROMPT_VERSION,
                EXPERIMENT_ID,
            ),
        ),
        width=24,
        empty="No failing verdict in this time range.",
    ),
    traces(
        "Verdicts not reached",
        "Traces a judge could not decide, with the reason: neither good nor bad.",
        verdicts(
            f'span.{OUTCOME} = "unscored"',
            select=(EVALUATION_NAME, EVALUATION_LABEL, "error.type", GEN_AI_REQUEST_MODEL, EXPERIMENT_ID),
        ),
        width=24,
        height=7,
        empty="Every verdict in this time range was reached.",
    ),
]


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-quality-by-judge",
        title="Agent quality: by judge",
        description="Pass rates, raw and corrected, by judge, agent, model, prompt version and slice; failing traces.",
        audience="developers",
        sections=[
            Section("Where things stand", STANDING),
            Section("Over time", OVER_TIME),
            Section("Broken down", BROKEN_DOWN),
            Section("Failing traces", TRACES),
        ],
    )
