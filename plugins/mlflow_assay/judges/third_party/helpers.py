"""Small things adapters share: running a library's coroutine, scores a hair off their scale, checking parameters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from mlflow_assay.contracts import NumericValue, ValueSpec
from mlflow_assay.errors import ConfigError

__all__ = ["check_params", "on_scale", "run"]

T = TypeVar("T")
_HAIR = 1e-6


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """A coroutine's result, in an event loop of its own; also where this thread already runs one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    found: list[T] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            found.append(asyncio.run(coroutine))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def on_scale(score: Any, value: ValueSpec) -> Any:
    """A number that rounding put a hair (1e-6) off its scale, put back on it; everything else as it is."""
    if not isinstance(value, NumericValue) or isinstance(score, bool):
        return score
    number = float(score)
    if value.low - _HAIR <= number < value.low:
        return value.low
    if value.high < number <= value.high + _HAIR:
        return value.high
    return number


def check_params(judge: str, params: Mapping[str, Any], valid: Iterable[str]) -> None:
    """Refuse parameters a metric does not have.

    Raises:
        ConfigError: names the first of them and the valid ones.
    """
    known = sorted(set(valid))
    if stray := sorted(set(params) - set(known)):
        raise ConfigError(f"The judge {judge!r} has no parameter {stray[0]!r}.", valid=[*known, "fields"])
