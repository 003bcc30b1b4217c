"""Partitions on Spark (`pip install 'mlflow-assay[spark]'`): the session that is active, or a local one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mlflow_assay.engine.partition import Partition, PartitionResult
from mlflow_assay.errors import AssayError, ConfigError, StoreError

__all__ = ["run_on_spark"]

_FAILURES = 4  # attempts at a task, as Spark's own spark.task.maxFailures; a local master has 1 unless told


def run_on_spark(
    work: Callable[[Partition], PartitionResult],
    partitions: Sequence[Partition],
    workers: int,
    told: Callable[[PartitionResult], None] | None = None,
) -> list[PartitionResult]:
    """Run the partitions as one Spark job of `workers` tasks; Spark runs a task that fails again.

    The active session is used; else one is made from Spark's own configuration (`spark-submit`), or a local one
    with `workers` cores, stopped at the end.

    Args:
        work: an importable function, since only its name travels.
        told: called with each partition's result, when all are done.

    Raises:
        ConfigError: Spark is not installed, or the session has no Spark context (Spark Connect).
        AssayError: what `work` raised, on Spark's last attempt.
        StoreError: the job failed otherwise.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError("The engine 'spark' needs Spark.", fix="Try: pip install 'mlflow-assay[spark]'") from error
    active = SparkSession.getActiveSession()
    session = active or _start(SparkSession, workers)
    try:
        results = _run(session, work, partitions, workers)
    finally:
        if active is None:
            session.stop()
    for result in results if told is not None else ():
        told(result)  # type: ignore[misc]
    return results


def _start(sessions: Any, workers: int) -> Any:
    from pyspark import SparkConf

    builder = sessions.builder.appName("mlflow-assay")
    if not SparkConf().contains("spark.master"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master(f"local[{workers},{_FAILURES}]")
        local = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        for name, value in local.items():
            builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _run(
    session: Any, work: Callable[[Partition], PartitionResult], partitions: Sequence[Partition], workers: int
) -> list[PartitionResult]:
    from py4j.protocol import Py4JJavaError

    try:
        context = session.sparkContext
    except Exception as error:
        raise ConfigError(
            "The engine 'spark' needs a classic Spark session: Spark Connect has no Spark context."
        ) from error
    piles = [list(partitions[i::workers]) for i in range(min(workers, len(partitions)))]
    try:
        outcomes = context.parallelize(piles, len(piles)).mapPartitions(_Task(work)).collect()
    except Py4JJavaError as error:
        raise StoreError(
            "The Spark job failed: a task's process died or could not start.",
            found=str(error.java_exception)[:500],
            fix="Run the same command again: what was judged is kept.",
        ) from error
    for outcome in outcomes:
        if isinstance(outcome, AssayError):
            raise outcome
    return sorted(outcomes, key=lambda result: result.number)


class _Task:
    """What runs on a Spark executor: its pile of partitions, one after the other."""

    def __init__(self, work: Callable[[Partition], PartitionResult]) -> None:
        self._work = work

    def __call__(self, piles: Iterable[list[Partition]]) -> Iterator[PartitionResult | AssayError]:
        for partition in (p for pile in piles for p in pile):
            try:
                yield self._work(partition)
            except ConfigError as error:
                yield error  # trying again changes nothing; Spark would, and hide it in a Java stack
