"""Reading what users pass: verdicts, labels, cluster ids and weights as aligned NumPy arrays.

Unscored and missing values are None or NaN on the way in and NaN inside; nothing here turns them into 0.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PLAIN = frozenset({bool, int, float})  # the common case, ten times quicker to check than Real


def _number(value: Any, what: str, position: int) -> float:
    if value is None:
        return float("nan")
    if type(value) not in _PLAIN and not isinstance(value, Real | np.bool_):
        raise ConfigError(
            f"{what}[{position}] is not a number.",
            found=repr(value),
            valid="True, False, a number, or None for missing",
            fix="Normalise values first, for example with the judge contract's value.read and value.passes.",
        )
    number = float(value)
    if math.isinf(number):
        raise ConfigError(f"{what}[{position}] is infinite.", valid="a finite number, or None for missing")
    return number


def numeric(values: Sequence[Any] | npt.NDArray[Any], what: str) -> Floats:
    """Values as float64, shape (n,), None and NaN as NaN.

    Raises:
        ConfigError: a value is not a number, or is infinite; names the position.
    """
    return np.array([_number(v, what, i) for i, v in enumerate(values)], dtype=np.float64)


def binary(values: Sequence[Any] | npt.NDArray[Any], what: str) -> Floats:
    """Values as 1.0 (pass), 0.0 (fail) or NaN, shape (n,).

    Raises:
        ConfigError: a value is neither true/false, 1/0 nor None.
    """
    array = numeric(values, what)
    stray = np.flatnonzero(~np.isnan(array) & (array != 0.0) & (array != 1.0))
    if stray.size:
        raise ConfigError(
            f"{what}[{int(stray[0])}] is not a pass/fail value.",
            found=float(array[stray[0]]),
            valid="True, False, 1, 0, or None for unscored",
            fix="Apply the judge's pass rule first, or use the functions for means.",
        )
    return array


def same_length(**arrays: Any) -> int:
    """The common length of the arrays given; None entries are skipped.

    Raises:
        ConfigError: the lengths differ; every name is given with its length.
    """
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            "The inputs must be aligned by position, one entry a trace.",
            found=", ".join(f"{name} has {length}" for name, length in lengths.items()),
            valid="equal lengths",
        )
    return next(iter(lengths.values()), 0)


def codes(clusters: Sequence[Hashable] | None, n: int) -> Ints:
    """Cluster ids as integers 0..G-1, shape (n,); None ids (or None for all) are clusters of their own."""
    if clusters is None:
        return np.arange(n, dtype=np.int64)
    keys: list[Hashable] = [("own", i) if c is None else ("id", c) for i, c in enumerate(clusters)]
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([index[key] for key in keys], dtype=np.int64)


def positive(values: Sequence[Any] | npt.NDArray[Any] | None, n: int, what: str) -> Floats:
    """Weights as float64, shape (n,); ones when None.

    Raises:
        ConfigError: a weight is missing, zero or negative.
    """
    if values is None:
        return np.ones(n)
    array = numeric(values, what)
    bad = np.flatnonzero(~(array > 0))
    if bad.size:
        raise ConfigError(f"{what}[{int(bad[0])}] must be above 0.", found=float(array[bad[0]]))
    return array


def check_confidence(confidence: float) -> float:
    """The confidence level itself.

    Raises:
        ConfigError: it is not inside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ConfigError("A confidence level lies between 0 and 1.", found=confidence, valid="e.g. 0.95")
    return confidence
