"""The agent whose prompts are tried: a user's function, or one call of a model with the prompt.

A function reads its prompts from MLflow's registry (`mlflow.genai.load_prompt`), as in production. While a candidate
is tried, every loaded `PromptVersion` of a prompt under trial gives the candidate's text, in this process only; so does
MLflow's `optimize_prompts`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Trace
    from mlflow.entities.model_registry import PromptVersion

__all__ = ["Agent", "Answer", "FunctionAgent", "ModelAgent", "read_function", "trying"]

_one_at_a_time = RLock()


@dataclass(frozen=True)
class Answer:
    """What the agent answered.

    Attributes:
        outputs: whatever it returned.
        trace: of the call; None where none was kept.
        usd: what it cost in US dollars; None where it does not say.
        tokens: of its model calls; None likewise.
    """

    outputs: Any
    trace: Trace | None = None
    usd: float | None = None
    tokens: int | None = None


class Agent(Protocol):
    """What can be asked with prompts under trial."""

    identity: str  # names it in the journal: equal identities give comparable answers
    calls_model: bool  # whether a call is known to cost money

    def ask(self, inputs: Mapping[str, Any]) -> Answer:
        """One answer, with the prompts that stand at this moment.

        Raises:
            Exception: whatever the agent raises.
        """
        ...


@contextmanager
def trying(prompts: Mapping[str, str]) -> Iterator[set[str]]:
    """While it is entered, `PromptVersion.template` gives these texts; one set of candidates at a time.

    Args:
        prompts: text by prompt name; a chat prompt's messages as JSON.

    Yields:
        The names of the prompts that were really read.
    """
    from mlflow.entities.model_registry import PromptVersion

    used: set[str] = set()
    before: Any = PromptVersion.template

    def template(self: Any) -> Any:
        if self.name not in prompts:
            return before.fget(self)
        used.add(self.name)
        text = prompts[self.name]
        return text if self.is_text_prompt else json.loads(text)

    with _one_at_a_time:
        PromptVersion.template = property(template)
        try:
            yield used
        finally:
            PromptVersion.template = before


def read_function(address: str) -> Callable[..., Any]:
    """The function `module:function` names; the working folder is searched first, as by `python -m`.

    Raises:
        ConfigError: it is not of that form, or there is no such function.
    """
    module, colon, name = address.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"--predict {address!r} cannot be read.", valid="module:function, such as my_agent:predict")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"The function {address!r} cannot be imported: {error}.") from error
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise ConfigError(f"{address!r} is not a plain function.", valid="a function that returns the agent's outputs")
    return found  # type: ignore[no-any-return]


class FunctionAgent:
    """A user's own agent.

    Args:
        function: takes a row's inputs as keywords and returns its outputs.
        traced: keep a trace of each call in MLflow's active experiment, for judges that look into it and for the
            costs it records; else tracing is off while it runs.
        usd_per_call: what a call costs where its trace does not say; None is unknown.
        identity: names it in the journal; None takes module and name.
    """

    calls_model = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        traced: bool = False,
        usd_per_call: float | None = None,
        identity: str | None = None,
    ) -> None:
        self._function, self.traced, self.usd_per_call = function, traced, usd_per_call
        name = f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"
        self.identity = identity or name

    def ask(self, inputs: Mapping[str, Any]) -> Answer:
        """One answer of the function; whatever it raises comes through."""
        return self._in_trace(inputs) if self.traced else self._untraced(inputs)

    def _untraced(self, inputs: Mapping[str, Any]) -> Answer:
        from mlflow.tracing.provider import trace_disabled

        return Answer(trace_disabled(self._function)(**inputs), usd=self.usd_per_call)

    def _in_trace(self, inputs: Mapping[str, Any]) -> Answer:
        import uuid

        import mlflow
        from mlflow.pyfunc.context import Context, set_prediction_context

        # The context makes MLflow log the trace at once, so that it can be read back.
        context = Context(request_id=str(uuid.uuid4()), is_evaluate=True)
        with set_prediction_context(context), mlflow.start_span("candidate", span_type="AGENT") as span:
            span.set_inputs(dict(inputs))
            outputs = self._function(**inputs)
            span.set_outputs(outputs)
        trace = mlflow.get_trace(span.trace_id, silent=True)
        usd, tokens = _paid(trace)
        return Answer(outputs, trace, self.usd_per_call if usd is None else usd, tokens)


class ModelAgent:
    """One call of a model with the prompt filled in: for a prompt that is the whole agent.

    Args:
        prompt: the registered version; a chat prompt sends its messages, a text one user message.
        model: which, where, with which parameters.
    """

    calls_model = True

    def __init__(self, prompt: PromptVersion, model: ModelSettings) -> None:
        self._prompt, self.model = prompt, model
        self.identity = f"{model.uri} {model.base_url or ''} {json.dumps(dict(model.params), sort_keys=True)}"

    def ask(self, inputs: Mapping[str, Any]) -> Answer:
        """The model's reply as text.

        Raises:
            UnscoredError: there is none, with the reason.
            MlflowException: a variable of the prompt is not among the inputs.
        """
        from mlflow_assay.engine.completing import complete

        filled: Any = self._prompt.format(**inputs)
        messages = [{"role": "user", "content": filled}] if isinstance(filled, str) else filled
        reply = complete(self.model, messages)
        tokens = None if reply.input_tokens is None else reply.input_tokens + (reply.output_tokens or 0)
        return Answer(reply.text, None, reply.usd, tokens)


def _paid(trace: Trace | None) -> tuple[float | None, int | None]:
    """US dollars and tokens a trace records."""
    if trace is None:
        return None, None
    cost, usage = trace.info.cost or {}, trace.info.token_usage or {}
    return cost.get("total_cost"), usage.get("total_tokens")
