"""Repeated trials of one task: does the agent pass every time?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import comb
from typing import Any

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import Floats, binary, same_length
from mlflow_assay.trust._design import t_value, z_value
from mlflow_assay.trust._proportion import UNCORRECTED, wilson
from mlflow_assay.trust._types import Estimate


def pass_k_values(verdicts: Sequence[Any], tasks: Sequence[Hashable], k: int) -> dict[Hashable, float]:
    """Each task's unbiased estimate of the chance that k trials all pass.

    Args:
        verdicts: pass/fail per trial, None or NaN for unscored (left out), shape (n,).
        tasks: the task of each trial, shape (n,).
        k: trials that must all pass, 1 or more.

    Returns:
        Task to a value in [0, 1]; tasks with fewer than k scored trials are absent.

    Raises:
        ConfigError: lengths differ, k is below 1, a verdict is not pass/fail.

    Source: Yao et al. 2024, tau-bench, arXiv 2406.12045: C(c, k) / C(n, k) for c passes in n trials.
    """
    if k < 1:
        raise ConfigError("pass^k needs k of 1 or more.", found=k)
    values = binary(verdicts, "verdicts")
    same_length(verdicts=values, tasks=tasks)
    trials: dict[Hashable, list[float]] = {}
    for task, value in zip(tasks, values, strict=True):
        if not np.isnan(value):
            trials.setdefault(task, []).append(float(value))
    return {
        task: comb(round(sum(passed)), k) / comb(len(passed), k) for task, passed in trials.items() if len(passed) >= k
    }


def pass_k(
    verdicts: Sequence[Any],
    tasks: Sequence[Hashable],
    k: int,
    *,
    name: str | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Pass^k: the chance that k trials of a task all pass, with tasks as the independent units.

    Args:
        verdicts: pass/fail per trial, None or NaN for unscored, shape (n,).
        tasks: the task of each trial, shape (n,).
        k: trials that must all pass, 1 or more.
        name: the KPI's name; None makes `pass^k`.
        confidence: level in (0, 1).

    Returns:
        An uncorrected Estimate (method `pass^k`) whose n_judged counts scored trials; raw None when no task
        has k scored trials.

    Raises:
        ConfigError: lengths differ, k is below 1, a verdict is not pass/fail.

    Source: Yao et al. 2024, arXiv 2406.12045; interval: Wilson's at the effective number of tasks, Korn &
        Graubard 1998, Survey Methodology 24:193.
    """
    per_task = pass_k_values(verdicts, tasks, k)
    scored = ~np.isnan(binary(verdicts, "verdicts"))
    title, total, unscored = name or f"pass^{k}", int(scored.sum()), int((~scored).sum())
    short = len({t for t, s in zip(tasks, scored, strict=True) if s}) - len(per_task)
    notes = [UNCORRECTED, f"{len(per_task)} tasks are the independent units, not their trials."]
    if short:
        notes.append(f"{short} tasks with fewer than {k} scored trials are left out.")
    if not per_task:
        return Estimate(title, None, None, None, None, confidence, total, 0, unscored, "none", tuple(notes))
    values: Floats = np.array(list(per_task.values()), dtype=np.float64)
    mean, count = float(values.mean()), values.size
    low, high = wilson(mean * (size := _effective(mean, values, confidence)), size, confidence)
    bounds = (min(low, mean), max(high, mean))
    notes[1] = f"{count} tasks are the independent units, not their trials."
    return Estimate(title, mean, None, *bounds, confidence, total, 0, unscored, "pass^k", tuple(notes))


def _effective(mean: float, values: Floats, confidence: float) -> float:
    """Independent yes/no observations that would be as informative as the tasks' values."""
    count, spread = values.size, float(values.var(ddof=1)) if values.size > 1 else 0.0
    if count < 2 or spread <= 1e-12:
        return float(count)
    few = (z_value(confidence) / t_value(confidence, count - 1)) ** 2
    return max(1.0, mean * (1 - mean) / (spread / count) * few)
