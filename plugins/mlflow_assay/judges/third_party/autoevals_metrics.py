"""Autoevals' scorers as judges: `autoevals/Factuality` and so on.

Straight to the library: MLflow has no wrapper for it. Its client object is given so that all calls go to chat
completions (it would send GPT-5 models to OpenAI's Responses API, which most endpoints do not have), a 429 is final
(it would try a hundred times more, after the judge client's own retries), and embeddings, which it keeps for the
process by the model's name, go by the embeddings setting.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.embeddings import Embeddings, embeddings_of
from mlflow_assay.judges.third_party.helpers import check_params, named_fields, on_scale
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["AutoevalsMetrics"]

_BINARY = NumericValue(low=0.0, high=1.0, threshold=1.0)
_EMBED = ("embeddings",)
_REFERENCE = ("output", "expected_output")
_OURS = {"self", "client", "model", "api_key", "base_url", "engine", "embedding_model", "pairwise_scorer", "kwargs",
         "name", "extra_render_args", "answer_similarity", "string_scorer", "number_scorer", "use_responses_api",
         "args"}  # fmt: skip
_TEMPLATED = {"use_cot", "temperature", "max_tokens"}
_BASES = ("Scorer", "ScorerWithPartial", "OpenAIScorer", "OpenAILLMScorer", "OpenAILLMClassifier", "SpecFileClassifier")

_METRICS = (
    Metric("AnswerCorrectness", "Is the answer factually and semantically the same as the reference?",
           ("input", *_REFERENCE), "1", embeddings=True, required=_EMBED),
    Metric("AnswerRelevancy", "Does the answer address the question?", ("input", "output", "retrieved"), "3",
           embeddings=True, required=_EMBED, notes="As many calls as `strictness`."),
    Metric("AnswerSimilarity", "Do answer and reference mean the same, by their embeddings?", _REFERENCE, "0",
           embeddings=True, required=_EMBED),
    Metric("Battle", "Is the answer better than the other answer to the same instructions?",
           ("input", "output", "baseline"), value=_BINARY, notes="expectations.baseline_response: the other answer."),
    Metric("ClosedQA", "Does the answer meet the given criterion?", ("input", "output"), value=_BINARY,
           required=("criteria",)),
    Metric("ContextEntityRecall", "Are the reference's entities in what was retrieved?",
           ("retrieved", "expected_output"), "2", embeddings=True, required=_EMBED),
    Metric("ContextPrecision", "Was what was retrieved useful for the reference answer?",
           ("input", "retrieved", "expected_output"), value=_BINARY),
    Metric("ContextRecall", "Does what was retrieved cover the reference answer?",
           ("input", "retrieved", "expected_output")),
    Metric("ContextRelevancy", "How much of what was retrieved is relevant to the question?", ("input", "retrieved")),
    Metric("EmbeddingSimilarity", "Do answer and reference mean the same, by their embeddings?", _REFERENCE, "0",
           embeddings=True, required=_EMBED),
    Metric("ExactMatch", "Is the answer exactly the reference?", _REFERENCE, "0", _BINARY),
    Metric("Factuality", "Do the facts of the answer agree with the reference?", ("input", *_REFERENCE),
           notes="1 the same facts, 0.6 more, 0.4 fewer, 0 contradicting ones."),
    Metric("Faithfulness", "Are the answer's claims supported by what was retrieved?",
           ("input", "output", "retrieved"), "2"),
    Metric("Humor", "Is the answer funny?", ("output",), notes="0.5: the model is unsure."),
    Metric("JSONDiff", "How alike are answer and reference as JSON?", _REFERENCE, "0"),
    Metric("LLMClassifier", "Which of the given choices does the given prompt make of the run?", (), "1",
           required=("prompt_template", "choice_scores"),
           notes="The prompt names what it reads: {{input}}, {{output}}, {{expected}}. choice_scores: choice to 0..1."),
    Metric("Levenshtein", "How alike are answer and reference as strings?", _REFERENCE, "0"),
    Metric("LevenshteinScorer", "How alike are answer and reference as strings?", _REFERENCE, "0",
           notes="Another name of Levenshtein."),
    Metric("ListContains", "How many items of the reference list are in the answer's list?", _REFERENCE, "0",
           notes="Both as JSON lists of strings."),
    Metric("NumericDiff", "How near is the answer to the reference as a number?", _REFERENCE, "0"),
    Metric("Possible", "Does the answer offer a solution, rather than call the task impossible?", ("input", "output"),
           value=_BINARY),
    Metric("Security", "Is the answer free of malice?", ("output",), notes="0.5: the model is unsure."),
    Metric("Sql", "Do the two SQL queries give the same answer to the question?", ("input", *_REFERENCE),
           value=_BINARY),
    Metric("Summary", "Is the summary better than the reference summary?", ("input", *_REFERENCE), value=_BINARY),
    Metric("Translation", "Is the translation as good as the reference translation?", ("input", *_REFERENCE),
           value=_BINARY, required=("language",)),
    Metric("ValidJSON", "Is the answer valid JSON (of the given schema)?", ("output",), "0", _BINARY),
)  # fmt: skip


class AutoevalsMetrics(MetricLibrary):
    """The `contracts.JudgeLibrary` over Autoevals."""

    name = "autoevals"
    package = "autoevals"
    module = "autoevals"
    extra = "autoevals"
    metrics = {m.name: m for m in _METRICS}  # noqa: RUF012 - never changed
    unsupported = {  # noqa: RUF012
        "Moderation": "it asks OpenAI's moderation service, which is no judge model",
    }

    def exported(self) -> set[str]:
        """Scorer classes of the package, base classes left out."""
        import autoevals

        found = {n for n, c in vars(autoevals).items() if inspect.isclass(c) and issubclass(c, autoevals.Scorer)}
        return found - set(_BASES)

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What the metric reads; for one made of a prompt, what the prompt names."""
        if metric.name != "LLMClassifier":
            return metric.reads
        places = {"input": "input", "output": "output", "expected": "expected_output"}
        return named_fields(params["prompt_template"], {f"{{{{{key}}}}}": place for key, place in places.items()})

    def depends_on(self, metric: Metric, params: Mapping[str, Any]) -> str:
        """The embedding model behind a folder's name."""
        return embeddings_of(params["embeddings"]).identity if metric.embeddings else ""

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        import autoevals

        given = dict(params)
        setting = given.pop("embeddings", None) if metric.embeddings else None
        embeddings = embeddings_of(setting) if metric.embeddings else None
        cls = getattr(autoevals, metric.name)
        asked = {k: given.pop(k) for k in metric.required if k in ("criteria", "language") and k in given}
        check_params(f"autoevals/{metric.name}", {**given, **asked}, {*_parameters(cls), *asked})
        identity = json.dumps(setting, sort_keys=True, default=str)
        _make(metric, cls, given, _client(None, embeddings), identity)

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            made = _make(metric, cls, given, _client(client, embeddings), identity, client.model if client else None)
            found = made.eval(**_values(metric, sample), **asked)
            score = None if found.score is None else on_scale(found.score, value)
            return Measured(score, reason=_reason(found.metadata or {}))

        return measured


