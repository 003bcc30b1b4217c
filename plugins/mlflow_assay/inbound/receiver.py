"""The OTLP/HTTP endpoint: `/v1/logs` and `/v1/traces`, protobuf or JSON, gzip or not, and `/health`."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from mlflow_assay.errors import ConfigError
from mlflow_assay.inbound.inbox import FullError, Inbox
from mlflow_assay.inbound.reading import Found, Signal, decode, found_in
from mlflow_assay.inbound.writer import Writer

__all__ = ["Receiver", "ReceiverSettings"]

_log = logging.getLogger(__name__)
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_RETRY_AFTER_S = "5"
_MOST_REASONS = 5


@dataclass(frozen=True)
class ReceiverSettings:
    """How evaluations are taken in.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        token: demanded as `Authorization: Bearer …`; needed beyond loopback.
        max_bytes: of one request, after decompression.
        default_source: `LLM_JUDGE` or `CODE`, for evaluators that do not say what they are.
        accept_human: whether a sender may write labels in people's name.
    """

    host: str = "127.0.0.1"
    port: int = 4319
    token: str | None = field(default=None, repr=False)
    max_bytes: int = 4 * 1024 * 1024
    default_source: str = "LLM_JUDGE"
    accept_human: bool = False

    def __post_init__(self) -> None:
        if self.host not in _LOOPBACK and not self.token:
            raise ConfigError(
                f"Listening on {self.host!r} without a token lets anybody write assessments.",
                valid="a loopback address, or any with a token",
                fix="Set ASSAY_RECEIVE_TOKEN.",
            )


class Receiver:
    """Listens in a thread of its own until stopped; what it has answered 200 to is in the inbox.

    Args:
        settings: how to listen.
        inbox: where evaluations are kept.
        writer: stores them; started and stopped with the receiver.
    """

    def __init__(self, settings: ReceiverSettings, inbox: Inbox, writer: Writer) -> None:
        self._settings, self._inbox, self._writer = settings, inbox, writer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="assay-receive-http", daemon=True)
        self._runner: web.AppRunner | None = None
        self.counts: Counter[str] = Counter()
        self.port = settings.port

    @property
    def writer_counts(self) -> Counter[str]:
        """What became of the evaluations since the start."""
        return self._writer.counts

    @property
    def url(self) -> str:
        """Base URL for exporters."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self.port}"

    def start(self) -> Receiver:
        """Listen.

        Raises:
            ConfigError: the address is taken or not ours.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(30)
        except OSError as error:
            self._end_loop()
            raise ConfigError(f"{self._settings.host}:{self._settings.port} cannot be listened on: {error}.") from error
        self._writer.start()
        return self

    def stop(self) -> None:
        """Answer what is at hand, then stop listening and writing; stopping twice is stopping once."""
        if self._runner is None:
            return
        done: Future[None] = asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop)
        done.result(30)
        self._runner = None
        self._writer.stop()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _open(self) -> None:
        app = web.Application(client_max_size=self._settings.max_bytes)
        app.router.add_post("/v1/logs", self._logs)
        app.router.add_post("/v1/traces", self._traces)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def _logs(self, request: web.Request) -> web.Response:
        return await self._take("logs", request)

    async def _traces(self, request: web.Request) -> web.Response:
        return await self._take("traces", request)

    async def _take(self, signal: Signal, request: web.Request) -> web.Response:
        is_json = request.content_type == _JSON
        if not is_json and request.content_type != _PROTOBUF:
            return _status(415, False, f"the content type must be {_PROTOBUF} or {_JSON}")
        if not self._allowed(request):
            return _status(401, is_json, "the token is missing or wrong")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _status(413, is_json, f"a request may hold {self._settings.max_bytes} bytes, decompressed")
        except web.HTTPException as error:
            return _status(error.status, is_json, error.reason)
        except Exception as error:  # aiohttp raises several for a body that is not what its headers say
            return _status(400, is_json, f"the body cannot be read ({type(error).__name__})")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, self._keep, signal, body, is_json)
        except ValueError as error:
            self.counts["not readable"] += 1
            return _status(400, is_json, str(error))
        except FullError:
            return _status(503, is_json, "too many evaluations wait for MLflow", **{"Retry-After": _RETRY_AFTER_S})
        except Exception as error:  # the disk is full, the file is locked: the sender must keep it
            _log.error("Evaluations could not be kept: %s.", type(error).__name__)
            return _status(503, is_json, "the inbox cannot be written", **{"Retry-After": _RETRY_AFTER_S})
        return _success(signal, is_json, found)

    def _allowed(self, request: web.Request) -> bool:
        if self._settings.token is None:
            return True
        given = request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._settings.token}".encode())

    def _keep(self, signal: Signal, body: bytes, is_json: bool) -> Found:
        message = decode(signal, body, is_json)
        found = found_in(
            signal,
            message,
            default_source=self._settings.default_source,
            accept_human=self._settings.accept_human,
        )
        new = self._inbox.put(found.evaluations)
        self.counts["accepted"] += new
        self.counts["duplicates"] += len(found.evaluations) - new
        self.counts["refused"] += len(found.refused)
        self.counts["our own"] += found.own
        self.counts["passed over"] += found.others
        return found

    async def _health(self, _: web.Request) -> web.Response:
        waiting = await asyncio.get_running_loop().run_in_executor(None, self._inbox.waiting)
        return web.json_response({"status": "ok", "waiting": waiting, **self.counts, **self._writer.counts})


def _success(signal: Signal, is_json: bool, found: Found) -> web.Response:
    """The acknowledgement; what was refused is counted, with the reasons."""
    from google.protobuf.json_format import MessageToJson
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer: Any = ExportLogsServiceResponse() if signal == "logs" else ExportTraceServiceResponse()
    if found.refused:
        partial = answer.partial_success
        if signal == "logs":
            partial.rejected_log_records = len(found.refused)
        else:
            partial.rejected_spans = len(found.refused)
        reasons = Counter(found.refused).most_common(_MOST_REASONS)
        partial.error_message = "; ".join(f"{count} × {reason}" for reason, count in reasons)
    if is_json:
        return web.Response(text=MessageToJson(answer, indent=None), content_type=_JSON)
    return web.Response(body=answer.SerializeToString(), content_type=_PROTOBUF)


def _status(code: int, is_json: bool, message: str, **headers: str) -> web.Response:
    """A failure as the protocol wants it: a `google.rpc.Status` in the request's own encoding."""
    if is_json:
        return web.json_response({"message": message}, status=code, headers=headers)
    from google.rpc.status_pb2 import Status

    return web.Response(
        status=code, body=Status(message=message).SerializeToString(), content_type=_PROTOBUF, headers=headers
    )
