"""Fixtures of the bridge's tests: a bridge on a fresh store, and a far end that keeps every key it is told."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Deliveries, Retry
from mlflow_assay.bridge.following import Following, Pace
from mlflow_assay.bridge.ingest import Ingest
from mlflow_assay.bridge.mlflow_reads import MlflowReads
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.contracts import AssessmentRevision, Delivery


class ThroughServer(MlflowReads):
    """Reads a database the way a tracking server must be read: without a list of changes."""

    lists_changes = False


@dataclass
class MemoryFarEnd:
    """A bridge sink in this process that keeps what it is given and can be told to fail."""

    name = "memory"
    taken: list[AssessmentRevision] = field(default_factory=list)
    answer: Callable[[AssessmentRevision], Delivery] = lambda _: Delivery("delivered")
    closed: bool = False

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        answers = [self.answer(revision) for revision in revisions]
        self.taken += [r for r, a in zip(revisions, answers, strict=True) if a.state == "delivered"]
        return answers

    def held(self, revisions: Sequence[AssessmentRevision]) -> dict[str, int]:
        copies = Counter(revision.key for revision in self.taken)
        return {revision.key: copies[revision.key] for revision in revisions}

    def close(self) -> None:
        self.closed = True


@dataclass
class Bridge:
    """One experiment's bridge, driven step by step."""

    outbox: Outbox
    deliveries: Deliveries
    following: Following
    sinks: tuple[str, ...]

    def ship(self, sink: str = "memory", owner: str = "me") -> list[AssessmentRevision]:
        """Deliver all that is due, without a sink: the revisions in order."""
        found = []
        while claimed := self.deliveries.claim(sink, owner, 200, 60):
            self.deliveries.settle(sink, owner, [(one, Delivery("delivered")) for one in claimed])
            found += [one.revision for one in claimed]
        return found

    def poll(self) -> list[AssessmentRevision]:
        """Look at MLflow once and give what is newly to be shipped."""
        self.following.poll()
        return self.ship()


@pytest.fixture
def outbox_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/outbox.db"


@pytest.fixture
def make_bridge(store: str, outbox_url: str) -> Iterator[Callable[..., Bridge]]:
    """Builds a `Bridge` on experiment `test`; call with server=True to read as through a tracking server."""
    databases: list[Database] = []

    def make(
        *, server: bool = False, sinks: tuple[str, ...] = ("memory",), experiment: str = "test", **ingest: Any
    ) -> Bridge:
        import mlflow

        pace = ingest.pop("pace", Pace(counts_every_s=0, sweep_every_s=0, busy_share=1.0))
        location = str(mlflow.set_experiment(experiment).experiment_id)
        database = Database(outbox_url)
        databases.append(database)
        outbox = Outbox(database, sinks)
        outbox.add_sinks()
        reads = ThroughServer(location) if server else MlflowReads(location)
        following = Following(reads, outbox, Ingest(outbox, location, **ingest), pace)
        return Bridge(outbox, Deliveries(database, Retry(first_s=0.01, most_s=0.05)), following, sinks)

    yield make
    for database in databases:
        database.close()


class KeyServer:
    """A far end on loopback that keeps every key it is told, across the death of those who tell it.

    Attributes:
        told: keys in the order they were acknowledged.
        mode: `ok`, `500`, `429`, `hang` (no answer until the mode changes), `flaky` (every second request fails
            after it was taken, as when the answer is lost).
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.mode = "ok"
        self.requests = 0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def copies(self) -> Counter[str]:
        with self._lock:
            return Counter(key for key, _, _ in self.told)

    def orders(self) -> dict[str, list[int]]:
        """Revision numbers by assessment, in the order they came."""
        found: dict[str, list[int]] = {}
        with self._lock:
            for _, assessment, revision in self.told:
                found.setdefault(assessment, []).append(revision)
        return found

    def close(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/held":
                    copies = server.copies
                    self._answer(200, {key: copies[key] for key in body})
                    return
                server.requests += 1
                while server.mode == "hang" and not server._stopped.wait(0.02):
                    pass
                if server.mode in ("500", "429"):
                    self._answer(int(server.mode), {})
                    return
                with server._lock:
                    server.told += [(one["key"], one["assessment_id"], one["revision"]) for one in body]
                lost = server.mode == "flaky" and server.requests % 2 == 0
                self._answer(500 if lost else 200, {})

            def _answer(self, code: int, value: Any) -> None:
                held = json.dumps(value).encode()
                try:
                    self.send_response(code)
                    self.send_header("Content-Length", str(len(held)))
                    self.end_headers()
                    self.wfile.write(held)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the worker was killed meanwhile

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


def eventually(condition: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.1) -> Any:
    """The first truthy answer within the time; fails with the last one."""
    deadline = time.monotonic() + timeout_s
    answer = condition()
    while not answer and time.monotonic() < deadline:
        time.sleep(every_s)
        answer = condition()
    assert answer, f"not within {timeout_s} s: {answer!r}"
    return answer
