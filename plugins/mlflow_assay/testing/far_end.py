"""A service on loopback that takes whatever a bridge sink sends, or fails the way one asks it to."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FarEnd", "FarEndRequest"]


@dataclass(frozen=True)
class FarEndRequest:
    """One request as it came, its body decompressed."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class FarEnd:
    """Starts on entering a `with` block, on a free port of 127.0.0.1.

    Attributes:
        status: answered to every request; 0 means not to answer until `status` changes or the block ends.
        headers: sent with each answer, for example `{"Retry-After": "7"}`.
        body: sent with each answer.
        echo: answer with the request's headers as text, as careless services do.
        script: statuses for the next requests, before `status` holds.
        requests: what came, in order.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    echo: bool = False
    script: list[int] = field(default_factory=list)
    requests: list[FarEndRequest] = field(default_factory=list)

    def __enter__(self) -> FarEnd:
        self._stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def paths(self) -> list[str]:
        """Paths asked for, without queries, in order."""
        return [request.path.partition("?")[0] for request in self.requests]

    def _answer(self) -> int:
        status = self.script.pop(0) if self.script else self.status
        while status == 0 and not self._stopped.wait(0.02):
            status = self.status
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        far_end = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                far_end.requests.append(FarEndRequest(self.command, self.path, dict(self.headers), body))
                status = far_end._answer()
                if status == 0:
                    self.close_connection = True
                    return
                told = str(self.headers).encode() if far_end.echo else far_end.body
                self.send_response(status)
                for name, value in {**far_end.headers, "Content-Length": str(len(told))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve  # noqa: N815 - names the base class looks for

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        return Handler
