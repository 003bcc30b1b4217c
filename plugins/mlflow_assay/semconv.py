"""Every attribute, tag, metadata and metric name the pack writes. The standard's stand apart from ours.

Pinned convention: OpenTelemetry semantic conventions v1.41.1 (the last tag that holds `gen_ai.*` before it
moved to a repository of its own). If a name changes upstream, change it here and nowhere else.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"

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
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # input | output
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
ERROR_TYPE: Final = "error.type"
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE: Final = "service.instance.id"
ENVIRONMENT: Final = "deployment.environment.name"

# The event `gen_ai.evaluation.result` (since v1.38.0, stability development) and its attributes.
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"  # double
EVALUATION_LABEL: Final = (
    "gen_ai.evaluation.score.label"  # low cardinality: pass | fail | unscored, or the judge's word
)
EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"

# --- ours: metadata of an assessment (Feedback.metadata; every value is a string) ---------------------
JUDGE_NAME: Final = "assay.judge.name"
JUDGE_VERSION: Final = "assay.judge.version"
JUDGE_DIGEST: Final = "assay.judge.digest"  # 16 hex digits; see judges.catalogue.BoundJudge
JUDGE_KIND: Final = "assay.judge.kind"  # instructions | code | local | mlflow | <library>
JUDGE_MODEL: Final = "assay.judge.model"  # model URI; absent for judges that call none
OUTCOME: Final = "assay.outcome"  # pass | fail | unscored
UNSCORED_REASON: Final = "assay.unscored.reason"  # a contracts.Unscored value
LATENCY_MS: Final = "assay.judge.latency_ms"  # wall time of the judge call, milliseconds
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
SAMPLING_KEEP: Final = "sampling.keep"  # true on the root span of a run chosen for judging: tail sampling keeps it

# --- ours: the verdict span `evaluation <judge>` (the standard has none yet) ------------------------------
OPERATION_EVALUATION: Final = "evaluation"  # value of gen_ai.operation.name
ASSESSMENT_ID: Final = "assay.assessment.id"
REVISION_KEY: Final = "assay.revision.key"
REVISION: Final = "assay.revision"  # from 1
CHANGE: Final = "assay.change"  # created | edited | deleted
SOURCE_TYPE: Final = "assay.source.type"  # llm_judge | code | human
ASSESSMENT_KIND: Final = "assay.assessment.kind"  # feedback | expectation
PROMPT_VERSION: Final = "assay.prompt.version"  # <name>/<version>
EXPERIMENT_ID: Final = "mlflow.experiment.id"
SLICE: Final = "assay.slice"  # assay.slice.<tag>, on spans; as a metric label, "<tag>=<value>"

# --- ours: metrics. Name, unit and labels; in Prometheus dots become underscores, counters end in _total,
# --- and a unit of seconds adds _seconds. {annotations} add nothing. ---------------------------------------
# Labels of a verdict: EVALUATION_NAME, GEN_AI_AGENT, JUDGE_VERSION, SOURCE_TYPE, ENVIRONMENT; bounded sets only.
M_SCORE: Final = "gen_ai.evaluation.score"  # histogram, unit 1, steps of 0.1; numeric and boolean values in [0, 1]
M_VERDICTS: Final = "gen_ai.evaluation.verdicts"  # counter, {verdict}; + OUTCOME, CHANGE
M_UNSCORED: Final = "assay.evaluation.unscored"  # counter, {verdict}; EVALUATION_NAME, UNSCORED_REASON
M_JUDGE_CALLS: Final = "assay.judge.calls"  # counter, {call}; EVALUATION_NAME, JUDGE_MODEL, CACHE_HIT, CASCADE_STAGE
M_JUDGE_TOKENS: Final = "assay.judge.tokens"  # counter, {token}; EVALUATION_NAME, JUDGE_MODEL, GEN_AI_TOKEN_TYPE
M_JUDGE_COST: Final = "assay.judge.cost_usd"  # counter, {USD}; EVALUATION_NAME, JUDGE_MODEL
M_JUDGE_LATENCY: Final = "assay.judge.duration"  # histogram, s; EVALUATION_NAME, JUDGE_MODEL
M_JUDGE_ERRORS: Final = "assay.judge.errors"  # counter, {error}; EVALUATION_NAME, ERROR_TYPE (the transient reasons)

# The worker itself. SINK is the bridge sink's name.
SINK: Final = "assay.sink"
STATE: Final = "assay.state"  # pending | retrying | dead
M_TRACES: Final = "assay.watch.traces"  # counter, {trace}; STATE judged | sampled_out | filtered, EXPERIMENT_ID
M_BACKLOG: Final = "assay.bridge.backlog"  # gauge, {revision}; SINK, STATE
M_LAG: Final = "assay.bridge.lag"  # gauge, s; SINK: age of the oldest revision not yet delivered, 0 when none
M_DELIVERY: Final = "assay.bridge.delivery"  # histogram, s; SINK: from the assessment's change to its acknowledgement
M_DELIVERIES: Final = (
    "assay.bridge.deliveries"  # counter, {revision}; SINK, STATE delivered | skipped | retry | rejected
)
M_WATERMARK_AGE: Final = "assay.bridge.watermark_age"  # gauge, s; EXPERIMENT_ID
M_BUDGET_SPENT: Final = "assay.watch.budget_spent_ratio"  # gauge, 1: share of the judging budget spent

# KPIs, recomputed from MLflow for a fixed window. Labels: EVALUATION_NAME, GEN_AI_AGENT, SLICE ("" for all),
# WINDOW (24h, 7d, 28d), EXPERIMENT_ID.
WINDOW: Final = "assay.window"
METHOD: Final = "assay.kpi.method"  # corrected | uncorrected
M_KPI_RAW: Final = "assay.kpi.raw"  # gauge, 1: the judge's own pass rate
M_KPI_RATE: Final = "assay.kpi.rate"  # gauge, 1: corrected where labels allow, else raw; + METHOD
M_KPI_LOW: Final = "assay.kpi.low"  # gauge, 1: lower end of the 95 % interval of M_KPI_RATE
M_KPI_HIGH: Final = "assay.kpi.high"  # gauge, 1
M_KPI_JUDGED: Final = "assay.kpi.judged"  # gauge, {trace}: units with a scored verdict
M_KPI_LABELLED: Final = "assay.kpi.labelled"  # gauge, {trace}: units with a usable label
M_KPI_UNSCORED: Final = "assay.kpi.unscored"  # gauge, {trace}
M_KPI_UNITS: Final = "assay.kpi.units"  # gauge, {trace}: traces (or sessions) in the window, judged or not
M_KPI_COMPUTED: Final = "assay.kpi.computed_at"  # gauge, s: Unix time of the computation
M_KAPPA: Final = "assay.agreement.kappa"  # gauge, 1; EVALUATION_NAME, JUDGE_VERSION, WINDOW
M_KAPPA_LOW: Final = "assay.agreement.kappa_low"
M_KAPPA_HIGH: Final = "assay.agreement.kappa_high"
M_HUMAN_CEILING: Final = "assay.agreement.human_ceiling"  # gauge, 1: agreement of people with one another
M_LABEL_BACKLOG: Final = "assay.labels.backlog"  # gauge, {trace}: drawn for labelling and not labelled
M_LABEL_AGE: Final = "assay.labels.backlog_age"  # gauge, s: of the oldest of these
M_GOLD_DRIFT: Final = "assay.gold.agreement_change"  # gauge, 1: gold-set agreement now less at its baseline
M_KPI_ALARM: Final = "assay.kpi.e_value"  # gauge, 1: e-process against "the rate has not fallen"; alarm above 1/alpha
M_COST_PER_UNIT: Final = "assay.agent.cost_usd_per_trace"  # gauge, {USD}: mean cost of a run, GEN_AI_AGENT, WINDOW
M_COST_PER_PASS: Final = "assay.agent.cost_usd_per_pass"  # gauge, {USD}: cost of the window's runs over passes
M_RUN_LATENCY: Final = "assay.agent.latency"  # gauge, s: quantile of runs' durations; + QUANTILE 0.5 | 0.95
QUANTILE: Final = "quantile"
