"""Judges: can they be believed, what do they cost, how much do they judge. Entry point `judges`."""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import bars, grid, numbers, slow_from, trend
from mlflow_assay.dashboards.promql import Match, by, increase, where
from mlflow_assay.dashboards.queries import (
    EACH_STEP,
    Query,
    grown,
    highest,
    legend_of,
    lowest,
    per_second,
    quantiles,
    share_of,
)
from mlflow_assay.semconv import (
    CACHE_HIT,
    CASCADE_STAGE,
    ERROR_TYPE,
    EVALUATION_NAME,
    GEN_AI_TOKEN_TYPE,
    JUDGE_MODEL,
    JUDGE_VERSION,
    M_BUDGET_SPENT,
    M_GOLD_DRIFT,
    M_HUMAN_CEILING,
    M_JUDGE_CALLS,
    M_JUDGE_COST,
    M_JUDGE_ERRORS,
    M_JUDGE_LATENCY,
    M_JUDGE_TOKENS,
    M_KAPPA,
    M_KAPPA_HIGH,
    M_KAPPA_LOW,
    M_KPI_ALARM,
    M_KPI_JUDGED,
    M_KPI_UNITS,
    M_LABEL_AGE,
    M_LABEL_BACKLOG,
    M_TRACES,
    M_UNSCORED,
    STATE,
    UNSCORED_REASON,
)

_NO_LABELS: Final = "No judge has enough labels in this window: `assay labels pick` chooses which traces to label."
_NO_CALLS: Final = "No verdict of an LLM judge arrived in this time range."
_VERSIONED: Final = (EVALUATION_NAME, JUDGE_VERSION)
_IN_CASCADES: Final[Match] = {CASCADE_STAGE: '!=""'}
_HITS, _CALLS = (by(increase(M_JUDGE_CALLS, match), EVALUATION_NAME) for match in (where(CACHE_HIT, "true"), None))
_JUDGED, _UNITS = (highest(metric, EVALUATION_NAME).expr for metric in (M_KPI_JUDGED, M_KPI_UNITS))

BELIEVED = [
    grid(
        "Agreement with people",
        "Cohen's kappa of judge and labels with its 95 % interval, per judge version (0 is chance, 1 is perfect), and "
        "how far people agree with one another: no judge can be asked for more. Empty where nobody labelled twice.",
        rows={EVALUATION_NAME: "Judge", JUDGE_VERSION: "Version"},
        values={
            "Kappa": highest(M_KAPPA, *_VERSIONED),
            "Low": highest(M_KAPPA_LOW, *_VERSIONED),
            "High": highest(M_KAPPA_HIGH, *_VERSIONED),
            "People": highest(M_HUMAN_CEILING, *_VERSIONED),
        },
        unit="short",
        sort="-Kappa",
        width=12,
        empty=_NO_LABELS,
    ),
    trend(
        "Agreement over time",
        "Kappa and its lower end. A falling lower end says: check the judge before believing its numbers.",
        highest(M_KAPPA, *_VERSIONED, legend="{} v{}"),
        highest(M_KAPPA_LOW, *_VERSIONED, legend="{} v{} (lower end)"),
        unit="short",
        width=12,
        empty=_NO_LABELS,
        low=None,
        high=1,
    ),
    trend(
        "Gold set: kappa now less kappa at baseline",
        "The same fixed traces judged again. Away from 0 the judge itself changed (model, prompt, provider), whatever "
        "the agent did. `assay drift` makes the points.",
        lowest(M_GOLD_DRIFT, *_VERSIONED),
        unit="short",
        width=12,
        height=7,
        empty="No gold set yet: `assay drift` keeps one.",
        low=None,
    ),
    trend(
        "Evidence that the pass rate has fallen",
        "An e-value per judge: 20 and more is an alarm at the 5 % level however often one looks (the dashed line). By "
        "the judge's own verdicts: look at the gold set first.",
        highest(M_KPI_ALARM, EVALUATION_NAME),
        unit="short",
        width=12,
        height=7,
        empty="No reference rate yet.",
        threshold=20,
    ),
]

