"""Named fields of a trace: what a local judge reads, and what a definition may map onto `inputs` and `outputs`.

A field is named by one of:

    first_user_message   what the user asked first          final_answer     what the agent answered last
    transcript           the conversation as text           agents           AGENT spans below the root, by name
    tools_called         tool names in call order           tool_calls       name, arguments, result, error each
    tool_errors          errors of tool calls               retrieved        retrieved passages as text
    tools_available      tools offered to the model: name, description, parameters
    evidence             retrieved passages and results of tool calls, as text
    input_images, output_images                             images in the root span's inputs, outputs
    duration_ms          wall time of the trace             total_tokens     tokens used by the trace
    cost_usd             recorded cost of the trace         steps            number of spans below the root
    tag:KEY  metadata:KEY  expectation:KEY
    inputs[.path]  outputs[.path]                           of the root span
    span:NAME.inputs[.path]  span:NAME.outputs[.path]       of the first span of that name

A path walks dictionaries by key and lists by index (`outputs.choices.0.message`). A field that is absent
is None; absent is never an empty string. A name that ends in `?` is optional: where it is absent the judge
reads `(not recorded)` instead of going without a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay import trace_media
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Span, Trace

__all__ = [
    "answer_in",
    "as_text",
    "check",
    "content_text",
    "extract",
    "extract_all",
    "last_user_message",
    "needs_spans",
    "question_in",
]

NOT_RECORDED = "(not recorded)"
_PREFIXES = ("tag:", "metadata:", "expectation:", "span:")


def check(field: str) -> str:
    """The field's name if it is one, for use in validation.

    Raises:
        ConfigError: no such field; the valid names are listed.
    """
    whole, field = field, field.removesuffix("?")
    head = field.split(".", 1)[0]
    if field in _NAMED or head in ("inputs", "outputs"):
        return whole
    if field.startswith(_PREFIXES) and field.split(":", 1)[1]:
        if not field.startswith("span:") or _split_span(field) is not None:
            return whole
        raise ConfigError(
            f"The field {field!r} does not say what to read of the span.",
            valid="span:NAME.inputs[.path], span:NAME.outputs[.path]",
        )
    raise ConfigError(
        f"There is no trace field {field!r}.",
        valid=[
            *sorted(_NAMED),
            "inputs[.path]",
            "outputs[.path]",
            "tag:KEY",
            "metadata:KEY",
            "expectation:KEY",
            "span:NAME.outputs[.path]",
        ],
    )


def needs_spans(field: str) -> bool:
    """Whether reading the field needs the trace's spans, not just its info."""
    return not field.startswith(("tag:", "metadata:", "expectation:")) and field.removesuffix("?") not in (
        "duration_ms",
        "total_tokens",
        "cost_usd",
    )


def extract(trace: Trace, field: str) -> Any:
    """The field's value in one trace, or None where the trace does not have it.

    Raises:
        ConfigError: there is no field of that name.
    """
    check(field)
    if field.endswith("?"):
        found = extract(trace, field[:-1])
        return NOT_RECORDED if found is None else found
    if field in _NAMED:
        return _NAMED[field](trace)
    if field.startswith("tag:"):
        return trace.info.tags.get(field[4:])
    if field.startswith("metadata:"):
        return trace.info.trace_metadata.get(field[9:])
    if field.startswith("expectation:"):
        return _expectation(trace, field[12:])
    if field.startswith("span:"):
        return _of_span(trace, field)
    side, _, path = field.partition(".")
    root = _root(trace)
    return None if root is None else _walk(getattr(root, side), path)


def extract_all(trace: Trace, mapping: Mapping[str, str]) -> dict[str, Any]:
    """Several fields by the names they are given; absent ones are left out."""
    values = {name: extract(trace, field) for name, field in mapping.items()}
    return {name: value for name, value in values.items() if value is not None}


def as_text(value: Any) -> str:
    """A field's value as text for a classifier: strings as they are, lists line by line, the rest as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "\n".join(value)
    return json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


def content_text(content: Any) -> str:
    """A message's content as text; of content parts their texts, and `(image)` for an image."""
    words = trace_media.said(content)
    return as_text(content) if words is None else words


