"""The engine against `mlflow.genai.evaluate` and against a bare client on the same prompts, in one run.

    python tests/benchmarks/engine.py                       # 2,000 traces, 1 and 3 judges, 0 and 300 ms
    python tests/benchmarks/engine.py --full --latencies 0  # `evaluate` on all traces too: quote these ratios
    python tests/benchmarks/engine.py --memory --traces 20000
    python tests/benchmarks/engine.py --http --traces 200
    python tests/benchmarks/engine.py --traces 400 --quick  # a look

Traces have 8 spans each; judges are made by `make_judge` from YAML; the model is the fake judge server in a process
of its own. Every contender runs in a fresh process, so memory and CPU are its own. `mlflow.genai.evaluate` gets
MLFLOW_GENAI_EVAL_MAX_WORKERS=40 and a connection pool of 100: its default number of workers with a pool in which it
does not lose rows. It is run on 200 traces unless --full: its fixed costs make its rate about half of that on 2,000.
CPU counts the contender's process alone, start-up excluded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

JUDGES = {
    f"bench_{i}": f"""
name: bench_{i}
purpose: A benchmark judge, number {i}.
value: {{type: boolean}}
instructions: |
  Judge number {i}: does the answer {{{{ outputs }}}} serve the request {{{{ inputs }}}}? Say true or false and why.
"""
    for i in range(3)
}
EXPERIMENT = "bench"


def _setup(folder: Path, traces: int, uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        _write_traces(mlflow.create_experiment(EXPERIMENT), traces)
    for name, text in JUDGES.items():
        (folder / f"{name}.yaml").write_text(text)


def _write_traces(experiment_id: str, traces: int) -> None:
    """Traces of eight spans with texts of a support agent's length, a hundred a transaction."""
    from mlflow.tracing.client import TracingClient

    from mlflow_assay.testing.conformance import sample_span

    client = TracingClient()
    passage = "Your plan includes roaming in forty countries; beyond that each megabyte is charged. " * 8
    for start in range(0, traces, 100):
        spans = []
        for number in range(start + 1, min(start + 100, traces) + 1):
            request = {
                "request": f"Question {number}: why is my bill higher than last month? {passage[: number % 300]}"
            }
            spans.append(
                sample_span(number, 1, "agent", "AGENT", request, {"answer": f"{passage} Reference {number}."})
            )
            for index in range(2, 9):
                kind = ("CHAT_MODEL", "TOOL", "RETRIEVER")[index % 3]
                spans.append(sample_span(number, index, f"step_{index}", kind, request, {"found": passage}, parent=1))
        client.log_spans(experiment_id, spans)


def _judges(folder: Path, count: int, url: str) -> list[Any]:
    from mlflow_assay import pipeline
    from mlflow_assay.contracts import ModelSettings

    model = ModelSettings("openai:/fake", url, timeout_s=60)
    return pipeline.build_judges(list(JUDGES)[:count], model=model, paths=[folder])


def engine(args: argparse.Namespace) -> dict[str, Any]:
    """`pipeline.score`, with or without the one-transaction write and the cache."""
    from mlflow_assay import pipeline
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.engine.run import Options
    from mlflow_assay.sources.mlflow_store import MlflowSource

    judges = _judges(args.folder, args.judges, args.url)
    if args.contender == "engine, public API":
        from mlflow_assay import sqlstore

        sqlstore.VERSIONS = ((0, 0),)
    cache = VerdictCache(f"sqlite:///{args.folder}/cache.db") if "cache" in args.contender else None
    began, cpu = time.perf_counter(), time.process_time()
    source = MlflowSource(EXPERIMENT, max_traces=args.traces)
    report = pipeline.score(source, judges, options=Options(concurrency=args.concurrency, cache=cache))
    return {
        "verdicts": sum(t.scored for t in report.tallies),
        "unscored": sum(t.unscored.total() for t in report.tallies),
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
    }


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """`mlflow.genai.evaluate` with the same judges over the same traces."""
    import mlflow

    scorers = [judge.scorer for judge in _judges(args.folder, args.judges, args.url)]
    experiment = mlflow.set_experiment(EXPERIMENT)
    began, cpu = time.perf_counter(), time.process_time()
    data = mlflow.search_traces(locations=[experiment.experiment_id], max_results=args.traces, return_type="list")
    found = mlflow.genai.evaluate(data=data, scorers=scorers)
    frame = found.result_df
    scored = sum(int(frame[f"{s.name}/value"].notna().sum()) for s in scorers)
    return {
        "verdicts": scored,
        "unscored": len(data) * len(scorers) - scored,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
    }


def bare(args: argparse.Namespace) -> dict[str, Any]:
    """A bare aiohttp client sending the same bodies, nothing read or stored."""
    import asyncio

    import aiohttp

    from mlflow_assay.engine.chat import prepare
    from mlflow_assay.engine.judging import subject_of
    from mlflow_assay.sources.mlflow_store import MlflowSource

    judges = _judges(args.folder, args.judges, args.url)
    bodies = []
    for trace in MlflowSource(EXPERIMENT, max_traces=args.traces).traces():
        for judge in judges:
            chat = prepare(judge)
            assert chat is not None
            bodies.append(chat.body(chat.render(subject_of(judge, trace))))

    async def main() -> None:
        gate = asyncio.Semaphore(args.concurrency)

        async def one(body: dict[str, Any]) -> None:
            async with gate, http.post(args.url, json=body) as reply:
                json.loads(await reply.read())

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            await asyncio.gather(*(one(body) for body in bodies))

    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(main())
    return {
        "verdicts": len(bodies),
        "unscored": 0,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
    }


def _contender(args: argparse.Namespace) -> None:
    import mlflow

    mlflow.set_tracking_uri(args.uri)
    work = {"evaluate": evaluate, "bare client": bare}.get(args.contender, engine)
    found = work(args)
    found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(found))