LABELS = [
    bars(
        "Waiting for a label",
        "Traces drawn for people to label that have none yet, by judge.",
        highest(M_LABEL_BACKLOG, EVALUATION_NAME),
        unit="short",
        width=12,
        height=6,
        empty="Nothing has been drawn for labelling: `assay labels pick`.",
    ),
    bars(
        "Oldest one waiting",
        "Age of the oldest draw without a label, by judge.",
        highest(M_LABEL_AGE, EVALUATION_NAME),
        unit="s",
        width=12,
        height=6,
        empty="Nothing waits.",
    ),
]

REACHED = [
    trend(
        "Verdicts not reached, by reason",
        "Unscored is neither good nor bad. missing_field: the trace lacks what the judge needs; garbled_reply and "
        "off_menu: the judge model; rate_limited, timeout, unreachable: the provider; budget: the limit set.",
        grown(M_UNSCORED, EVALUATION_NAME, UNSCORED_REASON, legend="{}: {}", over=EACH_STEP),
        unit="short",
        width=8,
        empty="Every verdict was reached.",
        stacked=True,
    ),
    bars(
        "Failed judge calls in this time range",
        "For reasons that may pass: they can be judged again.",
        grown(M_JUDGE_ERRORS, ERROR_TYPE, EVALUATION_NAME, legend="{1}: {0}"),
        unit="short",
        width=8,
        empty="No judge call failed.",
    ),
    bars(
        "Share of traffic judged",
        "Traces (or sessions) with a scored verdict over all in the KPI window.",
        Query(f"{_JUDGED} / ({_UNITS} > 0)", legend_of([EVALUATION_NAME])),
        unit="percentunit",
        width=8,
        empty="No traces in this window.",
        high=1,
    ),
]

COST = [
    bars(
        "Judges' cost in this time range",
        "US dollars by judge and model, at the price MLflow's catalogue or the definition gives.",
        grown(M_JUDGE_COST, EVALUATION_NAME, JUDGE_MODEL, legend="{} ({})"),
        unit="currencyUSD",
        width=8,
        empty=_NO_CALLS,
    ),
    trend(
        "Judges' tokens per second",
        "By model, input and output.",
        per_second(M_JUDGE_TOKENS, JUDGE_MODEL, GEN_AI_TOKEN_TYPE),
        unit="short",
        width=8,
        empty=_NO_CALLS,
    ),
    trend(
        "Time a judge takes",
        "Half of the calls are faster than the first series, 95 in 100 faster than the second; retries included.",
        *quantiles(M_JUDGE_LATENCY, EVALUATION_NAME, exemplars=True),
        unit="s",
        width=8,
        empty=_NO_CALLS,
    ),
    bars(
        "Verdicts from the cache",
        "Share of verdicts for which no model was called.",
        Query(share_of(_HITS, _CALLS), legend_of([EVALUATION_NAME])),
        unit="percentunit",
        width=6,
        height=6,
        empty=_NO_CALLS,
        high=1,
    ),
    bars(
        "Cascades: who answered",
        "Verdicts by the tier that gave them; 1 is the cheapest.",
        grown(M_JUDGE_CALLS, EVALUATION_NAME, CASCADE_STAGE, match=_IN_CASCADES, legend="{} tier {}"),
        unit="short",
        width=6,
        height=6,
        empty="No cascade is running.",
    ),
    numbers(
        "Judging budget spent",
        "Share of the budget given to `assay watch`; at 100 % judging stops and verdicts are unscored.",
        highest(M_BUDGET_SPENT),
        unit="percentunit",
        width=6,
        height=6,
        empty="No budget was set.",
        steps=slow_from(0.9),
    ),
    bars(
        "Traces the worker saw",
        "Judged, left out by the sampling rate, or left out by the filter, in this time range.",
        grown(M_TRACES, STATE),
        unit="short",
        width=6,
        height=6,
        empty="The worker judges nothing: give `assay watch` a --judge.",
    ),
]


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-judges",
        title="Agent quality: judges",
        description="Agreement with people, drift, unscored verdicts, cost, latency, cache, share of traffic judged.",
        audience="developers",
        sections=[
            Section("Can they be believed?", BELIEVED),
            Section("Labels", LABELS),
            Section("Do they reach a verdict?", REACHED),
            Section("What do they cost?", COST),
        ],
    )
