"""A dataset of 1,000,000 rows built from traces in MLflow: CPU and peak memory against a plain pandas way.

    python tests/benchmarks/datasets_from_traces.py [--traces 1000000] [--near 100000] [--keep FOLDER]

Linux only (peak memory is read from /proc). The store is an SQLite file of MLflow's own schema. Its rows are inserted
in bulk, in the form MLflow 3.17 writes them (one root span a trace, tags, metadata, a judge's verdict each, a person's
expectation on every tenth); before anything is measured, a trace logged through MLflow's API is compared with an
inserted one.

`ours` is `build` and `write` as `assay dataset build` runs them, with nothing redacted. `pandas` reads the same tables
with `read_sql`, takes inputs, outputs, expectation, session and slice, drops duplicates of the inputs and writes one
Parquet file: no ids, no digests, no splits, everything in memory. Each contender is a process of its own; peak memory
is above what the imports alone take.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

EXPERIMENT = "support"
JUDGE = "routing_accuracy"
_DAY_MS = 86_400_000
_BEGAN_MS = 1_790_000_000_000
_LETTERS = random.Random(0)  # noqa: S311 - test data
_WORDS = ["".join(_LETTERS.choices("abcdefghijklmnoprstuvwz", k=2 + i % 8)) for i in range(3_000)]
_ROUTES = ("billing", "product", "technical_support", "account")
_TABLES = ("trace_info", "trace_tags", "trace_request_metadata", "assessments", "spans")


# --- the store -----------------------------------------------------------------------------------------------


def request_of(i: int) -> dict[str, str]:
    """The inputs of one trace; one in ten repeats an earlier one word for word, one in ten changes one word of it."""
    kind = i % 10
    rng = random.Random(i - 5 if kind in (7, 8) else i)  # noqa: S311 - test data
    words = rng.choices(_WORDS, k=18)
    if kind == 8:
        words[3] = "really"
    return {"request": f"{' '.join(words)} {i - 5 if kind in (7, 8) else i}"}


def rows_of(i: int, folder: str) -> dict[str, list[tuple[Any, ...]]]:
    """What MLflow stores of one trace, by table."""
    trace, span, at = f"tr-{i:032x}", f"{i + 1:016x}", _BEGAN_MS + i * 50
    inputs, route = json.dumps(request_of(i)), _ROUTES[i % 4]
    outputs = json.dumps({"answer": f"You are talking to {route}. {inputs[::-1][:120]}"})
    start = at * 1_000_000
    content = {
        "trace_id": b64encode(bytes.fromhex(trace[3:])).decode(),
        "span_id": b64encode(bytes.fromhex(span)).decode(),
        "parent_span_id": None,
        "name": "agent",
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 40_000_000,
        "events": [],
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {
            "mlflow.traceRequestId": json.dumps(trace),
            "mlflow.spanType": '"AGENT"',
            "mlflow.spanInputs": inputs,
            "mlflow.spanOutputs": outputs,
        },
        "links": [],
    }
    metadata = {
        "mlflow.trace.session": f"s{i // 3}",
        "mlflow.traceInputs": inputs,
        "mlflow.traceOutputs": outputs,
        "mlflow.trace_schema.version": "3",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": "bench",
    }
    tags = {
        "domain": route,
        "mlflow.artifactLocation": f"{folder}/mlruns/1/traces/{trace}/artifacts",
        "mlflow.trace.spansLocation": "TRACKING_STORE",
    }
    said = [(f"a-{i:032x}", trace, JUDGE, "feedback", json.dumps(bool(i % 3)), "LLM_JUDGE", "bench", at)]
    if i % 10 == 0:
        said.append((f"e-{i:032x}", trace, "route", "expectation", json.dumps(route), "HUMAN", "ann", at))
    return {
        "trace_info": [(trace, 1, at, 40, "OK", inputs, outputs, 1, "agent", f"s{i // 3}")],
        "trace_tags": [(key, value, trace) for key, value in tags.items()],
        "trace_request_metadata": [(key, value, trace) for key, value in metadata.items()],
        "assessments": [(a, t, n, k, v, w, w, s, who, 1, 1, w, 0) for a, t, n, k, v, s, who, w in said],
        "spans": [(trace, 1, span, "agent", "AGENT", "OK", start, start + 40_000_000, json.dumps(content))],
    }


_INSERTS = {
    "trace_info": "request_id, experiment_id, timestamp_ms, execution_time_ms, status, request_preview, "
    "response_preview, db_payload_generation, trace_name, session_id",
    "trace_tags": "key, value, request_id",
    "trace_request_metadata": "key, value, request_id",
    "assessments": "assessment_id, trace_id, name, assessment_type, value, created_timestamp, last_updated_timestamp, "
    "source_type, source_id, valid, experiment_id, trace_timestamp_ms, is_numeric_value",
    "spans": "trace_id, experiment_id, span_id, name, type, status, start_time_unix_nano, end_time_unix_nano, content",
}


def fill(folder: Path, traces: int) -> None:
    """An MLflow store with so many traces, inserted without MLflow."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.set_experiment(EXPERIMENT)
    assert str(experiment.experiment_id) == "1"
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.executescript("PRAGMA synchronous=OFF; PRAGMA cache_size=-400000;")
        later = [
            (name, sql)
            for name, table, sql in connection.execute(
                "SELECT name, tbl_name, sql FROM sqlite_master WHERE type='index'"
            )
            if table in _TABLES and sql
        ]
        for name, _ in later:
            connection.execute(f"DROP INDEX {name}")
        numbers = iter(range(traces))
        while block := list(islice(numbers, 5_000)):
            made = [rows_of(i, str(folder)) for i in block]
            for table, columns in _INSERTS.items():
                marks = ", ".join("?" * len(columns.split(",")))
                rows = [row for one in made for row in one[table]]
                connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608
        for _, sql in later:
            connection.execute(sql)
        connection.execute("ANALYZE")


