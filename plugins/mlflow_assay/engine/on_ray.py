"""Partitions on Ray (`pip install 'mlflow-assay[ray]'`): a cluster that is there, or one started in this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mlflow_assay.engine.partition import Partition, PartitionResult
from mlflow_assay.errors import AssayError, ConfigError, StoreError

__all__ = ["run_on_ray"]

_RETRIES = 3


def run_on_ray(
    work: Callable[[Partition], PartitionResult],
    partitions: Sequence[Partition],
    workers: int,
    told: Callable[[PartitionResult], None] | None = None,
) -> list[PartitionResult]:
    """Run every partition as a Ray task, at most `workers` at once; a task whose process dies is run again.

    A Ray session of the caller's, or the cluster `RAY_ADDRESS` names, is used; else one is started here with
    `workers` CPUs and stopped at the end.

    Args:
        work: an importable function, since only its name travels.
        told: called as each partition is done.

    Raises:
        ConfigError: Ray is not installed.
        StoreError: a partition's process died more than three times.
        AssayError: what `work` raised.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The engine 'ray' needs Ray.", fix="Try: pip install 'mlflow-assay[ray]'") from error
    started_here = not ray.is_initialized()
    if started_here:
        _start(ray, workers)
    try:
        return _run(ray, work, partitions, workers, told)
    finally:
        if started_here:
            ray.shutdown()


def _start(ray: Any, workers: int) -> None:
    own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="ERROR", **own)


def _run(
    ray: Any,
    work: Callable[[Partition], PartitionResult],
    partitions: Sequence[Partition],
    workers: int,
    told: Callable[[PartitionResult], None] | None,
) -> list[PartitionResult]:
    task = ray.remote(max_retries=_RETRIES, num_cpus=1)(work)
    waiting, results = list(partitions), []
    running: dict[Any, Partition] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                partition = waiting.pop(0)
                running[task.remote(partition)] = partition
            (done,), _ = ray.wait(list(running), num_returns=1)
            results.append(_result(ray, done, running.pop(done)))
            if told is not None:
                told(results[-1])
    finally:
        for left in running:
            ray.cancel(left, force=True)
    return sorted(results, key=lambda result: result.number)


def _result(ray: Any, done: Any, partition: Partition) -> PartitionResult:
    try:
        result: PartitionResult = ray.get(done)
        return result
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AssayError):
            raise error.cause from error
        raise
    except ray.exceptions.WorkerCrashedError as error:
        raise StoreError(
            f"The process of partition {partition.number} died {_RETRIES + 1} times (out of memory?).",
            fix="Run the same command again: what was judged is kept. Fewer --workers or --concurrency need less.",
        ) from error
