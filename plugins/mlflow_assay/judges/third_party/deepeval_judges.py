"""DeepEval's metrics as the library `deepeval`: `deepeval/GEval`, `deepeval/FaithfulnessMetric` and so on.

Straight to the library, not through MLflow's wrapper: that one knows half of the metrics, shows every expectation as
context, loses the turns' tools and passages, gives yes or no for a number, and (to 3.17) shares one instance among
threads. Here each verdict has a metric of its own, measured without an event loop, and the judge model is handed over
as DeepEval documents it: a `DeepEvalBaseLLM` that asks the one judge model with the reply's schema.

DeepEval sends usage data and reads `.env` files unless told not to; `prepare` tells it before the first import.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.problems import problems
from mlflow_assay.judges.third_party.deepeval_images import pictured, shown, words
from mlflow_assay.judges.third_party.deepeval_table import METRICS, UNSUPPORTED
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample, ToolCall, Turn
from mlflow_assay.trace_media import without_images

if TYPE_CHECKING:
    from mlflow.entities import Span, Trace

    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["DeepEvalJudges"]

# Ours to set, not a definition's.
_RESERVED = {
    "self", "model", "system_one_model", "eval_mode", "threshold", "async_mode", "verbose_mode", "flaky",
    "evaluation_template", "template_class",
}  # fmt: skip
_RECORDED = "recorded"  # available_tools: those the trace tells
# DeepEval's names of what a criterion may look at: the sample's field it is made from.
_PARAMS = {
    "input": "input", "actual_output": "output", "expected_output": "expected_output", "context": "context",
    "retrieval_context": "retrieved", "tools_called": "tools_called", "expected_tools": "expected_tools",
}  # fmt: skip
_TURN_PARAMS = {
    "content": "turns", "role": "turns", "scenario": "scenario", "expected_outcome": "expected_outcome",
    "context": "context", "retrieval_context": "retrieved", "tools_called": "tools_called",
    "chatbot_role": "chatbot_role",
}  # fmt: skip
_CRITERIA = {"GEval": _PARAMS, "ArenaGEval": _PARAMS, "ConversationalGEval": _TURN_PARAMS}
_DEFAULT_PARAMS = {
    "GEval": ["input", "actual_output"],
    "ArenaGEval": ["input", "actual_output"],
    "ConversationalGEval": ["content", "role"],
}


class DeepEvalJudges(MetricLibrary):
    """The `contracts.JudgeLibrary` over DeepEval's metrics."""

    name = "deepeval"
    package = "deepeval"
    module = "deepeval.metrics"
    extra = "deepeval"
    metrics = METRICS
    unsupported = UNSUPPORTED

    def prepare(self) -> None:
        """No usage data is sent, no `.env` file of the working directory is read."""
        os.environ["DEEPEVAL_TELEMETRY_OPT_OUT"] = "1"
        os.environ.setdefault("DEEPEVAL_DISABLE_DOTENV", "1")

    def exported(self) -> set[str]:
        """Every metric class DeepEval exports."""
        module = self.imported()
        bases = (module.BaseMetric, module.BaseConversationalMetric, module.BaseArenaMetric)
        found = {name: getattr(module, name) for name in module.__all__}
        return {n for n, c in found.items() if inspect.isclass(c) and issubclass(c, bases) and c not in bases}

    def asks_model(self, name: str, params: Mapping[str, Any]) -> bool:
        """Two metrics ask a model only where a parameter wants it."""
        if name == "ToolCorrectnessMetric":
            return params.get("available_tools") is not None
        if name == "JsonCorrectnessMetric":
            return bool(params.get("include_reason"))
        return super().asks_model(name, params)

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What the criteria, the graph or the parameters say is looked at."""
        if metric.name in _CRITERIA:
            return _criteria_reads(metric.name, params)
        if "dag" in params:
            names = _CRITERIA["ConversationalGEval" if metric.scope == "session" else "GEval"]
            return (*metric.reads, *(names[p] for p in _graph_params(params["dag"]) if p in names))
        given = params.get("available_tools")
        if metric.name == "ToolUseMetric" and given not in (None, _RECORDED):
            return tuple(read for read in metric.reads if read != "tools_available")
        return (*metric.reads, "tools_available") if given == _RECORDED else metric.reads

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """A fresh metric for every sample; built once here, asking nobody, to see that its parameters are right."""
        module = self.imported()
        given = _Given(metric, getattr(module, metric.name), dict(params))
        try:
            given.make(None, metric.value, Sample())
        except ConfigError:
            raise
        except Exception as error:
            # Whatever a constructor raises is about the parameters: it was given nothing else.
            raise ConfigError(
                f"DeepEval refuses its metric {metric.name!r} with the parameters {sorted(params)}: {problems(error)}.",
                fix=f"Set them in a YAML definition: `uses: deepeval/{metric.name}` and `with:`.",
            ) from error
        return partial(_measured, given)


class _Given:
    """A metric class with its parameters."""

    def __init__(self, metric: Metric, metric_class: Any, params: dict[str, Any]) -> None:
        self.metric, self._class = metric, metric_class
        self.server = str(params.pop("server_name", "tools")) if "MCP" in metric.name else "tools"
        accepted = inspect.signature(metric_class.__init__).parameters
        valid = [name for name in accepted if name not in _RESERVED and not name.startswith("_")]
        if stray := sorted(set(params) - set(valid)):
            raise ConfigError(f"DeepEval's metric {metric.name!r} has no parameter {stray[0]!r} here.", valid=valid)
        self._takes = set(accepted)
        self._params = params

    def make(self, client: JudgeClient | None, value: ValueSpec, sample: Sample) -> Any:
        """A new instance of the metric."""
        llm = _llm_class()(client)
        ours: dict[str, Any] = {"model": llm, "async_mode": False, "verbose_mode": False, "eval_mode": "llm"}
        if isinstance(value, NumericValue):
            ours["threshold"] = value.threshold
        arguments = {name: each for name, each in ours.items() if name in self._takes}
        return self._class(**arguments, **self._converted(llm, sample))

    def _converted(self, llm: Any, sample: Sample) -> dict[str, Any]:
        """The parameters as DeepEval's own objects; new ones each time, since metrics change theirs."""
        name, given = self.metric.name, dict(self._params)
        if name in _CRITERIA:
            if not given.get("criteria") and not given.get("evaluation_steps"):
                raise ConfigError(
                    f"The judge deepeval/{name} needs `criteria` or `evaluation_steps`.",
                    fix=f"Set them in a YAML definition: `uses: deepeval/{name}` and `with:`.",
                )
            given.setdefault("name", name)
            given["evaluation_params"] = _enumerated(name, given.get("evaluation_params", _DEFAULT_PARAMS[name]))
        if name == "ToolCorrectnessMetric" and "evaluation_params" in given:
            given["evaluation_params"] = _enumerated(name, given["evaluation_params"])
        if "rubric" in given:
            given["rubric"] = _rubric(given["rubric"])
        if "dag" in given:
            given |= {"name": given.get("name", name), "dag": _graph(given["dag"], self.metric.scope == "session", llm)}
        if "expected_schema" in given:
            given |= {"expected_schema": _model_of(given["expected_schema"]), **_only_asked_for(given)}
        if "available_tools" in self._takes and (name == "ToolUseMetric" or given.get("available_tools")):
            given["available_tools"] = _tools(given.get("available_tools", _RECORDED), sample)
        return given


