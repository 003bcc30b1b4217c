"""What the worker's memory does over an hour of traffic, compressed in time: 36,000 assessments in some five minutes.

python tests/benchmarks/bridge_memory.py [--count 36000] [--seconds 300] [--cold] [--trim] [--allocations]

A writer in a process of its own logs traces and ten assessments on each at a steady rate; the worker follows them and
ships them over OTLP as spans, events and metrics, judges a tenth of the traces with a judge that is code, and counts
itself, as `assay watch` does. All that the worker does by time (overlaps, comparisons, sweeps, pushes) goes faster by
the same factor as the traffic, so that what it remembers of "the last two minutes" is what two minutes at ten a second
would hold; what it keeps by number is full from the start, as after days. Every tenth prints resident memory, blocks
that Python has allocated, and how full each memory of the worker is.

The bound that memory is compared with: the same process before the first assessment.
"""

from __future__ import annotations

import argparse
import base64
import ctypes.util
import gc
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import uuid
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow

from bridge import add, resident, serve
from mlflow_assay import pipeline
from mlflow_assay.bridge import judging as judging_module
from mlflow_assay.bridge import subject
from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Retry
from mlflow_assay.bridge.following import Pace
from mlflow_assay.bridge.judging import Selection
from mlflow_assay.bridge.owner import make_owner
from mlflow_assay.bridge.worker import Pulse, Worker
from mlflow_assay.cli.bridge_options import make_sinks
from mlflow_assay.sinks import otlp_metrics
from mlflow_assay.sinks.worker_metrics import WorkerMetrics

ASSESSMENTS_A_TRACE = 10
HOUR_S = 3600.0


def write(uri: str, count: int, seconds: float) -> None:
    """Ten assessments on each trace at a steady rate: one real trace, then copies of its rows, which cost less to make.

    Twice a second, each time traces and assessments in one transaction apiece.
    """
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("bench")
    with mlflow.start_span("agent", span_type="AGENT") as root:
        root.set_inputs({"request": "a question"})
        root.set_outputs({"answer": "an answer"})
    traces, started = count // ASSESSMENTS_A_TRACE, time.perf_counter()
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=60)) as connection:
        made = 0
        while made < traces:
            owed = int((time.perf_counter() - started) / seconds * traces) + 1
            new = copies(connection, root.trace_id, min(owed, traces) - made)
            for judge in range(ASSESSMENTS_A_TRACE if new else 0):
                add(new, judge)
            made += len(new)
            time.sleep(0.5)


def copies(connection: sqlite3.Connection, trace_id: str, count: int) -> list[str]:
    """New traces that begin now, as MLflow would have stored them."""
    ids = [f"tr-{uuid.uuid4().hex}" for _ in range(count)]
    now = int(time.time() * 1000)
    with connection:
        for table in ("trace_info", "trace_tags", "trace_request_metadata", "spans"):
            for row in stored(connection, table, "trace_id" if table == "spans" else "request_id", trace_id):
                names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
                fresh = [copied(row, trace_id, one, now) for one in ids]
                connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", fresh)  # noqa: S608
    return ids


def stored(connection: sqlite3.Connection, table: str, column: str, value: str) -> list[dict[str, Any]]:
    """Rows, their generated columns left out."""
    names = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
    query = f"SELECT {', '.join(names)} FROM {table} WHERE {column} = ?"  # noqa: S608
    return [dict(zip(names, row, strict=True)) for row in connection.execute(query, (value,))]


def copied(row: dict[str, Any], old: str, new: str, now: int) -> dict[str, Any]:
    """The row with ids and times of its own."""
    times = {
        "timestamp_ms": now - 1000,
        "execution_time_ms": 1000,
        "start_time_unix_nano": (now - 1000) * 1_000_000,
        "end_time_unix_nano": now * 1_000_000,
    }
    own = {name: value for name, value in times.items() if name in row}
    text = {name: value.replace(old, new) for name, value in row.items() if isinstance(value, str)}
    if "content" in row:
        encoded = [base64.b64encode(bytes.fromhex(trace[3:])).decode() for trace in (old, new)]
        text["content"] = text["content"].replace(*encoded)
    return {**row, **text, **own}


def make_worker(folder: Path, url: str, faster: float) -> Worker:
    """The worker `assay watch --otlp-endpoint … -j latency_limit --sample 0.1` would be, so much faster."""
    database, owner = Database(f"sqlite:///{folder}/outbox.db"), make_owner()
    sinks = make_sinks([f"otlp-metrics,endpoint={url},interval_s={15 / faster}"], url, False)
    metrics = WorkerMetrics(url, interval_s=15 / faster)
    metrics.start()
    default, chosen = Pace(), Selection()
    bridged = pipeline.bridged(
        "bench",
        database,
        owner,
        tuple(sinks),
        judges=pipeline.build_judges(["latency_limit"]),
        pace=Pace(
            overlap_s=default.overlap_s / faster,
            counts_every_s=default.counts_every_s / faster,
            sweep_every_s=default.sweep_every_s / faster,
        ),
        selection=Selection(
            rate=0.1,
            settle_s=chosen.settle_s / faster,
            overlap_s=chosen.overlap_s / faster,
            sweep_every_s=chosen.sweep_every_s / faster,
        ),
        told=metrics.judged,
    )
    return Worker(
        database,
        [bridged],
        sinks,
        observers=[metrics],
        pulse=Pulse(poll_s=2.0 / faster),
        retry=Retry(first_s=1 / faster),
        owner=owner,
    )


