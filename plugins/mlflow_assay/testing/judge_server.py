"""A fake judge model: a real HTTP server on loopback that speaks OpenAI's chat-completions protocol.

What it answers is scripted, so it says nothing about how good a judge is.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import ModelSettings

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["FakeJudgeServer", "JudgeRequest", "Reply", "answer", "filled"]


@dataclass(frozen=True)
class Reply:
    """One scripted answer of the fake server.

    Attributes:
        content: the assistant message's text; None sends null.
        status: HTTP status; 400 and above sends an error body with `content` as its message.
        headers: extra response headers, for example `Retry-After`.
        delay_s: seconds to wait before answering, on top of the server's latency.
        finish_reason: `stop`, `length` (truncated) or `content_filter`.
        refusal: the model's refusal text, as OpenAI sends it.
        tool_calls: OpenAI tool calls, for judges that use tools.
        body: raw bytes sent instead of a chat completion.
        disconnect: close the connection without answering.
    """

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish_reason: str = "stop"
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    body: bytes | None = None
    disconnect: bool = False


@dataclass(frozen=True)
class JudgeRequest:
    """A request the fake server received: its JSON body, and when (seconds, monotonic)."""

    body: dict[str, Any]
    at: float
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def prompt(self) -> str:
        """The text of all message contents, joined by newlines."""
        return "\n".join(_text_of(m.get("content") or "") for m in self.body.get("messages", []))

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema its response format asks for; empty where it asks for none."""
        found: dict[str, Any] = (self.body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
        return found


def _text_of(content: Any) -> str:
    if not isinstance(content, list):
        return str(content)
    return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)


Script = Callable[[JudgeRequest], "Reply | str"]


def answer(value: Any, rationale: str = "scripted") -> str:
    """The reply text an MLflow judge expects: its JSON with `result` and `rationale`."""
    return json.dumps({"result": value, "rationale": rationale})


Pick = Callable[[str, dict[str, Any]], Any]


def filled(schema: dict[str, Any], pick: Pick | None = None) -> Any:
    """A value that a JSON Schema allows: the first of an enumeration, lists of one item, `1`, `true`, `text`.

    Args:
        schema: with its `$defs`, as structured-output requests carry it.
        pick: given a property's name and schema, the value to take instead; None leaves it to the rule.
    """
    return _filled("", schema, schema.get("$defs", {}), pick or (lambda _name, _schema: None))


