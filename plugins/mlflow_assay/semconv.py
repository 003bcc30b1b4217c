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
