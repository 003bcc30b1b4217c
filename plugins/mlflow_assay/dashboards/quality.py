"""Quality by judge: raw and corrected rates, scores, slices, and the failing traces. Entry point `quality-by-judge`."""

from __future__ import annotations

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Query, Tile, bars, grid, heat, traces, trend
from mlflow_assay.dashboards.promql import Match, by, increase, series, where
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
    prometheus_label,
)

_NO_KPI = "No verdicts in this window."
_NO_VERDICTS = "No verdicts arrived in this time range: is `assay watch` running?"
_NO_SCORES = "No verdict with a number arrived in this time range: categories, such as yes and partly, have no score."
_JUDGE, _AGENT = prometheus_label(EVALUATION_NAME), prometheus_label(GEN_AI_AGENT)
_CREATED: Match = where(CHANGE, "created")


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-quality-by-judge",
        title="Agent quality: by judge",
        description="Pass rates, raw and corrected, by judge, agent, model, prompt version and slice; failing traces.",
        audience="developers",
        sections=[
            Section("Where things stand", [table(), verdict_count(), arriving()]),
            Section("Over time", [rates(), interval_width(), scores(), average()]),
            Section("Broken down", [by_agent(), slices(), by_version()]),
            Section("Failing traces", [failing(), unscored()]),
        ],
    )


def table() -> Tile:
    """Every judge in one table."""
    keys = (EVALUATION_NAME, GEN_AI_AGENT)
    named = {
        _JUDGE: "Judge",
        _AGENT: "Agent",
        "Value #A": "Pass rate",
        "Value #B": "Low",
        "Value #C": "High",
        "Value #D": "Judge's own",
        "Value #E": "Judged",
        "Value #F": "Labelled",
        "Value #G": "Unscored",
        "Value #H": "Corrected",
    }
    metrics = (M_KPI_RATE, M_KPI_LOW, M_KPI_HIGH, M_KPI_RAW, M_KPI_JUDGED, M_KPI_LABELLED, M_KPI_UNSCORED)
    corrected = f"count by ({_JUDGE}, {_AGENT}) ({series(M_KPI_RATE, where(METHOD, 'corrected'))})"
    return grid(
        "Judges",
        "Pass rate with its 95 % interval, the judge's own rate, and on how many verdicts and labels it rests. "
        "Corrected 1 means people's labels took the judge's errors out; 0 is the judge's word. `all` is every agent.",
        [
            *(Query(by(series(metric), *keys, function="max")) for metric in metrics),
            Query(f"{corrected} or 0 * {by(series(M_KPI_RATE), *keys, function='max')}"),
        ],
        unit="percentunit",
        columns=named,
        units=dict.fromkeys(("Judged", "Labelled", "Unscored", "Corrected"), "short"),
        sort="-Pass rate",
        width=24,
        empty=_NO_KPI,
    )


def verdict_count() -> Tile:
    """Verdicts by outcome in the time range."""
    outcome = prometheus_label(OUTCOME)
    return bars(
        "Verdicts in this time range",
        "New verdicts that arrived, by outcome; unscored is neither pass nor fail. By arrival, not by the run's time. "
        "Prometheus estimates counts between two looks, a few in a hundred off: exact ones are in the table above.",
        [Query(by(increase(M_VERDICTS, _CREATED), OUTCOME), f"{{{{{outcome}}}}}", instant=True)],
        unit="short",
        width=8,
        height=7,
        empty=_NO_VERDICTS,
    )


def arriving() -> Tile:
    """Verdicts arriving."""
    outcome = prometheus_label(OUTCOME)
    return trend(
        "Verdicts arriving",
        "New verdicts by outcome in each step. By arrival: a late verdict counts when it came.",
        [
            Query(
                by(increase(M_VERDICTS, _CREATED, over="$__rate_interval"), OUTCOME),
                f"{{{{{outcome}}}}}",
                exemplars=True,
            )
        ],
        unit="short",
        width=16,
        height=7,
        empty=_NO_VERDICTS,
        stacked=True,
    )


def rates() -> Tile:
    """Corrected and raw over time."""
    return trend(
        "Pass rate, corrected and raw",
        "Per judge; dashes apart, the judge's own rate and the one to believe. Each point is a whole KPI window.",
        [
            Query(
                by(series(M_KPI_RATE), EVALUATION_NAME, GEN_AI_AGENT, function="max"),
                f"{{{{{_JUDGE}}}}} {{{{{_AGENT}}}}}",
            ),
            Query(
                by(series(M_KPI_RAW), EVALUATION_NAME, GEN_AI_AGENT, function="max"),
                f"{{{{{_JUDGE}}}}} {{{{{_AGENT}}}}} (judge's own)",
            ),
        ],
        unit="percentunit",
        width=12,
        empty=_NO_KPI,
        high=1,
    )