def _serve(args: argparse.Namespace) -> None:
    from mlflow_assay.testing import FakeJudgeServer, answer

    with FakeJudgeServer(answer(True, "serves it"), latency_s=args.latency, record=False) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def _start_server(latency: float) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, __file__, "--role", "serve", "--latency", str(latency)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _measure(name: str, folder: Path, uri: str, url: str, traces: int, judges: int, concurrency: int) -> dict[str, Any]:
    """One contender in a fresh process."""
    settings = {"--role": "contender", "--contender": name, "--folder": folder, "--uri": uri, "--url": url}
    settings |= {"--traces": traces, "--judges": judges, "--concurrency": concurrency}
    command = [sys.executable, __file__, *(str(part) for pair in settings.items() for part in pair)]
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "none",
        "MLFLOW_GENAI_EVAL_MAX_WORKERS": "40",
        "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION": "true",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "100",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def _forget(uri: str) -> None:
    """Delete all assessments, so that the next contender finds the traces unjudged."""
    import sqlite3

    with sqlite3.connect(uri.removeprefix("sqlite:///")) as db:
        db.execute("delete from assessments")
    db.close()


def main(args: argparse.Namespace) -> None:
    """Every contender in turn, a row each."""
    folder = Path(tempfile.mkdtemp(prefix="assay-bench-"))
    uri = f"sqlite:///{folder}/mlflow.db"
    _setup(folder, args.traces, uri)
    few = args.traces if args.full else min(args.traces, 200)
    head = f"{'latency':>7} {'judges':>6}  {'contender':<22} {'traces':>6} {'verdicts':>8} {'unsc.':>5}"
    print(f"{head} {'wall s':>7} {'calls/s':>8} {'CPU ms/call':>11} {'RSS MB':>7} {'× evaluate':>10}")
    if args.memory or args.http:
        (_memory if args.memory else _http)(args, folder, uri)
        return
    for latency in args.latencies:
        concurrency = 256 if latency else 64
        server, url = _start_server(latency)
        for judges in (1, 3):
            slow = None
            for name in (
                "evaluate",
                "bare client",
                "engine, public API",
                "engine",
                "engine + cache, 1st",
                "engine + cache, 2nd",
            ):
                if (args.quick and "cache" in name) or (args.only and name not in args.only):
                    continue
                _forget(uri)
                traces = few if name == "evaluate" else args.traces
                if name.endswith("1st"):
                    (folder / "cache.db").unlink(missing_ok=True)
                found = _measure(name, folder, uri, url, traces, judges, concurrency)
                rate = found["verdicts"] / found["wall_s"]
                slow = rate if name == "evaluate" else slow
                cpu = 1000 * found["cpu_s"] / max(found["verdicts"], 1)
                counts = f"{traces:>6} {found['verdicts']:>8} {found['unscored']:>5}"
                row = f"{latency * 1000:>5.0f}ms {judges:>6}  {name:<22} {counts}"
                times = f"{found['wall_s']:>7.1f} {rate:>8.1f} {cpu:>11.2f} {found['rss_mb']:>7.0f}"
                print(f"{row} {times} {rate / slow if slow else 1:>9.1f}×", flush=True)
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def _tracking_server(uri: str) -> tuple[subprocess.Popen[bytes], str]:
    """An `mlflow server` with two workers on a free loopback port, over the same database."""
    import socket
    from urllib.request import urlopen

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    for _ in range(120):
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
        except OSError:
            time.sleep(1)
        else:
            return process, f"http://127.0.0.1:{port}"
    raise SystemExit("the tracking server did not start within two minutes")


def _http(args: argparse.Namespace, folder: Path, uri: str) -> None:
    """`evaluate` and the engine through an HTTP tracking server, three judges at zero latency."""
    import signal

    model, url = _start_server(0.0)
    tracking, address = _tracking_server(uri)
    slow = None
    try:
        for name in ("evaluate", "engine"):
            _forget(uri)
            found = _measure(name, folder, address, url, args.traces, 3, 64)
            rate = found["verdicts"] / found["wall_s"]
            slow = slow or rate
            print(f"{name}: {found['verdicts']} verdicts, {rate:.1f} calls/s, {rate / slow:.1f}× evaluate", flush=True)
    finally:
        os.killpg(tracking.pid, signal.SIGTERM)
        assert model.stdin is not None
        model.stdin.close()
        model.wait()


def _memory(args: argparse.Namespace, folder: Path, uri: str) -> None:
    """Peak memory over a tenth of the traces and over all: it must not grow with their number."""
    server, url = _start_server(0.0)
    for traces in (args.traces // 10, args.traces):
        _forget(uri)
        found = _measure("engine", folder, uri, url, traces, 1, 64)
        print(f"{traces:>6} traces: peak {found['rss_mb']:.0f} MB, {found['verdicts'] / found['wall_s']:.0f} calls/s")
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", default="main", help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--judges", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--concurrency", type=int, default=64, help=argparse.SUPPRESS)
    parser.add_argument("--latency", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.0, 0.3], help="Seconds a reply takes.")
    parser.add_argument("--traces", type=int, default=2000)
    parser.add_argument("--full", action="store_true", help="Run `evaluate` on all traces too (minutes).")
    parser.add_argument("--quick", action="store_true", help="Without the cache rows.")
    parser.add_argument("--only", nargs="+", help="Only these contenders.")
    parser.add_argument("--http", action="store_true", help="Only through an HTTP tracking server, 3 judges.")
    parser.add_argument("--memory", action="store_true", help="Only peak memory, over a tenth of the traces and all.")
    given = parser.parse_args()
    {"main": main, "contender": _contender, "serve": _serve}[given.role](given)