def _spans(trace: Trace) -> list[Span]:
    return list(trace.data.spans) if trace.data else []


def _root(trace: Trace) -> Span | None:
    return next((s for s in _spans(trace) if s.parent_id is None), None)


def _of_type(trace: Trace, span_type: str) -> list[Span]:
    found = [s for s in _spans(trace) if s.span_type == span_type]
    return sorted(found, key=lambda s: s.start_time_ns or 0)


def _walk(value: Any, path: str) -> Any:
    for key in path.split(".") if path else []:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.lstrip("-").isdigit() and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _split_span(field: str) -> tuple[str, str, str] | None:
    """(span name, side, path) of `span:NAME.side.path`; a span's name may itself hold dots."""
    for side in (".inputs", ".outputs"):
        name, found, path = field[5:].rpartition(side)
        if found and name and (not path or path.startswith(".")):
            return name, side[1:], path[1:]
    return None


def _of_span(trace: Trace, field: str) -> Any:
    parts = _split_span(field)
    if parts is None:
        return None
    name, side, path = parts
    span = next((s for s in _spans(trace) if s.name == name), None)
    return None if span is None else _walk(getattr(span, side), path)


def _expectation(trace: Trace, key: str) -> Any:
    found = [
        a for a in trace.info.assessments or [] if a.expectation is not None and a.name == key and a.valid is not False
    ]
    return found[-1].value if found else None


def _messages(trace: Trace) -> list[Mapping[str, Any]]:
    root = _root(trace)
    inputs = root.inputs if root else None
    messages = inputs.get("messages") if isinstance(inputs, Mapping) else inputs
    return [m for m in messages if isinstance(m, Mapping) and "role" in m] if isinstance(messages, list) else []


def _first_user_message(trace: Trace) -> str | None:
    for message in _messages(trace):
        if message["role"] == "user" and message.get("content"):
            return content_text(message["content"])
    root = _root(trace)
    return None if root is None or root.inputs is None else question_in(root.inputs)


def last_user_message(trace: Trace) -> str | None:
    """What the user said last in a trace's inputs: what its answer is to; None where nothing is recorded."""
    for message in reversed(_messages(trace)):
        if message["role"] == "user" and message.get("content"):
            return content_text(message["content"])
    return _first_user_message(trace)


def question_in(inputs: Any) -> str:
    """The request in the inputs of an agent, as text: their only value, one under a usual name, or all of them."""
    from mlflow.genai.utils.trace_utils import parse_inputs_to_str

    if isinstance(inputs, Mapping) and len(inputs) == 1:
        return as_text(next(iter(inputs.values())))
    for key in ("request", "question", "query", "input", "prompt", "message", "text"):
        if isinstance(inputs, Mapping) and isinstance(inputs.get(key), str):
            return str(inputs[key])
    return _parsed(parse_inputs_to_str, inputs)


def _final_answer(trace: Trace) -> str | None:
    root = _root(trace)
    return None if root is None or root.outputs is None else answer_in(root.outputs)


def answer_in(outputs: Any) -> str:
    """The answer in the outputs of an agent, as text: the one under a usual name, or as MLflow reads them."""
    from mlflow.genai.utils.trace_utils import parse_outputs_to_str

    for key in ("answer", "response", "output", "reply", "result", "text", "content"):
        if isinstance(outputs, Mapping) and isinstance(outputs.get(key), str):
            return str(outputs[key])
    return _parsed(parse_outputs_to_str, outputs)


def _parsed(parse: Callable[[Any], Any], value: Any) -> str:
    """A value as MLflow reads it; as it is written where MLflow's reader knows its keys but not its shape."""
    try:
        found = parse(value)
    except (AttributeError, IndexError, KeyError, TypeError):
        return as_text(value)
    return found if isinstance(found, str) else as_text(value)


