"""Agents: requests, errors, latency, tokens, cost, tools, steps, sessions. Entry point `agents`.

From the collector's span metrics (made before sampling) and from Tempo's TraceQL metrics (of the traces kept).
"""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import bars, numbers, traces, trend
from mlflow_assay.dashboards.promql import Match, by, rate
from mlflow_assay.dashboards.queries import (
    Query,
    grown,
    highest,
    legend_of,
    most,
    per_second,
    quantiles,
    share_of,
)
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
)

_CALLS: Final = "traces_span_metrics_calls_total"
_DURATION: Final = "traces_span_metrics_duration_seconds"
_RUNS: Final[Match] = {GEN_AI_OPERATION: '="invoke_agent"'}
_TOOLS: Final[Match] = {GEN_AI_OPERATION: '="execute_tool"'}
_CHATS: Final[Match] = {GEN_AI_OPERATION: '=~"chat|generate_content|text_completion"'}
_STEPS: Final[Match] = {GEN_AI_OPERATION: '=~"chat|generate_content|text_completion|execute_tool"'}
_ERROR: Final[Match] = {"status.code": '="STATUS_CODE_ERROR"'}
_NO_SPANS: Final = "No spans in this time range: `assay env` shows how traces reach the collector."
_NO_DURATION: Final = "No duration in this time range, or only the first 15 s of it: see this panel's description."
_FIRST: Final = (
    "Left out is what came in the first 15 s of an agent, model or tool after a start of the collector, or after a day "
    "without any: Prometheus needs two reports to see a difference."
)


def _summed(attribute: str, words: str = "") -> Query:
    """A number that spans carry, summed per step and model by Tempo."""
    every = agent_spans(f"span.{attribute} != nil")
    by_model = f"sum_over_time(span.{attribute}) by (span.{GEN_AI_REQUEST_MODEL})"
    return Query(f"{every} | {by_model}", f"{words}{{{{span.{GEN_AI_REQUEST_MODEL}}}}}", tempo=True)


REQUESTS = [
    trend(
        "Agent runs per second",
        "Spans `invoke_agent`, by agent, before sampling.",
        per_second(_CALLS, GEN_AI_AGENT, match=_RUNS),
        unit="reqps",
        width=8,
        empty=_NO_SPANS,
    ),
    trend(
        "Share of runs that end in an error",
        "Technical errors only: a wrong answer is no error, see the quality board.",
        Query(
            share_of(by(rate(_CALLS, _RUNS | _ERROR), GEN_AI_AGENT), by(rate(_CALLS, _RUNS), GEN_AI_AGENT)),
            legend_of([GEN_AI_AGENT]),
        ),
        unit="percentunit",
        width=8,
        empty=_NO_SPANS,
        high=1,
    ),
    trend(
        "Duration of a run",
        f"50 and 95 in 100 runs are faster. {_FIRST}",
        *quantiles(_DURATION, GEN_AI_AGENT, match=_RUNS, exemplars=True),
        unit="s",
        width=8,
        empty=_NO_DURATION,
    ),
]

MODELS = [
    trend(
        "Tokens by model",
        "Input and output tokens of the traces Tempo keeps, per step: a sample where tail sampling drops traces.",
        _summed(GEN_AI_INPUT_TOKENS, "input "),
        _summed(GEN_AI_OUTPUT_TOKENS, "output "),
        unit="short",
        width=6,
        empty="No span with token usage in Tempo in this time range.",
    ),
    trend(
        "Cost by model",
        "US dollars of model calls in the traces Tempo keeps, per step, where `telemetry.configure` knows the price: a "
        "sample where tail sampling drops traces.",
        _summed(COST),
        unit="currencyUSD",
        width=6,
        empty="No span says its cost in this time range: prices come from MLflow's catalogue, by telemetry.configure.",
    ),
    trend(
        "Duration of a model call",
        f"95 in 100 calls are faster, by model. {_FIRST}",
        *quantiles(_DURATION, GEN_AI_REQUEST_MODEL, of=[0.95], match=_CHATS),
        unit="s",
        width=6,
        empty=_NO_DURATION,
    ),
    numbers(
        "Cost of a run",
        "Mean over the KPI window in US dollars, by agent, of the runs that say what they cost.",
        highest(M_COST_PER_UNIT, GEN_AI_AGENT),
        unit="currencyUSD",
        width=6,
        height=8,
        empty="The traces carry no cost.",
        show="value_and_name",
    ),
]

TOOLS = [
    bars(
        "Tool calls in this time range",
        "Spans `execute_tool`, the ten most used.",
        most(10, grown(_CALLS, GEN_AI_TOOL_NAME, match=_TOOLS)),
        unit="short",
        width=8,
        empty="No tool call in this time range.",
    ),
    bars(
        "Tool errors in this time range",
        "By tool and type of error.",
        grown(_CALLS, GEN_AI_TOOL_NAME, ERROR_TYPE, match=_TOOLS | _ERROR),
        unit="short",
        width=8,
        empty="No tool call failed.",
    ),
    trend(
        "Duration of a tool call",
        f"95 in 100 calls are faster, by tool. {_FIRST}",
        *quantiles(_DURATION, GEN_AI_TOOL_NAME, of=[0.95], match=_TOOLS),
        unit="s",
        width=8,
        empty=_NO_DURATION,
    ),
]

STEPS_AND_SESSIONS = [
    trend(
        "Steps per run",
        "Model and tool calls over agent runs. Growing without a better pass rate, the agent runs in circles.",
        Query(f"{per_second(_CALLS, match=_STEPS).expr} / ({per_second(_CALLS, match=_RUNS).expr} > 0)", "steps"),
        unit="short",
        width=8,
        empty=_NO_SPANS,
    ),
    trend(
        "Runs that belong to a session",
        "Root spans with a conversation id, of the traces Tempo keeps, per second.",
        Query(
            agent_spans("nestedSetParent < 0", f"span.{GEN_AI_CONVERSATION} != nil") + " | rate()",
            "with a session",
            tempo=True,
        ),
        Query(agent_spans("nestedSetParent < 0") + " | rate()", "all", tempo=True),
        unit="reqps",
        width=8,
        empty="No trace in Tempo in this time range.",
    ),
    traces(
        "Runs with errors",
        "Agent runs that ended in an error, of the traces Tempo keeps: all of them are kept.",
        agent_spans(f'span.{GEN_AI_OPERATION} = "invoke_agent"', "status = error", select=(GEN_AI_AGENT, ERROR_TYPE)),
        width=8,
        height=8,
        empty="No run ended in an error.",
        limit=20,
    ),
]


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-agents",
        title="Agent quality: agents",
        description="Requests, errors, latency, tokens, cost by model, tools, steps per request and sessions.",
        audience="platform",
        since="now-24h",
        sections=[
            Section("Requests", REQUESTS),
            Section("Models", MODELS),
            Section("Tools", TOOLS),
            Section("Steps and sessions", STEPS_AND_SESSIONS),
        ],
    )
