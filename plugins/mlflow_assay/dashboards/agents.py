"""Agents: requests, errors, latency, tokens, cost, tools, steps, sessions. Entry point `agents`.

From the collector's span metrics (made before sampling) and from Tempo's TraceQL metrics (of the traces kept).
"""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Query, Tile, bars, numbers, traces, trend
from mlflow_assay.dashboards.promql import Match, by, histogram_quantile, increase, rate, series
from mlflow_assay.dashboards.traceql import agent_spans
from mlflow_assay.semconv import (
    COST,
    ERROR_TYPE,
    GEN_AI_AGENT,
    GEN_AI_CONVERSATION,
    GEN_AI_INPUT_TOKENS,
    GEN_AI_OPERATION,
    GEN_AI_OUTPUT_TOKENS,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_TOOL_NAME,
    M_COST_PER_UNIT,
    M_RUN_LATENCY,
    QUANTILE,
    prometheus_label,
)

_CALLS: Final = "traces_span_metrics_calls_total"
_DURATION: Final = "traces_span_metrics_duration_seconds"
_AGENT, _MODEL, _TOOL = (prometheus_label(name) for name in (GEN_AI_AGENT, GEN_AI_REQUEST_MODEL, GEN_AI_TOOL_NAME))
_RUNS: Match = {GEN_AI_OPERATION: '="invoke_agent"'}
_TOOLS: Match = {GEN_AI_OPERATION: '="execute_tool"'}
_CHATS: Match = {GEN_AI_OPERATION: '=~"chat|generate_content|text_completion"'}
_ERROR: Match = {"status.code": '="STATUS_CODE_ERROR"'}
_NO_SPANS = "No spans in this time range: `assay env` shows how traces reach the collector."

_NO_DURATION = (
    "No duration in this time range. A series' first report does not count: after a start, the second one (15 s later) "
    "is the first seen here."
)


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-agents",
        title="Agent quality: agents",
        description="Requests, errors, latency, tokens, cost by model, tools, steps per request and sessions.",
        audience="platform",
        since="now-24h",
        sections=[
            Section("Requests", [requests(), errors(), latency()]),
            Section("Models", [tokens(), model_cost(), model_latency(), cost()]),
            Section("Tools", [tool_calls(), tool_errors(), tool_latency()]),
            Section("Steps and sessions", [steps(), sessions(), slow_runs()]),
        ],
    )


def requests() -> Tile:
    """Traffic."""
    return trend(
        "Agent runs per second",
        "Spans `invoke_agent`, by agent, before sampling.",
        [Query(by(rate(_CALLS, _RUNS), GEN_AI_AGENT), f"{{{{{_AGENT}}}}}")],
        unit="reqps",
        width=8,
        empty=_NO_SPANS,
    )


def errors() -> Tile:
    """Errors."""
    failed = by(rate(_CALLS, _RUNS | _ERROR), GEN_AI_AGENT)
    every = by(rate(_CALLS, _RUNS), GEN_AI_AGENT)
    return trend(
        "Share of runs that end in an error",
        "Technical errors only: a wrong answer is no error, see the quality board.",
        [Query(f"({failed} or 0 * {every}) / ({every} > 0)", f"{{{{{_AGENT}}}}}")],
        unit="percentunit",
        width=8,
        empty=_NO_SPANS,
        high=1,
    )


def latency() -> Tile:
    """How long runs take."""
    return trend(
        "Duration of a run",
        "50 and 95 in 100 runs are faster.",
        [
            Query(
                histogram_quantile(0.5, _DURATION, GEN_AI_AGENT, match=_RUNS), f"{{{{{_AGENT}}}}} 50 %", exemplars=True
            ),
            Query(histogram_quantile(0.95, _DURATION, GEN_AI_AGENT, match=_RUNS), f"{{{{{_AGENT}}}}} 95 %"),
        ],
        unit="s",
        width=8,
        empty=_NO_DURATION,
    )


def _tokens(attribute: str) -> str:
    return (
        agent_spans(f"span.{attribute} != nil") + f" | sum_over_time(span.{attribute}) by (span.{GEN_AI_REQUEST_MODEL})"
    )


def tokens() -> Tile:
    """Tokens by model."""
    return trend(
        "Tokens by model",
        "Input and output tokens of the traces Tempo keeps, per step: a sample where tail sampling drops traces.",
        [
            Query(_tokens(GEN_AI_INPUT_TOKENS), "input {{span.gen_ai.request.model}}", tempo=True),
            Query(_tokens(GEN_AI_OUTPUT_TOKENS), "output {{span.gen_ai.request.model}}", tempo=True),
        ],
        unit="short",
        width=6,
        empty="No span with token usage in Tempo in this time range.",
    )


