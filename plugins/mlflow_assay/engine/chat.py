"""The fast path: instruction judges on OpenAI-compatible endpoints, straight over kept-alive HTTP.

The prompt and the response format are made by MLflow's own judge object and the reply is read by MLflow's own
rules, so the verdict equals the one `judge(...)` would give (held by tests/engine/test_parity.py). Only the
transport differs, and what MLflow's path loses is kept: refusals, truncation, and the tokens of a garbled
reply. Judges that read `{{ trace }}` run MLflow's tool loop and are not for this path.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BoundJudge, ModelSettings, Unscored, UnscoredError
from mlflow_assay.engine.judging import Subject, reason_for_status
from mlflow_assay.engine.limits import AdaptiveLimiter, RetryPolicy, parse_retry_after, retriable
from mlflow_assay.engine.prices import cost, price_for
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp
    from mlflow.entities import Feedback

__all__ = ["ChatJudge", "Endpoint", "HandOverError", "check_credentials", "dislikes_format", "endpoint_of", "prepare"]

_HTTP_PROVIDERS = ("openai", "azure", "gateway")
_DEFAULT_KEYS = {"openai": "OPENAI_API_KEY", "azure": "AZURE_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


class HandOverError(Exception):
    """The endpoint does not take a plain chat request; MLflow's own path must be used for this judge."""


@dataclass
class Endpoint:
    """One chat-completions URL with everything its requests share."""

    url: str
    headers: dict[str, str]
    model_field: dict[str, str]
    provider: str
    timeout_s: float
    structured: bool = True  # whether the endpoint takes response_format; learnt from its first refusal


@dataclass(frozen=True)
class ChatJudge:
    """An instruction judge prepared for the fast path.

    Attributes:
        bound: the judge.
        endpoint: where its requests go.
        system: the system message, the same for every trace.
        response_format: OpenAI's structured-output schema for its verdict.
    """

    bound: BoundJudge
    endpoint: Endpoint
    system: str
    response_format: dict[str, Any]

    def render(self, subject: Subject) -> str:
        """The user message MLflow would send for this subject."""
        scorer: Any = self.bound.scorer
        conversation = None
        if subject.session:
            from mlflow.genai.utils.trace_utils import resolve_conversation_from_session

            conversation = resolve_conversation_from_session(list(subject.session))
        expectations = dict(subject.expectations) or None
        return str(scorer._build_user_message(subject.inputs, subject.outputs, expectations, conversation))

    def body(self, user: str) -> dict[str, Any]:
        """The request's JSON for a rendered user message."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": user}]
        body: dict[str, Any] = {**self.endpoint.model_field, "messages": messages}
        if self.endpoint.structured:
            body["response_format"] = self.response_format
        return {**body, **(self.bound.model.params if self.bound.model else {})}

    async def call(
        self, session: aiohttp.ClientSession, limiter: AdaptiveLimiter, policy: RetryPolicy, user: str
    ) -> Feedback:
        """Ask the model and read its reply.

        Raises:
            UnscoredError: no verdict, with the reason and the tokens paid.
            HandOverError: the endpoint refuses plain chat requests.
        """
        reply = await _post(session, self.endpoint, limiter, policy, lambda: self.body(user))
        return self.read(reply)

    def read(self, reply: Any) -> Feedback:
        """The Feedback in a chat completion, by MLflow's rules.

        Raises:
            UnscoredError: refused, truncated, empty or garbled; its metadata holds the tokens paid.
        """
        from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback
        from mlflow.genai.judges.utils.parsing_utils import _sanitize_justification

        paid = self._paid(reply)
        try:
            found = _verdict_in(reply)
        except UnscoredError as error:
            error.metadata = {**paid, **error.metadata}
            raise
        assert self.bound.model is not None  # noqa: S101 - prepare() makes none without
        return Feedback(
            name=self.bound.name,
            value=found["result"],
            rationale=_sanitize_justification(str(found.get("rationale") or "")),
            source=AssessmentSource(AssessmentSourceType.LLM_JUDGE, self.bound.model.uri),
            metadata={**paid, "guideline": self.bound.scorer.instructions},
        )

    def _paid(self, reply: Any) -> dict[str, Any]:
        """Tokens and cost of a reply under MLflow's metadata keys; empty when the endpoint reports none."""
        from mlflow.tracing.constant import AssessmentMetadataKey as Key

        usage = reply.get("usage") if isinstance(reply, dict) else None
        if not isinstance(usage, dict) or usage.get("prompt_tokens") is None:
            return {}
        given, made = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
        paid: dict[str, Any] = {Key.JUDGE_INPUT_TOKENS: given, Key.JUDGE_OUTPUT_TOKENS: made}
        price = price_for(self.bound.model)
        if price is not None:
            paid[Key.JUDGE_COST] = cost(price, given, made)
        return paid