def _only_asked_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """A model is asked for the reason of wrong JSON only where a definition says so."""
    return {"include_reason": bool(given.get("include_reason"))}


# --- measuring ---------------------------------------------------------------------------------------------


def _measured(given: _Given, sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
    metric = given.make(client, value, sample)
    if given.metric.name == "ArenaGEval":
        return _duel(metric, sample)
    if "output_images" in given.metric.reads:
        with pictured(given.metric, sample) as (case, images):
            metric.model.images = images
            metric.measure(case, _show_indicator=False)
    else:
        case = _conversation(given, sample) if given.metric.scope == "session" else _case(given, sample)
        metric.measure(case, _show_indicator=False)
    return Measured(
        score=metric.score, passed=metric.is_successful(), reason=metric.reason, error=getattr(metric, "error", None)
    )


def _duel(metric: Any, sample: Sample) -> Measured:
    """The answer against the baseline; DeepEval hides which is which and shuffles them."""
    from deepeval.test_case import ArenaTestCase, Contestant

    ours, theirs = "the answer", "the baseline"
    case = _fields_of(sample)
    duel = ArenaTestCase(
        contestants=[
            Contestant(name=ours, test_case=_test_case(case)),
            Contestant(name=theirs, test_case=_test_case({**case, "actual_output": words(sample.baseline)})),
        ]
    )
    winner = metric.measure(duel, _show_indicator=False)
    return Measured(score=winner == ours, passed=winner == ours, reason=metric.reason)


def _case(given: _Given, sample: Sample) -> Any:
    fields = _fields_of(sample)
    if given.metric.name == "MCPUseMetric":
        fields["mcp_servers"] = [_server(given.server, sample)]
        fields["tools_called"] = [_tool_call(call, mcp=True) for call in sample.tools_called]
    case = _test_case(fields)
    if given.metric.name == "GEval" or "spans" in given.metric.reads:
        # Where DeepEval's own tracing leaves the run; metrics that judge a run read it from there.
        case._trace_dict = _nested(sample.trace)
    return case


def _test_case(fields: Mapping[str, Any]) -> Any:
    from deepeval.test_case import LLMTestCase

    return LLMTestCase(**fields)


def _fields_of(sample: Sample) -> dict[str, Any]:
    return {
        "input": words(sample.input) or "",
        "actual_output": words(sample.output),
        "expected_output": words(sample.expected_output),
        "context": _texts(sample.context),
        "retrieval_context": _texts(sample.retrieved),
        "tools_called": [_tool_call(call) for call in sample.tools_called] or None,
        "expected_tools": [_tool_call(call) for call in sample.expected_tools] or None,
    }


def _conversation(given: _Given, sample: Sample) -> Any:
    from deepeval.test_case import ConversationalTestCase

    mcp = "MCP" in given.metric.name
    roles = [turn.role for turn in sample.turns]
    if not any(pair == ("user", "assistant") for pair in pairwise(roles)):
        # DeepEval scores a conversation without one 0 or 1, by metric.
        raise UnscoredError(
            Unscored.MISSING_FIELD, f"needs a session with a user's turn and a reply (found {len(roles)} turns)"
        )
    return ConversationalTestCase(
        turns=[each for turn in sample.turns for each in _turns(turn, mcp)],
        scenario=words(sample.scenario),
        expected_outcome=words(sample.expected_outcome),
        chatbot_role=words(sample.chatbot_role),
        context=_texts(sample.context),
        mcp_servers=[_server(given.server, sample)] if mcp else None,
    )


def _turns(turn: Turn, mcp: bool) -> list[Any]:
    """A turn as DeepEval's; its MCP metrics look for calls in a turn of their own, before the words."""
    from deepeval.test_case import Turn as Theirs

    tools = [_tool_call(call, mcp) for call in turn.tools] or None
    said = {"role": turn.role, "content": words(turn.content) or "", "retrieval_context": _texts(turn.retrieved)}
    if mcp and tools:
        return [Theirs(role=turn.role, content="", tools_called=tools), Theirs(**said)]
    return [Theirs(**said, tools_called=tools)]


def _texts(texts: Sequence[str]) -> list[str] | None:
    return [words(text) or "" for text in texts] or None


def _tool_call(call: ToolCall, mcp: bool = False) -> Any:
    from deepeval.test_case import ToolCall as Theirs
    from deepeval.test_case import ToolCallType

    result = call.result if call.error is None else {"error": call.error}
    kind = ToolCallType.MCP if mcp else ToolCallType.FUNCTION
    arguments = dict(call.arguments) if call.arguments is not None else None
    return Theirs(name=call.name, input_parameters=arguments, output=result, type=kind)


def _server(name: str, sample: Sample) -> Any:
    from deepeval.test_case import MCPServer

    tools = [{"name": t["name"], "description": t.get("description"), "inputSchema": t.get("parameters") or {}}
             for t in sample.tools_available]  # fmt: skip
    return MCPServer(server_name=name, available_tools=tools)


_KINDS = {"AGENT": "agent", "CHAT_MODEL": "llm", "LLM": "llm", "RETRIEVER": "retriever", "TOOL": "tool"}


def _nested(trace: Trace | None) -> dict[str, Any] | None:
    """A trace's spans as the nested dictionary DeepEval's tracing makes of a run."""
    spans = sorted(trace.data.spans, key=lambda s: s.start_time_ns or 0) if trace is not None else []
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)
    roots = [_node(span, children) for span in children.get(None, [])]
    if len(roots) == 1:
        return roots[0]
    return {"name": "trace", "type": "base", "children": roots} if roots else None


