"""Ray and Spark in their local modes, for real: two workers, the same verdicts as locally, a worker killed mid-run.

What local mode shows: judges rebuilt in other processes, results travelling, a process that dies and its partition
run again. What it cannot: a lost machine, a slow network, or packages that differ between machines.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_assay import pipeline, semconv
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.budget import Spend
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.partition import BudgetShare, cut, merge, pack, unpacked
from mlflow_assay.engine.plan import Due, Plan
from mlflow_assay.engine.report import Tally
from mlflow_assay.engine.run import Options
from mlflow_assay.errors import ConfigError
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, MemorySink, answer

ENGINES = [
    pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.integration]),
    pytest.param("spark", marks=[pytest.mark.slow, pytest.mark.integration]),
]
WORKER = {"ray": "ray::", "spark": "pyspark/daemon|pyspark.daemon"}


@pytest.fixture
def installed(request) -> str:
    """The engine's name; skips where its extra is not installed."""
    engine = request.param
    pytest.importorskip({"ray": "ray", "spark": "pyspark"}[engine], reason=f"the extra {engine!r} is not installed")
    if engine == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not on this machine")
    return engine


def even_passes(request) -> str:
    number = int(re.search(r"question (\d+)", request.prompt)[1])
    return answer(number % 2 == 0, f"number {number}")


def score(folder: Path, server: FakeJudgeServer, engine: str = "local", **more):
    model = ModelSettings("openai:/fake-judge", server.url, headers={"X-Key": "sesame"}, timeout_s=20)
    judges = pipeline.build_judges(["looks_right", "repeated_steps"], model=model, paths=[folder])
    options = Options(concurrency=8, cache=more.pop("cache", None))
    return pipeline.score(MlflowSource("test"), judges, options=options, engine=engine, workers=2, **more)


def verdicts(ids: list[str]) -> dict[tuple[str, str], list[tuple[object, ...]]]:
    """(trace, judge) to every verdict's value, rationale, outcome and validity."""
    found: dict[tuple[str, str], list[tuple[object, ...]]] = {}
    for trace_id in ids:
        for a in mlflow.get_trace(trace_id).info.assessments:
            facts = (a.value, a.rationale, a.metadata[semconv.OUTCOME], a.valid, a.assessment_id)
            found.setdefault((trace_id, a.name), []).append(facts)
    return found


def counts(report) -> list[tuple[object, ...]]:
    return [(t.judge, t.passed, t.failed, dict(t.unscored), t.calls, t.standing) for t in report.tallies]


def locally(folder: Path, ids: list[str], tmp_path: Path, store: str):
    """What the local engine makes of a copy of the store: its verdicts, its report, its metrics."""
    copy = tmp_path / "local.db"
    shutil.copy(store.removeprefix("sqlite:///"), copy)
    mlflow.set_tracking_uri(f"sqlite:///{copy}")
    try:
        with FakeJudgeServer(even_passes) as server:
            report = score(folder, server)
        return verdicts(ids), counts(report), metrics(report)
    finally:
        mlflow.set_tracking_uri(store)


def metrics(report) -> dict[str, float]:
    run = MlflowClient().get_run(report.run_id)
    assert run.info.status == "FINISHED"
    linked = mlflow.search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id, return_type="list", include_spans=False
    )
    return {**run.data.metrics, "linked": len(linked)}


@pytest.mark.parametrize("installed", ENGINES, indirect=True)
def test_two_workers_come_to_what_one_process_comes_to(installed, folder, log_trace, tmp_path, store, capfd):
    ids = [log_trace(request=f"question {i}") for i in range(30)]
    expected = locally(folder, ids, tmp_path, store)
    told = []
    with FakeJudgeServer(even_passes, latency_s=0.02) as server:
        report = score(folder, server, installed, told=told.append)
        assert len(server.requests) == 30
        assert {r.headers["X-Key"] for r in server.requests} == {"sesame"}
        assert server.in_flight_peak <= 8
    assert (verdicts(ids), counts(report), metrics(report)) == expected
    assert len({result.worker for result in told}) == 2
    assert str(os.getpid()) not in {result.worker.rpartition(":")[2] for result in told}
    assert "sesame" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("installed", ENGINES, indirect=True)