def prepare(bound: BoundJudge) -> ChatJudge | None:
    """The judge prepared for the fast path, or None when it must go through MLflow's own."""
    from mlflow.genai.judges.instructions_judge import InstructionsJudge
    from mlflow.genai.judges.model_api import ModelAPI
    from mlflow.genai.utils.message_utils import pydantic_to_response_format

    scorer: Any = bound.scorer
    if not isinstance(scorer, InstructionsJudge) or bound.model is None:
        return None
    if "trace" in scorer.template_variables or scorer._model_api_mode is ModelAPI.DECISIONS:
        return None
    if bound.model.uri.partition(":/")[0] not in _HTTP_PROVIDERS:
        return None
    return ChatJudge(
        bound,
        endpoint_of(bound.model),
        scorer._build_system_message(is_trace_based=False),
        pydantic_to_response_format(scorer._create_response_format_model()),
    )


def check_credentials(model: ModelSettings) -> None:
    """Refuse before the first call what would fail on every call.

    Raises:
        ConfigError: the provider's key is not in the environment, or a gateway URI has no server to go to.
    """
    import os

    from mlflow.exceptions import MlflowException

    if (unknown := _unknown_provider(model.uri)) is not None:
        raise ConfigError(
            f"There is no provider for the judge model {model.uri!r}: {unknown}",
            valid="openai:/NAME, gateway:/ENDPOINT, anthropic:/NAME and others",
            fix="Some providers need: pip install 'mlflow-assay[litellm]'",
        )
    provider = model.uri.partition(":/")[0]
    variable = _DEFAULT_KEYS.get(provider)
    if variable and not os.environ.get(variable) and model.base_url is None:
        raise ConfigError(
            f"The judge model {model.uri!r} needs {variable}, which is not set.",
            fix=f"Set {variable}, or name an endpoint that needs none with --base-url, or another --model.",
        )
    if provider == "gateway" and model.base_url is None:
        from mlflow.genai.utils.gateway_utils import _resolve_gateway_uri

        try:
            _resolve_gateway_uri()
        except MlflowException as error:
            raise ConfigError(f"The judge model {model.uri!r} cannot be reached: {error.message}") from error


def _unknown_provider(uri: str) -> str | None:
    """Why neither MLflow nor LiteLLM can serve the model, or None when one of them can."""
    from mlflow.exceptions import MlflowException
    from mlflow.genai.judges.adapters.litellm_adapter import LiteLLMAdapter
    from mlflow.genai.judges.adapters.utils import get_adapter

    try:
        if not isinstance(get_adapter(uri, []), LiteLLMAdapter):
            return None
    except MlflowException as error:
        return str(error.message)
    import litellm

    provider, _, name = uri.partition(":/")
    try:
        litellm.get_llm_provider(f"{provider}/{name.lstrip('/')}")
    except litellm.exceptions.BadRequestError:
        return f"neither MLflow nor LiteLLM knows {provider!r}"
    return None


def endpoint_of(model: ModelSettings) -> Endpoint:
    """Where MLflow would send this model's requests, with its headers and model field."""
    import os

    from mlflow.gateway.constants import MLFLOW_GATEWAY_CALLER_HEADER, GatewayCaller
    from mlflow.metrics.genai.model_utils import _get_provider_instance

    provider, _, name = model.uri.partition(":/")
    name = name.lstrip("/")
    if provider == "openai" and model.base_url and not os.environ.get("OPENAI_API_KEY"):
        # A self-hosted endpoint (vLLM, the fake) that needs no key; MLflow would insist on one.
        return Endpoint(model.base_url, dict(model.headers), {"model": name}, provider, model.timeout_s)
    instance = _get_provider_instance(provider, name, base_url=model.base_url)
    headers = {**(instance.headers or {}), **model.headers}
    if provider == "gateway":
        headers.setdefault(MLFLOW_GATEWAY_CALLER_HEADER, GatewayCaller.JUDGE.value)
    field = instance.adapter_class.chat_to_model({}, instance.config)
    url = model.base_url or instance.get_endpoint_url("llm/v1/chat")
    return Endpoint(url, headers, dict(field), provider, model.timeout_s)


