"""Numbers as Grafana writes its units: the few that the boards use."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["UNITS", "shown"]

_STEPS: Final = ((1e9, " B"), (1e6, " M"), (1e3, " K"))
UNITS: Final = ("short", "percentunit", "s", "currencyUSD", "bytes", "reqps", "ops")


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, short enough for a panel."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        return _seconds(value)
    if unit == "currencyUSD":
        return f"$ {value:,.2f}" if abs(value) >= 1 else f"$ {value:.4f}"
    if unit == "bytes":
        return _bytes(value)
    suffix = {"reqps": " req/s", "ops": " /s"}.get(unit, "")
    return _plain(value, decimals) + suffix


def _plain(value: float, decimals: int | None) -> str:
    for size, word in _STEPS:
        if abs(value) >= size:
            return f"{value / size:.1f}{word}"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.0f}" if value == round(value) else f"{value:.3g}"


def _seconds(value: float) -> str:
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(value) >= size:
            return f"{value / size:.1f} {word}"
    return f"{value:.2g} s" if abs(value) >= 1 or value == 0 else f"{1000 * value:.0f} ms"


def _bytes(value: float) -> str:
    for size, word in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= size:
            return f"{value / size:.1f} {word}"
    return f"{value:.0f} B"
