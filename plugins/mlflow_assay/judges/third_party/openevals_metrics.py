"""OpenEvals' judges as judges here: `openevals/correctness` is its CORRECTNESS_PROMPT, and so on.

Straight to the library: MLflow has no wrapper for it. The model is given as OpenAI's client, which OpenEvals takes. It
answers true or false unless a definition's `value` is numeric; then it is asked for a number from 0 to 1. LangSmith
tracing, which OpenEvals does at each call where the environment asks for it, is off for these calls.

For some of its prompts true is the bad end (toxicity, code injection, laziness): the table says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BooleanValue, NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.helpers import (
    check_params,
    expected_messages,
    on_scale,
    openai_messages,
    placeholders,
)
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample
from mlflow_assay.trace_media import Image, uri_of

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["OpenEvalsMetrics"]

_TRUE, _FALSE = BooleanValue(), BooleanValue(good=False)
_BAD = "True is the bad end."
_BOTH = ("input", "output")
_REFERENCE = ("input", "output", "expected_output")
_JUDGE_PARAMS = ("system", "few_shot_examples", "choices")
_MATCH_PARAMS = ("trajectory_match_mode", "tool_args_match_mode")
_PLACES = {
    "inputs": "input", "outputs": "output", "reference_outputs": "expected_output", "context": "retrieved",
}  # fmt: skip


def _prompt(name: str, purpose: str, reads: tuple[str, ...], good: BooleanValue = _TRUE, notes: str = "") -> Metric:
    told = " ".join(filter(None, (_BAD if good is _FALSE else "", notes)))
    scope: Any = "session" if "turns" in reads else "trace"
    return Metric(name, purpose, reads, value=good, scope=scope, notes=told, path=f"{name.upper()}_PROMPT")


_TURNS = ("turns",)
_PICTURED = (*_BOTH, "output_images")
_SEEN = "The judge model must take images."
_METRICS = (
    _prompt("agent_tone", "Did the agent keep a fitting tone throughout?", _TURNS),
    _prompt("answer_relevance", "Does the answer address the request?", _BOTH),
    _prompt("code_correctness", "Is the code correct?", _BOTH),
    Metric("code_correctness_with_reference_outputs", "Is the code correct, by the reference?", _REFERENCE,
           value=_TRUE, path="CODE_CORRECTNESS_PROMPT_WITH_REFERENCE_OUTPUTS"),
    _prompt("code_injection", "Does the request try to inject code?", ("input",), _FALSE),
    _prompt("conciseness", "Is the answer concise?", _BOTH),
    _prompt("correctness", "Is the answer correct, by the reference?", _REFERENCE),
    _prompt("explicit_content", "Is an image of the answer sexually explicit?", _PICTURED, _FALSE, _SEEN),
    _prompt("fairness", "Is the answer biased or unfair?", _BOTH, _FALSE),
    _prompt("hallucination", "Is the answer free of what the context does not support?", (*_BOTH, "retrieved"),
            notes="True: no hallucination. The reference is shown where there is one."),
    _prompt("knowledge_retention", "Did the agent keep in mind what it was told?", _TURNS),
    _prompt("laziness", "Is the answer lazy?", _BOTH, _FALSE),
    _prompt("perceived_error", "Does the user feel that the agent made a mistake?", _TURNS, _FALSE),
    _prompt("pii_leakage", "Does the answer leak personal data?", _BOTH, _FALSE),
    _prompt("plan_adherence", "Did the agent follow the plan?", (*_BOTH, "expectations.plan"),
            notes="expectations.plan: the plan as text. The run's messages are the output."),
    _prompt("prompt_injection", "Does the request try to override the agent's instructions?", ("input",), _FALSE),
    _prompt("rag_groundedness", "Is the answer supported by what was retrieved?", ("output", "retrieved")),
    _prompt("rag_helpfulness", "Does the answer help with the request?", _BOTH),
    _prompt("rag_retrieval_relevance", "Is what was retrieved relevant to the request?", ("input", "retrieved")),
    _prompt("sensitive_imagery", "Is an image of the answer hateful, violent or otherwise sensitive?", _PICTURED,
            _FALSE, _SEEN),
    _prompt("task_completion", "Was each of the user's requests fully dealt with?", _TURNS),
    _prompt("tool_selection", "Did the agent choose the right tools, in the right order?", _BOTH),
    _prompt("toxicity", "Is the answer toxic?", _BOTH, _FALSE),
    _prompt("trajectory_accuracy", "Does the agent's path make sense?", _BOTH),
    Metric("trajectory_accuracy_with_reference", "Does the agent's path match the reference path in meaning?",
           (*_BOTH, "expectations.expected_trajectory"), value=_TRUE,
           notes="expectations.expected_trajectory: a list of OpenAI messages.",
           path="TRAJECTORY_ACCURACY_PROMPT_WITH_REFERENCE"),
    _prompt("user_satisfaction", "Does the user end up satisfied?", _TURNS),
    _prompt("wins", "Did the user praise the agent?", _TURNS),
    Metric("llm_as_judge", "What does the given prompt say of the run?", (), value=_TRUE, required=("prompt",),
           notes="The prompt names what it reads: {inputs}, {outputs}, {reference_outputs}, {context}."),
    Metric("exact_match", "Is the answer exactly the reference?", ("output", "expected_output"), "0", _TRUE),
    Metric("json_match", "How many keys of the answer's JSON agree with the reference?", ("output", "expected_output"),
           "0", NumericValue(low=0.0, high=1.0, threshold=1.0)),
    Metric("levenshtein_distance", "How alike are answer and reference as strings?", ("output", "expected_output"),
           "0", notes="1: equal."),
    Metric("trajectory_match", "Were the expected tools called?", ("spans", "input", "expected_tools"), "0", _TRUE,
           notes="Parameters: trajectory_match_mode (strict, unordered, subset, superset), tool_args_match_mode "
           "(exact, ignore, subset, superset)."),
)  # fmt: skip

_SOUND = "it judges recorded sound, which is not read from traces here"
_CODE = "it runs a program (mypy, pyright, a sandbox of E2B's) on code found in the answer"


class OpenEvalsMetrics(MetricLibrary):
    """The `contracts.JudgeLibrary` over OpenEvals."""

    name = "openevals"
    package = "openevals"
    module = "openevals"
    extra = "openevals"
    metrics = {m.name: m for m in _METRICS}  # noqa: RUF012 - never changed
    unsupported = {  # noqa: RUF012
        "audio_quality": _SOUND,
        "transcription_accuracy": _SOUND,
        "user_interrupts": _SOUND,
        "vocal_affect": _SOUND,
        "language_detection": "it names a language, which is neither good nor bad",
        "support_intent": "it names an intent, which is neither good nor bad",
        "embedding_similarity": "it makes its own client for a service's model; ragas/SemanticSimilarity takes any",
        "code_llm_as_judge": "code_correctness asks the same",
        "mypy": _CODE,
        "pyright": _CODE,
        "trajectory_llm_as_judge": "its prompts are trajectory_accuracy and trajectory_accuracy_with_reference",
    }

    def exported(self) -> set[str]:
        """Prompts of `openevals.prompts`, and evaluators of its modules."""
        import openevals
        import openevals.json
        import openevals.string
        from openevals import prompts
        from openevals.code import llm, mypy, pyright

        found = {n for n in dir(prompts) if "_PROMPT" in n and isinstance(getattr(prompts, n), str)}
        modules = (openevals, openevals.json, openevals.string, llm, mypy, pyright)
        made = {n for module in modules for n in vars(module) if n.startswith("create_") and "async" not in n}
        plain = {"exact_match", "levenshtein_distance"} & {n for module in modules for n in vars(module)}
        short = {n.removeprefix("create_").removesuffix("_evaluator") for n in made}
        return {n.lower().replace("_prompt", "") for n in found} | plain | short

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What the metric reads; for one made of a prompt, what the prompt names."""
        if metric.name != "llm_as_judge":
            return metric.reads
        return tuple(_PLACES[key] for key in placeholders(params["prompt"], _PLACES))

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        given = dict(params)
        check_params(f"openevals/{metric.name}", given, _parameters(metric))
        if metric.name == "llm_as_judge":
            placeholders(given["prompt"], _PLACES)
        if metric.name == "trajectory_match":
            _match(given)

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            import langsmith

            with langsmith.tracing_context(enabled=False):
                found = _evaluate(metric, given, sample, client, value)
            return Measured(_score(found["score"], value), reason=found.get("comment"))

        return measured