def fill(worker: Worker) -> None:
    """Fills what is bounded by number, as in a worker that has run for days: from then on it can only stay full."""
    experiment = worker._experiments[0]
    judging: Any = experiment.judging
    sink: Any = worker._sinks["otlp-metrics"]
    for _ in range(max(subject._REMEMBERED, judging_module._SEEN, otlp_metrics._REMEMBERED)):
        trace_id = f"tr-{uuid.uuid4().hex}"
        facts = subject.SpanFacts(trace_id[-16:], "".join(["ag", "ent"]), "".join(["mo", "del"]))
        experiment.following.ingest.subjects._facts[trace_id] = facts
        judging._seen[trace_id] = None
        sink._acknowledged([SimpleNamespace(key=uuid.uuid4().hex)])


def sqlite_mb() -> float:
    """What SQLite itself holds: page caches and prepared statements of all connections."""
    library = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
    library.sqlite3_memory_used.restype = ctypes.c_int64
    return float(library.sqlite3_memory_used()) / 2**20


def remembered(worker: Worker) -> dict[str, int]:
    """How many things each memory of the worker holds."""
    experiment = worker._experiments[0]
    judging: Any = experiment.judging
    sink: Any = worker._sinks["otlp-metrics"]
    return {
        "seen": len(experiment.following._seen),
        "runs": len(experiment.following.ingest.subjects._facts),
        "judged": len(judging._seen),
        "counted": len(sink._counted),
        "series": len(sink._meters._book.known),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=36_000)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--cold", action="store_true", help="begin with nothing remembered")
    parser.add_argument("--trim", action="store_true", help="have the allocator give back what is free, each time")
    parser.add_argument("--allocations", action="store_true", help="what Python allocated since a fifth of the way")
    parser.add_argument("--write", metavar="URI", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.write, given.count, given.seconds)
        return
    url = f"http://127.0.0.1:{serve()}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        run(Path(name), url, given)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def run(folder: Path, url: str, given: argparse.Namespace) -> None:
    """Follows the writer to its end and prints ten times on the way."""
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("bench")
    worker = make_worker(folder, url, HOUR_S * given.count / 36_000 / given.seconds)
    if not given.cold:
        fill(worker)
    running = threading.Thread(target=worker.run)
    running.start()
    time.sleep(5)
    print(f"before             {resident()} MB, {sys.getallocatedblocks():,} blocks")
    options = ["--write", uri, "--count", str(given.count), "--seconds", str(given.seconds)]
    writer = subprocess.Popen([sys.executable, __file__, *options])
    started, cpu, marks, before = time.perf_counter(), time.process_time(), [], None
    try:
        for tenth in range(1, 11):
            wait_for(worker, given.count * tenth // 10, writer)
            gc.collect()
            if given.trim:
                ctypes.CDLL(None).malloc_trim(0)
            marks.append(resident())
            full = ", ".join(f"{count:,} {what}" for what, count in remembered(worker).items())
            held = f"SQLite {sqlite_mb():.1f} MB, {sys.getallocatedblocks():,} blocks"
            print(f"{tenth * given.count // 10:>6} shipped     {marks[-1]} MB, {held}; {full}")
            sys.stdout.flush()
            if given.allocations and tenth == 2:
                tracemalloc.start(8)
            if given.allocations and tenth == 4:
                before = tracemalloc.take_snapshot()
        wall, used = time.perf_counter() - started, time.process_time() - cpu
        if before is not None:
            for line in tracemalloc.take_snapshot().compare_to(before, "lineno")[:25]:
                print("  ", line)
    finally:
        writer.wait()
        worker.stop()
        running.join()
    third = marks[6] - marks[3], marks[9] - marks[6]
    print(
        f"growth             {third[0]:+d} MB from the 4th tenth to the 7th, {third[1]:+d} MB from the 7th to the 10th"
    )
    print(f"time               {wall:.0f} s wall, {used:.0f} s CPU of the worker")


def wait_for(worker: Worker, count: int, writer: subprocess.Popen[bytes]) -> None:
    """Until every sink has so many, the worker's own verdicts aside; a writer that failed ends it."""
    while min(one.delivered for one in worker.status().sinks) < count:
        if writer.poll():
            raise RuntimeError(f"the writer ended with {writer.returncode}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