def test_a_worker_killed_mid_run_changes_nothing(installed, folder, log_trace, tmp_path, store):
    """SIGKILL to one worker process; its partition runs again, and at most its calls in flight are paid twice."""
    ids = [log_trace(request=f"question {i}", tools=()) for i in range(80)]
    expected = locally(folder, ids, tmp_path, store)
    killed: list[int] = []
    with FakeJudgeServer(even_passes, latency_s=0.1) as server:
        killer = threading.Thread(target=kill_one, args=(installed, server, 20, killed))
        killer.start()
        cache = VerdictCache(f"sqlite:///{tmp_path}/shared.db")
        report = score(folder, server, installed, cache=cache)
        killer.join()
        asked = Counter(re.search(r"question (\d+)", r.prompt)[1] for r in server.requests)
    assert len(killed) == 1
    assert len(asked) == 80
    assert sum(asked.values()) - 80 <= 4  # half of the concurrency of 8 was the killed worker's
    found, tallies, measured = expected
    assert verdicts(ids) == found
    assert [t[:4] for t in counts(report)] == [t[:4] for t in tallies]
    assert metrics(report) == measured


def kill_one(engine: str, server: FakeJudgeServer, after: int, killed: list[int]) -> None:
    """SIGKILL one worker of this test's own Ray or Spark once the server has had so many requests."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        time.sleep(0.01)
        if len(server.requests) < after:
            continue
        workers = [pid for pid, command in descendants() if re.search(WORKER[engine], command)]
        if engine == "ray":
            workers = [pid for pid, command in descendants() if "run_partition" in command]
        else:  # the daemon's children, not the daemon itself
            parents = {parent_of(pid) for pid in workers}
            workers = [pid for pid in workers if pid not in parents]
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])


def descendants() -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process this one started, directly or not."""
    known = {os.getpid()}
    pids = sorted(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    for _ in range(5):
        known |= {pid for pid in pids if parent_of(pid) in known}
    for pid in known - {os.getpid()}:
        try:
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue  # it has ended meanwhile


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


@pytest.mark.parametrize("installed", ENGINES[:1], indirect=True)
def test_workers_share_one_budget(installed, folder, log_trace, tmp_path):
    for i in range(20):
        log_trace(request=f"question {i}")
    budget = BudgetShare(f"sqlite:///{tmp_path}/budget.db", "run", max_calls=7)
    with FakeJudgeServer(even_passes, latency_s=0.01) as server:
        report = score(folder, server, installed, budget=budget)
        assert len(server.requests) == 7
    assert (report.tallies[0].scored, dict(report.tallies[0].unscored)) == (7, {"budget": 13})
    assert "budget of 7 calls" in report.stopped
    shared = budget.open()
    assert (shared.spent.calls, shared.reserved.calls) == (7, 0)
    shared.close()


def test_what_a_dead_worker_had_reserved_is_waited_for_and_then_given_up(folder, log_trace, tmp_path, monkeypatch):
    """Its calls may still be paid, so they are not spent again; the next run's driver releases them."""
    for i in range(3):
        log_trace(request=f"question {i}")
    share = BudgetShare(f"sqlite:///{tmp_path}/budget.db", "run", max_calls=3)
    dead, budget = share.open(), share.open()
    assert dead.reserve(Spend(calls=2))
    monkeypatch.setattr("mlflow_assay.engine.run._HELD_FOR_S", 1.0)
    with FakeJudgeServer(even_passes) as server:
        judges = pipeline.build_judges(["looks_right"], model=server.model, paths=[folder])
        report = pipeline.score(MlflowSource("test"), judges, options=Options(budget=budget))
        assert (len(server.requests), dict(report.tallies[0].unscored)) == (1, {"budget": 2})
        assert "reserved for calls that did not end" in report.stopped
        budget.release()
        again = pipeline.score(MlflowSource("test"), judges, options=Options(budget=budget))
        assert (len(server.requests), again.tallies[0].scored) == (3, 2)
    for one in (dead, budget):
        one.close()


# --- without starting an engine ----------------------------------------------------------------------------


def test_a_partition_run_again_counts_what_its_first_worker_stored(folder, log_trace, tmp_path, store):
    """The same partition twice, as after a worker's death: nothing asked, nothing stored, the same tallies."""
    ids = [log_trace(request=f"question {i}") for i in range(5)]
    taken = []

    def take(partition):
        taken.append(partition)
        return pipeline.run_partition(partition)

    with FakeJudgeServer(even_passes) as server:
        model = ModelSettings("openai:/fake-judge", server.url, timeout_s=5)
        judges = pipeline.build_judges(["looks_right"], model=model, paths=[folder])
        plan = pipeline_plan(judges)
        template = pipeline._template(plan, Options(), None, (), "ray")
        shutil.rmtree(folder)  # a partition carries the definitions
        partition = replace(template, due=cut(plan, 1)[0], digests=tuple(j.digest for j in judges))
        first, second = take(partition), take(partition)
        assert len(server.requests) == 5
    assert (first.stored, first.found, second.stored, second.found) == (5, 0, 0, 5)
    assert first.tallies == second.tallies
    assert all(len(found) == 1 for found in verdicts(ids).values())
    assert "sqlite" not in repr(partition)


def pipeline_plan(judges) -> Plan:
    from mlflow_assay.engine.plan import make_plan

    return make_plan(MlflowSource("test").infos(), judges)


def test_a_worker_with_another_version_of_a_judge_judges_nothing(folder, log_trace):
    log_trace(request="question 0")
    with FakeJudgeServer(even_passes) as server:
        judges = pipeline.build_judges(["looks_right"], model=server.model, paths=[folder])
        plan = pipeline_plan(judges)
        template = pipeline._template(plan, Options(), None, (), "ray")
        with pytest.raises(ConfigError, match=r"'looks_right' of this worker is not the run's.*same versions"):
            pipeline.run_partition(replace(template, due=cut(plan, 1)[0], digests=("0" * 16,)))
        assert not server.requests


@pytest.mark.parametrize(
    ("traces", "parts", "sizes"), [(10, 3, [4, 4, 2]), (2, 8, [1, 1]), (0, 4, []), (8, 4, [2] * 4)]
)
def test_partitions_hold_every_verdict_once_and_keep_a_traces_verdicts_together(traces, parts, sizes):
    plan = Plan([])
    for i in range(traces):
        plan.due[f"t{i}"] = [Due(0, f"t{i}"), Due(1, f"t{i}")]
    found = cut(plan, parts)
    assert [len(part) // 2 for part in found] == sizes
    assert [due for part in found for due in part] == [due for dues in plan.due.values() for due in dues]


def test_folders_travel_with_what_lies_beside_the_definitions_up_to_a_limit(tmp_path, monkeypatch):
    (tmp_path / "a" / "models").mkdir(parents=True)
    (tmp_path / "a" / "x.yaml").write_text("name: x")
    (tmp_path / "a" / "models" / "m.bin").write_bytes(b"\x00\xff")
    (tmp_path / "b").mkdir()
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    with unpacked(pack(paths)) as (a, b):
        assert (a / "models" / "m.bin").read_bytes() == b"\x00\xff"
        assert (a / "x.yaml").read_text() == "name: x"
        assert list(b.iterdir()) == []
    assert not a.exists()
    monkeypatch.setattr("mlflow_assay.engine.partition._MOST_BYTES", 5)
    with pytest.raises(ConfigError, match="too large to send to every worker"):
        pack(paths)


def test_tallies_add_up():
    a = Tally("j", "d", standing=3, passed=1, unscored=Counter(budget=1), input_tokens=10)
    b = Tally("j", "d", passed=2, failed=1, unscored=Counter(budget=1, timeout=2), cost_usd=0.5)
    both = a + b
    assert (both.standing, both.passed, both.failed, both.input_tokens, both.cost_usd) == (3, 3, 1, 10, 0.5)
    assert both.unscored == Counter(budget=2, timeout=2)
    assert merge([a], []) == [a]
    assert (a + Tally("j", "d")).cost_usd is None


def test_what_cannot_be_shared_is_refused_before_anything_is_judged(folder, log_trace):
    log_trace(request="question 0")
    with FakeJudgeServer(even_passes) as server:
        judges = pipeline.build_judges(["looks_right"], model=server.model, paths=[folder])
        with pytest.raises(ConfigError, match=r"no engine 'dask'.*local, ray, spark"):
            pipeline.score(MlflowSource("test"), judges, engine="dask")
        with pytest.raises(ConfigError, match=r"judges that other processes can build.*build_judges"):
            pipeline.score(MlflowSource("test"), list(judges), engine="ray", evaluation_run=False)
        with pytest.raises(ConfigError, match=r"writes to MLflow only.*'memory'"):
            pipeline.score(MlflowSource("test"), judges, engine="ray", sinks=[MemorySink()], evaluation_run=False)
        assert not server.requests


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("spark", "pyspark.sql")])
def test_an_engine_that_is_not_installed_names_its_extra(engine, module, folder, log_trace, monkeypatch):
    log_trace(request="question 0")
    monkeypatch.setitem(sys.modules, module, None)
    with FakeJudgeServer(even_passes) as server:
        judges = pipeline.build_judges(["looks_right"], model=server.model, paths=[folder])
        with pytest.raises(ConfigError, match=rf"pip install 'mlflow-assay\[{engine}\]'"):
            pipeline.score(MlflowSource("test"), judges, engine=engine, evaluation_run=False)
