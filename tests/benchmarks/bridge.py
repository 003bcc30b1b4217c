"""The bridge's figures: assessments shipped a second and lag at a steady rate; its memory: bridge_memory.py.

python tests/benchmarks/bridge.py [--count 3000] [--rate 100] [--seconds 20]

Each ratio is against a lower bound in the same run: a loop that reads the same rows from MLflow's database and posts
the same bodies to the same loopback server, with no outbox. The server answers 200 to everything. One process is
measured; MLflow is a SQLite file, so is the outbox.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow
from mlflow.entities import AssessmentSource, Feedback

from mlflow_assay import pipeline, sqlstore
from mlflow_assay.bridge import codec
from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.following import Pace
from mlflow_assay.bridge.owner import make_owner
from mlflow_assay.bridge.worker import Pulse, Worker
from mlflow_assay.contracts import Delivery

pipeline._meanings = lambda paths, judges: {}  # reading the catalogue is a start-up cost of its own
SOURCE = AssessmentSource("CODE", "bench")


class Sink:
    """Posts each batch as JSON over one kept-alive connection."""

    name = "bench"

    def __init__(self, port: int) -> None:
        import http.client

        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.arrived: list[tuple[int, float]] = []
        self.count = 0

    def deliver(self, revisions: Any) -> list[Delivery]:
        body = ("[" + ",".join(codec.encode(r) for r in revisions) + "]").encode()
        self._http.request("POST", "/", body)
        self._http.getresponse().read()
        now = time.time() * 1000
        self.arrived += [(r.changed_ms, now) for r in revisions]
        self.count += len(revisions)
        return [Delivery("delivered")] * len(revisions)

    def close(self) -> None:
        self._http.close()


def serve() -> int:
    """A loopback server in a process of its own; its port."""
    read, write = os.pipe()
    if os.fork() == 0:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        os.write(write, str(server.server_address[1]).encode())
        parent = os.getppid()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)
    return int(os.read(read, 16))


def make_traces(count: int) -> list[str]:
    mlflow.set_experiment("bench")
    ids = []
    for number in range(count):
        with mlflow.start_span("agent", span_type="AGENT") as root:
            root.set_inputs({"request": f"question {number}"})
            root.set_outputs({"answer": "an answer"})
        ids.append(root.trace_id)
    return ids


def add(trace_ids: list[str], number: int) -> None:
    """One verdict on each of these traces, in one transaction."""
    batch = []
    for trace_id in trace_ids:
        made = Feedback(
            name=f"judge_{number % 5}", value=number % 3 > 0, source=SOURCE, rationale="Because of it. " * 8
        )
        made.trace_id = trace_id
        batch.append(made)
    sqlstore.add_assessments(sqlstore.open_store(), batch)


def worker(folder: Path, sink: Sink, poll_s: float) -> Worker:
    database, owner = Database(f"sqlite:///{folder}/outbox-{time.time_ns()}.db"), make_owner()
    bridged = pipeline.bridged("bench", database, owner, ("bench",), pace=Pace())
    return Worker(database, [bridged], {"bench": sink}, pulse=Pulse(poll_s=poll_s), owner=owner)


def throughput(folder: Path, port: int, count: int) -> None:
    """CPU seconds and wall seconds to ship what is there, beside the bare loop."""
    trace_ids = make_traces(100)
    for number in range(count // 100):
        add(trace_ids, number)
    location = mlflow.get_experiment_by_name("bench").experiment_id
    store = sqlstore.open_store()

    sink, started, cpu = Sink(port), time.perf_counter(), time.process_time()
    body = ["x" * 900] * 200
    total = after = 0
    mark = (0, "")
    while rows := sqlstore.updated_assessments(store, location, 0, mark, 500):
        sqlstore.trace_infos(store, list({row[2] for row in rows}))
        for _ in range(0, len(rows), 200):
            sink._http.request("POST", "/", json.dumps(body))
            sink._http.getresponse().read()
        total, mark, after = total + len(rows), (rows[-1][0], rows[-1][1]), after + 1
    bare_wall, bare_cpu = time.perf_counter() - started, time.process_time() - cpu
    sink.close()

    sink = Sink(port)
    made = worker(folder, sink, 1.0)
    started, cpu = time.perf_counter(), time.process_time()
    made.once(600)
    wall, used = time.perf_counter() - started, time.process_time() - cpu
    assert len(sink.arrived) == count, (len(sink.arrived), count)
    print(f"shipped            {count} assessments in {wall:.1f} s wall, {used:.1f} s CPU")
    print(f"  per core         {count / used:.0f} assessments a CPU second; {count / wall:.0f}/s wall")
    print(f"  bare loop        {total / bare_cpu:.0f} a CPU second; {total / bare_wall:.0f}/s wall")
    print(f"  ratio of CPU     {used / bare_cpu:.1f}× the bare loop")


def lag(folder: Path, port: int, rate: int, seconds: int) -> None:
    """From the write in MLflow to the far end's acknowledgement, at a steady rate."""
    trace_ids = make_traces(rate // 10)
    sink = Sink(port)
    made = worker(folder, sink, 0.5)
    running = threading.Thread(target=made.run)
    running.start()
    time.sleep(8)  # the traces of the part before are shipped first
    sink.arrived.clear()
    begun = int(time.time() * 1000)
    cpu, started, sent = time.process_time(), time.perf_counter(), 0
    for number in range(seconds * 10):
        add(trace_ids, number)
        sent += len(trace_ids)
        time.sleep(max(0.0, started + (number + 1) / 10 - time.perf_counter()))
    deadline = time.time() + 60
    while sum(1 for changed, _ in sink.arrived if changed >= begun) < sent and time.time() < deadline:
        time.sleep(0.2)
    used = time.process_time() - cpu
    lags = sorted((at - changed) / 1000 for changed, at in sink.arrived if changed >= begun)
    made.stop()
    running.join()
    assert len(lags) == sent, (len(lags), sent)
    p50, p99 = statistics.median(lags), lags[int(len(lags) * 0.99) - 1]
    print(f"lag at {rate}/s       p50 {p50:.2f} s, p99 {p99:.2f} s over {sent} assessments; poll every 0.5 s")
    print(f"  CPU              {used / seconds:.2f} s a second, writer included")


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    port = serve()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part, run in (
            ("throughput", lambda: throughput(folder, port, given.count)),
            ("lag", lambda: lag(folder, port, given.rate, given.seconds)),
        ):
            mlflow.set_tracking_uri(f"sqlite:///{folder}/{part}.db")
            run()
            sys.stdout.flush()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
