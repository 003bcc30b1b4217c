"""The one judge-model setting as something any library can use, and the bill of what the library did with it.

Libraries speak OpenAI's chat protocol, through the official client or an HTTP client they are given. Here that
protocol ends at a transport of our own, which sends each request to the model MLflow's URI or the base URL names:
as it is to OpenAI-compatible endpoints, in the provider's own form (by MLflow's gateway adapters) to the others. So
keys, headers, generation parameters, retries, tokens and cost are settled in one place and no library has a say.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.contracts import ModelSettings, Unscored, UnscoredError
from mlflow_assay.engine.allowance import current
from mlflow_assay.engine.chat import Endpoint, dislikes_format, endpoint_of
from mlflow_assay.engine.limits import RetryPolicy, parse_retry_after, retriable
from mlflow_assay.engine.prices import cost, price_for
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import httpx
    from openai import AsyncOpenAI, OpenAI

__all__ = ["JudgeClient", "Meter", "check_provider"]

_CHAT = "/chat/completions"
_PASSED_ON = ("openai", "azure", "gateway")  # speak OpenAI's protocol themselves
_NO_KEY = "none"  # clients insist on a key; the transport puts the real one, if any
_formless: set[tuple[str, str]] = set()  # endpoints, with the response formats they refused


class Meter:
    """Counts calls and tokens; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = self.input_tokens = self.output_tokens = 0
        self.unread: UnscoredError | None = None  # why a reply could not be of use, where it says so itself
        self.failure: UnscoredError | None = None  # why a request got no reply

    def add(self, reply: Any) -> None:
        """Count one answered call by the usage its reply reports."""
        usage = reply.get("usage") if isinstance(reply, dict) else None
        usage = usage if isinstance(usage, dict) else {}
        with self._lock:
            self.calls += 1
            self.input_tokens += int(usage.get("prompt_tokens") or 0)
            self.output_tokens += int(usage.get("completion_tokens") or 0)
            self.unread = self.unread or _unusable(reply)

    def paid(self, model: ModelSettings | None) -> dict[str, Any]:
        """Calls, tokens and cost, under the names verdicts carry them."""
        from mlflow.tracing.constant import AssessmentMetadataKey as Key

        found: dict[str, Any] = {semconv.JUDGE_CALLS: self.calls}
        if self.input_tokens or self.output_tokens:
            found |= {Key.JUDGE_INPUT_TOKENS: self.input_tokens, Key.JUDGE_OUTPUT_TOKENS: self.output_tokens}
            price = price_for(model)
            if price is not None:
                found[Key.JUDGE_COST] = cost(price, self.input_tokens, self.output_tokens)
        return found


class JudgeClient:
    """The judge model for one verdict of a library's metric.

    Args:
        model: the one judge-model setting.
        retry: what to do about 429, 5xx and lost connections.

    Attributes:
        settings: the setting itself.
        model: the model's name, for libraries that must be told one.
        base: the OpenAI-compatible API base; requests through the clients below reach the model whatever it is.
        api_key: a placeholder for libraries that insist on a key; the transport sends the real one.
        headers: those of the setting; the transport sends them, too.
        meter: the bill.

    Raises:
        ConfigError: the model's provider cannot be spoken to.
    """

    def __init__(self, model: ModelSettings, retry: RetryPolicy | None = None) -> None:
        self.settings = model
        self._backend = _Backend(model, retry or RetryPolicy())
        self.model = model.uri.partition(":/")[2].lstrip("/")
        self.base = self._backend.endpoint.url.partition("?")[0].rstrip("/").removesuffix(_CHAT)
        self.api_key = _NO_KEY
        self.headers = dict(model.headers)
        self.meter = self._backend.meter

    def http(self) -> httpx.Client:
        """An HTTP client for libraries that take one."""
        import httpx

        return httpx.Client(transport=_sync_transport(self._backend), timeout=None)  # noqa: S113 - the backend's own

    def async_http(self) -> httpx.AsyncClient:
        """An asynchronous HTTP client for libraries that take one; bound to no event loop."""
        import httpx

        return httpx.AsyncClient(transport=_async_transport(self._backend), timeout=None)  # noqa: S113 - see above

    def openai(self, **options: Any) -> OpenAI:
        """OpenAI's official client on this model."""
        import openai

        return openai.OpenAI(**self._official(), http_client=self.http(), **options)

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        """OpenAI's official asynchronous client on this model."""
        import openai

        return openai.AsyncOpenAI(**self._official(), http_client=self.async_http(), **options)

    def _official(self) -> dict[str, Any]:
        return {"base_url": self.base, "api_key": self.api_key, "max_retries": 0}

    def complete(self, messages: Sequence[Mapping[str, Any]], **params: Any) -> str:
        """The model's answer to some messages, as text.

        Args:
            params: of the request, such as `response_format`.

        Raises:
            UnscoredError: refused, truncated or empty, or no answer at all.
        """
        status, reply = self._backend.ask(_CHAT, {"messages": list(messages), **params})
        if status != 200:
            raise self.meter.failure or UnscoredError(Unscored.PROVIDER_ERROR, f"the judge model answered {status}")
        if (unusable := _unusable(reply)) is not None:
            raise unusable
        return _text(reply["choices"][0]["message"])


