"""One chat completion in plain text, with what it cost: for what asks a model and is no judge.

OpenAI-compatible endpoints are reached the way judges' models are (same URL, headers, retries); any other provider
through LiteLLM, where it is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_assay.contracts import ModelSettings, Unscored, UnscoredError
from mlflow_assay.engine import chat
from mlflow_assay.engine.limits import AdaptiveLimiter, RetryPolicy
from mlflow_assay.engine.prices import cost, price_for
from mlflow_assay.errors import ConfigError

__all__ = ["Completion", "complete"]

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Completion:
    """A model's reply.

    Attributes:
        text: what it said; never blank.
        input_tokens, output_tokens: as the endpoint counts them; None where it does not say.
        usd: US dollars; None where tokens or price are not known.
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    usd: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


def complete(model: ModelSettings, messages: Messages, params: Mapping[str, Any] | None = None) -> Completion:
    """Ask a model once, in this thread; what can be retried is.

    Args:
        model: which, where; its own parameters apply.
        messages: chat messages with `role` and `content`.
        params: further generation parameters, before the model's own.

    Raises:
        UnscoredError: no reply, with the reason (refused, truncated to nothing, timeout, rate limit, …).
        ConfigError: the provider needs LiteLLM, which is not installed.
    """
    wanted = {**(params or {}), **model.params}
    listed = [dict(m) for m in messages]
    if model.uri.partition(":/")[0] in chat._HTTP_PROVIDERS:
        reply = asyncio.run(_ask(model, listed, wanted))
    else:
        reply = _ask_litellm(model, listed, wanted)
    return _read(model, reply)


async def _ask(model: ModelSettings, messages: list[dict[str, Any]], params: Mapping[str, Any]) -> Any:
    import aiohttp

    endpoint = chat.endpoint_of(model)
    endpoint.structured = False
    body = {**endpoint.model_field, "messages": messages, **params}
    async with aiohttp.ClientSession() as session:
        return await chat._post(session, endpoint, AdaptiveLimiter(1), RetryPolicy(), lambda: body)


def _ask_litellm(model: ModelSettings, messages: list[dict[str, Any]], params: Mapping[str, Any]) -> Any:
    try:
        import litellm
    except ImportError as error:
        raise ConfigError(
            f"The model {model.uri!r} needs LiteLLM, which is not installed.",
            fix="Try: pip install 'mlflow-assay[litellm]'",
        ) from error
    provider, _, name = model.uri.partition(":/")
    extra: dict[str, Any] = {"extra_headers": dict(model.headers)} if model.headers else {}
    if model.base_url is not None:
        extra["api_base"] = model.base_url
    try:
        reply = litellm.completion(
            model=f"{provider}/{name.lstrip('/')}", messages=messages, timeout=model.timeout_s, **extra, **params
        )
    except litellm.exceptions.OpenAIError as error:
        raise UnscoredError(Unscored.PROVIDER_ERROR, f"{type(error).__name__}: {error}") from error
    return reply.model_dump()


def _read(model: ModelSettings, reply: Any) -> Completion:
    usage = (reply.get("usage") if isinstance(reply, dict) else None) or {}
    given, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    price = price_for(model)
    usd = cost(price, int(given), int(made or 0)) if price is not None and given is not None else None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    message = choices[0].get("message") or {} if choices else {}
    text = chat._flat(message.get("content"))
    if not text.strip():
        reason = Unscored.REFUSED if message.get("refusal") else Unscored.EMPTY_REPLY
        paid = {"input_tokens": given, "output_tokens": made, "usd": usd}
        raise UnscoredError(reason, str(message.get("refusal") or "the model's reply is empty"), paid)
    return Completion(text, given, made, usd)
