"""A share of a run as plain data, and how it is run: the same on every engine.

The driver plans once and cuts the plan into partitions of traces. Whoever runs one rebuilds the judges from their
recipe, judges with the local engine, and writes to MLflow itself; only tallies travel back. A partition may be run
again after its worker died: what the dead one had stored is found by the verdicts' ids and counted, not judged again.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BoundJudge, ModelSettings
from mlflow_assay.engine.budget import SharedBudget
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.limits import RetryPolicy
from mlflow_assay.engine.plan import Due, Plan
from mlflow_assay.engine.report import Tally
from mlflow_assay.engine.run import Loader, LocalEngine, Options
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.mlflow_assessments import MlflowSink, assessment_id

if TYPE_CHECKING:
    from mlflow.entities import Assessment

__all__ = [
    "BudgetShare",
    "JudgeRecipe",
    "Partition",
    "PartitionResult",
    "cut",
    "merge",
    "pack",
    "run_partition",
    "shares",
    "unpacked",
]


_MOST_BYTES = 32 * 2**20


@dataclass(frozen=True)
class JudgeRecipe:
    """What judges are built from, so that another process can build the same ones.

    Attributes:
        names: as in `assay judges list`.
        model: the one judge model; its headers travel with the recipe and are never printed.
        paths: the user's own folders of definitions, a later one replacing an earlier one's judges.
        texts: values for definitions' variables, by judge name.
    """

    names: tuple[str, ...]
    model: ModelSettings | None = None
    paths: tuple[str, ...] = ()
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class BudgetShare:
    """Limits the workers of a run share through a database they all reach; see `budget.SharedBudget`.

    Attributes:
        url: SQLAlchemy URL of the database.
        name: names the budget; workers and resumed runs that give the same share what was spent.
    """

    url: str = field(repr=False)
    name: str
    max_usd: float | None = None
    max_tokens: int | None = None
    max_calls: int | None = None

    def open(self) -> SharedBudget:
        """The budget itself, in this process.

        Raises:
            ConfigError, StoreError: as for `SharedBudget`.
        """
        return SharedBudget(self.url, self.name, self.max_usd, self.max_tokens, self.max_calls)


@dataclass(frozen=True)
class Partition:
    """A share of a run.

    Attributes:
        number: from 0, in the order of the traces.
        tracking_uri: the MLflow every worker reads and writes.
        recipe: how to build the judges.
        folders: what is in the recipe's folders, file to content, for machines that do not have them.
        digests: the digests they must have, so that a worker with other versions judges nothing.
        due: the verdicts owed; all of one trace are in one partition.
        concurrency: calls in flight at most: this worker's part of the run's.
        cache_url: the verdict cache, or None.
        run_id: the MLflow run the verdicts belong to, or None.
    """

    number: int
    tracking_uri: str = field(repr=False)
    recipe: JudgeRecipe
    folders: tuple[Mapping[str, bytes], ...] = field(repr=False)
    digests: tuple[str, ...]
    due: tuple[Due, ...] = field(repr=False)
    concurrency: int
    threads: int
    page: int
    retry: RetryPolicy
    cache_url: str | None = field(default=None, repr=False)
    budget: BudgetShare | None = None
    run_id: str | None = None


@dataclass
class PartitionResult:
    """What a partition came to.

    Attributes:
        tallies: one a judge, verdicts stored by an earlier, dead worker of this partition included.
        stored: verdicts newly stored by this worker.
        found: verdicts an earlier worker had stored.
        stopped: why it ended early (budget), or None.
        worker: `host:pid` of the process that ran it.
    """

    number: int
    tallies: list[Tally]
    stored: int
    found: int
    stopped: str | None
    worker: str
    wall_s: float


def pack(paths: Sequence[str]) -> tuple[Mapping[str, bytes], ...]:
    """The files of folders of definitions, with what lies beside them (a trained classifier, a calibration).

    Raises:
        ConfigError: they are too large to travel with every partition.
    """
    folders = [[p for p in sorted(Path(path).rglob("*")) if p.is_file()] for path in paths]
    size = sum(p.stat().st_size for files in folders for p in files)
    if size > _MOST_BYTES:
        raise ConfigError(
            f"The folders of judges are too large to send to every worker: {size / 2**20:.0f} MB.",
            found=", ".join(paths),
            valid=f"at most {_MOST_BYTES // 2**20} MB",
            fix="Put only the definitions and what they use into the folder.",
        )
    pairs = zip(paths, folders, strict=True)
    return tuple({p.relative_to(path).as_posix(): p.read_bytes() for p in files} for path, files in pairs)


@contextmanager
def unpacked(folders: Sequence[Mapping[str, bytes]]) -> Iterator[list[Path]]:
    """The folders on this machine's disk, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="assay-judges-") as root:
        paths = [Path(root) / str(number) for number in range(len(folders))]
        for path, files in zip(paths, folders, strict=True):
            path.mkdir()
            for name, content in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        yield paths


