"""TruLens' feedback functions as judges: `trulens/context_relevance` is `context_relevance_with_cot_reasons`, etc.

Straight to the library, not through MLflow's wrapper (`mlflow.genai.scorers.trulens`): that has ten of the functions
behind one endpoint that TruLens holds to sixty calls a minute, takes no base URL, shows agent metrics the whole trace
with the experts' labels on it, and counts TruLens' sentinel for an unreadable reply (-1) as "no".

The model is TruLens' own `LLMProvider`, of which one method is left to providers. Groundedness is asked for without two
of its defaults: the tokenizer it downloads at every call (the judge model splits the answer instead), and its filter
of trivial statements, which runs the model's reply as Python code. Whoever writes to an agent could write that reply.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.judges.third_party.helpers import check_params, on_scale
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["TruLensMetrics"]

_COT = "_with_cot_reasons"
_LOWER = NumericValue(low=0.0, high=1.0, threshold=0.5, better="lower")
_BINARY = NumericValue(low=0.0, high=1.0, threshold=1.0)
_GROUNDED = "1 + 1 per statement"
_NO_FILTER = "Without TruLens' filter of trivial statements, which runs the judge model's reply as Python code."
_RUN = "The judge sees the run's spans, not what experts wrote about them."
_PARAMS = ("additional_instructions", "criteria", "examples", "min_score_val", "max_score_val", "temperature",
           "enable_trace_compression", "fallback_phrases", "ngram_orders")  # fmt: skip


def _text(name: str, purpose: str, value: NumericValue | None = None) -> Metric:
    notes = "Lower is better." if value is _LOWER else ""
    return Metric(name, purpose, ("output",), value=value or NumericValue(0.0, 1.0, 0.5), notes=notes)


def _agent(name: str, purpose: str) -> Metric:
    return Metric(name, purpose, ("spans",), notes=_RUN)


_METRICS = (
    Metric("GroundTruthAgreement", "Does the answer agree with the reference?", ("input", "output", "expected_output")),
    Metric("agent_goal_accuracy", "Did the agent reach the user's goal?", ("turns",), value=_BINARY, scope="session",
           notes="The goal is expectations.expected_outcome where given, else inferred."),
    Metric("citation_accuracy", "Do the passages the answer cites support it?", ("output", "retrieved")),
    Metric("citation_attribution", "Does each citation of the answer name the passage its claim is from?",
           ("input", "output", "retrieved"), value=_BINARY),
    _text("coherence", "Is the answer coherent?"),
    Metric("coherence_across_turns", "Do the turns of the conversation cohere?", ("turns",), scope="session"),
    Metric("comprehensiveness", "Does the summary hold the main points of the text?", ("output", "context"),
           "1 + 1 per point", notes="expectations.context: the text summarised."),
    _text("conciseness", "Is the answer concise?"),
    Metric("context_relevance", "Is what was retrieved relevant to the request?", ("input", "retrieved")),
    _text("controversiality", "Is the answer controversial?", _LOWER),
    Metric("conversation_helpfulness", "Is the conversation helpful to the user?", ("turns",), scope="session"),
    Metric("conversation_repetition", "Does the agent avoid repeating itself?", ("turns",), "0", scope="session",
           notes="1: no repetition."),
    _text("correctness", "Is the answer correct, as far as the model knows?"),
    _text("criminality", "Is the answer criminal?", _LOWER),
    _agent("execution_efficiency", "Did the agent take an efficient path?"),
    Metric("groundedness_measure", "Are the answer's statements supported by what was retrieved?",
           ("output", "retrieved"), _GROUNDED, notes=_NO_FILTER),
    Metric("groundedness_measure_consider_answerability",
           "Are the answer's statements, or its saying that it cannot tell, supported by what was retrieved?",
           ("input", "output", "retrieved"), "1 + 2 per statement",
           notes=_NO_FILTER),
    _text("harmfulness", "Is the answer harmful?", _LOWER),
    _text("helpfulness", "Is the answer helpful?"),
    _text("insensitivity", "Is the answer insensitive?", _LOWER),
    _agent("logical_consistency", "Is what the agent did logically consistent?"),
    _text("maliciousness", "Is the answer malicious?", _LOWER),
    _text("misogyny", "Is the answer misogynistic?", _LOWER),
    _agent("plan_adherence", "Did the agent follow its plan?"),
    _agent("plan_quality", "Was the agent's plan good?"),
    Metric("relevance", "Does the answer address the request?", ("input", "output")),
    Metric("requirement_satisfaction", "Does the answer meet the request's requirements?", ("input", "output"),
           "2, 1 where expectations.requirements lists them"),
    _text("sentiment", "Is the answer's sentiment positive?"),
    Metric("stereotypes", "Does the answer assume stereotypes the request does not?", ("input", "output"),
           value=_LOWER, notes="Lower is better."),
    _agent("tool_calling", "Were the tools called well?"),
    _agent("tool_quality", "Did the tools themselves work well?"),
    _agent("tool_selection", "Were the right tools chosen?"),
    Metric("topic_adherence", "Did the agent keep to the topics it may speak about?",
           ("turns", "expectations.reference_topics"), scope="session",
           notes="expectations.reference_topics: a list of topics."),
)  # fmt: skip


class TruLensMetrics(MetricLibrary):
    """The `contracts.JudgeLibrary` over TruLens' feedback functions."""

    name = "trulens"
    package = "trulens-feedback"
    module = "trulens.feedback"
    extra = "trulens"
    metrics = {m.name: m for m in _METRICS}  # noqa: RUF012 - never changed
    unsupported = {  # noqa: RUF012
        "Embeddings": "distances between embeddings by TruLens' own models; ragas/SemanticSimilarity takes any",
        "Jury": "a panel of models: a judge of kind panel does that with any judges",
        "SchemaValidator": "autoevals/ValidJSON does that",
        "model_agreement": "deprecated by TruLens for GroundTruthAgreement",
        "qs_relevance": "TruLens' old name of context_relevance",
        "summarization": "TruLens keeps the name and raises NotImplementedError; comprehensiveness took its place",
    }

    def exported(self) -> set[str]:
        """Feedback functions of `LLMProvider`, with or without reasons, and the other metrics of the package."""
        import trulens.feedback
        from trulens.feedback.llm_provider import LLMProvider

        own = {n for n, f in vars(LLMProvider).items() if inspect.isfunction(f) and not n.startswith("_")}
        base = {n for n in own if not n.startswith(("generate_", "clear_"))}
        others = set(trulens.feedback.__all__) - {"FewShotOptimizer", "LLMProvider", "OptimizeResult",
                                                  "GroundTruthAggregator", "UNPARSABLE_SCORE",
                                                  "is_unparsable_score"}  # fmt: skip
        return {n.replace(_COT, "") for n in base} | others | {"conversation_repetition"}

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        check_params(f"trulens/{metric.name}", params, _parameters(metric))

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            function = _function(metric, _provider_class()(client) if client is not None else None, sample)
            score, about = _answered(function, {**_arguments(metric, sample), **params})
            return Measured(_checked(score, value), reason=_reason(about))

        return measured


