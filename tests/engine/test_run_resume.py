"""A run killed with SIGKILL at random moments and started again: nothing lost, nothing doubled, counts of the whole."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import re
import runpy
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_assay import pipeline, semconv
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.cache import CachedVerdict, CacheError
from mlflow_assay.engine.evaluation_run import EvaluationRun
from mlflow_assay.engine.keeper import Keeper
from mlflow_assay.sources.mlflow_store import MlflowSource, parse_since
from mlflow_assay.testing import FakeJudgeServer, answer

TRACES = 200
CONCURRENCY = 8
PRELOADED = [
    "mlflow_assay.cli.score",
    "mlflow_assay.pipeline",
    "mlflow_assay.engine.run",
    "mlflow_assay.engine.evaluation_run",
    "mlflow_assay.sources.mlflow_store",
    "mlflow.genai.judges",
    "mlflow.store.tracking.sqlalchemy_store",
    "aiohttp",
    "rich.progress",
]


def even_passes(request) -> str:
    number = int(re.search(r"question (\d+)", request.prompt)[1])
    return answer(number % 2 == 0)


def evaluation_runs():
    (experiment,) = [e.experiment_id for e in mlflow.search_experiments() if e.name == "test"]
    return [r for r in MlflowClient().search_runs([experiment]) if semconv.RUN_WORK in r.data.tags]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_whole(folder, log_trace, store, tmp_path):
    """SIGKILL at seeded random points of `assay score`, started again until it ends by itself.

    The bound on what is paid twice: a worker holds at most one call that is in flight or paid and not yet in the
    cache, so each kill costs at most `concurrency` calls.
    """
    ids = [log_trace(request=f"question {i}", tools=()) for i in range(TRACES)]
    dice = random.Random(20261123)  # noqa: S311 - chance, not secrecy
    with FakeJudgeServer(even_passes, latency_s=0.02) as server:
        command = [
            "score", "-e", "test", "-j", "looks_right", "--path", str(folder), "--model", "openai:/fake-judge",
            "--base-url", server.url, "--concurrency", str(CONCURRENCY), "--json",
        ]  # fmt: skip
        script = tmp_path / "go.py"
        environment = {"MLFLOW_TRACKING_URI": store, "ASSAY_CACHE_URL": os.environ["ASSAY_CACHE_URL"]}
        script.write_text(
            f"import os, sys\nos.environ.update({environment!r})\n"
            f"sys.stdout = open({str(tmp_path / 'out.json')!r}, 'w')\n"
            f"import mlflow\nmlflow.set_tracking_uri({store!r})\n"
            "from mlflow_assay.cli import assay\n"
            f"assay({command!r}, standalone_mode=False)\nsys.stdout.flush()\n"
        )
        moments = [*sorted(dice.sample(range(1, TRACES), 4)), TRACES]
        kills = play(script, server, moments, dice)
        asked = Counter(re.search(r"question (\d+)", r.prompt)[1] for r in server.requests)
    print(f"{kills} kills, {sum(asked.values()) - TRACES} calls paid twice")
    assert kills >= 4
    assert len(asked) == TRACES
    assert sum(asked.values()) - TRACES <= kills * CONCURRENCY
    assert max(asked.values()) <= 1 + kills

    for number, trace_id in enumerate(ids):
        (verdict,) = mlflow.get_trace(trace_id).info.assessments
        assert (verdict.value, verdict.valid) == (number % 2 == 0, True)

    (run,) = evaluation_runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["looks_right/scored"] == TRACES
    assert run.data.metrics["looks_right/unscored"] == 0
    assert run.data.metrics["looks_right/mean"] == pytest.approx(0.5)
    linked = mlflow.search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id, return_type="list", include_spans=False
    )
    assert {t.info.trace_id for t in linked} == set(ids)


def play(script: Path, server: FakeJudgeServer, moments: list[int], dice: random.Random) -> int:
    """Start the script and kill it as the server has had so many requests, until it ends by itself; the kills."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    kills = 0
    for moment in [*moments, None]:
        process = processes.Process(target=runpy.run_path, args=(str(script),))
        process.start()
        while process.is_alive() and (moment is None or len(server.requests) < moment):
            time.sleep(0.001)
        if moment is not None and process.is_alive():
            time.sleep(dice.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join(120)
        if process.exitcode == 0:
            return kills
    raise AssertionError(f"the run did not end by itself: exit code {process.exitcode}")


def score(folder: Path, server: FakeJudgeServer):
    judges = pipeline.build_judges(
        ["looks_right"], model=ModelSettings("openai:/fake-judge", server.url, timeout_s=5), paths=[folder]
    )
    return pipeline.score(MlflowSource("test"), judges)


def test_a_run_killed_after_its_last_verdict_is_ended_by_the_next(folder, log_trace, monkeypatch):
    ids = [log_trace(request=f"question {i}") for i in range(4)]

    def killed(self, tallies, trace_ids):
        raise KeyboardInterrupt

    with FakeJudgeServer(even_passes) as server:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(EvaluationRun, "close", killed)
            score(folder, server)
        report = score(folder, server)
        assert len(server.requests) == 4
    assert report.tallies[0].standing == 4
    (run,) = evaluation_runs()
    assert (run.info.status, run.info.run_id) == ("FINISHED", report.run_id)
    assert run.data.metrics["looks_right/scored"] == 4
    linked = mlflow.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id, return_type="list")
    assert {t.info.trace_id for t in linked} == set(ids)