def _parameters(cls: Any) -> set[str]:
    accepted = inspect.signature(cls.__init__).parameters
    names = {n for n in accepted if n not in _OURS}
    if "choice_scores" in names and cls.__name__ != "LLMClassifier":
        return _TEMPLATED  # the classes made of a template take these only
    return names


def _make(
    metric: Metric, cls: Any, params: Mapping[str, Any], client: Any, embeddings: str, model: str | None = None
) -> Any:
    """A fresh scorer.

    Raises:
        ConfigError: the library refuses the parameters.
    """
    accepted = inspect.signature(cls.__init__).parameters
    arguments: dict[str, Any] = dict(params)
    if "client" in accepted:
        arguments["client"] = client
    if metric.calls_llm:
        arguments["model"] = model or "unasked"
    elif "model" in accepted and metric.embeddings:
        arguments["model"] = embeddings
    if "embedding_model" in accepted:
        arguments["embedding_model"] = embeddings
    if metric.name == "LLMClassifier":
        arguments["name"] = metric.name
    try:
        made = cls(**arguments)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"Autoevals refuses its scorer {metric.name!r} with {dict(params)}: {error}") from error
    if metric.name == "ContextEntityRecall":
        # Its default pairwise scorer takes no embedding model's name; the library's cache goes by that name.
        from autoevals import EmbeddingSimilarity

        made.contains_scorer.pairwise_scorer = EmbeddingSimilarity(client=client, model=embeddings)
    return made


class _NeverError(Exception):
    """Stands for a rate-limit error that does not come."""


@lru_cache(maxsize=1)
def _unasked() -> Any:
    """For scorers that are made to see whether they can be; each client of OpenAI's reads all certificates."""
    import openai

    return openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9")


def _client(client: JudgeClient | None, embeddings: Embeddings | None) -> Any:
    """Autoevals' own client object over the judge client and the embeddings."""
    from autoevals.oai import LLMClient

    official = client.openai() if client is not None else _unasked()
    made = LLMClient(openai=official)

    def complete(**request: Any) -> Any:
        return official.chat.completions.create(**{k: v for k, v in request.items() if k != "use_responses_api"})

    def embed(**request: Any) -> Any:
        assert embeddings is not None  # noqa: S101 - metrics that embed have them
        return {"data": [{"embedding": vector} for vector in embeddings.embed([str(request["input"])])]}

    made.complete, made.embed, made.RateLimitError = complete, embed, _NeverError
    return made


def _values(metric: Metric, sample: Sample) -> dict[str, Any]:
    """The sample under the names the scorers take."""
    values: dict[str, Any] = {"output": sample.output, "expected": sample.expected_output, "input": sample.input}
    if metric.name == "Battle":
        return {"output": sample.output, "expected": sample.baseline, "instructions": sample.input}
    if "retrieved" in metric.reads:
        values["context"] = list(sample.retrieved)
    if metric.name in ("NumericDiff", "JSONDiff", "ListContains"):
        values |= {side: _parsed(metric, side, values[side]) for side in ("output", "expected")}
    if metric.name == "ValidJSON":
        return {"output": sample.output}
    return values


def _parsed(metric: Metric, side: str, text: Any) -> Any:
    """A text as the number, JSON or list the scorer compares.

    Raises:
        UnscoredError: MISSING_FIELD, when it is none.
    """
    kind: Any = {"NumericDiff": (int, float), "ListContains": list}.get(metric.name, object)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if found is None or isinstance(found, bool) or not isinstance(found, kind):
        what = {"NumericDiff": "a number", "ListContains": "a JSON list"}.get(metric.name, "JSON")
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs {side} as {what} (found: {text!r:.200})")
    return found


def _reason(metadata: Mapping[str, Any]) -> str | None:
    """The model's reasons, or what else the scorer says of its score."""
    for key in ("rationale", "reason"):
        if metadata.get(key):
            return str(metadata[key])
    told = {k: v for k, v in metadata.items() if v not in (None, "", [], {})}
    return json.dumps(told, default=str, ensure_ascii=False)[:2000] if told else None