def _node(span: Span, children: Mapping[str | None, Sequence[Span]]) -> dict[str, Any]:
    error = span.status.description if span.status and str(span.status.status_code).endswith("ERROR") else None
    node = {
        "name": span.name,
        "type": _KINDS.get(str(span.span_type), "base"),
        "input": without_images(span.inputs),
        "output": without_images(span.outputs),
        "error": error,
    }
    kept = {key: value for key, value in node.items() if value is not None}
    return {**kept, "children": [_node(child, children) for child in children.get(span.span_id, [])]}


# --- parameters --------------------------------------------------------------------------------------------


def _criteria_reads(name: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = params.get("evaluation_params", _DEFAULT_PARAMS[name])
    known = _CRITERIA[name]
    if stray := [p for p in chosen if p not in known]:
        raise ConfigError(f"{name} cannot look at {stray[0]!r} of a trace.", valid=sorted(known))
    if name == "GEval" and not chosen:
        return ("spans",)
    more = {"ArenaGEval": ("input", "output", "baseline"), "ConversationalGEval": ("turns",)}.get(name, ())
    return tuple(dict.fromkeys([*more, *(known[p] for p in chosen)]))


def _enumerated(name: str, chosen: Iterable[str]) -> Any:
    """Names as the metric's enumeration; None for none, as GEval has it for whole traces."""
    from deepeval.test_case import MultiTurnParams, SingleTurnParams, ToolCallParams

    kinds = {"ConversationalGEval": MultiTurnParams, "ToolCorrectnessMetric": ToolCallParams}
    kind: Any = kinds.get(name, SingleTurnParams)
    try:
        return [kind(each) for each in chosen] or None
    except ValueError as error:
        raise ConfigError(f"{name}: {error}.", valid=[each.value for each in kind]) from error


def _rubric(rows: Any) -> list[Any]:
    from deepeval.metrics.g_eval import Rubric

    return [Rubric(score_range=tuple(row["score_range"]), expected_outcome=row["expected_outcome"]) for row in rows]


def _graph_params(graph: Any) -> list[str]:
    """What the nodes of a graph, or criteria at its ends, look at."""
    nodes = graph.get("nodes") if isinstance(graph, Mapping) else None
    if not isinstance(nodes, Mapping):
        raise ConfigError(
            "A graph is a mapping with `nodes`, as DeepEval's dag_to_dict writes it.", found=repr(graph)[:80]
        )
    rows = [row for row in nodes.values() if isinstance(row, Mapping)]
    rows += [row["child"] for row in rows if isinstance(row.get("child"), Mapping)]
    return [str(param) for row in rows for param in row.get("evaluation_params") or ()]


def _graph(graph: Mapping[str, Any], multiturn: bool, llm: Any) -> Any:
    """DeepEval's graph, whose ends (a GEval or another metric) ask the same model."""
    from deepeval.metrics.dag.serialization import dag_from_dict

    nodes = {}
    for name, row in graph["nodes"].items():
        child = dict(row["child"]) if isinstance(row, Mapping) and isinstance(row.get("child"), Mapping) else None
        if child is not None and child.get("type") == "geval":
            child |= {"model": llm, "async_mode": False}
        elif child is not None and child.get("type") == "metric":
            child["kwargs"] = {**(child.get("kwargs") or {}), "model": llm, "async_mode": False}
        nodes[name] = {**row, "child": child} if child is not None else row
    return dag_from_dict({"nodes": nodes}, multiturn=multiturn)


def _tools(given: Any, sample: Sample) -> list[Any]:
    from deepeval.test_case import ToolCall as Theirs

    rows = sample.tools_available if given == _RECORDED else given
    named = [{"name": row} if isinstance(row, str) else row for row in rows]
    return [Theirs(name=row["name"], description=row.get("description")) for row in named]


_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}