def _transcript(trace: Trace) -> str | None:
    root = _root(trace)
    if root is not None and isinstance(root.outputs, Mapping) and isinstance(root.outputs.get("messages"), list):
        turns = [m for m in root.outputs["messages"] if isinstance(m, Mapping)]
    else:
        turns = [*_messages(trace)] or [{"role": "user", "content": _first_user_message(trace)}]
        turns.append({"role": "assistant", "content": _final_answer(trace)})
    lines = [f"{t.get('role')}: {content_text(t['content'])}" for t in turns if t.get("content")]
    return "\n".join(lines) or None


def _tool_calls(trace: Trace) -> list[dict[str, Any]] | None:
    from mlflow.genai.utils.trace_utils import extract_tools_called_from_trace

    calls = extract_tools_called_from_trace(trace) if trace.data else []
    listed = [{"name": c.name, "arguments": c.arguments, "result": c.outputs, "error": c.exception} for c in calls]
    return listed or None


def _tools_called(trace: Trace) -> list[str] | None:
    calls = _tool_calls(trace)
    return [str(c["name"]) for c in calls] if calls else None


def _tool_errors(trace: Trace) -> list[str] | None:
    failed = [c for c in _tool_calls(trace) or [] if c["error"]]
    return [f"{c['name']}: {c['error']}" for c in failed] or None


def _retrieved(trace: Trace) -> list[str] | None:
    from mlflow.genai.utils.trace_utils import extract_retrieval_context_from_trace

    chunks = extract_retrieval_context_from_trace(trace) if trace.data else {}
    texts = [as_text(c.get("content")) for found in chunks.values() for c in found]
    return texts or None


def _tools_available(trace: Trace) -> list[dict[str, Any]] | None:
    """Tools offered to the model, each once, as MLflow's autologging or an OpenAI-style request records them."""
    found: dict[str, dict[str, Any]] = {}
    for span in (*_of_type(trace, "CHAT_MODEL"), *_of_type(trace, "LLM")):
        offered = span.get_attribute("mlflow.chat.tools")
        if offered is None and isinstance(span.inputs, Mapping):
            offered = span.inputs.get("tools")
        for tool in offered if isinstance(offered, list) else []:
            about = tool.get("function", tool) if isinstance(tool, Mapping) else {}
            if about.get("name"):
                found.setdefault(
                    about["name"], {k: about[k] for k in ("name", "description", "parameters") if about.get(k)}
                )
    return list(found.values()) or None


def _evidence(trace: Trace) -> list[str] | None:
    """What the answer may rest on: retrieved passages first, then the tools' results in call order."""
    results = [f"{c['name']}: {as_text(c['result'])}" for c in _tool_calls(trace) or [] if c["result"] is not None]
    return [*(_retrieved(trace) or []), *results] or None


def _images(trace: Trace, side: str) -> list[str] | None:
    root = _root(trace)
    found = trace_media.images_in(getattr(root, side)) if root is not None else None
    return [image.uri for image in found] if found else None


def _agents(trace: Trace) -> list[str] | None:
    names = [s.name for s in _of_type(trace, "AGENT") if s.parent_id is not None]
    return names or None


def _total_tokens(trace: Trace) -> int | None:
    usage = trace.info.token_usage
    return usage.get("total_tokens") if usage else None


def _cost(trace: Trace) -> float | None:
    cost = getattr(trace.info, "cost", None)
    return cost.get("total_cost") if isinstance(cost, Mapping) else cost


def _steps(trace: Trace) -> int | None:
    spans = _spans(trace)
    return len(spans) - 1 if spans else None


_NAMED: dict[str, Callable[[Any], Any]] = {
    "first_user_message": _first_user_message,
    "final_answer": _final_answer,
    "transcript": _transcript,
    "tools_called": _tools_called,
    "tool_calls": _tool_calls,
    "tool_errors": _tool_errors,
    "retrieved": _retrieved,
    "tools_available": _tools_available,
    "evidence": _evidence,
    "input_images": lambda trace: _images(trace, "inputs"),
    "output_images": lambda trace: _images(trace, "outputs"),
    "agents": _agents,
    "duration_ms": lambda trace: trace.info.execution_duration,
    "total_tokens": _total_tokens,
    "cost_usd": _cost,
    "steps": _steps,
}
