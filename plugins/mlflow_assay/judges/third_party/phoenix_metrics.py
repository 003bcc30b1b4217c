"""Phoenix' evaluators as judges: `phoenix/Faithfulness` is `FaithfulnessEvaluator`, and so on.

Straight to the library, not through MLflow's wrapper (`mlflow.genai.scorers.phoenix`): that one looks its five
evaluators up in `phoenix.evals`, where phoenix-evals 3 no longer keeps them, so it cannot make a single one (held by a
test). The model is Phoenix' own `LLM` on OpenAI's client; a fresh one for every verdict, since it learns about the
endpoint as it goes. Phoenix says per evaluator which end is good; three of them are better when lower.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv, trace_fields
from mlflow_assay.contracts import NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.helpers import check_params, named_fields, on_scale
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample, ToolCall

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["PhoenixMetrics"]

_GOOD = NumericValue(low=0.0, high=1.0, threshold=1.0)
_BAD = NumericValue(low=0.0, high=1.0, threshold=0.0, better="lower")
_SHARE = NumericValue(low=0.0, high=1.0, threshold=0.5)
_TOOLS = ("input", "tools_available", "tools_called")
_CUSTOM = "ClassificationEvaluator"

_METRICS = (
    Metric("Completeness", "Did the conversation give the user all they asked for?", ("input", "output"), value=_GOOD),
    Metric("Conciseness", "Is the answer free of needless words?", ("input", "output"), value=_GOOD),
    Metric("Correctness", "Is the answer correct, as far as the model knows?", ("input", "output"), value=_GOOD),
    Metric("DocumentRelevance", "How many of the passages retrieved are relevant to the request?",
           ("input", "retrieved"), "1 per passage", _SHARE),
    Metric("Faithfulness", "Is the answer faithful to what was retrieved?", ("input", "output", "retrieved"),
           value=_GOOD),
    Metric("Hallucination", "Does the answer state what it cannot know?", ("input", "output"), value=_BAD,
           notes="Lower is better. Sees request and answer only; for retrieved context there is Faithfulness."),
    Metric("MatchesRegex", "Does the answer match the given pattern?", ("output",), "0", _GOOD, required=("pattern",)),
    Metric("PiiDetection", "Does the conversation hold personal data?", ("input", "output"), value=_BAD,
           notes="Lower is better."),
    Metric("Refusal", "Did the agent refuse to answer?", ("input", "output"), value=_BAD,
           notes="Lower is better here; Phoenix itself takes no side."),
    Metric("RetrievalRelevance", "Is what was retrieved, taken together, relevant to the request?",
           ("input", "retrieved"), value=_GOOD),
    Metric("ToolInvocation", "Were the tools called with correct arguments and form?", _TOOLS, value=_GOOD),
    Metric("ToolResponseHandling", "Did the agent make the right use of what its tools returned?",
           ("input", "tools_called", "output"), value=_GOOD, notes="All calls of the run are shown together."),
    Metric("ToolSelection", "Were the right tools chosen from those offered?", _TOOLS, value=_GOOD),
    Metric("Toxicity", "Is the answer toxic?", ("output",), value=_BAD, notes="Lower is better."),
    Metric("UserFriction", "Does the user's last message complain of what the agent did before?", ("turns",),
           value=_BAD, scope="session", notes="Lower is better."),
    Metric("exact_match", "Is the answer exactly the reference?", ("output", "expected_output"), "0", _GOOD),
    Metric("session.Completeness", "Did the conversation give the user all they asked for?", ("turns",),
           value=_GOOD, scope="session", notes="Completeness over the turns of a session.", path="Completeness"),
    Metric("session.PiiDetection", "Does the conversation hold personal data?", ("turns",), value=_BAD,
           scope="session", notes="Lower is better. PiiDetection over the turns of a session.", path="PiiDetection"),
    Metric(_CUSTOM, "Which of the given labels does the given prompt make of the run?", (), value=_SHARE,
           required=("prompt_template", "choices"),
           notes="The prompt names what it reads: {input}, {output}, {reference}, {context}. choices: label to 0..1."),
)  # fmt: skip
_PLACES = {"input": "input", "output": "output", "reference": "expected_output", "context": "retrieved"}


class PhoenixMetrics(MetricLibrary):
    """The `contracts.JudgeLibrary` over Phoenix' evaluators."""

    name = "phoenix"
    package = "arize-phoenix-evals"
    module = "phoenix.evals.metrics"
    extra = "phoenix"
    metrics = {m.name: m for m in _METRICS}  # noqa: RUF012 - never changed
    unsupported = {  # noqa: RUF012
        "PrecisionRecallFScore": "it compares two lists of labels, not one run with what was expected of it",
    }

    def exported(self) -> set[str]:
        """Evaluators of `phoenix.evals.metrics`, the one for prompts of one's own, and our session-level forms."""
        from phoenix.evals import metrics

        sessions = {n for n in self.metrics if n.startswith("session.")}
        return {n.removesuffix("Evaluator") for n in metrics.__all__} | sessions | {_CUSTOM}

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What the metric reads; for one made of a prompt, what the prompt names."""
        if metric.name != _CUSTOM:
            return metric.reads
        return named_fields(params["prompt_template"], {f"{{{key}}}": place for key, place in _PLACES.items()})

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        given = dict(params)
        check_params(f"phoenix/{metric.name}", given, metric.required)
        _make(metric, given, None)

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            evaluator = _make(metric, given, client)
            found = [evaluator.evaluate(shown)[0] for shown in _shown(metric, sample)]
            if len(found) == 1:
                return _measured(found[0], value)
            share = sum(float(score.score) for score in found) / len(found)
            told = [f"{n}. {score.label}: {score.explanation or ''}" for n, score in enumerate(found, 1)]
            return Measured(on_scale(share, value), reason="\n".join(told))

        return measured


def _measured(score: Any, value: ValueSpec) -> Measured:
    label = {} if score.label is None else {semconv.RAW_VALUE: score.label}
    number = None if score.score is None else on_scale(score.score, value)
    return Measured(number, reason=score.explanation or None, metadata=label)


def _make(metric: Metric, params: Mapping[str, Any], client: JudgeClient | None) -> Any:
    """A fresh evaluator, for a model that is never asked where there is no client.

    Raises:
        ConfigError: the library refuses the parameters.
    """
    from phoenix.evals import ClassificationEvaluator, metrics

    name = metric.path or metric.name
    try:
        if name == "exact_match":
            return metrics.exact_match
        if not metric.calls_llm:
            return getattr(metrics, name)(**params)
        if name == _CUSTOM:
            return ClassificationEvaluator(name=_CUSTOM, llm=_model(client), **params)
        return getattr(metrics, f"{name}Evaluator")(llm=_model(client), **params)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"Phoenix refuses its evaluator {metric.name!r} with {dict(params)}: {error}") from error


def _model(client: JudgeClient | None) -> Any:
    """Phoenix' own way to name a model; its rate limiter is left idle, the judge client has one."""
    if client is None:
        return _unasked()
    return _llm(
        client.model,
        base_url=client.base,
        api_key=client.api_key,
        sync_client_kwargs={"http_client": client.http()},
        async_client_kwargs={"http_client": client.async_http()},
    )


