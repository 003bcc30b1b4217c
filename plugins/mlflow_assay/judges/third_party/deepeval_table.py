"""DeepEval's metrics as of 4.3: what each asks, reads and costs. Data only; `deepeval_judges` is the adapter.

In DeepEval 4 every score is better when higher, also those of Bias, Toxicity and Hallucination, which were the other
way round in version 3; tests hold it for each metric. The numbers of calls are measured by the tests as well.
"""

from __future__ import annotations

from mlflow_assay.contracts import BooleanValue, NumericValue
from mlflow_assay.judges.third_party.metric import Metric

__all__ = ["METRICS", "UNSUPPORTED"]

_ALL = NumericValue(low=0.0, high=1.0, threshold=1.0)
_SAID = ("input", "output")
_RAG = ("input", "output", "retrieved")
_TRACE = ("input", "output", "spans")
_TALK = ("turns",)
_RULE = "Higher is better (0 means every verdict was against it)."
_SEEN = "The judge model must take images."
_AROUND = "Parameter: max_context_size, so many characters of the text next to an image."


def _session(
    name: str,
    purpose: str,
    calls: str,
    *more: str,
    required: tuple[str, ...] = (),
    notes: str = "",
) -> Metric:
    return Metric(name, purpose, (*_TALK, *more), calls, scope="session", required=required, notes=notes)


