"""Workers are killed, sinks fail and hang, MLflow goes away, the disk fills up: nothing is lost, order is kept, and
where the far end can be asked nothing is doubled.

Real processes: `worker_process.py` beside this file, on a SQLite store, against a key server on loopback.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Deliveries
from mlflow_assay.bridge.mlflow_reads import MlflowReads
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.bridge.reconcile import check_source

from .conftest import KeyServer, eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]
HERE = Path(__file__).parent
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(store: str, outbox_url: str, key_server: KeyServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker process; all are killed at the end. Its log is in `worker-N.log`."""
    running: list[subprocess.Popen[bytes]] = []

    def go(*options: str, limit_file_bytes: int | None = None, tracking_uri: str = store) -> subprocess.Popen[bytes]:
        def limited() -> None:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with EFBIG, as ENOSPC would
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes or 0, limit_file_bytes or 0))

        command = [sys.executable, str(HERE / "worker_process.py"), "test", outbox_url, key_server.url, *options]
        with (tmp_path / f"worker-{len(running)}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
                preexec_fn=limited if limit_file_bytes else None,
            )
        running.append(process)
        return process

    yield go
    for process in running:
        process.kill()
        process.wait()


class Writer:
    """Writes, edits and deletes assessments at random, and knows what must be there in the end."""

    def __init__(self, trace_ids: list[str], seed: int) -> None:
        self._random, self._trace_ids = random.Random(seed), trace_ids  # noqa: S311
        self.standing: dict[str, str] = {}
        self.ever = 0

    def step(self) -> None:
        import mlflow
        from mlflow.entities import AssessmentSource, Feedback

        draw = self._random.random()
        if draw < 0.6 or not self.standing:
            trace_id = self._random.choice(self._trace_ids)
            source = AssessmentSource("HUMAN", "anna")
            made = mlflow.log_feedback(trace_id=trace_id, name="tone", value=self._random.random() < 0.5, source=source)
            self.standing[str(made.assessment_id)] = trace_id
            self.ever += 1
            return
        chosen = self._random.choice(sorted(self.standing))
        if draw < 0.85:
            edit = Feedback(name="tone", value=self._random.random() < 0.5, rationale=str(self._random.random()))
            mlflow.update_assessment(self.standing[chosen], chosen, edit)
        else:
            mlflow.delete_assessment(self.standing.pop(chosen), chosen)


def settled(outbox_url: str, experiment_id: str, writer: Writer, server: KeyServer) -> bool:
    """Whether MLflow, outbox and far end agree."""
    database = Database(outbox_url)
    try:
        outbox, sending = Outbox(database), Deliveries(database)
        check = check_source(MlflowReads(experiment_id), outbox, experiment_id)
        status = sending.status(["keys"])
        if not (check.clean and check.in_mlflow == len(writer.standing) and status):
            return False
        if status[0].pending or status[0].retrying:
            return False
        noted = {r.key for page in sending.everything("keys", "delivered") for r in page}
        return noted == set(server.copies)
    finally:
        database.close()


def in_order(server: KeyServer) -> bool:
    """Whether no assessment's earlier revision came first after a later one."""
    firsts = {a: list(dict.fromkeys(numbers)) for a, numbers in server.orders().items()}
    return all(numbers == sorted(numbers) for numbers in firsts.values())


@pytest.fixture
def experiment(log_trace) -> tuple[str, list[str]]:
    import mlflow

    trace_ids = [log_trace() for _ in range(6)]
    return str(mlflow.get_experiment_by_name("test").experiment_id), trace_ids


@pytest.mark.parametrize("ask", [True, False], ids=["askable", "silent"])
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_points(start, experiment, outbox_url, key_server, tmp_path, seed, ask):
    """A worker is killed again and again while people write; a sink that can be asked has no duplicate."""
    location, trace_ids = experiment
    writer, chance = Writer(trace_ids, seed), random.Random(seed)  # noqa: S311
    options = ["--ask"] if ask else []
    for life in range(3):
        worker = start(*options)
        eventually(lambda log=tmp_path / f"worker-{life}.log": "ready" in log.read_text())
        until = time.monotonic() + chance.uniform(0.3, 2.5)
        while time.monotonic() < until:
            writer.step()
        worker.kill()
        worker.wait()
        writer.step()
    start(*options)
    eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    doubled = {key: n for key, n in key_server.copies.items() if n > 1}
    assert in_order(key_server)
    assert writer.ever > 20
    if ask:
        assert doubled == {}
    else:
        assert all(n <= 4 for n in doubled.values())


def test_two_workers_started_by_mistake(start, experiment, outbox_url, key_server):
    """One reads, both ship; one is killed and the other takes over; nothing is doubled while both live."""
    location, trace_ids = experiment
    writer = Writer(trace_ids, 7)
    first, second = start(), start()
    eventually(lambda: key_server.requests > 0 or (writer.step() or False), 60)
    for _ in range(150):
        writer.step()
    eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    assert max(key_server.copies.values()) == 1
    first.kill()
    for _ in range(30):
        writer.step()
    eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    assert second.poll() is None
    assert in_order(key_server)


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_two_workers_whose_clocks_are_hours_apart(start, experiment, outbox_url, key_server, skew):
    """Each would take the other's claims for long run out, if it compared their stamps with its own clock."""
    location, trace_ids = experiment
    writer = Writer(trace_ids, 8)
    first, second = start(), start("--skew", str(skew))
    for _ in range(3):
        key_server.mode = "hang"
        for _ in range(20):
            writer.step()
        time.sleep(3.0)  # longer than a lease: both hold what they are sending
        key_server.mode = "ok"
        eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    assert max(key_server.copies.values()) == 1
    first.kill()
    for _ in range(20):
        writer.step()
    eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    assert second.poll() is None
    assert in_order(key_server)