def _llm(name: str, **options: Any) -> Any:
    from phoenix.evals import LLM

    return LLM(provider="openai", client="openai", model=name, initial_per_second_request_rate=1000.0, **options)


@lru_cache(maxsize=1)
def _unasked() -> Any:
    """For evaluators that are made to see whether they can be; its two clients read all certificates each."""
    return _llm("unasked", base_url="http://127.0.0.1:9", api_key="none")


def _shown(metric: Metric, sample: Sample) -> list[dict[str, Any]]:
    """What the evaluator is shown, under its own names; several where it looks at one passage at a time."""
    name = metric.path or metric.name
    both: dict[str, Any] = {"input": sample.input, "output": sample.output}
    context = "\n\n".join(sample.retrieved)
    if name == "DocumentRelevance":
        return [{"input": sample.input, "document_text": passage} for passage in sample.retrieved]
    if name in ("Completeness", "PiiDetection"):
        return [{"conversation": _transcript(sample)}]
    if name == "UserFriction":
        return [_last_message(sample)]
    if name in ("ToolInvocation", "ToolSelection"):
        offered = json.dumps(list(sample.tools_available), default=str, ensure_ascii=False)
        return [{"input": sample.input, "available_tools": offered, "tool_selection": _calls(sample.tools_called)}]
    if name == "ToolResponseHandling":
        results = [c.error or trace_fields.as_text(c.result) for c in sample.tools_called]
        return [{**both, "tool_call": _calls(sample.tools_called), "tool_result": "\n".join(results)}]
    if name == "Toxicity":
        return [{"text": sample.output}]
    if name == "exact_match":
        return [{"output": sample.output, "expected": sample.expected_output}]
    return [{**both, "context": context, "reference": sample.expected_output or ""}]


def _calls(tools: tuple[ToolCall, ...]) -> str:
    made = [{"name": c.name, "arguments": dict(c.arguments or {})} for c in tools]
    return json.dumps(made, default=str, ensure_ascii=False)


def _transcript(sample: Sample) -> str:
    if not sample.turns:
        return f"user: {sample.input}\nassistant: {sample.output}"
    return "\n".join(f"{turn.role}: {turn.content}" for turn in sample.turns)


def _last_message(sample: Sample) -> dict[str, Any]:
    """The user's last message and what went before it.

    Raises:
        UnscoredError: MISSING_FIELD, when nothing went before.
    """
    last = max((i for i, turn in enumerate(sample.turns) if turn.role == "user"), default=0)
    if last == 0:
        raise UnscoredError(Unscored.MISSING_FIELD, "needs a message of the user that follows an answer (found: none)")
    before = "\n".join(f"{turn.role}: {turn.content}" for turn in sample.turns[:last])
    return {"conversation": before, "user_message": sample.turns[last].content}