def test_a_resumed_run_counts_what_stands_now_and_all_that_was_paid(folder, log_trace, monkeypatch):
    """Part one ends with an unscored verdict; part two replaces it: one count for it, the tokens of both."""
    for i in range(2):
        log_trace(request=f"question {i}")
    monkeypatch.setattr(EvaluationRun, "close", lambda self, tallies, trace_ids: None)
    with FakeJudgeServer(lambda r: answer("perhaps") if "question 1" in r.prompt else answer(True)) as server:
        score(folder, server)
    with FakeJudgeServer(answer(True)) as server:
        report = score(folder, server)
    run = EvaluationRun(report.run_id, resumed=True)
    judges = pipeline.build_judges(["looks_right"], model=server.model, paths=[folder])
    (tally,), ids = run.whole(MlflowSource("test").infos(), judges)
    assert (tally.passed, tally.unscored.total(), tally.calls, len(ids)) == (2, 0, 3, 2)


def test_a_moving_window_is_the_same_work_when_it_is_asked_for_again(folder, log_trace, monkeypatch):
    """`--since 7d` is another moment each time; the killed run is still found and ended."""
    log_trace(request="question 0")
    with FakeJudgeServer(answer(True)) as server:
        judges = pipeline.build_judges(["looks_right"], model=server.model, paths=[folder])
        first, second = (MlflowSource("test", since_ms=parse_since("7d") + i, since="7d") for i in range(2))
        with monkeypatch.context() as patched:
            patched.setattr(EvaluationRun, "close", lambda self, tallies, trace_ids: None)
            killed = pipeline.score(first, judges)
        assert pipeline.score(second, judges).run_id == killed.run_id
    assert [r.info.status for r in evaluation_runs()] == ["FINISHED"]


def test_nothing_owed_makes_no_run(folder, log_trace):
    log_trace(request="question 0")
    with FakeJudgeServer(answer(True)) as server:
        first, second = score(folder, server), score(folder, server)
    assert first.run_id is not None
    assert second.run_id is None
    assert len(evaluation_runs()) == 1


# --- keeping paid verdicts ---------------------------------------------------------------------------------


class SlowStore:
    """Keeps what it is given, one slow commit after the other."""

    def __init__(self, failing: bool = False) -> None:
        self.commits: list[list[str]] = []
        self.failing, self.busy = failing, threading.Lock()

    def put_many(self, items):
        assert self.busy.acquire(blocking=False), "two commits at once"
        time.sleep(0.02)
        self.commits.append(list(items))
        self.busy.release()
        if self.failing:
            raise CacheError("disk full")


def verdict() -> CachedVerdict:
    return CachedVerdict(True, None, {}, "j", "d", 0)


async def keep_all(store, names):
    keeper, kept = Keeper(store), []

    async def one(name):
        await keeper.keep(name, verdict())
        kept.append((name, any(name in commit for commit in store.commits)))

    await asyncio.gather(*(one(name) for name in names))
    return kept


def test_keep_returns_when_the_verdict_is_committed_and_groups_what_waits():
    store = SlowStore()
    names = [f"k{i}" for i in range(50)]
    kept = asyncio.run(keep_all(store, names))
    assert all(committed for _, committed in kept)
    assert sorted(k for commit in store.commits for k in commit) == sorted(names)
    assert len(store.commits) <= 3


def test_a_store_that_cannot_be_written_is_a_warning_and_the_run_goes_on(caplog):
    kept = asyncio.run(keep_all(SlowStore(failing=True), ["a", "b"]))
    assert len(kept) == 2
    assert "could not be written: disk full" in caplog.text
