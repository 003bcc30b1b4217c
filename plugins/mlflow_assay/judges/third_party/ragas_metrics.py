"""Ragas' metrics as judges: `ragas/Faithfulness` (collections of 0.4), `ragas/classic.Faithfulness`, `ragas/session.…`.

Straight to the library, not through MLflow's wrapper (`mlflow.genai.scorers.ragas`): that one has 30 of the metrics and
embeddings from OpenAI only, joins all expectations into one reference, takes the retrieved passages for the expected
ones, cannot be pointed at an endpoint, reports neither tokens nor cost, and shares one metric between threads.

Ragas 0.4.3 does not import beside langchain-community 0.4.2 or newer; the extra `ragas` therefore bounds it.
The model is Ragas' own `llm_factory` on OpenAI's client, embeddings its own `BaseRagasEmbedding`. Three classic
metrics ask for plain text and get Ragas' LangChain wrapper.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import CategoricalValue, NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.problems import problems
from mlflow_assay.judges.third_party.embeddings import Embeddings, embeddings_of
from mlflow_assay.judges.third_party.helpers import check_params, on_scale, placeholders, run
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.ragas_table import METRICS, UNSUPPORTED
from mlflow_assay.judges.third_party.sample import Sample
from mlflow_assay.trace_media import Image, Part, uri_of

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["RagasMetrics"]

_OURS = {
    "self", "llm", "embeddings", "name", "kwargs", "base_kwargs", "allowed_values", "output_type",
    "required_columns", "_required_columns", "single_turn_prompt", "multi_turn_prompt", "is_cross_encoder",
    "answer_similarity",
}  # fmt: skip
_TAKES_KWARGS = ("BleuScore", "CHRFScore", "ChrfScore")  # where `kwargs` is a parameter, passed to sacrebleu
_PLAIN_TEXT = ("AnswerAccuracy", "ContextRelevance", "ResponseGroundedness")
_NAMED = ("AspectCritic", "SimpleCriteriaScore")
_PROMPTED = ("DiscreteMetric", "NumericMetric")
_PLACES = {
    "user_input": "input", "response": "output", "reference": "expected_output",
    "retrieved_contexts": "retrieved", "reference_contexts": "context",
}  # fmt: skip


class RagasMetrics(MetricLibrary):
    """The `contracts.JudgeLibrary` over Ragas."""

    name = "ragas"
    package = "ragas"
    module = "ragas.metrics.collections"
    extra = "ragas"
    metrics = METRICS
    unsupported = UNSUPPORTED

    def prepare(self) -> None:
        """Switch Ragas' telemetry off before it is imported."""
        os.environ["RAGAS_DO_NOT_TRACK"] = "true"

    def exported(self) -> set[str]:
        """Metrics of `ragas.metrics.collections` and `ragas.metrics`, and our session-level forms of the first."""
        import ragas.metrics as classic
        import ragas.metrics.collections as collections

        found = {n for n in collections.__all__ if n != "BaseMetric" and hasattr(getattr(collections, n), "ascore")}
        sessions = {f"session.{n}" for n in found if f"session.{n}" in METRICS}
        old = {n for n, c in classic._DEPRECATED_METRICS.items() if inspect.isclass(c) and hasattr(c, "init")}
        kinds = {n: getattr(classic, n) for n in classic.__all__}
        prompted = {n for n, c in kinds.items() if inspect.isclass(c) and classic.LLMMetric in c.__mro__[1:]}
        return found | sessions | prompted | {f"classic.{n}" for n in old}

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What the metric reads; for one made of a prompt, what the prompt names."""
        if metric.path not in _PROMPTED:
            return metric.reads
        return tuple(_PLACES[key] for key in placeholders(params["prompt"], _PLACES))

    def depends_on(self, metric: Metric, params: Mapping[str, Any]) -> str:
        """The embedding model behind a folder's name."""
        return embeddings_of(params["embeddings"]).identity if metric.embeddings else ""

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        given = dict(params)
        embeddings = embeddings_of(given.pop("embeddings")) if metric.embeddings else None
        cls = _class_of(metric)
        check_params(f"ragas/{metric.name}", given, _parameters(metric, cls))
        if metric.path in _PROMPTED:
            placeholders(given["prompt"], _PLACES)
        else:
            _try_out(metric, cls, given, embeddings)

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            made = _made(metric, cls, given, embeddings, client, value)
            answered = _answered(metric, made, sample, client)
            reason = getattr(answered, "reason", None)
            score = getattr(answered, "value", answered)
            if not isinstance(score, str):
                score = None if score is None else on_scale(score, value)
            return Measured(score, reason=reason)

        return measured


def _class_of(metric: Metric) -> Any:
    import ragas.metrics as metrics

    if metric.path.startswith("collections."):
        import ragas.metrics.collections as collections

        return getattr(collections, metric.path.removeprefix("collections."))
    return metrics._DEPRECATED_METRICS.get(metric.path) or getattr(metrics, metric.path)