class _Backend:
    """Sends requests to the model, however its provider wants them, and counts."""

    def __init__(self, model: ModelSettings, retry: RetryPolicy) -> None:
        self.model, self._retry, self.meter = model, retry, Meter()
        self._allowance = current()
        self._provider = None if _speaks_openai(model) else _translator(model)
        self.endpoint = endpoint_of(model) if self._provider is None else _own_endpoint(model, self._provider)

    def ask(self, path: str, payload: dict[str, Any]) -> tuple[int, Any]:
        """One request, retried where that can help: (HTTP status, decoded reply).

        Raises:
            httpx.TimeoutException, httpx.TransportError: no answer, after the retries.
            UnscoredError: BUDGET, when the run's budget has no room for another call.
        """
        if self._allowance is not None and (refusal := self._allowance.take()) is not None:
            self.meter.failure = UnscoredError(Unscored.BUDGET, refusal)
            raise self.meter.failure
        started, attempts = time.monotonic(), 0
        payload = self._prepared(path, payload)
        while True:
            attempts += 1
            try:
                status, reply, wait_for = self._once(path, payload)
            except Exception as error:
                self._failed(error)
                wait = self._retry.wait(attempts, None, time.monotonic() - started) if _is_transport(error) else None
                if wait is None:
                    raise
            else:
                if status == 200:
                    self.meter.add(reply)
                    return status, reply
                if status == 400 and self._simplify(payload, reply):
                    continue
                wait = self._retry.wait(attempts, wait_for, time.monotonic() - started) if retriable(status) else None
                if wait is None:
                    self._refused(status, reply)
                    return status, reply
            time.sleep(wait)

    def _prepared(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        if path != _CHAT:
            return dict(payload)
        kept = {k: v for k, v in payload.items() if k not in ("model", "stream", "stream_options")}
        kept |= {**self.endpoint.model_field, **self.model.params}
        if (self.endpoint.url, _form(kept)) in _formless:
            kept.pop("response_format", None)
        return kept

    def _simplify(self, payload: dict[str, Any], reply: Any) -> bool:
        """Take out what the endpoint says it does not take, unless the user asked for it; whether that was possible."""
        if "response_format" in payload and dislikes_format(reply):
            _formless.add((self.endpoint.url, _form(payload)))
            del payload["response_format"]
            return True
        error = reply.get("error") if isinstance(reply, dict) else None
        about = error if isinstance(error, dict) else {}
        name = about.get("param")
        unsupported = about.get("code") in ("unsupported_value", "unsupported_parameter")
        if unsupported and name in payload and name not in ("messages", *self.model.params):
            del payload[name]
            return True
        return False

    def _once(self, path: str, payload: dict[str, Any]) -> tuple[int, Any, float | None]:
        url, body = self._url(path), payload
        if self._provider is not None:
            body = self._provider.adapter_class.chat_to_model(dict(payload), self._provider.config)
        answered = _pool().post(url, json=body, headers=self.endpoint.headers, timeout=self.endpoint.timeout_s)
        reply = _decoded(answered.content)
        if answered.status_code == 200 and self._provider is not None:
            reply = json.loads(self._provider.adapter_class.model_to_chat(reply, self._provider.config).json())
        wait = parse_retry_after(answered.headers.get("Retry-After"), time.time())
        return answered.status_code, reply, wait

    def _url(self, path: str) -> str:
        if path == _CHAT:
            return self.endpoint.url
        if self._provider is not None:
            raise ConfigError(
                f"The judge model {self.model.uri!r} serves no {path}.",
                fix="Use an openai:/ or gateway:/ model, or a base URL.",
            )
        return self.endpoint.url.replace(_CHAT, path, 1)

    def _failed(self, error: Exception) -> None:
        from mlflow_assay.engine.judging import classify

        found = classify(error)
        if found.reason is Unscored.TIMEOUT:
            late = f"the judge model at {self.endpoint.url}: no answer within {self.endpoint.timeout_s:g} s"
            found = UnscoredError(Unscored.TIMEOUT, late)
        self.meter.failure = found

    def _refused(self, status: int, reply: Any) -> None:
        from mlflow_assay.engine.judging import reason_for_status

        error = reply.get("error", reply) if isinstance(reply, dict) else reply
        message = str(error.get("message", error) if isinstance(error, dict) else error)[:500]
        self.meter.failure = UnscoredError(reason_for_status(status), f"the judge model answered {status}: {message}")


def _form(payload: Mapping[str, Any]) -> str:
    """The response format asked for, as text; some endpoints refuse all of them, some those of certain schemas."""
    return json.dumps(payload.get("response_format"), sort_keys=True, default=str)


def _speaks_openai(model: ModelSettings) -> bool:
    return model.uri.partition(":/")[0] in _PASSED_ON


def check_provider(model: ModelSettings) -> None:
    """Refuse a model whose provider no request could be sent to.

    Raises:
        ConfigError: it neither speaks OpenAI's protocol nor has an adapter in MLflow's gateway.
    """
    from mlflow.gateway.provider_registry import is_supported_provider

    provider = model.uri.partition(":/")[0]
    if not _speaks_openai(model) and not is_supported_provider(provider):
        raise ConfigError(
            f"Metrics of other libraries cannot ask {model.uri!r}: MLflow's gateway has no provider {provider!r}.",
            fix="Put the model behind an OpenAI-compatible endpoint: openai:/NAME with --base-url, or gateway:/NAME.",
        )


def _own_endpoint(model: ModelSettings, provider: Any) -> Endpoint:
    """Where a provider with a protocol of its own is asked; its adapter puts the model's name."""
    url = model.base_url or provider.get_endpoint_url("llm/v1/chat")
    headers = {**(provider.headers or {}), **model.headers}
    return Endpoint(url, headers, {}, model.uri.partition(":/")[0], model.timeout_s)


def _translator(model: ModelSettings) -> Any:
    """MLflow's provider for a model whose protocol is not OpenAI's."""
    from mlflow.metrics.genai.model_utils import _get_provider_instance

    provider, _, name = model.uri.partition(":/")
    return _get_provider_instance(provider, name.lstrip("/"), base_url=model.base_url)


def _is_transport(error: Exception) -> bool:
    import httpx

    # A call that took its whole time is not made again: the deadline is the user's.
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.TimeoutException)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
    return str(content or "")


