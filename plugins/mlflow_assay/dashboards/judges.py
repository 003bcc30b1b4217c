"""Judges: can they be believed, what do they cost, how much do they judge. Entry point `judges`."""

from __future__ import annotations

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Query, Tile, bars, grid, numbers, trend
from mlflow_assay.dashboards.promql import Match, by, histogram_quantile, increase, rate, series, where
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
    prometheus_label,
)

_JUDGE, _MODEL, _VERSION = (prometheus_label(name) for name in (EVALUATION_NAME, JUDGE_MODEL, JUDGE_VERSION))
_NO_LABELS = "No judge has enough labels in this window: `assay labels pick` chooses which traces to label."
_NO_CALLS = "No verdict of an LLM judge arrived in this time range."


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-judges",
        title="Agent quality: judges",
        description="Agreement with people, drift, unscored verdicts, cost, latency, cache, share of traffic judged.",
        audience="developers",
        sections=[
            Section("Can they be believed?", [agreement(), kappa(), gold(), alarm()]),
            Section("Labels", [backlog(), oldest()]),
            Section("Do they reach a verdict?", [unscored(), errors(), share_judged()]),
            Section("What do they cost?", [cost(), tokens(), latency(), cache(), stages(), spent(), traces_seen()]),
        ],
    )


def agreement() -> Tile:
    """Kappa per judge version, beside the human ceiling."""
    keys = (EVALUATION_NAME, JUDGE_VERSION)
    metrics = (M_KAPPA, M_KAPPA_LOW, M_KAPPA_HIGH, M_HUMAN_CEILING)
    return grid(
        "Agreement with people",
        "Cohen's kappa of judge and labels with its 95 % interval, per judge version (0 is chance, 1 is perfect), and "
        "how far people agree with one another: no judge can be asked for more. Empty where nobody labelled twice.",
        [Query(by(series(metric), *keys, function="max")) for metric in metrics],
        unit="short",
        columns={
            _JUDGE: "Judge",
            _VERSION: "Version",
            "Value #A": "Kappa",
            "Value #B": "Low",
            "Value #C": "High",
            "Value #D": "People",
        },
        sort="-Kappa",
        width=12,
        empty=_NO_LABELS,
    )


def kappa() -> Tile:
    """Kappa over time."""
    shown = f"{{{{{_JUDGE}}}}} v{{{{{_VERSION}}}}}"
    keys = (EVALUATION_NAME, JUDGE_VERSION)
    return trend(
        "Agreement over time",
        "Kappa and its lower end. A falling lower end says: check the judge before believing its numbers.",
        [
            Query(by(series(M_KAPPA), *keys, function="max"), shown),
            Query(by(series(M_KAPPA_LOW), *keys, function="max"), f"{shown} (lower end)"),
        ],
        unit="short",
        width=12,
        empty=_NO_LABELS,
        low=None,
        high=1,
    )


def gold() -> Tile:
    """Did the judge change."""
    return trend(
        "Gold set: agreement now less at baseline",
        "The same fixed traces judged again. Away from 0 the judge itself changed (model, prompt, provider), whatever "
        "the agent did. `assay drift` makes the points.",
        [
            Query(
                by(series(M_GOLD_DRIFT), EVALUATION_NAME, JUDGE_VERSION, function="min"),
                f"{{{{{_JUDGE}}}}} v{{{{{_VERSION}}}}}",
            )
        ],
        unit="percentunit",
        width=12,
        height=7,
        empty="No gold set yet: `assay drift` keeps one.",
        low=None,
    )


def alarm() -> Tile:
    """Did the rate fall."""
    return trend(
        "Evidence that the pass rate has fallen",
        "An e-value per judge: 20 and more is an alarm at the 5 % level however often one looks (the dashed line). By "
        "the judge's own verdicts: look at the gold set first.",
        [Query(by(series(M_KPI_ALARM), EVALUATION_NAME, function="max"), f"{{{{{_JUDGE}}}}}")],
        unit="short",
        width=12,
        height=7,
        empty="No reference rate yet.",
        threshold=20,
    )


def backlog() -> Tile:
    """Labels people owe."""
    return bars(
        "Waiting for a label",
        "Traces drawn for people to label that have none yet, by judge.",
        [Query(by(series(M_LABEL_BACKLOG), EVALUATION_NAME, function="max"), f"{{{{{_JUDGE}}}}}", instant=True)],
        unit="short",
        width=12,
        height=6,
        empty="Nothing has been drawn for labelling: `assay labels pick`.",
    )


def oldest() -> Tile:
    """How long."""
    return bars(
        "Oldest one waiting",
        "Age of the oldest draw without a label, by judge.",
        [Query(by(series(M_LABEL_AGE), EVALUATION_NAME, function="max"), f"{{{{{_JUDGE}}}}}", instant=True)],
        unit="s",
        width=12,
        height=6,
        empty="Nothing waits.",
    )