async def _post(
    session: aiohttp.ClientSession, endpoint: Endpoint, limiter: AdaptiveLimiter, policy: RetryPolicy, body: Any
) -> Any:
    """One chat completion, retried where that can help; returns the decoded JSON."""
    started = time.monotonic()
    attempts = throttles = 0
    while True:
        attempts += 1
        async with limiter.slot():
            status, reply, retry_after, failure = await _once(session, endpoint, body())
        if status == 200:
            limiter.succeeded()
            return reply
        if status == 400 and endpoint.structured and dislikes_format(reply):
            endpoint.structured = False
            continue
        if status in (429, 529) or (status == 503 and retry_after is not None):
            limiter.throttled(retry_after)
            throttles += 1
        # A refusal for being too fast is the limiter's to mend; it weighs a quarter of another failure.
        counted = attempts - throttles + 1 + throttles // 4 if throttles else attempts
        can_retry = failure is not None or retriable(status)
        wait = policy.wait(counted, retry_after, time.monotonic() - started) if can_retry else None
        if wait is None:
            raise _gave_up(endpoint, status, reply, failure, attempts)
        await asyncio.sleep(wait)


async def _once(
    session: aiohttp.ClientSession, endpoint: Endpoint, body: dict[str, Any]
) -> tuple[int, Any, float | None, Unscored | None]:
    """(status, decoded body or text, Retry-After seconds, transport failure)."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=endpoint.timeout_s)
    try:
        async with session.post(endpoint.url, json=body, headers=endpoint.headers, timeout=timeout) as response:
            raw = await response.read()
            wait = parse_retry_after(response.headers.get("Retry-After"), time.time())
            return response.status, _decode(raw), wait, None
    except (TimeoutError, asyncio.TimeoutError):
        return 0, f"no answer within {endpoint.timeout_s:g} s", None, Unscored.TIMEOUT
    except aiohttp.ClientError as error:
        return 0, f"{type(error).__name__}: {error}", None, Unscored.UNREACHABLE


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _message_of(reply: Any) -> str:
    """A provider's error message, wherever it put it."""
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]


def dislikes_format(reply: Any) -> bool:
    """Whether an endpoint's error says that it takes no (such) response format."""
    from mlflow.genai.judges.adapters.utils import is_response_format_error

    return bool(is_response_format_error(_message_of(reply)))


def _gave_up(endpoint: Endpoint, status: int, reply: Any, failure: Unscored | None, attempt: int) -> Exception:
    tries = f" after {attempt} tries" if attempt > 1 else ""
    if failure is not None:
        return UnscoredError(failure, f"the judge model at {endpoint.url}: {reply}{tries}")
    if status == 400 and endpoint.provider == "gateway":
        return HandOverError(_message_of(reply))
    return UnscoredError(reason_for_status(status), f"the judge model answered {status}{tries}: {_message_of(reply)}")


def _verdict_in(reply: Any) -> dict[str, Any]:
    """The JSON object with `result` in a chat completion."""
    from mlflow.genai.judges.utils.parsing_utils import _strip_markdown_code_blocks

    if not isinstance(reply, dict):
        raise UnscoredError(
            Unscored.GARBLED_REPLY, f"the endpoint's answer is not a chat completion: {str(reply)[:200]!r}"
        )
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnscoredError(Unscored.EMPTY_REPLY, "the chat completion has no choices")
    message, finish = choices[0].get("message") or {}, choices[0].get("finish_reason")
    if message.get("refusal"):
        raise UnscoredError(Unscored.REFUSED, f"the model refused: {message['refusal']}")
    if finish == "content_filter":
        raise UnscoredError(Unscored.REFUSED, "the provider's content filter stopped the reply")
    text = _flat(message.get("content"))
    if not text.strip():
        reason = Unscored.TRUNCATED if finish == "length" else Unscored.EMPTY_REPLY
        raise UnscoredError(reason, f"the reply is empty (finish reason {finish})")
    try:
        found = json.loads(_strip_markdown_code_blocks(text), strict=False)
    except ValueError as error:
        reason = Unscored.TRUNCATED if finish == "length" else Unscored.GARBLED_REPLY
        raise UnscoredError(reason, f"the reply is not JSON: {text[:300]!r}") from error
    if not isinstance(found, dict) or "result" not in found:
        raise UnscoredError(Unscored.GARBLED_REPLY, f"the reply has no `result`: {text[:300]!r}")
    return found


def _flat(content: Any) -> str:
    """Message content as text; some endpoints send a list of parts."""
    if isinstance(content, list):
        return "\n".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
    return str(content or "")