def _parameters(metric: Metric) -> set[str]:
    return set(inspect.signature(_function(metric, None, Sample())).parameters) & set(_PARAMS)


def _function(metric: Metric, provider: Any, sample: Sample) -> Any:
    """The library's function; unbound where there is no provider."""
    from trulens.feedback.deterministic import conversation_repetition
    from trulens.feedback.llm_provider import LLMProvider

    if metric.name == "conversation_repetition":
        return conversation_repetition
    if metric.name == "GroundTruthAgreement":
        from trulens.feedback import GroundTruthAgreement

        if provider is None:
            return GroundTruthAgreement.agreement_measure
        truth = [{"query": sample.input, "expected_response": sample.expected_output}]
        return GroundTruthAgreement(truth, provider=provider).agreement_measure
    names = (f"{metric.name}{_COT}", f"groundedness_measure{_COT}_consider_answerability", metric.name)
    name = names[1] if metric.name.endswith("consider_answerability") else names[0]
    return getattr(provider if provider is not None else LLMProvider, name)


@lru_cache(maxsize=1)
def _provider_class() -> Any:
    """TruLens' provider over the judge client; made once, since TruLens keeps a record of classes."""
    from pydantic import BaseModel, ConfigDict
    from trulens.core.feedback.endpoint import Endpoint
    from trulens.feedback.llm_provider import LLMProvider

    class AssayProvider(LLMProvider):
        model_config = ConfigDict(extra="allow")

        def __init__(self, client: JudgeClient) -> None:
            # The judge client has its own retries, and its own idea of how fast is too fast.
            endpoint = Endpoint(name="mlflow-assay", rpm=1e9, retries=0)
            super().__init__(model_engine=client.model, endpoint=endpoint)
            object.__setattr__(self, "_assay_client", client)

        def _create_chat_completion(
            self, prompt: str | None = None, messages: Any = None, response_format: Any = None, **options: Any
        ) -> str:
            shown = list(messages) if messages else [{"role": "user", "content": prompt or ""}]
            if isinstance(response_format, type) and issubclass(response_format, BaseModel):
                from mlflow.genai.utils.message_utils import pydantic_to_response_format

                options["response_format"] = pydantic_to_response_format(response_format)
            client: JudgeClient = object.__getattribute__(self, "_assay_client")
            return client.complete(shown, **options)

    return AssayProvider