_LISTED = [
    # --- by rule, no model ---
    Metric("ExactMatchMetric", "Is the answer exactly the expected one?", (*_SAID, "expected_output"), "0", _ALL),
    Metric(
        "PatternMatchMetric",
        "Does the whole answer match a regular expression?",
        _SAID,
        "0",
        _ALL,
        required=("pattern",),
        notes="Further parameter: ignore_case.",
    ),
    Metric(
        "ToolPermissionMetric",
        "Were only permitted tools called?",
        ("tools_called",),
        "0",
        _ALL,
        notes="Parameters: allowed_tools or denied_tools, lists of names; one is needed.",
    ),
    Metric(
        "AgentLoopDetectionMetric",
        "Is the run free of loops: repeated calls, stagnant replies, cycles?",
        _TRACE,
        "0",
        notes="Parameters: repetition_threshold, similarity_threshold, check_tool_repetition, "
        "check_reasoning_stagnation, check_call_graph_cycles.",
    ),
    Metric(
        "ToolCorrectnessMetric",
        "Were the expected tools called?",
        ("input", "tools_called", "expected_tools"),
        "0, 1 with available_tools",
        notes="By names; parameters: evaluation_params (input_parameters, output), should_exact_match, "
        "should_consider_ordering; available_tools (a list, or `recorded`) has a model judge the choice as well.",
    ),
    Metric(
        "JsonCorrectnessMetric",
        "Is the answer JSON of the given schema?",
        _SAID,
        "0, 1 for the reason of a wrong one with include_reason",
        required=("expected_schema",),
        notes="expected_schema is a JSON Schema. DeepEval has a model word the reason; here only where asked to.",
    ),
    # --- criteria of one's own ---
    Metric(
        "GEval",
        "Does the answer meet the given criteria?",
        _SAID,
        "2, 1 with evaluation_steps",
        notes="Parameters: criteria or evaluation_steps, evaluation_params (default input and actual_output; an empty "
        "list judges the whole trace), rubric, name. Without token probabilities, which only some providers give.",
    ),
    Metric(
        "DAGMetric",
        "What does the given decision tree come to?",
        (),
        "1 + 1 per node asked",
        required=("dag",),
        notes="dag: DeepEval's own JSON form of a graph, as YAML.",
    ),
    Metric(
        "ArenaGEval",
        "Is the answer better than the baseline's by the given criteria?",
        ("input", "output", "baseline"),
        "3, 2 with evaluation_steps",
        BooleanValue(),
        notes="Pairwise, against expectations.baseline_response. DeepEval hides names and shuffles the order. "
        "Parameters as of GEval.",
    ),
    Metric(
        "PromptAlignmentMetric",
        "Does the answer follow the instructions of the prompt?",
        _SAID,
        "2",
        required=("prompt_instructions",),
        notes="prompt_instructions: a list.",
    ),
    # --- retrieval ---
    Metric("AnswerRelevancyMetric", "Do the answer's statements address the request?", _SAID, "3"),
    Metric("FaithfulnessMetric", "Are the answer's claims supported by what was retrieved?", _RAG, "4"),
    Metric(
        "ContextualRelevancyMetric",
        "Is what was retrieved relevant to the request?",
        ("input", "retrieved"),
        "1 + 1 per passage",
    ),
    Metric(
        "ContextualPrecisionMetric",
        "Are relevant passages ranked above irrelevant ones?",
        ("input", "retrieved", "expected_output"),
        "2",
    ),
    Metric(
        "ContextualRecallMetric",
        "Does what was retrieved support the expected answer?",
        ("input", "retrieved", "expected_output"),
        "2",
    ),
    Metric(
        "HallucinationMetric",
        "Does the answer agree with the given context?",
        (*_SAID, "context"),
        "2",
        notes=f"Against expectations.context, not what was retrieved. {_RULE}",
    ),
    Metric("SummarizationMetric", "Is the summary faithful to the text and does it cover it?", _SAID, "7"),
    # --- content and safety ---
    Metric("BiasMetric", "Is the answer free of biased opinions?", _SAID, "3", notes=_RULE),
    Metric("ToxicityMetric", "Is the answer free of toxic opinions?", _SAID, "3", notes=_RULE),
    Metric("PIILeakageMetric", "Does the answer leak no personal data?", _SAID, "3", notes=_RULE),
    Metric(
        "NonAdviceMetric",
        "Does the answer keep from advice of the given kinds?",
        _SAID,
        "3",
        required=("advice_types",),
        notes=f"advice_types: a list, such as [financial, legal]. {_RULE}",
    ),
    Metric(
        "MisuseMetric",
        "Does the answer keep to the given domain?",
        _SAID,
        "3",
        required=("domain",),
        notes=f"domain: a text. {_RULE}",
    ),
    Metric(
        "RoleViolationMetric",
        "Does the answer keep to the assistant's role?",
        _SAID,
        "3",
        required=("role",),
        notes="role: a text. 0 or 1: one violation fails.",
    ),
    # --- agents ---
    Metric("TaskCompletionMetric", "Was the task accomplished?", _TRACE, "2", notes="Parameter: task."),
    Metric(
        "ArgumentCorrectnessMetric",
        "Were the tools called with arguments that fit the request?",
        ("input", "tools_called"),
        "2",
    ),
    Metric("StepEfficiencyMetric", "Was the task done without needless steps?", _TRACE, "2"),
    Metric(
        "PlanQualityMetric",
        "Is the agent's plan complete, logical and efficient?",
        _TRACE,
        "3",
        notes="A trace that tells no plan gets 1.",
    ),
    Metric(
        "PlanAdherenceMetric",
        "Did the agent keep to its own plan?",
        _TRACE,
        "3",
        notes="A trace that tells no plan gets 1.",
    ),
    Metric(
        "MCPUseMetric",
        "Were the right MCP tools called with the right arguments?",
        (*_SAID, "tools_called", "tools_available"),
        "2",
        notes="All tools offered to the model are taken as one MCP server's. Parameter: server_name.",
    ),
    # --- images ---
    Metric(
        "TextToImageMetric",
        "Does the one image of the answer show what was asked for, and is it well made?",
        ("input", "output_images"),
        "2",
        notes=_SEEN,
    ),
    Metric(
        "ImageEditingMetric",
        "Was the one image of the request changed as asked, into the one image of the answer?",
        ("input", "input_images", "output_images"),
        "2",
        notes=_SEEN,
    ),
    *(
        Metric(name, purpose, ("output", "output_images"), "1 per image", notes=f"{_SEEN} {_AROUND}")
        for name, purpose in (
            ("ImageCoherenceMetric", "Do the answer's images go with the text around them?"),
            ("ImageHelpfulnessMetric", "Do the answer's images help to understand the text around them?"),
            ("ImageReferenceMetric", "Does the text around the answer's images speak of them rightly?"),
        )
    ),
    # --- conversations ---
    _session(
        "ConversationalGEval",
        "Does the conversation meet the given criteria?",
        "2, 1 with evaluation_steps",
        notes="Parameters as of GEval; evaluation_params: content, role, scenario, expected_outcome, context, "
        "retrieval_context, tools_called, chatbot_role.",
    ),
    _session(
        "ConversationalDAGMetric",
        "What does the given decision tree come to for the conversation?",
        "1 + 1 per node asked",
        required=("dag",),
        notes="dag: DeepEval's own JSON form of a graph, as YAML.",
    ),
    _session("TurnRelevancyMetric", "Does each reply address what was said before?", "1 + 1 per exchange"),
    _session("KnowledgeRetentionMetric", "Does the assistant keep what the user told it?", "1 + 2 per exchange"),
    _session("ConversationCompletenessMetric", "Were the user's intentions satisfied?", "2 + 1 per intention"),
    _session(
        "RoleAdherenceMetric",
        "Does the assistant keep to its role?",
        "2",
        "chatbot_role",
        notes='The role: expectations.chatbot_role, or `with: {fields: {chatbot_role: "text:…"}}`.',
    ),
    _session("GoalAccuracyMetric", "Were the user's goals reached, by sensible plans?", "1 + 2 per exchange"),
    _session(
        "ToolUseMetric",
        "Were the right tools called with the right arguments, over the conversation?",
        "2 + 2 per exchange",
        "tools_called",
        "tools_available",
        notes="available_tools: a list of name and description; without it, the tools recorded as offered.",
    ),
    _session(
        "TopicAdherenceMetric",
        "Does the assistant answer on the given topics and refuse others?",
        "1 + 2 per exchange",
        required=("relevant_topics",),
        notes="relevant_topics: a list.",
    ),
    _session(
        "MCPTaskCompletionMetric",
        "Were the user's tasks accomplished with the MCP tools?",
        "1 + 1 per exchange",
        "tools_called",
        notes="All tools called are taken as MCP tools.",
    ),
    _session(
        "MultiTurnMCPUseMetric",
        "Were the right MCP tools called with the right arguments, over the conversation?",
        "1 + 2 per exchange",
        "tools_called",
        "tools_available",
        notes="All tools offered to the model are taken as one MCP server's. Parameter: server_name.",
    ),
    _session(
        "TurnFaithfulnessMetric",
        "Are the replies' claims supported by what was retrieved for them?",
        "1 + 4 per exchange",
        "retrieved",
    ),
    _session(
        "TurnContextualRelevancyMetric",
        "Is what was retrieved relevant to what was said?",
        "1 + 1 per exchange + 1 per passage in its window",
        "retrieved",
    ),
    _session(
        "TurnContextualPrecisionMetric",
        "Are relevant passages ranked above irrelevant ones, turn by turn?",
        "1 + 2 per exchange",
        "retrieved",
        "expected_outcome",
    ),
    _session(
        "TurnContextualRecallMetric",
        "Does what was retrieved support the expected outcome, turn by turn?",
        "1 + 2 per exchange",
        "retrieved",
        "expected_outcome",
    ),
]

METRICS = {metric.name: metric for metric in _LISTED}

_JEV = "asks TypeSafe AI's Jev for probabilities, which no chat model gives"
_VOICE = "judges recorded speech, which is not read from traces here"

UNSUPPORTED = {
    "JevEval": _JEV,
    "ConversationalJevEval": _JEV,
    "AudioGlitchMetric": _VOICE,
    "TranscriptionAccuracyMetric": "compares what was said with a voice connector's transcript of it",
    "AgentResponsivenessMetric": _VOICE,
    "AudioIntegrityMetric": _VOICE,
    "SpeechIntelligibilityMetric": _VOICE,
    "TurnTakingNaturalnessMetric": _VOICE,
    "VoiceConsistencyMetric": _VOICE,
    "VoiceNaturalnessMetric": _VOICE,
    "VoiceReliabilityMetric": _VOICE,
}