def _parameters(metric: Metric, cls: Any) -> set[str]:
    """The parameters of a metric that are plain values a definition can give."""
    if metric.path in _PROMPTED:
        return {"prompt"}
    names = {n for n in inspect.signature(cls.__init__).parameters if n not in _OURS and not n.endswith("_prompt")}
    if metric.path.rpartition(".")[2] in _TAKES_KWARGS:
        names.add("kwargs")
    return {n for n in names if not n.startswith("_")}


def _try_out(metric: Metric, cls: Any, params: Mapping[str, Any], embeddings: Embeddings | None) -> None:
    """Make the metric once for a model that is never asked, so that wrong parameters are told before a run."""
    try:
        cls(**_arguments(metric, cls, params, embeddings, _unasked()))
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"Ragas refuses its metric {metric.name!r} with {dict(params)}: {error}") from error


@lru_cache(maxsize=1)
def _unasked() -> Any:
    """A model for metrics that are made to see whether they can be; each client of OpenAI's reads all certificates."""
    import openai
    from ragas.llms import llm_factory

    return llm_factory("unasked", client=openai.AsyncOpenAI(api_key="none", base_url="http://127.0.0.1:9"))


def _made(
    metric: Metric,
    cls: Any,
    params: Mapping[str, Any],
    embeddings: Embeddings | None,
    client: JudgeClient | None,
    value: ValueSpec,
) -> Any:
    """A fresh instance of the metric."""
    if metric.path in _PROMPTED:
        return cls(name=metric.path, prompt=params["prompt"], allowed_values=_allowed(value))
    llm = _model(metric, client) if client is not None else None
    made = cls(**_arguments(metric, cls, params, embeddings, llm))
    if not metric.path.startswith("collections."):
        from ragas.run_config import RunConfig

        made.init(RunConfig(max_retries=1))
    return made


def _arguments(
    metric: Metric, cls: Any, params: Mapping[str, Any], embeddings: Embeddings | None, llm: Any
) -> dict[str, Any]:
    accepted = inspect.signature(cls.__init__).parameters
    arguments = dict(params)
    if "distance_measure" in arguments:
        from ragas.metrics.collections import DistanceMeasure

        arguments["distance_measure"] = DistanceMeasure(arguments["distance_measure"])
    if llm is not None and "llm" in accepted:
        arguments["llm"] = llm
    if embeddings is not None:
        arguments["embeddings"] = _embedding_class()(embeddings)
    if metric.path in _NAMED:
        arguments["name"] = metric.path
    return arguments


def _allowed(value: ValueSpec) -> Any:
    if isinstance(value, CategoricalValue):
        return list(value.options)
    if isinstance(value, NumericValue):
        return (value.low, value.high)
    raise ConfigError("A Ragas metric made of a prompt answers with words or a number.", found=value.type)


def _model(metric: Metric, client: JudgeClient) -> Any:
    """Ragas' own way to name a model."""
    if metric.path in _PLAIN_TEXT:
        from langchain_openai import ChatOpenAI
        from ragas.llms import LangchainLLMWrapper

        chat = ChatOpenAI(
            model=client.model, base_url=client.base, api_key=client.api_key, max_retries=0,
            http_client=client.http(), http_async_client=client.async_http(),
        )  # fmt: skip
        return LangchainLLMWrapper(chat)
    from ragas.llms import llm_factory

    return llm_factory(client.model, client=client.async_openai())


@lru_cache(maxsize=1)
def _embedding_class() -> Any:
    """Our embeddings behind both of Ragas' interfaces: `embed_text` of 0.4, `embed_query` of the classic metrics."""
    from ragas.embeddings.base import BaseRagasEmbedding

    class AssayEmbeddings(BaseRagasEmbedding):
        def __init__(self, embeddings: Embeddings) -> None:
            super().__init__()
            self._of = embeddings

        def embed_text(self, text: str, **_: Any) -> list[float]:
            return self._of.embed([text])[0]

        async def aembed_text(self, text: str, **_: Any) -> list[float]:
            return self.embed_text(text)

        def embed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
            return self._of.embed(texts)

        async def aembed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
            return self._of.embed(texts)

        embed_query = embed_text
        embed_documents = embed_texts
        aembed_query = aembed_text
        aembed_documents = aembed_texts

        def set_run_config(self, run_config: Any) -> None:
            """Asked for by the classic metrics; there is nothing to configure."""

    return AssayEmbeddings


def _answered(metric: Metric, made: Any, sample: Sample, client: JudgeClient | None) -> Any:
    """The metric's answer.

    Raises:
        UnscoredError: GARBLED_REPLY, when the model's replies did not fit what was asked for, after Ragas' retries.
    """
    from instructor.core.exceptions import InstructorRetryException

    try:
        return run(_scored(metric, made, sample, client))
    except InstructorRetryException as error:
        # Its own message is a page of XML about every try.
        last: Any = error.failed_attempts[-1].exception if error.failed_attempts else error
        told = f"the replies could not be read, in {error.n_attempts} tries: {problems(last)}"
        raise UnscoredError(Unscored.GARBLED_REPLY, told[:1000]) from error