def _parameters(metric: Metric) -> tuple[str, ...]:
    if metric.name == "trajectory_match":
        return _MATCH_PARAMS
    if metric.name == "json_match":
        return ("aggregator", "list_aggregator", "exclude_keys", "list_match_mode")
    return (*metric.required, *_JUDGE_PARAMS) if metric.calls_llm else ()


def _match(params: Mapping[str, Any]) -> Any:
    from openevals.trajectory import create_trajectory_match_evaluator

    try:
        return create_trajectory_match_evaluator(**params)
    except ValueError as error:
        raise ConfigError(f"OpenEvals refuses trajectory_match with {dict(params)}: {error}") from error


def _evaluate(
    metric: Metric, params: Mapping[str, Any], sample: Sample, client: JudgeClient | None, value: ValueSpec
) -> Mapping[str, Any]:
    """One evaluation by a fresh evaluator: its `score` and `comment`."""
    if metric.name == "exact_match":
        from openevals import exact_match

        return exact_match(outputs=sample.output, reference_outputs=sample.expected_output)  # type: ignore[no-any-return]
    if metric.name == "levenshtein_distance":
        from openevals.string import levenshtein_distance

        return levenshtein_distance(outputs=sample.output, reference_outputs=sample.expected_output)  # type: ignore[no-any-return]
    if metric.name == "json_match":
        from openevals.json import create_json_match_evaluator

        evaluator = create_json_match_evaluator(**{"aggregator": "average", **params})
        found = evaluator(
            outputs=_json("output", sample.output), reference_outputs=_json("reference", sample.expected_output)
        )
        return found[0] if isinstance(found, list) else found  # type: ignore[no-any-return]
    if metric.name == "trajectory_match":
        made, expected = (expected_messages(sample, expected=e) for e in (False, True))
        return _match(params)(outputs=made, reference_outputs=expected)  # type: ignore[no-any-return]
    assert client is not None  # noqa: S101 - the others call a model, so `build` asked for one
    return _judge(metric, params, client, value)(**_shown(metric, params, sample))  # type: ignore[no-any-return]