def _unusable(reply: Any) -> UnscoredError | None:
    """Why a chat completion holds no usable answer, where it says so; None for usable ones and other replies."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if choices is None and isinstance(reply, dict) and "data" in reply:
        return None  # embeddings
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return UnscoredError(Unscored.GARBLED_REPLY, f"the endpoint's answer is not a chat completion: {reply!r:.200}")
    message, finish = choices[0].get("message") or {}, choices[0].get("finish_reason")
    if message.get("refusal"):
        return UnscoredError(Unscored.REFUSED, f"the model refused: {message['refusal']}")
    if finish == "content_filter":
        return UnscoredError(Unscored.REFUSED, "the provider's content filter stopped the reply")
    if finish == "length":
        return UnscoredError(Unscored.TRUNCATED, "the reply stopped at the token limit")
    if not _text(message).strip() and not message.get("tool_calls"):
        return UnscoredError(Unscored.EMPTY_REPLY, f"the reply is empty (finish reason {finish})")
    return None


# --- what libraries are given ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _pool() -> httpx.Client:
    """Connections of this process, kept open between verdicts; safe for threads."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.Client(limits=limits, timeout=None)  # noqa: S113 - each request brings its own


def _handled(backend: _Backend, request: httpx.Request) -> httpx.Response:
    import httpx

    path = request.url.path
    for known in (_CHAT, "/embeddings"):
        if path.endswith(known):
            status, reply = backend.ask(known, json.loads(request.read()))
            return httpx.Response(status, json=reply, request=request)
    raise ConfigError(f"A judge model is asked for {path!r}, which is neither a chat nor embeddings.")


def _sync_transport(backend: _Backend) -> httpx.BaseTransport:
    import httpx

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return _handled(backend, request)

    return Transport()


def _async_transport(backend: _Backend) -> httpx.AsyncBaseTransport:
    """The same in a thread, so that nothing is tied to the event loop a library makes for one call."""
    import httpx

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await request.aread()
            return await asyncio.to_thread(_handled, backend, request)

    return Transport()
