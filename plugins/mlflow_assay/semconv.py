"""Every attribute, tag, metadata and metric name the pack writes. The standard's stand apart from ours.

Pinned convention: OpenTelemetry semantic conventions v1.41.1 (the last tag that holds `gen_ai.*` before it
moved to a repository of its own). If a name changes upstream, change it here and nowhere else. `ASSAY_SEMCONV=next`
adds the names still under discussion in open-telemetry/semantic-conventions-genai: the evaluator's provenance
(pull request 359). Its evaluation span (185) is already what we send. Metric names and labels do not change.

`METRICS` says of each metric what it is; `prometheus_name` and `prometheus_label` how it is called in Prometheus.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, Literal

from mlflow_assay.errors import ConfigError

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
PROFILES: Final = ("1.41.1", "next")
PROFILE_VARIABLE: Final = "ASSAY_SEMCONV"

# --- standard: OpenTelemetry GenAI ------------------------------------------------------------------
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_AGENT: Final = "gen_ai.agent.name"
GEN_AI_CONVERSATION: Final = "gen_ai.conversation.id"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_RESULT: Final = "gen_ai.tool.call.result"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - input or output
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
ERROR_TYPE: Final = "error.type"
USER_HASH: Final = "user.hash"  # of the end user: keyed, so that it cannot be guessed back
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE: Final = "service.instance.id"
ENVIRONMENT: Final = "deployment.environment.name"

# The event `gen_ai.evaluation.result` (since v1.38.0, stability development) and its attributes.
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"  # double
# Low cardinality: pass | fail | unscored; the judge's word where nothing says which value is good.
EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"
EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
# Profile `next` only.
EVALUATOR_ID: Final = "gen_ai.evaluation.evaluator.id"
EVALUATOR_VERSION: Final = "gen_ai.evaluation.evaluator.version"
EVALUATOR_TYPE: Final = "gen_ai.evaluation.evaluator.type"  # llm_judge | code | human

# --- ours: metadata of an assessment (Feedback.metadata; every value is a string) ---------------------
JUDGE_NAME: Final = "assay.judge.name"
JUDGE_VERSION: Final = "assay.judge.version"
JUDGE_DIGEST: Final = "assay.judge.digest"  # 16 hex digits; see judges.catalogue.BoundJudge
JUDGE_KIND: Final = "assay.judge.kind"  # instructions | code | local | mlflow | <library>
JUDGE_MODEL: Final = "assay.judge.model"  # model URI; absent for judges that call none
OUTCOME: Final = "assay.outcome"  # pass | fail | unscored
UNSCORED_REASON: Final = "assay.unscored.reason"  # a contracts.Unscored value
LATENCY_MS: Final = "assay.judge.latency_ms"  # wall time of the judge call, milliseconds
JUDGE_CALLS: Final = "assay.judge.calls"  # model calls behind the verdict, where they may be other than one
LIBRARY_PASSED: Final = "assay.library.passed"  # "true" or "false": the wrapped library's own verdict
CACHE_HIT: Final = "assay.cache.hit"  # "true" when no call was made
CASCADE_STAGE: Final = "assay.cascade.stage"  # which tier's verdict it is, from 1
MEMBERS: Final = "assay.members"  # JSON: one object a member asked, with judge, digest, value or unscored reason
PANEL_AGREEMENT: Final = "assay.panel.agreement"  # share in [0, 1] of the votes cast that are for the verdict
PANEL_UNSCORED: Final = "assay.panel.unscored"  # members that reached no verdict
CONFIDENCE: Final = "assay.judge.confidence"  # probability of the verdict in [0, 1], where the judge has one
LOCAL_DIGEST: Final = "assay.local.digest"  # SHA-256 of a trained local judge, 64 hex digits
LOCAL_THRESHOLD: Final = "assay.local.threshold"  # least confidence with which a local judge answers, in [0, 1]
LOCAL_FORCED: Final = "assay.local.forced"  # why a local judge should not have been used; absent when it may be
# "true" where the judge learnt from this very trace's label: its verdict there says nothing about how good the
# judge is, so such traces are left out of agreement and of corrected numbers.
TRAINED_ON: Final = "assay.judge.trained_on"
RAW_VALUE: Final = "assay.raw_value"  # what the judge said, where it could not be read or was normalised

# --- ours: tags on an evaluation run -------------------------------------------------------------------
RUN_WORK: Final = "assay.run.work"  # 16 hex digits over judges and selection; finds a killed run to go on with
RUN_JUDGE: Final = "assay.run.judge"  # assay.run.judge.<name> = digest

# --- ours: tag on a trace chosen for labelling ----------------------------------------------------------
LABEL_DRAW: Final = "assay.label.draw"  # assay.label.draw.<judge> = JSON: probability, queue, stratum, seed, date, …

# --- ours: tags on an experiment --------------------------------------------------------------------------
LABEL_FRAME: Final = "assay.label.frame"  # assay.label.frame.<16 hex digits> = JSON: from which traces a queue draws

# --- ours: tag on the run that stands for a labeling session ----------------------------------------------
LABELING_QUEUE: Final = "assay.labeling.queue"  # id of the review queue behind the session

# --- ours: tags on an imported or demo trace ---------------------------------------------------------
SOURCE_FORMAT: Final = "assay.source.format"  # importer's name
SOURCE_ID: Final = "assay.source.id"  # stable id of the recorded run or assessment; makes an import idempotent
SOURCE_TIMES: Final = "assay.source.times"  # whether the trace's times are recorded ones; says so when not
SOURCE_TIME: Final = "assay.source.time"  # of an evaluation that came over OTLP: when it was made, ISO 8601
SOURCE_LABEL: Final = "assay.source.label"  # the name the recording gave its batch of runs
TAG_DOMAIN: Final = "domain"
TAG_TASK: Final = "task"
TAG_MODEL: Final = "model"
TAG_AGENT: Final = "agent"
SIMULATED: Final = "assay.simulated"  # "true" on traces and labels made by the demo
TAG_CUSTOMER: Final = "customer"  # "simulated" where a model played the customer
TAG_TERMINATION: Final = "termination"  # why the recorded run ended, in the recording's words

# --- ours: attributes of a span in an imported trace ---------------------------------------------------
ACTOR: Final = "assay.actor"  # "customer" on what the customer said or did; absent on the agent's spans
SAMPLING_KEEP: Final = "sampling.keep"  # true on the spans of a run chosen for judging: tail sampling keeps it
CHECK: Final = "assay.check"  # true on the test span of `assay env --check`, which is no agent's work
COST: Final = "assay.cost_usd"  # of one model call, on its span
TRACE_COST: Final = "assay.trace.cost_usd"  # of all calls of a run whose price is known, on its root span
REDACTED: Final = "assay.redacted"  # how many values were masked in a span; absent where none

# --- ours: the verdict span `evaluation <judge>` (the standard has none yet) ------------------------------
OPERATION_EVALUATION: Final = "evaluation"  # value of gen_ai.operation.name
ASSESSMENT_ID: Final = "assay.assessment.id"
REVISION_KEY: Final = "assay.revision.key"
REVISION: Final = "assay.revision"  # from 1
CHANGE: Final = "assay.change"  # created | edited | deleted
SOURCE_TYPE: Final = "assay.source.type"  # llm_judge | code | human
ASSESSMENT_KIND: Final = "assay.assessment.kind"  # feedback | expectation
ASSESSMENT_VALUE: Final = "assay.assessment.value"  # a feedback's value as text, where it is a short scalar
JUDGE_INPUT_TOKENS: Final = "assay.judge.input_tokens"  # not gen_ai.usage.*: these would count as the agent's
JUDGE_OUTPUT_TOKENS: Final = "assay.judge.output_tokens"
JUDGE_COST: Final = "assay.judge.cost_usd"
PROMPT_VERSION: Final = "assay.prompt.version"  # <name>/<version>
EXPERIMENT_ID: Final = "mlflow.experiment.id"
SLICE: Final = "assay.slice"  # assay.slice.<tag>, on spans; as a metric label, "<tag>=<value>"

# --- ours: metrics; `METRICS` below says what each is -------------------------------------------------------
M_SCORE: Final = "gen_ai.evaluation.score"
M_VERDICTS: Final = "gen_ai.evaluation.verdicts"
M_UNSCORED: Final = "assay.evaluation.unscored"
M_JUDGE_CALLS: Final = "assay.judge.calls"
M_JUDGE_TOKENS: Final = "assay.judge.tokens"
M_JUDGE_COST: Final = "assay.judge.cost_usd"
M_JUDGE_LATENCY: Final = "assay.judge.duration"
M_JUDGE_ERRORS: Final = "assay.judge.errors"

# The worker itself.
SINK: Final = "assay.sink"  # the bridge sink's name
STATE: Final = "assay.state"
M_TRACES: Final = "assay.watch.traces"
M_BACKLOG: Final = "assay.bridge.backlog"
M_LAG: Final = "assay.bridge.lag"
M_DELIVERY: Final = "assay.bridge.delivery"
M_DELIVERIES: Final = "assay.bridge.deliveries"
M_WATERMARK_AGE: Final = "assay.bridge.watermark_age"
M_BUDGET_SPENT: Final = "assay.watch.budget_spent"

# KPIs, recomputed from MLflow for a fixed window.
WINDOW: Final = "assay.window"  # 24h | 7d | 28d
METHOD: Final = "assay.kpi.method"  # corrected | uncorrected
QUANTILE: Final = "quantile"
M_KPI_RAW: Final = "assay.kpi.raw"
M_KPI_RATE: Final = "assay.kpi.rate"
M_KPI_LOW: Final = "assay.kpi.low"
M_KPI_HIGH: Final = "assay.kpi.high"
M_KPI_JUDGED: Final = "assay.kpi.judged"
M_KPI_LABELLED: Final = "assay.kpi.labelled"
M_KPI_UNSCORED: Final = "assay.kpi.unscored"
M_KPI_UNITS: Final = "assay.kpi.units"
M_KPI_COMPUTED: Final = "assay.kpi.computed_at"
M_KPI_ALARM: Final = "assay.kpi.e_value"
M_KAPPA: Final = "assay.agreement.kappa"
M_KAPPA_LOW: Final = "assay.agreement.kappa_low"
M_KAPPA_HIGH: Final = "assay.agreement.kappa_high"
M_HUMAN_CEILING: Final = "assay.agreement.human_ceiling"
M_LABEL_BACKLOG: Final = "assay.labels.backlog"
M_LABEL_AGE: Final = "assay.labels.backlog_age"
M_GOLD_DRIFT: Final = "assay.gold.agreement_change"
M_COST_PER_UNIT: Final = "assay.agent.cost_usd_per_trace"
M_COST_PER_PASS: Final = "assay.agent.cost_usd_per_pass"  # noqa: S105 - not a password
M_RUN_LATENCY: Final = "assay.agent.latency"

ALL_AGENTS: Final = "all"  # value of GEN_AI_AGENT on KPI gauges that are about every agent together
OVERFLOW: Final = "(other)"  # label value that stands for all values beyond a label's bound
UNKNOWN: Final = "unknown"  # value of OUTCOME where nothing says which value is good; of a verdict span's agent

# Upper bounds of the score histogram's buckets. Judges of [0, 1] (booleans are 0 and 1) use the steps of 0.1; the
# others see their scale of 1 to 5, 1 to 10 or 0 to 100 in whole steps, tens and the last.
SCORE_BOUNDS: Final = (
    *(round(0.1 * step, 1) for step in range(11)),
    *(float(step) for step in range(2, 11)),
    *(float(step) for step in range(20, 101, 10)),
)
SECONDS_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        name: as sent over OTLP.
        kind: `counter` (monotonic, cumulative), `gauge` or `histogram`.
        unit: UCUM; an annotation in braces adds nothing to the name in Prometheus.
        labels: the attributes every point carries ("" where one does not apply).
        help: one sentence.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str


# An assessment's labels. Sets are bounded: beyond a sink's limit of values, a label says OVERFLOW.
VERDICT_LABELS: Final = (EVALUATION_NAME, GEN_AI_AGENT, JUDGE_VERSION, SOURCE_TYPE, ENVIRONMENT, EXPERIMENT_ID)
# KPI gauges come for all agents together (ALL_AGENTS), always, and for each agent that is named; slices likewise.
KPI_LABELS: Final = (EVALUATION_NAME, GEN_AI_AGENT, SLICE, WINDOW, EXPERIMENT_ID)
_AGREEMENT: Final = (EVALUATION_NAME, JUDGE_VERSION, WINDOW, EXPERIMENT_ID)
_AGENT: Final = (GEN_AI_AGENT, WINDOW, EXPERIMENT_ID)

METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(M_SCORE, "histogram", "1", VERDICT_LABELS, "Scores of new verdicts, as given (booleans are 0 and 1)."),
        Metric(
            M_VERDICTS,
            "counter",
            "{verdict}",
            (*VERDICT_LABELS, ASSESSMENT_KIND, OUTCOME, CHANGE),
            "Assessments shipped. OUTCOME pass, fail, unscored or unknown; CHANGE created, edited or deleted: count "
            "created ones. Edits and deletions are no new verdicts; what holds now is in the KPI gauges.",
        ),
        Metric(
            M_UNSCORED,
            "counter",
            "{verdict}",
            (EVALUATION_NAME, UNSCORED_REASON, EXPERIMENT_ID),
            "Verdicts not reached.",
        ),
        Metric(
            M_JUDGE_CALLS,
            "counter",
            "{call}",
            (EVALUATION_NAME, JUDGE_MODEL, CACHE_HIT, CASCADE_STAGE),
            "Verdicts asked of judges, those answered from the cache (CACHE_HIT true) included.",
        ),
        Metric(
            M_JUDGE_TOKENS, "counter", "{token}", (EVALUATION_NAME, JUDGE_MODEL, GEN_AI_TOKEN_TYPE), "Judges' tokens."
        ),
        Metric(M_JUDGE_COST, "counter", "{USD}", (EVALUATION_NAME, JUDGE_MODEL), "Judges' cost in US dollars."),
        Metric(M_JUDGE_LATENCY, "histogram", "s", (EVALUATION_NAME, JUDGE_MODEL), "Wall time of a judge's call."),
        Metric(
            M_JUDGE_ERRORS,
            "counter",
            "{error}",
            (EVALUATION_NAME, JUDGE_MODEL, ERROR_TYPE),
            "Judge calls that failed for a reason that may pass (a contracts.TRANSIENT one).",
        ),
        Metric(
            M_TRACES,
            "counter",
            "{trace}",
            (EXPERIMENT_ID, STATE),
            "Traces the worker has seen: STATE judged, sampled_out or filtered.",
        ),
        Metric(
            M_BACKLOG,
            "gauge",
            "{revision}",
            (SINK, STATE),
            "Revisions in the outbox not delivered: STATE pending, retrying or dead.",
        ),
        Metric(M_LAG, "gauge", "s", (SINK,), "Age of the oldest revision waiting for a sink; 0 when none waits."),
        Metric(M_DELIVERY, "histogram", "s", (SINK,), "From an assessment's change in MLflow to the acknowledgement."),
        Metric(
            M_DELIVERIES,
            "counter",
            "{revision}",
            (SINK, STATE),
            "What became of deliveries: STATE delivered, skipped, retry or rejected.",
        ),
        Metric(M_WATERMARK_AGE, "gauge", "s", (EXPERIMENT_ID,), "Time since the worker last read the experiment."),
        Metric(M_BUDGET_SPENT, "gauge", "1", (), "Share of the judging budget that is spent, from 0 to 1."),
        Metric(M_KPI_RAW, "gauge", "{share}", KPI_LABELS, "The judge's own pass rate."),
        Metric(
            M_KPI_RATE,
            "gauge",
            "{share}",
            (*KPI_LABELS, METHOD),
            "The pass rate to show: corrected by labels where there are enough, else the judge's own.",
        ),
        Metric(M_KPI_LOW, "gauge", "{share}", KPI_LABELS, "Lower end of the rate's 95 % interval."),
        Metric(M_KPI_HIGH, "gauge", "{share}", KPI_LABELS, "Upper end of the rate's 95 % interval."),
        Metric(M_KPI_JUDGED, "gauge", "{trace}", KPI_LABELS, "Traces (or sessions) with a scored verdict."),
        Metric(M_KPI_LABELLED, "gauge", "{trace}", KPI_LABELS, "Of these, those with a label that was used."),
        Metric(M_KPI_UNSCORED, "gauge", "{trace}", KPI_LABELS, "Traces (or sessions) whose verdict is unscored."),
        Metric(M_KPI_UNITS, "gauge", "{trace}", KPI_LABELS, "Traces (or sessions) in the window, judged or not."),
        Metric(M_KPI_COMPUTED, "gauge", "s", KPI_LABELS, "Unix time at which the KPI was computed."),
        Metric(
            M_KPI_ALARM,
            "gauge",
            "{e_value}",
            KPI_LABELS,
            "Evidence that the judge's pass rate in the window has fallen below its reference; an alarm at level "
            "alpha is a value of 1/alpha or more, however often one looks.",
        ),
        Metric(M_KAPPA, "gauge", "{kappa}", _AGREEMENT, "Cohen's kappa of judge and labels."),
        Metric(M_KAPPA_LOW, "gauge", "{kappa}", _AGREEMENT, "Lower end of kappa's 95 % interval."),
        Metric(M_KAPPA_HIGH, "gauge", "{kappa}", _AGREEMENT, "Upper end of kappa's 95 % interval."),
        Metric(
            M_HUMAN_CEILING,
            "gauge",
            "{kappa}",
            _AGREEMENT,
            "Agreement of people with one another (Krippendorff's alpha).",
        ),
        Metric(
            M_LABEL_BACKLOG,
            "gauge",
            "{trace}",
            (EVALUATION_NAME, EXPERIMENT_ID),
            "Traces drawn for labels, without one.",
        ),
        Metric(M_LABEL_AGE, "gauge", "s", (EVALUATION_NAME, EXPERIMENT_ID), "Age of the oldest draw without a label."),
        Metric(
            M_GOLD_DRIFT,
            "gauge",
            "{kappa}",
            (EVALUATION_NAME, JUDGE_VERSION, EXPERIMENT_ID),
            "Cohen's kappa on the gold set now, less what it was at its baseline.",
        ),
        Metric(M_COST_PER_UNIT, "gauge", "{USD}", _AGENT, "Mean cost of a run in US dollars, of runs that say it."),
        Metric(
            M_COST_PER_PASS,
            "gauge",
            "{USD}",
            (EVALUATION_NAME, *_AGENT),
            "Cost of the judged runs over how many of them passed, in US dollars.",
        ),
        Metric(M_RUN_LATENCY, "gauge", "s", (*_AGENT, QUANTILE), "Quantile (0.5, 0.95) of the runs' durations."),
    )
}

_UNIT_WORDS: Final = {"s": "seconds", "ms": "milliseconds", "By": "bytes"}


def prometheus_name(name: str, part: Literal["", "bucket", "sum", "count"] = "") -> str:
    """A metric's name after the collector's translation (suffixes on, its default).

    Args:
        name: one of `METRICS`.
        part: which series of a histogram.

    Source: OpenTelemetry's compatibility specification for Prometheus: other characters become underscores, the
    unit's word is added, counters end in `_total`, gauges of unit 1 in `_ratio`; units in braces add nothing.
    """
    metric = METRICS[name]
    words = [word for word in re.split(r"[^a-zA-Z0-9]+", name) if word]
    suffix = _UNIT_WORDS.get(metric.unit) or ("ratio" if (metric.unit, metric.kind) == ("1", "gauge") else None)
    if suffix and suffix not in words:
        words.append(suffix)
    if metric.kind == "counter":
        words = [word for word in words if word != "total"] + ["total"]
    return "_".join([*words, *([part] if part else [])])


def prometheus_label(attribute: str) -> str:
    """An attribute's name as a Prometheus label."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", attribute)


def profile(chosen: str | None = None) -> str:
    """The names profile in force: the one given, else that of the environment, else the pinned one.

    Raises:
        ConfigError: no such profile.
    """
    found = chosen or os.environ.get(PROFILE_VARIABLE) or PROFILES[0]
    if found not in PROFILES:
        raise ConfigError(f"There is no names profile {found!r}.", valid=PROFILES, fix=f"Set {PROFILE_VARIABLE}.")
    return found