def check(folder: Path) -> None:
    """An inserted trace is read by MLflow as one that was logged."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("logged")
    with mlflow.start_span("agent", span_type="AGENT") as span:
        span.set_inputs({"request": "hello"})
        span.set_outputs({"answer": "yes"})
        mlflow.update_current_trace(metadata={"mlflow.trace.session": "s"}, tags={"domain": "billing"})
    mlflow.flush_trace_async_logging()
    logged = mlflow.get_trace(span.trace_id)
    found = mlflow.get_trace(f"tr-{0:032x}")
    for trace in (logged, found):
        root = trace.data.spans[0]
        assert root.span_type == "AGENT" and set(root.inputs) == {"request"} and set(root.outputs) == {"answer"}
        assert trace.info.tags["domain"] == "billing" and trace.info.trace_metadata["mlflow.trace.session"]
        assert trace.info.state == "OK" and trace.info.request_preview
    assert {a.name for a in found.info.assessments} == {JUDGE, "route"}


# --- contenders ----------------------------------------------------------------------------------------------


def _plan(duplicates: Any, splits: bool) -> Any:
    from mlflow_assay.datasets.build import BuildPlan
    from mlflow_assay.datasets.shaping import FRACTIONS, Shaping

    shaping = Shaping(duplicates=duplicates, fractions=FRACTIONS if splits else None)
    return BuildPlan(slice="tag:domain", shaping=shaping)


def _build(folder: Path, traces: int, plan: Any) -> None:
    import mlflow

    from mlflow_assay.pipeline import build_dataset
    from mlflow_assay.sources.mlflow_store import MlflowSource

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    limit = None if traces == _all(folder) else traces
    made = build_dataset(
        "d", MlflowSource(EXPERIMENT, max_traces=limit), plan, store=str(folder / "store"), redactor=None
    )
    print(len(made), dict(made.manifest.splits), file=sys.stderr)


def _all(folder: Path) -> int:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        return int(connection.execute("SELECT count(*) FROM trace_info WHERE experiment_id = 1").fetchone()[0])


def ours_exact(folder: Path, traces: int) -> None:
    _build(folder, traces, _plan("exact", splits=False))


def ours_near(folder: Path, traces: int) -> None:
    _build(folder, traces, _plan("near", splits=True))


def pandas_exact(folder: Path, traces: int) -> None:
    import pandas as pd

    with sqlite3.connect(folder / "mlflow.db") as connection:
        infos = pd.read_sql(
            f"SELECT request_id, session_id FROM trace_info WHERE experiment_id = 1 "  # noqa: S608
            f"ORDER BY timestamp_ms LIMIT {traces}",
            connection,
        )
        spans = pd.read_sql(
            "SELECT trace_id AS request_id, content FROM spans WHERE parent_span_id IS NULL", connection
        )
        tags = pd.read_sql("SELECT request_id, value AS slice FROM trace_tags WHERE key = 'domain'", connection)
        said = pd.read_sql(
            "SELECT trace_id AS request_id, value AS route FROM assessments WHERE name = 'route'", connection
        )
    rows = infos.merge(spans, on="request_id").merge(tags, on="request_id", how="left")
    rows = rows.merge(said, on="request_id", how="left")
    attributes = rows.pop("content").map(lambda text: json.loads(text)["attributes"])
    rows["inputs"] = attributes.map(lambda a: a["mlflow.spanInputs"])
    rows["outputs"] = attributes.map(lambda a: a["mlflow.spanOutputs"])
    rows.drop_duplicates("inputs").to_parquet(folder / "pandas.parquet", compression="zstd")


def high_water_mb() -> float:
    """Most memory this process had at once, in MB; `ru_maxrss` would start with what its parent had when it forked."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(found.split()[1]) / 1024


def nothing(folder: Path, traces: int) -> None:
    import duckdb  # noqa: F401
    import mlflow.entities
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import sklearn.feature_extraction.text  # noqa: F401

    import mlflow_assay.datasets.build
    import mlflow_assay.pipeline  # noqa: F401


def measure(step: Callable[[Path, int], None], folder: Path, traces: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MB of one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step.__name__, "--folder", str(folder), "--traces", str(traces)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step.__name__} failed")
    seconds, cpu, megabytes = map(float, done.stdout.split()[-3:])
    return seconds, cpu, megabytes


def _steps(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[Path, int], None], int]]:
    for part in (given.traces // 100, given.traces // 10, given.traces):
        yield "exact duplicates merged", ours_exact, part
    yield "exact duplicates merged", pandas_exact, given.traces
    for part in (given.near // 10, given.near):
        yield "near-duplicates merged, splits", ours_near, part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--near", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="a folder whose store is filled once and used again")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        nothing(given.folder, 0)
        began, cpu = time.perf_counter(), time.process_time()
        globals()[given.step](given.folder, given.traces)
        peak = high_water_mb()
        print(time.perf_counter() - began, time.process_time() - cpu, peak)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "mlflow.db").exists():
            fill(folder, given.traces)
        check(folder)
        base = measure(nothing, folder, 0)[2]
        print(f"imports alone {base:.0f} MB\n")
        print(f"{'what':32} {'contender':12} {'traces':>10} {'s':>7} {'CPU s':>7} {'MB above':>9}")
        for what, step, traces in _steps(given):
            seconds, cpu, peak = measure(step, folder, traces)
            print(f"{what:32} {step.__name__:12} {traces:10,} {seconds:7.1f} {cpu:7.1f} {peak - base:9.0f}", flush=True)


if __name__ == "__main__":
    main()