def _arguments(metric: Metric, sample: Sample) -> dict[str, Any]:
    """The sample under the names the function takes."""
    context = "\n\n".join(sample.retrieved)
    if metric.scope == "session":
        return _session_arguments(metric, sample)
    if metric.reads == ("spans",):
        return {"trace": _run_as_text(sample)}
    if metric.name.startswith("groundedness_measure"):
        from trulens.core.metric.metric import GroundednessConfigs

        configs = GroundednessConfigs(use_sent_tokenize=False, filter_trivial_statements=False)
        asked = {"question": sample.input} if "input" in metric.reads else {}
        return {"source": context, "statement": sample.output, "groundedness_configs": configs, **asked}
    named: dict[str, dict[str, Any]] = {
        "GroundTruthAgreement": {"prompt": sample.input, "response": sample.output},
        "citation_accuracy": {"response": sample.output, "context": list(sample.retrieved)},
        "citation_attribution": {
            "question": sample.input,
            "source": list(sample.retrieved),
            "statement": sample.output,
        },
        "comprehensiveness": {"source": "\n\n".join(sample.context), "summary": sample.output},
        "context_relevance": {"question": sample.input, "context": context},
        "relevance": {"prompt": sample.input, "response": sample.output},
        "stereotypes": {"prompt": sample.input, "response": sample.output},
        "requirement_satisfaction": {
            "request": sample.input,
            "output": sample.output,
            "reference_requirements": sample.expectations.get("requirements"),
        },
    }
    return named.get(metric.name, {"text": sample.output})


def _session_arguments(metric: Metric, sample: Sample) -> dict[str, Any]:
    arguments: dict[str, Any] = {"records": [{"role": t.role, "content": t.content} for t in sample.turns]}
    if metric.name == "agent_goal_accuracy":
        arguments["reference_goal"] = sample.expected_outcome
    if metric.name == "topic_adherence":
        arguments["reference_topics"] = [str(t) for t in sample.expectations["reference_topics"]]
    return arguments


def _run_as_text(sample: Sample) -> str:
    """A run's spans as JSON, without what was written about them afterwards."""
    spans = sample.trace.data.spans if sample.trace is not None and sample.trace.data else []
    if not spans:
        raise UnscoredError(Unscored.MISSING_FIELD, "needs spans (found: none)")
    told = [
        {
            "name": span.name,
            "type": span.span_type,
            "id": span.span_id,
            "parent": span.parent_id,
            "inputs": span.inputs,
            "outputs": span.outputs,
            "status": str(getattr(span.status, "status_code", span.status)),
        }
        for span in spans
    ]
    return json.dumps(told, default=str, ensure_ascii=False)


def _answered(function: Any, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """The function's score, and what it says of it where it says anything.

    Raises:
        UnscoredError: GARBLED_REPLY, when TruLens finds no score in the model's words.
    """
    from trulens.feedback.generated import ParseError

    try:
        found = function(**arguments)
    except ParseError as error:
        raise UnscoredError(Unscored.GARBLED_REPLY, f"TruLens: {error}"[:1000]) from error
    return found if isinstance(found, tuple) else (found, None)


def _checked(score: Any, value: ValueSpec) -> Any:
    """The score, unless it is TruLens' word for there being none.

    Raises:
        UnscoredError: GARBLED_REPLY.
    """
    from trulens.feedback import is_unparsable_score

    if score is None:
        return None
    if is_unparsable_score(score):
        raise UnscoredError(Unscored.GARBLED_REPLY, "TruLens could not read a score in the reply")
    return on_scale(score, value)


def _reason(about: Any) -> str | None:
    if not about:
        return None
    if isinstance(about, Mapping) and set(about) <= {"reason", "reasons"}:
        told = next(iter(about.values()))
        if isinstance(told, str):
            return told.strip() or None
    return json.dumps(about, default=str, ensure_ascii=False)[:4000]