@pytest.mark.parametrize("mode", ["500", "429", "hang", "flaky"])
def test_a_sink_that_fails_gets_everything_when_it_is_well_again(start, experiment, outbox_url, key_server, mode):
    location, trace_ids = experiment
    writer = Writer(trace_ids, 11)
    key_server.mode = mode
    start("--ask")
    eventually(lambda: key_server.requests > 0 or (writer.step() or False), 60)
    for _ in range(40):
        writer.step()
    time.sleep(3.0 if mode == "hang" else 1.0)
    key_server.mode = "ok"
    eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    assert in_order(key_server)
    if mode in ("500", "429"):
        assert max(key_server.copies.values()) == 1


def test_disk_full_on_the_outbox(start, experiment, outbox_url, key_server, tmp_path):
    """A clear error, nothing marked delivered that is not; with space again, all arrives."""
    location, trace_ids = experiment
    writer = Writer(trace_ids, 5)
    for _ in range(20):
        writer.step()
    worker = start("--ask", limit_file_bytes=260_000)
    log = tmp_path / "worker-0.log"
    for _ in range(60):
        writer.step()
        for _ in range(3):  # long rationales fill it up
            big(trace_ids[0], writer)
        if "could not be written" in log.read_text():
            break
    eventually(lambda: "could not be written; nothing of this step counts as done" in log.read_text(), 60)
    assert worker.poll() is None, "it goes on"
    worker.kill()
    worker.wait()
    start("--ask")
    eventually(lambda: settled(outbox_url, location, writer, key_server), 90)
    assert in_order(key_server)
    assert max(key_server.copies.values()) == 1


def big(trace_id: str, writer: Writer) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    made = mlflow.log_feedback(
        trace_id=trace_id, name="tone", value=True, rationale="x" * 5000, source=AssessmentSource("HUMAN", "anna")
    )
    writer.standing[str(made.assessment_id)] = trace_id


def test_sigterm_ends_what_is_at_hand_and_a_restart_sends_nothing_twice(start, experiment, outbox_url, key_server):
    location, trace_ids = experiment
    writer = Writer(trace_ids, 3)
    worker = start()
    eventually(lambda: key_server.requests > 0 or (writer.step() or False), 60)
    for _ in range(60):
        writer.step()
    worker.terminate()
    assert worker.wait(30) == 0
    start()
    eventually(lambda: settled(outbox_url, location, writer, key_server), 60)
    assert max(key_server.copies.values()) == 1


def test_two_judging_workers_killed_at_random_judge_each_trace_once(start, log_trace, outbox_url, key_server):
    """Deterministic assessment ids: whoever judges, one verdict stands on each trace, and it arrives once."""
    import mlflow

    chance = random.Random(4)  # noqa: S311
    trace_ids = [log_trace() for _ in range(10)]
    for _ in range(3):
        workers = [start("--ask", "--judge", "latency_limit") for _ in range(2)]
        trace_ids += [log_trace() for _ in range(5)]
        time.sleep(5 + chance.uniform(0, 2))
        for worker in workers:
            worker.kill()
            worker.wait()
    start("--ask", "--judge", "latency_limit")

    def verdicts() -> bool:
        traces = mlflow.search_traces(locations=[experiment_id], return_type="list", include_spans=False)
        counts = [len(t.info.assessments) for t in traces]
        return counts == [1] * len(trace_ids) and len(key_server.copies) == len(trace_ids)

    experiment_id = str(mlflow.get_experiment_by_name("test").experiment_id)
    eventually(verdicts, 90, 0.5)
    assert max(key_server.copies.values()) == 1


@pytest.mark.timeout(600)
def test_mlflow_restarting(start, fresh_stack, log_trace, outbox_url, key_server, tmp_path):
    """Through a tracking server: killed while the worker reads from it, and started again."""
    import mlflow

    mlflow.set_tracking_uri(fresh_stack.mlflow)
    mlflow.set_experiment("test")
    trace_ids = [log_trace() for _ in range(4)]
    location = str(mlflow.get_experiment_by_name("test").experiment_id)
    writer = Writer(trace_ids, 9)
    for _ in range(10):
        writer.step()
    worker = start("--ask", tracking_uri=fresh_stack.mlflow)
    eventually(lambda: key_server.requests > 0, 90)
    for _ in range(10):
        writer.step()
    fresh_stack.service("mlflow").kill()
    eventually(lambda: "MLflow could not be read" in (tmp_path / "worker-0.log").read_text(), 60)
    assert worker.poll() is None, "it waits"
    fresh_stack.service("mlflow").start()
    for _ in range(10):
        writer.step()
    eventually(lambda: settled(outbox_url, location, writer, key_server), 120)
    assert in_order(key_server)
    assert max(key_server.copies.values()) == 1