async def _scored(metric: Metric, made: Any, sample: Sample, client: JudgeClient | None) -> Any:
    if metric.path in _PROMPTED:
        assert client is not None  # noqa: S101 - they call a model, so `build` asked for one
        named = {key: _place(sample, key) for key in placeholders(str(made.prompt.instruction), _PLACES)}
        return await made.ascore(llm=_model(metric, client), **named)
    if metric.path.startswith("collections."):
        wanted = inspect.signature(made.ascore).parameters
        values = _values(sample, "Message" in str(wanted["user_input"].annotation) if "user_input" in wanted else False)
        if "MultiModal" in metric.path:
            values["retrieved_contexts"] = [_shown(part, sample) for part in sample.retrieved_parts]
        return await made.ascore(**{k: values[k] for k in wanted if values.get(k) is not None})
    return await _classic_score(made, sample)


async def _classic_score(made: Any, sample: Sample) -> Any:
    from ragas.dataset_schema import MultiTurnSample, SingleTurnSample

    if hasattr(made, "single_turn_ascore"):
        values = _values(sample, False) | _ids(made, sample)
        known = set(SingleTurnSample.model_fields)
        return await made.single_turn_ascore(SingleTurnSample(**{k: v for k, v in values.items() if k in known}))
    values = _values(sample, True)
    known = set(MultiTurnSample.model_fields)
    return await made.multi_turn_ascore(MultiTurnSample(**{k: v for k, v in values.items() if k in known}))


def _values(sample: Sample, as_messages: bool) -> dict[str, Any]:
    """The sample under Ragas' names; absent fields are None."""
    from ragas.messages import ToolCall

    return {
        "user_input": _messages(sample) if as_messages else sample.input,
        "response": sample.output,
        "reference": sample.expected_output,
        "retrieved_contexts": list(sample.retrieved) or None,
        "reference_contexts": list(sample.context) or None,
        "reference_tool_calls": [ToolCall(name=c.name, args=dict(c.arguments or {})) for c in sample.expected_tools],
        "reference_topics": sample.expectations.get("reference_topics"),
        "rubrics": sample.expectations.get("rubrics"),
    }


def _shown(part: Part, sample: Sample) -> str:
    """A passage as Ragas' metrics of images take it: an image with its bytes, and text that is none.

    Where a text looks like an address or a path they would look it up from here, whoever wrote it.
    """
    from ragas.metrics.collections.multi_modal_faithfulness.util import is_image_path_or_url

    if isinstance(part, Image):
        return uri_of(part, sample.trace)
    return f"Passage: {part}" if is_image_path_or_url(part) or os.path.isfile(part) else part  # noqa: PTH113 - as Ragas


def _messages(sample: Sample) -> list[Any]:
    """A conversation in Ragas' messages: of the session's turns, or of one run's request, tool calls and answer."""
    from ragas.messages import AIMessage, HumanMessage, ToolCall, ToolMessage

    found: list[Any] = []

    def called(tools: Any) -> None:
        made = [ToolCall(name=c.name, args=dict(c.arguments or {})) for c in tools]
        if made:
            found.append(AIMessage(content="", tool_calls=made))
            found.extend(ToolMessage(content=_result(c)) for c in tools)

    if not sample.turns:
        found.append(HumanMessage(content=sample.input or ""))
        called(sample.tools_called)
        return [*found, AIMessage(content=sample.output or "")]
    for turn in sample.turns:
        if turn.role == "user":
            found.append(HumanMessage(content=turn.content))
        else:
            called(turn.tools)
            found.append(AIMessage(content=turn.content))
    return found


def _result(call: Any) -> str:
    from mlflow_assay.trace_fields import as_text

    return str(call.error) if call.error else as_text(call.result)


def _ids(made: Any, sample: Sample) -> dict[str, Any]:
    """Ids of the passages retrieved and expected, for the metrics that compare by id."""
    if not type(made).__name__.startswith("IDBased"):
        return {}
    found = _retrieved_ids(sample.trace)
    if not found:
        raise UnscoredError(Unscored.MISSING_FIELD, "needs an id in the metadata of retrieved passages (found: none)")
    expected = sample.expectations.get("reference_context_ids") or []
    return {"retrieved_context_ids": found, "reference_context_ids": [str(i) for i in expected]}


def _retrieved_ids(trace: Trace | None) -> list[str]:
    spans = trace.data.spans if trace is not None and trace.data else []
    documents = [d for s in spans if s.span_type == "RETRIEVER" and isinstance(s.outputs, list) for d in s.outputs]
    told = [d.get("metadata") or {} for d in documents if isinstance(d, Mapping)]
    ids = [m.get("doc_uri") or m.get("id") for m in told if isinstance(m, Mapping)]
    return [str(i) for i in ids if i is not None]


def _place(sample: Sample, key: str) -> str:
    found = getattr(sample, _PLACES[key])
    return found if isinstance(found, str) else "\n".join(found or ())
