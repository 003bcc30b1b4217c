"""What a library's metric is shown of a trace or a session, and where each field is read from.

Every field has a default place and may be read from another one, named as in `trace_fields`:

    field             read from                              needs
    input             the trace's inputs, as text            inputs
    output            the trace's final answer, as text      outputs
    expected_output   expectation:expected_response          expectations.expected_response
    context           expectation:context                    expectations.context
    expected_tools    expectation:expected_tool_calls        expectations.expected_tool_calls
    baseline          expectation:baseline_response          expectations.baseline_response
    retrieved         passages of its RETRIEVER spans        retrieved
    tools_called      its TOOL spans: name, arguments, …     tools
    tools_available   tools offered to the model             tools_available
    input_images      images in the trace's inputs           input_images
    output_images     images in the trace's outputs          output_images
    scenario, expected_outcome, chatbot_role                 expectations of these names; never needed
    turns             the session's turns                    session
    spans             the trace's spans                      spans

A place `text:…` is that text itself, for what is the same for all traces (`chatbot_role: "text:a billing agent"`).
An expectation is read by one name, never all of them together. A request of several messages is shown as a
transcript. A session's turns are its traces' requests and answers, each answer with the tools called and passages
retrieved in its trace; a trace that holds a whole conversation (root outputs with `messages`) gives its turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay import trace_fields, trace_media
from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["Sample", "SampleFields", "ToolCall", "Turn"]

# field: (where it is read from by default, the word for it in a contract's `needs`)
_DEFAULTS: dict[str, tuple[str, str]] = {
    "input": ("inputs", "inputs"),
    "output": ("outputs", "outputs"),
    "expected_output": ("expectation:expected_response", "expectations.expected_response"),
    "context": ("expectation:context", "expectations.context"),
    "expected_tools": ("expectation:expected_tool_calls", "expectations.expected_tool_calls"),
    "baseline": ("expectation:baseline_response", "expectations.baseline_response"),
    "retrieved": ("retrieved", "retrieved"),
    "tools_called": ("tool_calls", "tools"),
    "tools_available": ("tools_available", "tools_available"),
    "input_images": ("input_images", "input_images"),
    "output_images": ("output_images", "output_images"),
    "scenario": ("expectation:scenario", "expectations.scenario"),
    "expected_outcome": ("expectation:expected_outcome", "expectations.expected_outcome"),
    "chatbot_role": ("expectation:chatbot_role", "expectations.chatbot_role"),
}
_TURNS = "session"
_TEXT = "text:"


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool, made or expected.

    Attributes:
        arguments: by name, or None where none are recorded (or none are expected in particular).
        result, error: of a call that was made.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    result: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Turn:
    """One thing said in a conversation, with what the agent did for it."""

    role: Literal["user", "assistant"]
    content: str
    retrieved: tuple[str, ...] = ()
    tools: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Sample:
    """What a metric is shown, in no library's own terms. A field that is absent is None or empty.

    Attributes:
        input, output, expected_output: text, an image in it as `(image)`.
        input_parts, output_parts: text and images in order.
        context: what the answer should rest on, as the experts gave it.
        retrieved, retrieved_parts: what the agent retrieved, as text and with its images.
        baseline: another answer to the same request, for pairwise metrics.
        turns: for session-level metrics.
        expectations: all expectations by name.
        trace: the trace judged (a session's first), or None where only values were given.
    """

    input: str | None = None
    output: str | None = None
    expected_output: str | None = None
    context: tuple[str, ...] = ()
    retrieved: tuple[str, ...] = ()
    retrieved_parts: tuple[trace_media.Part, ...] = ()
    tools_called: tuple[ToolCall, ...] = ()
    expected_tools: tuple[ToolCall, ...] = ()
    tools_available: tuple[Mapping[str, Any], ...] = ()
    input_parts: tuple[trace_media.Part, ...] = ()
    output_parts: tuple[trace_media.Part, ...] = ()
    baseline: str | None = None
    scenario: str | None = None
    expected_outcome: str | None = None
    chatbot_role: str | None = None
    turns: tuple[Turn, ...] = ()
    expectations: Mapping[str, Any] = field(default_factory=dict)
    trace: Trace | None = None


class SampleFields:
    """Where the fields of a sample are read from.

    Args:
        overrides: field to its place, as in `trace_fields`; those not named keep their default.

    Raises:
        ConfigError: there is no such field or place.
    """

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        for name, place in (overrides or {}).items():
            if name not in _DEFAULTS:
                raise ConfigError(f"A sample has no field {name!r}.", valid=sorted(_DEFAULTS))
            if not isinstance(place, str):
                raise ConfigError(f"The place of the field {name!r} is a text.", found=repr(place))
            if not place.startswith(_TEXT):
                trace_fields.check(place)
        self.overrides = dict(overrides or {})

    def place(self, name: str) -> str:
        """Where a field is read from."""
        return self.overrides.get(name, _DEFAULTS[name][0])

    def needs(self, reads: Iterable[str]) -> tuple[str, ...]:
        """The words for `JudgeContract.needs`: what must be there before anything is called.

        A field read from another place is needed from there; from an optional one (`…?`) or a text it is not. What is
        no field of a sample is such a word already (`expectations.<key>`).
        """
        words = []
        for name in reads:
            if name == "turns":
                words.append(_TURNS)
            elif name not in _DEFAULTS:
                words.append(name)
            elif name not in self.overrides:
                words.append(_DEFAULTS[name][1])
            elif not self.overrides[name].endswith("?") and not self.overrides[name].startswith(_TEXT):
                words.append(self.overrides[name])
        return tuple(dict.fromkeys(words))

    def sample(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        expectations: Mapping[str, Any] | None = None,
        trace: Trace | None = None,
        session: Sequence[Trace] = (),
    ) -> Sample:
        """What a metric is shown.

        Args:
            inputs, outputs: values that stand for the trace's own; None reads the trace.
            expectations: likewise, by name.
            session: all traces of the session, oldest first, for session-level metrics.

        Raises:
            UnscoredError: MISSING_FIELD, when something is there but is not what it should be.
        """
        traces = tuple(session) or ((trace,) if trace is not None else ())
        read = _Reader(self, inputs, outputs, dict(expectations or {}), traces)
        return Sample(
            input=read.text("input"),
            output=read.text("output"),
            expected_output=read.text("expected_output"),
            context=read.texts("context"),
            retrieved=read.texts("retrieved"),
            retrieved_parts=tuple(
                part for text in read.texts("retrieved", whole=True) for part in trace_media.part_of(text)
            ),
            tools_called=read.calls("tools_called"),
            expected_tools=read.calls("expected_tools"),
            tools_available=read.tools("tools_available"),
            input_parts=read.parts("input"),
            output_parts=read.parts("output"),
            baseline=read.text("baseline"),
            scenario=read.text("scenario"),
            expected_outcome=read.text("expected_outcome"),
            chatbot_role=read.text("chatbot_role"),
            turns=_turns(self, session) if session else (),
            expectations=read.expectations,
            trace=traces[0] if traces else None,
        )


class _Reader:
    """Reads fields of one subject."""

    def __init__(
        self, where: SampleFields, inputs: Any, outputs: Any, expectations: dict[str, Any], traces: Sequence[Trace]
    ) -> None:
        self._where, self._given, self._traces = where, {"inputs": inputs, "outputs": outputs}, traces
        self.expectations = expectations

    def value(self, name: str) -> Any:
        """A field as it is recorded, or None."""
        place = self._where.place(name)
        if place.startswith(_TEXT):
            return place.removeprefix(_TEXT)
        if place in self._given and self._given[place] is not None:
            return self._given[place]
        if place.startswith("expectation:") and self.expectations.get(place[12:].removesuffix("?")) is not None:
            return self.expectations[place[12:].removesuffix("?")]
        found = [trace_fields.extract(trace, place) for trace in self._traces]
        return next((value for value in found if value not in (None, trace_fields.NOT_RECORDED)), None)

    def text(self, name: str) -> str | None:
        """A field as text."""
        value = self.value(name)
        if value is None:
            return None
        return self._as_text(name, trace_media.without_images(value) if trace_media.images_in(value) else value)

    def _as_text(self, name: str, value: Any) -> str:
        if self._where.place(name) == "inputs":
            return request_text(value)
        if self._where.place(name) == "outputs":
            return trace_fields.answer_in(value)
        return trace_fields.as_text(value)

    def parts(self, name: Literal["input", "output"]) -> tuple[trace_media.Part, ...]:
        """A field's text and images in order; images read from a place of their own come after the text."""
        value, images = self.value(name), f"{name}_images"
        found = trace_media.parts_of(value, partial(self._as_text, name)) if value is not None else ()
        if images not in self._where.overrides and any(isinstance(part, trace_media.Image) for part in found):
            return found
        words = [part for part in found if isinstance(part, str)]
        return (*words, *trace_media.images_at(self.value(images)))

    def texts(self, name: str, *, whole: bool = False) -> tuple[str, ...]:
        """A field as passages: a list's items, or one text; an image as `(image)`, or `whole`, by its URI."""
        found = self.value(name)
        value = found if whole or not trace_media.images_in(found) else trace_media.without_images(found)
        if value is None:
            return ()
        return (
            tuple(trace_fields.as_text(v) for v in value) if isinstance(value, list) else (trace_fields.as_text(value),)
        )

    def calls(self, name: str) -> tuple[ToolCall, ...]:
        """A field as calls of tools."""
        return _calls(name, self._where.place(name), self.value(name))

    def tools(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """A field as descriptions of tools."""
        value = self.value(name)
        return tuple(v for v in value if isinstance(v, Mapping)) if isinstance(value, list) else ()


def request_text(inputs: Any) -> str:
    """A trace's inputs as text: the message, or a transcript where there are several messages."""
    messages = inputs.get("messages") if isinstance(inputs, Mapping) else inputs
    said = [m for m in messages if isinstance(m, Mapping) and m.get("role")] if isinstance(messages, list) else []
    spoken = [m for m in said if m.get("content")]
    if len(spoken) > 1:
        return "\n".join(f"{m['role']}: {trace_fields.content_text(m['content'])}" for m in spoken)
    if spoken:
        return trace_fields.content_text(spoken[0]["content"])
    return trace_fields.question_in(inputs)


def _calls(name: str, place: str, value: Any) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs {name} as a list from {place} (found: {value!r:.200})")
    return tuple(_call(name, place, call) for call in value)


def _call(name: str, place: str, call: Any) -> ToolCall:
    """A call as MLflow's expectations, OpenAI's messages or `tool_calls` write it; a plain name is one, too."""
    if isinstance(call, str):
        return ToolCall(call)
    about = call.get("function", call) if isinstance(call, Mapping) else {}
    if not isinstance(about, Mapping) or not about.get("name"):
        raise UnscoredError(
            Unscored.MISSING_FIELD, f"needs a name in each of {name} from {place} (found: {call!r:.200})"
        )
    given = about.get("arguments", about.get("input_parameters", about.get("args")))
    result = about.get("result", about.get("output"))
    error = about.get("error")
    return ToolCall(str(about["name"]), _arguments(given), result, None if error is None else str(error))


def _arguments(given: Any) -> Mapping[str, Any] | None:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {"arguments": given}
    if given is None or isinstance(given, Mapping):
        return given
    return {"arguments": given}


# --- turns -------------------------------------------------------------------------------------------------


def _turns(where: SampleFields, session: Sequence[Trace]) -> tuple[Turn, ...]:
    return tuple(turn for trace in session for turn in _turns_of(where, trace))


def _turns_of(where: SampleFields, trace: Trace) -> list[Turn]:
    recorded = trace_fields.extract(trace, "outputs.messages")
    if isinstance(recorded, list) and sum(_role(m) == "user" for m in recorded) > 0:
        return _spoken(where, trace, recorded)
    read = _Reader(where, None, None, {}, (trace,))
    turns = []
    asked = trace_fields.last_user_message(trace) if "input" not in where.overrides else read.text("input")
    if asked:
        turns.append(Turn("user", asked))
    answer = read.text("output")
    if answer:
        turns.append(Turn("assistant", answer, read.texts("retrieved"), read.calls("tools_called")))
    return turns


def _role(message: Any) -> str | None:
    return message.get("role") if isinstance(message, Mapping) else None


def _spoken(where: SampleFields, trace: Trace, messages: Sequence[Any]) -> list[Turn]:
    """The turns of a conversation recorded as messages; calls of tools go to the agent's next words."""
    turns: list[Turn] = []
    waiting: dict[str, ToolCall] = {}
    for message in (m for m in messages if isinstance(m, Mapping)):
        if message.get("role") == "tool":
            _answered(waiting, message)
        for call in message.get("tool_calls") or () if message.get("role") == "assistant" else ():
            made = _call("tools_called", "outputs.messages", call)
            waiting[str(call.get("id") or len(waiting))] = made
        if not message.get("content"):
            continue
        text = trace_fields.content_text(message["content"])
        if message.get("role") == "user":
            turns.append(Turn("user", text))
        elif message.get("role") == "assistant":
            turns.append(Turn("assistant", text, (), tuple(waiting.values())))
            waiting = {}
    return _with_evidence(where, trace, turns)


def _answered(waiting: dict[str, ToolCall], message: Mapping[str, Any]) -> None:
    key = str(message.get("tool_call_id") or message.get("id") or "")
    if key in waiting:
        call = waiting[key]
        waiting[key] = ToolCall(call.name, call.arguments, message.get("content"), call.error)


def _with_evidence(where: SampleFields, trace: Trace, turns: list[Turn]) -> list[Turn]:
    """Where the messages tell no calls or passages, those of the spans, at the agent's last words."""
    read = _Reader(where, None, None, {}, (trace,))
    last = next((i for i in reversed(range(len(turns))) if turns[i].role == "assistant"), None)
    if last is None:
        return turns
    tools = () if any(turn.tools for turn in turns) else read.calls("tools_called")
    turn = turns[last]
    turns[last] = Turn(turn.role, turn.content, read.texts("retrieved"), turn.tools or tools)
    return turns