def model_cost() -> Tile:
    """Cost by model."""
    return trend(
        "Cost by model",
        "US dollars of model calls in the traces Tempo keeps, per step, where `telemetry.configure` knows the price: a "
        "sample where tail sampling drops traces.",
        [Query(_tokens(COST), "{{span.gen_ai.request.model}}", tempo=True)],
        unit="currencyUSD",
        width=6,
        empty="No span says its cost in this time range: prices come from MLflow's catalogue, by telemetry.configure.",
    )


def model_latency() -> Tile:
    """How long models take."""
    return trend(
        "Duration of a model call",
        "95 in 100 calls are faster, by model.",
        [Query(histogram_quantile(0.95, _DURATION, GEN_AI_REQUEST_MODEL, match=_CHATS), f"{{{{{_MODEL}}}}}")],
        unit="s",
        width=6,
        empty=_NO_DURATION,
    )


def cost() -> Tile:
    """Cost per run."""
    return numbers(
        "Cost of a run",
        "Mean over the KPI window in US dollars, by agent, of the runs that say what they cost.",
        [Query(by(series(M_COST_PER_UNIT), GEN_AI_AGENT, function="max"), f"{{{{{_AGENT}}}}}")],
        unit="currencyUSD",
        width=6,
        height=8,
        empty="The traces carry no cost.",
        show="value_and_name",
    )


def tool_calls() -> Tile:
    """Tool calls."""
    return bars(
        "Tool calls in this time range",
        "Spans `execute_tool`, the ten most used.",
        [Query(f"topk(10, {by(increase(_CALLS, _TOOLS), GEN_AI_TOOL_NAME)})", f"{{{{{_TOOL}}}}}", instant=True)],
        unit="short",
        width=8,
        empty="No tool call in this time range.",
    )


def tool_errors() -> Tile:
    """Tool errors."""
    error = prometheus_label(ERROR_TYPE)
    return bars(
        "Tool errors in this time range",
        "By tool and type of error.",
        [
            Query(
                by(increase(_CALLS, _TOOLS | _ERROR), GEN_AI_TOOL_NAME, ERROR_TYPE),
                f"{{{{{_TOOL}}}}} {{{{{error}}}}}",
                instant=True,
            )
        ],
        unit="short",
        width=8,
        empty="No tool call failed.",
    )


def tool_latency() -> Tile:
    """How long tools take."""
    return trend(
        "Duration of a tool call",
        "95 in 100 calls are faster, by tool.",
        [Query(histogram_quantile(0.95, _DURATION, GEN_AI_TOOL_NAME, match=_TOOLS), f"{{{{{_TOOL}}}}}")],
        unit="s",
        width=8,
        empty=_NO_DURATION,
    )


def steps() -> Tile:
    """Steps per request."""
    every = by(rate(_CALLS, {GEN_AI_OPERATION: '=~"chat|generate_content|text_completion|execute_tool"'}))
    runs = by(rate(_CALLS, _RUNS))
    return trend(
        "Steps per run",
        "Model and tool calls over agent runs. Growing without a better pass rate, the agent runs in circles.",
        [Query(f"{every} / ({runs} > 0)", "steps")],
        unit="short",
        width=8,
        empty=_NO_SPANS,
    )


def sessions() -> Tile:
    """Requests by session."""
    return trend(
        "Runs that belong to a session",
        "Root spans with a conversation id, of the traces Tempo keeps, per second.",
        [
            Query(
                agent_spans("nestedSetParent < 0", f"span.{GEN_AI_CONVERSATION} != nil") + " | rate()",
                "with a session",
                tempo=True,
            ),
            Query(agent_spans("nestedSetParent < 0") + " | rate()", "all", tempo=True),
        ],
        unit="reqps",
        width=8,
        empty="No trace in Tempo in this time range.",
    )


def slow_runs() -> Tile:
    """The slow and the broken."""
    label = prometheus_label(QUANTILE)
    return traces(
        "Runs with errors",
        f"Agent runs that ended in an error. Durations by window: {M_RUN_LATENCY} ({label}).",
        agent_spans(f'span.{GEN_AI_OPERATION} = "invoke_agent"', "status = error", select=(GEN_AI_AGENT, ERROR_TYPE)),
        width=8,
        height=8,
        empty="No run ended in an error.",
        limit=20,
    )