def interval_width() -> Tile:
    """How sure."""
    width = f"{by(series(M_KPI_HIGH), EVALUATION_NAME, GEN_AI_AGENT, function='max')} - " + by(
        series(M_KPI_LOW), EVALUATION_NAME, GEN_AI_AGENT, function="max"
    )
    return trend(
        "How wide the 95 % interval is",
        "Upper less lower end. It narrows with labels first, with verdicts second.",
        [Query(width, f"{{{{{_JUDGE}}}}} {{{{{_AGENT}}}}}")],
        unit="percentunit",
        width=12,
        empty=_NO_KPI,
    )


def scores() -> Tile:
    """Score distribution."""
    return heat(
        "Scores",
        "How scores are spread over time, by bucket: booleans are 0 and 1, ratings keep their scale.",
        Query(by(increase(M_SCORE, part="bucket", over="$__rate_interval"), "le"), "{{le}}"),
        width=12,
        empty=_NO_SCORES,
    )


def average() -> Tile:
    """Mean score."""
    total = by(increase(M_SCORE, part="sum", over="$__rate_interval"), EVALUATION_NAME)
    count = by(increase(M_SCORE, part="count", over="$__rate_interval"), EVALUATION_NAME)
    return trend(
        "Mean score",
        "Mean of the scores that arrived in each step, by judge, in the judge's own scale.",
        [Query(f"{total} / ({count} > 0)", f"{{{{{_JUDGE}}}}}", exemplars=True)],
        unit="short",
        width=12,
        empty=_NO_SCORES,
    )


def by_agent() -> Tile:
    """Agents compared."""
    return bars(
        "Pass rate by agent",
        "Corrected where that agent's own labels allow it; `all` is every agent together.",
        [
            Query(
                by(series(M_KPI_RATE), EVALUATION_NAME, GEN_AI_AGENT, function="max"),
                f"{{{{{_AGENT}}}}} · {{{{{_JUDGE}}}}}",
                instant=True,
            )
        ],
        unit="percentunit",
        width=8,
        empty=_NO_KPI,
        high=1,
    )


def slices() -> Tile:
    """Slices, worst first."""
    own: Match = {SLICE: '!=""'}
    value = prometheus_label(SLICE)
    keys = (EVALUATION_NAME, SLICE)
    return grid(
        "Slices, worst first",
        "By model, prompt version and the tags given to `assay watch --slice`. Sorted by the interval's upper end: "
        "the first rows are bad even at best.",
        [Query(by(series(m, own), *keys, function="max")) for m in (M_KPI_HIGH, M_KPI_RATE, M_KPI_LOW, M_KPI_JUDGED)],
        unit="percentunit",
        columns={
            _JUDGE: "Judge",
            value: "Slice",
            "Value #B": "Pass rate",
            "Value #C": "Low",
            "Value #A": "High",
            "Value #D": "Judged",
        },
        units={"Judged": "short"},
        sort="-High",
        width=10,
        empty="No slices: start `assay watch --slice TAG`.",
    )


def by_version() -> Tile:
    """Judge versions in use."""
    version = prometheus_label(JUDGE_VERSION)
    source = prometheus_label(SOURCE_TYPE)
    return bars(
        "Who gave the verdicts",
        "New verdicts by judge version and kind of source: two versions in one window make rates hard to compare.",
        [
            Query(
                by(increase(M_VERDICTS, _CREATED), EVALUATION_NAME, JUDGE_VERSION, SOURCE_TYPE),
                f"{{{{{_JUDGE}}}}} v{{{{{version}}}}} ({{{{{source}}}}})",
                instant=True,
            )
        ],
        unit="short",
        width=6,
        empty=_NO_VERDICTS,
    )


_SHOWN = (EVALUATION_NAME, EVALUATION_SCORE, EVALUATION_EXPLANATION, GEN_AI_AGENT, PROMPT_VERSION, EXPERIMENT_ID)


def failing() -> Tile:
    """Failing traces."""
    return traces(
        "Verdicts that are fails",
        "The latest fails with the judge's reason. A click opens the trace in Tempo, the cell's link in MLflow.",
        verdicts(f'span.{OUTCOME} = "fail"', select=_SHOWN),
        width=24,
        empty="No failing verdict in this time range.",
    )


def unscored() -> Tile:
    """Traces that could not be judged."""
    return traces(
        "Verdicts not reached",
        "Traces a judge could not decide, with the reason: neither good nor bad.",
        verdicts(
            f'span.{OUTCOME} = "unscored"',
            select=(EVALUATION_NAME, EVALUATION_LABEL, "error.type", GEN_AI_REQUEST_MODEL, EXPERIMENT_ID),
        ),
        width=24,
        height=7,
        empty="Every verdict in this time range was reached.",
    )