def cut(plan: Plan, parts: int) -> list[tuple[Due, ...]]:
    """The plan's verdicts in at most `parts` shares of about equally many traces, in order; none is empty."""
    ids = list(plan.due)
    size = max(1, math.ceil(len(ids) / max(1, parts)))
    return [
        tuple(due for trace_id in ids[start : start + size] for due in plan.due[trace_id])
        for start in range(0, len(ids), size)
    ]


def merge(tallies: Sequence[Tally], results: Sequence[PartitionResult]) -> list[Tally]:
    """The driver's tallies (what stood before) with those of all partitions added."""
    return [sum((result.tallies[i] for result in results), start=tally) for i, tally in enumerate(tallies)]


def run_partition(
    partition: Partition,
    judges: Sequence[BoundJudge],
    load: Loader,
    stored: Callable[[Sequence[str]], Mapping[str, Assessment]],
    check: Callable[[Sequence[tuple[str, str]]], None],
) -> PartitionResult:
    """Judge a partition in this process.

    Args:
        judges: built from the partition's recipe.
        load: loads traces by id.
        stored: the assessments on traces, by assessment id.
        check: raises where one of these (trace id, assessment id) is not in the store.

    Raises:
        ConfigError: the judges built here are not those of the run.
        StoreError, SinkError, IncompleteError: as for `pipeline.score`.
    """
    _check_digests(partition, judges)
    started = time.perf_counter()
    plan, found = _left(partition, judges, stored)
    cache = VerdictCache(partition.cache_url) if partition.cache_url else None
    budget = partition.budget.open() if partition.budget else None
    with closing(cache) if cache else nullcontext(), closing(budget) if budget else nullcontext():
        options = Options(
            partition.concurrency, partition.threads, partition.page, partition.retry, cache, budget, partition.run_id
        )
        engine = LocalEngine(plan, load, MlflowSink(), options)
        for index, verdict in found:
            engine.tallies[index].add(verdict)
        if plan.total:
            engine.run()
    check(engine.stored)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    wall = time.perf_counter() - started
    return PartitionResult(
        partition.number, engine.tallies, len(engine.stored), len(found), engine.stopped, worker, wall
    )


def _check_digests(partition: Partition, judges: Sequence[BoundJudge]) -> None:
    for judge, wanted in zip(judges, partition.digests, strict=True):
        if judge.digest != wanted:
            raise ConfigError(
                f"The judge {judge.name!r} of this worker is not the run's.",
                found=f"digest {judge.digest}",
                valid=f"digest {wanted}",
                fix="Install the same versions of mlflow, mlflow-assay and the judges' packages on every worker.",
            )


def _left(
    partition: Partition, judges: Sequence[BoundJudge], stored: Callable[[Sequence[str]], Mapping[str, Assessment]]
) -> tuple[Plan, list[tuple[int, Any]]]:
    """What is still owed, and what an earlier worker of this partition has stored, with its judge's index."""
    known = stored(list(dict.fromkeys(due.trace_id for due in partition.due)))
    plan, found = Plan(judges), []
    for due in partition.due:
        judge = judges[due.judge]
        verdict = known.get(assessment_id(due.trace_id, judge.name, judge.digest, due.revision))
        if verdict is None:
            plan.due[due.trace_id].append(due)
        else:
            found.append((due.judge, verdict))
    return plan, found


def shares(plan: Plan, template: Partition, workers: int, per_worker: int = 4) -> list[Partition]:
    """The plan cut into partitions, each with its part of the run's concurrency.

    Args:
        template: everything but number, verdicts and digests.
        workers: partitions that will run at once.
        per_worker: partitions for each, so that little is lost with one and the load evens out.
    """
    each = max(1, template.concurrency // workers)
    return [
        replace(template, number=number, due=due, concurrency=each, digests=tuple(j.digest for j in plan.judges))
        for number, due in enumerate(cut(plan, workers * per_worker))
    ]