def unscored() -> Tile:
    """Why no verdict."""
    reason = prometheus_label(UNSCORED_REASON)
    return trend(
        "Verdicts not reached, by reason",
        "Unscored is neither good nor bad. missing_field: the trace lacks what the judge needs; garbled_reply and "
        "off_menu: the judge model; rate_limited, timeout, unreachable: the provider; budget: the limit set.",
        [
            Query(
                by(increase(M_UNSCORED, over="$__rate_interval"), EVALUATION_NAME, UNSCORED_REASON),
                f"{{{{{_JUDGE}}}}}: {{{{{reason}}}}}",
            )
        ],
        unit="short",
        width=8,
        empty="Every verdict was reached.",
        stacked=True,
    )


def errors() -> Tile:
    """Judge calls that failed."""
    error = prometheus_label(ERROR_TYPE)
    return bars(
        "Failed judge calls in this time range",
        "For reasons that may pass: they can be judged again.",
        [
            Query(
                by(increase(M_JUDGE_ERRORS), ERROR_TYPE, EVALUATION_NAME),
                f"{{{{{_JUDGE}}}}}: {{{{{error}}}}}",
                instant=True,
            )
        ],
        unit="short",
        width=8,
        empty="No judge call failed.",
    )


def share_judged() -> Tile:
    """How much of the traffic."""
    keys = (EVALUATION_NAME,)
    judged = by(series(M_KPI_JUDGED), *keys, function="max")
    units = by(series(M_KPI_UNITS), *keys, function="max")
    return bars(
        "Share of traffic judged",
        "Traces (or sessions) with a scored verdict over all in the KPI window.",
        [Query(f"{judged} / ({units} > 0)", f"{{{{{_JUDGE}}}}}", instant=True)],
        unit="percentunit",
        width=8,
        empty="No traces in this window.",
        high=1,
    )


def cost() -> Tile:
    """Money."""
    return bars(
        "Judges' cost in this time range",
        "US dollars by judge and model, at the price MLflow's catalogue or the definition gives.",
        [
            Query(
                by(increase(M_JUDGE_COST), EVALUATION_NAME, JUDGE_MODEL),
                f"{{{{{_JUDGE}}}}} ({{{{{_MODEL}}}}})",
                instant=True,
            )
        ],
        unit="currencyUSD",
        width=8,
        empty=_NO_CALLS,
    )


def tokens() -> Tile:
    """Tokens."""
    kind = prometheus_label(GEN_AI_TOKEN_TYPE)
    return trend(
        "Judges' tokens per second",
        "By model, input and output.",
        [Query(by(rate(M_JUDGE_TOKENS), JUDGE_MODEL, GEN_AI_TOKEN_TYPE), f"{{{{{_MODEL}}}}} {{{{{kind}}}}}")],
        unit="short",
        width=8,
        empty=_NO_CALLS,
    )


def latency() -> Tile:
    """How long a judge takes."""
    return trend(
        "Time a judge takes",
        "Half of the calls are faster than the first series, 95 in 100 faster than the second; retries included.",
        [
            Query(histogram_quantile(0.5, M_JUDGE_LATENCY, EVALUATION_NAME), f"{{{{{_JUDGE}}}}} 50 %", exemplars=True),
            Query(histogram_quantile(0.95, M_JUDGE_LATENCY, EVALUATION_NAME), f"{{{{{_JUDGE}}}}} 95 %"),
        ],
        unit="s",
        width=8,
        empty=_NO_CALLS,
    )


def cache() -> Tile:
    """Answers from the cache."""
    hits = by(increase(M_JUDGE_CALLS, where(CACHE_HIT, "true")), EVALUATION_NAME)
    every = by(increase(M_JUDGE_CALLS), EVALUATION_NAME)
    return bars(
        "Verdicts from the cache",
        "Share of verdicts for which no model was called.",
        [Query(f"({hits} or 0 * {every}) / ({every} > 0)", f"{{{{{_JUDGE}}}}}", instant=True)],
        unit="percentunit",
        width=6,
        height=6,
        empty=_NO_CALLS,
        high=1,
    )


def stages() -> Tile:
    """Which tier of a cascade answered."""
    stage = prometheus_label(CASCADE_STAGE)
    match: Match = {CASCADE_STAGE: '!=""'}
    return bars(
        "Cascades: who answered",
        "Verdicts by the tier that gave them; 1 is the cheapest.",
        [
            Query(
                by(increase(M_JUDGE_CALLS, match), EVALUATION_NAME, CASCADE_STAGE),
                f"{{{{{_JUDGE}}}}} tier {{{{{stage}}}}}",
                instant=True,
            )
        ],
        unit="short",
        width=6,
        height=6,
        empty="No cascade is running.",
    )


def spent() -> Tile:
    """Budget."""
    return numbers(
        "Judging budget spent",
        "Share of the budget given to `assay watch`; at 100 % judging stops and verdicts are unscored.",
        [Query(f"max({series(M_BUDGET_SPENT)})")],
        unit="percentunit",
        width=6,
        height=6,
        empty="No budget was set.",
        steps=((None, "#3274d9"), (0.9, "#e0752d")),
    )


def traces_seen() -> Tile:
    """What the worker did with the traces."""
    state = prometheus_label(STATE)
    return bars(
        "Traces the worker saw",
        "Judged, left out by the sampling rate, or left out by the filter, in this time range.",
        [Query(by(increase(M_TRACES), STATE), f"{{{{{state}}}}}", instant=True)],
        unit="short",
        width=6,
        height=6,
        empty="The worker judges nothing: give `assay watch` a --judge.",
    )