def _model_of(schema: Any, name: str = "Expected") -> Any:
    """A Pydantic model of a JSON Schema's objects, arrays and plain types, which is what DeepEval takes."""
    from pydantic import ConfigDict, create_model

    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise ConfigError("expected_schema is a JSON Schema of an object.", found=repr(schema)[:80])
    required = set(schema.get("required") or ())
    fields: dict[str, Any] = {}
    for key, about in (schema.get("properties") or {}).items():
        kind = _type_of(about, f"{name}_{key}")
        fields[key] = (kind, ...) if key in required else (kind | None, None)
    config = ConfigDict(extra="forbid" if schema.get("additionalProperties") is False else "ignore")
    made: Any = create_model(name, __config__=config, **fields)
    return made


def _type_of(about: Mapping[str, Any], name: str) -> Any:
    from typing import Literal

    if "enum" in about:
        return Literal[tuple(about["enum"])]
    kind = about.get("type")
    if kind == "object" and about.get("properties"):
        return _model_of(about, name)
    if kind == "object":
        return dict[str, Any]
    if kind == "array":
        items: Any = _type_of(about["items"], name) if isinstance(about.get("items"), Mapping) else Any
        return list.__class_getitem__(items)
    if kind in _TYPES:
        return _TYPES[kind]
    raise ConfigError(
        f"expected_schema: {name} has a type that cannot be checked.",
        found=kind,
        valid=[*_TYPES, "object", "array", "an enum"],
    )