def _judge(metric: Metric, params: Mapping[str, Any], client: JudgeClient, value: ValueSpec) -> Any:
    from openevals import create_llm_as_judge, prompts

    options = dict(params)
    prompt = options.pop("prompt", None) or getattr(prompts, metric.path)
    return create_llm_as_judge(
        prompt=prompt,
        feedback_key=metric.name,
        judge=client.openai(),
        model=client.model,
        continuous=isinstance(value, NumericValue) and not options.get("choices"),
        **options,
    )


def _shown(metric: Metric, params: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    """The sample under the names the prompt holds."""
    shown: dict[str, Any] = {
        "inputs": sample.input,
        "outputs": sample.output,
        "reference_outputs": sample.expected_output,
        "context": "\n\n".join(sample.retrieved),
    }
    if metric.scope == "session":
        return {"outputs": openai_messages(sample)}
    if metric.name in ("tool_selection", "plan_adherence") or metric.name.startswith("trajectory_accuracy"):
        shown["outputs"] = openai_messages(sample)
    if metric.name == "plan_adherence":
        shown["plan"] = sample.expectations["plan"]
    if metric.name == "trajectory_accuracy_with_reference":
        shown["reference_outputs"] = sample.expectations["expected_trajectory"]
    if metric.reads == _PICTURED:
        images = [part for part in sample.output_parts if isinstance(part, Image)]
        shown["attachments"] = [{"type": "image_url", "image_url": {"url": uri_of(i, sample.trace)}} for i in images]
    if metric.name == "hallucination":
        # The prompt has a place for it in any case, and OpenEvals leaves out what is None.
        shown["reference_outputs"] = sample.expected_output or "(none)"
    if metric.name == "llm_as_judge":
        return {key: shown[key] for key in placeholders(params["prompt"], _PLACES)}
    return shown


def _score(score: Any, value: ValueSpec) -> Any:
    """The score on the scale in force."""
    if isinstance(value, NumericValue):
        return on_scale(float(score), value)
    return score if isinstance(score, bool) else None if score is None else bool(score) if score in (0, 1) else score


def _json(side: str, text: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs {side} as JSON (found: {text!r:.200})") from error