def _filled(name: str, schema: dict[str, Any], named: dict[str, Any], pick: Pick) -> Any:
    if (picked := pick(name, schema)) is not None:
        return picked
    if "$ref" in schema:
        return _filled(name, named[schema["$ref"].rpartition("/")[2]], named, pick)
    if "anyOf" in schema:
        return _filled(name, schema["anyOf"][0], named, pick)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {key: _filled(key, about, named, pick) for key, about in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [_filled(name, schema.get("items", {}), named, pick)]
    return {"boolean": True, "integer": 1, "number": 1}.get(schema.get("type", ""), "text")


class FakeJudgeServer:
    """An OpenAI-compatible chat server on loopback with scripted replies.

    Args:
        reply: one reply for all, a sequence taken in order (the last repeats), or a function of the request.
            A string is a reply's content. None answers every request with the first value its own
            response format allows, for any schema (`filled`).
        latency_s: seconds before each answer.
        requests_per_s: over this rate it answers 429 with `Retry-After`; None is no limit.
        retry_after_s: the value of that header, whole seconds.
        tokens: prompt and completion tokens reported per call; None counts words.
        port: 0 takes a free one.
        record: keep the requests in `requests`; switch off for long benchmarks.
    """

    def __init__(
        self,
        reply: Reply | str | Sequence[Reply | str] | Script | None = None,
        *,
        latency_s: float = 0.0,
        requests_per_s: float | None = None,
        retry_after_s: int = 1,
        tokens: tuple[int, int] | None = None,
        port: int = 0,
        record: bool = True,
    ) -> None:
        self._script = _as_script(reply)
        self._latency_s = latency_s
        self._limit = requests_per_s
        self._retry_after_s = retry_after_s
        self._tokens = tokens
        self._port = port
        self._record = record
        self._recent: deque[float] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.requests: list[JudgeRequest] = []
        self.refused = 0
        self.in_flight_peak = 0
        self._in_flight = 0

    @property
    def url(self) -> str:
        """The full chat-completions URL, for `ModelSettings.base_url`."""
        return f"{self.base}/chat/completions"

    @property
    def base(self) -> str:
        """The API base, for clients that append `/chat/completions` themselves."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def model(self) -> ModelSettings:
        """Settings that point a judge at this server."""
        return ModelSettings("openai:/fake-judge", base_url=self.url, timeout_s=10)

    def __enter__(self) -> FakeJudgeServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the fake judge server did not start within 10 s")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        runner = self._loop.run_until_complete(self._listen())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _listen(self) -> web.AppRunner:
        from aiohttp import web

        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=2048)
        await site.start()
        self._port = runner.addresses[0][1]
        return runner

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self._in_flight)
        try:
            request = JudgeRequest(await http.json(), time.monotonic(), dict(http.headers))
            return await self._answer(http, request)
        finally:
            self._in_flight -= 1

    async def _answer(self, http: web.Request, request: JudgeRequest) -> web.StreamResponse:
        if self._over_limit(request.at):
            self.refused += 1
            limited = Reply("rate limit reached", 429, {"Retry-After": str(self._retry_after_s)})
            return _response(limited, request, (0, 0))
        if self._record:
            self.requests.append(request)
        reply = self._script(request)
        if isinstance(reply, str):
            reply = Reply(reply)
        if delay := self._latency_s + reply.delay_s:
            await asyncio.sleep(delay)
        if reply.disconnect and http.transport is not None:
            http.transport.close()
        tokens = self._tokens or (len(request.prompt.split()), len((reply.content or "").split()))
        return _response(reply, request, tokens)

    def _over_limit(self, now: float) -> bool:
        if self._limit is None:
            return False
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        if len(self._recent) >= self._limit:
            return True
        self._recent.append(now)
        return False


def _as_script(reply: Reply | str | Sequence[Reply | str] | Script | None) -> Script:
    if reply is None:
        return _first_allowed
    if callable(reply):
        return reply
    replies = [reply] if isinstance(reply, Reply | str) else list(reply)
    if not replies:
        raise ValueError("a script of replies needs at least one")
    remaining = deque(replies)
    return lambda _: remaining.popleft() if len(remaining) > 1 else remaining[0]


def _first_allowed(request: JudgeRequest) -> str:
    """A well-formed reply with the first value the request's own response format allows."""
    schema = request.schema
    if schema.get("properties") and "result" not in schema["properties"]:
        return json.dumps(filled(schema))
    result = schema.get("properties", {}).get("result", {})
    simple = {"boolean": True, "integer": 1, "number": 1.0}
    value = (result.get("enum") or [simple.get(result.get("type"), "yes")])[0]
    return answer(value, "the fake's first allowed value")


def _response(reply: Reply, request: JudgeRequest, tokens: tuple[int, int]) -> web.Response:
    from aiohttp import web

    if reply.body is not None:
        return web.Response(
            body=reply.body, status=reply.status, headers=reply.headers, content_type="application/json"
        )
    if reply.status >= 400:
        error = {"error": {"message": reply.content or "scripted error", "type": "fake", "code": reply.status}}
        return web.json_response(error, status=reply.status, headers=reply.headers)
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.refusal is not None:
        message["refusal"] = reply.refusal
    if reply.tool_calls is not None:
        message["tool_calls"] = reply.tool_calls
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    body = {
        "id": f"chatcmpl-{time.monotonic_ns():x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.body.get("model", "fake-judge"),
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": usage,
    }
    return web.json_response(body, headers=reply.headers)