# --- the judge model ---------------------------------------------------------------------------------------


def _free_form(schema: Any) -> bool:
    """Whether part of a schema is an object of any keys, which strict formats only allow to be empty.

    DeepEval's prompts ask for their JSON in words as well, which is then all there is.
    """
    if isinstance(schema, list):
        return any(_free_form(part) for part in schema)
    if not isinstance(schema, Mapping):
        return False
    open_ended = schema.get("type") == "object" and (schema.get("additionalProperties") or "properties" not in schema)
    return bool(open_ended) or any(_free_form(part) for part in schema.values())


@lru_cache(maxsize=1)
def _llm_class() -> Callable[[JudgeClient | None], Any]:
    """DeepEval's way to bring a model of one's own, over the one judge model."""
    from deepeval.models import DeepEvalBaseLLM
    from mlflow.genai.judges.utils.parsing_utils import _strip_markdown_code_blocks
    from mlflow.genai.utils.message_utils import pydantic_to_response_format
    from pydantic import ValidationError

    class JudgeLLM(DeepEvalBaseLLM):
        def __init__(self, client: JudgeClient | None) -> None:
            self._client = client
            self.images: dict[str, str] = {}  # by DeepEval's names
            super().__init__(client.model if client is not None else "unasked")

        def load_model(self) -> Any:
            return self

        def get_model_name(self) -> str:
            return str(self.name)

        def supports_multimodal(self) -> bool:
            return True

        def generate(self, prompt: str, schema: Any = None) -> Any:
            if self._client is None:
                raise ConfigError("This metric was built to ask no model.")
            formed = schema is not None and not _free_form(schema.model_json_schema())
            options = {"response_format": pydantic_to_response_format(schema)} if formed else {}
            text = self._client.complete([{"role": "user", "content": shown(prompt, self.images)}], **options)
            if schema is None:
                return text
            try:
                return schema.model_validate_json(_strip_markdown_code_blocks(text))
            except ValidationError:
                return text  # DeepEval's own, more patient reading comes next

        async def a_generate(self, prompt: str, schema: Any = None) -> Any:
            return self.generate(prompt, schema)

    return JudgeLLM
