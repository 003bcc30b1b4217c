"""Datasets of 1,000,000 rows: write, shape, query, diff, read; wall time and peak memory against pandas and pyarrow.

    python tests/benchmarks/datasets.py [--rows 1000000]

Each contender runs in a process of its own on the same rows, which are made as they are asked for. `pyarrow` writes
the same columns in batches and keeps nothing; `pandas` holds all. Peak memory is above what the imports alone take.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WORDS = (
    "bill",
    "router",
    "phone",
    "plan",
    "refund",
    "slow",
    "order",
    "late",
    "roaming",
    "card",
    "device",
    "charge",
    "sim",
)
ROUTES = ("billing", "product", "technical_support", "account")


def facts(n: int, changed: bool = False) -> Iterator[dict[str, Any]]:
    """Test cases of the usual size; in the changed ones 1 % is removed, 1 % other, and 1 % new."""
    for i in range(n // 100 if changed else 0, n + (n // 100 if changed else 0)):
        rng = random.Random(i)  # noqa: S311 - test data
        words = " ".join(rng.choices(WORDS, k=18))
        yield {
            "inputs": {"request": f"{words} {i}", "customer": f"C{i % 5000}"},
            "outputs": {"answer": f"{words[::-1]} please wait"},
            "expectations": {"route": ROUTES[i % 4 if not (changed and i % 100 == 50) else (i + 1) % 4]},
            "trace_id": f"tr-{i:032x}",
            "session": f"s{i // 3}",
            "slice": ROUTES[i % 4],
        }


def frame(n: int, changed: bool = False) -> Any:
    import pandas as pd

    rows = [
        {k: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for k, v in f.items()}
        for f in facts(n, changed)
    ]
    return pd.DataFrame(rows)


# --- contenders; each prints nothing, does one thing ---------------------------------------------------------


def ours_write(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.model import About, DatasetRow
    from mlflow_assay.datasets.store import open_store

    open_store(str(folder)).write("d", (DatasetRow(**f) for f in facts(n)), About())


def pyarrow_write(folder: Path, n: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept: list[dict[str, Any]] = []
    writer = None
    for i, f in enumerate(facts(n), 1):
        kept.append({k: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for k, v in f.items()})
        if len(kept) == 20_000 or i == n:
            table = pa.Table.from_pylist(kept)
            writer = writer or pq.ParquetWriter(folder / "pyarrow.parquet", table.schema, compression="zstd")
            writer.write_table(table)
            kept = []
    if writer:
        writer.close()


def pandas_write(folder: Path, n: int) -> None:
    frame(n).to_parquet(folder / "pandas.parquet", compression="zstd")


def ours_shape(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.model import About, DatasetRow
    from mlflow_assay.datasets.shaping import Shaping, shape
    from mlflow_assay.datasets.store import open_store

    with shape((DatasetRow(**f) for f in facts(n)), Shaping(duplicates="exact", fractions=None)) as shaped:
        open_store(str(folder)).write("shaped", shaped.rows(), About())


def pandas_shape(folder: Path, n: int) -> None:
    frame(n).drop_duplicates("inputs").to_parquet(folder / "shaped.parquet", compression="zstd")


def ours_change(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.model import About, DatasetRow
    from mlflow_assay.datasets.store import open_store

    open_store(str(folder)).write("d", (DatasetRow(**f) for f in facts(n, changed=True)), About())


def ours_append(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.model import About, DatasetRow
    from mlflow_assay.datasets.store import open_store

    new = (DatasetRow({"request": f"appended {i}"}) for i in range(n // 100))
    open_store(str(folder)).append("d", new, About(how="append"))


SQL = "SELECT slice, expectations->>'$.route' AS route, count(*) AS n FROM {table} GROUP BY ALL ORDER BY ALL"


def ours_query(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.query import query
    from mlflow_assay.datasets.store import load_dataset

    found = query(SQL.format(table="d"), {"d": load_dataset("d@v1", str(folder))}).to_pylist()
    assert sum(row["n"] for row in found) == n


def duckdb_query(folder: Path, n: int) -> None:
    import duckdb

    found = duckdb.sql(SQL.format(table=f"'{folder}/pyarrow.parquet'")).fetchall()
    assert sum(row[-1] for row in found) == n


def pandas_query(folder: Path, n: int) -> None:
    import pandas as pd

    data = pd.read_parquet(folder / "pandas.parquet", columns=["slice", "expectations"])
    routes = data["expectations"].map(lambda text: json.loads(text)["route"])
    assert data.groupby(["slice", routes]).size().sum() == n


def ours_diff(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.diff import diff
    from mlflow_assay.datasets.store import load_dataset

    found = diff(load_dataset("d@v1", str(folder)), load_dataset("d@v2", str(folder)))
    assert (found.added, found.removed) == (n // 100, n // 100), found
    assert found.changed == sum(i % 100 == 50 for i in range(n // 100, n)), found


def pandas_diff(folder: Path, n: int) -> None:
    import pandas as pd

    old = pd.read_parquet(folder / "pandas.parquet")
    new = pd.read_parquet(folder / "changed.parquet")
    both = old.merge(new, on="inputs", how="outer", indicator=True)
    assert (both["_merge"] == "left_only").sum() == n // 100
    same = both[both["_merge"] == "both"]
    assert (same["expectations_x"] != same["expectations_y"]).sum()


def pandas_change(folder: Path, n: int) -> None:
    frame(n, changed=True).to_parquet(folder / "changed.parquet", compression="zstd")


def ours_read(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.store import load_dataset

    assert sum(1 for row in load_dataset("d@v1", str(folder)).rows() if row.expectations["route"]) == n


def pandas_read(folder: Path, n: int) -> None:
    import pandas as pd

    data = pd.read_parquet(folder / "pandas.parquet")
    for name in ("inputs", "outputs", "expectations"):
        data[name] = data[name].map(json.loads)
    assert sum(1 for row in data.to_dict("records") if row["expectations"]["route"]) == n


def ours_near(folder: Path, n: int) -> None:
    from mlflow_assay.datasets.model import DatasetRow
    from mlflow_assay.datasets.shaping import Shaping, shape

    with shape((DatasetRow(**f) for f in facts(n // 20)), Shaping(duplicates="near")) as shaped:
        assert sum(1 for _ in shaped.rows())


def nothing(folder: Path, n: int) -> None:
    for module in ("duckdb", "pandas", "pyarrow.dataset", "pyarrow.parquet", "mlflow_assay.datasets.shaping"):
        importlib.import_module(module)
    importlib.import_module("mlflow_assay.datasets.store")


STEPS: dict[str, tuple[Callable[[Path, int], None], ...]] = {
    "write": (ours_write, pyarrow_write, pandas_write),
    "merge exact duplicates and write": (ours_shape, pandas_shape),
    "write a changed version": (ours_change, pandas_change),
    "query": (ours_query, duckdb_query, pandas_query),
    "diff": (ours_diff, pandas_diff),
    "append 1 %": (ours_append,),
    "read all as rows": (ours_read, pandas_read),
    "near-duplicates and splits, 5 % of the rows": (ours_near,),
}


def measure(step: Callable[[Path, int], None], folder: Path, n: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MB of one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step.__name__, "--folder", str(folder), "--rows", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step.__name__} failed:\n{done.stderr}")
    seconds, cpu, megabytes = map(float, done.stdout.split()[-3:])
    return seconds, cpu, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="names of steps, by commas; write comes first in any case")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step = globals()[given.step]
        nothing(given.folder, 0)
        began, cpu = time.perf_counter(), time.process_time()
        step(given.folder, given.rows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.perf_counter() - began, time.process_time() - cpu, peak)
        return
    wanted = {"write", *given.only.split(",")} if given.only else set(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        base = measure(nothing, Path(folder), given.rows)[2]
        print(
            f"{given.rows:,} rows; imports alone {base:.0f} MB; × is in CPU time, which a loaded machine changes less\n"
        )
        print(f"{'step':44} {'contender':10} {'s':>7} {'CPU s':>7} {'× ours':>7} {'MB above imports':>17}")
        for name, contenders in STEPS.items():
            first = None
            for contender in contenders if name in wanted else ():
                seconds, cpu, peak = measure(contender, Path(folder), given.rows)
                first = first or cpu
                who = contender.__name__.split("_")[0]
                print(
                    f"{name:44} {who:10} {seconds:7.1f} {cpu:7.1f} {cpu / first:7.2f} {peak - base:17.0f}", flush=True
                )


if __name__ == "__main__":
    main()
