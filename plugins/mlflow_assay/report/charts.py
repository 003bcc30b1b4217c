"""Where things stand on the page's charts. Positions are percentages of the drawing area, y counted from the top.

The drawing itself is HTML and SVG in the template, coloured by CSS variables, so that it follows the theme.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlflow_assay.report import words
from mlflow_assay.report.breakdown import FEW
from mlflow_assay.report.model import Counts, Trend, TrendBin

__all__ = ["Dot", "Part", "Tick", "TrendChart", "composition", "trend_chart"]

_WIDTH_MS = {"hour": 3_600_000, "day": 86_400_000, "week": 7 * 86_400_000}
_ROOM = 26  # percent of the width a label needs on a phone


@dataclass(frozen=True)
class Dot:
    """One bin: where its dot stands, its interval, and the sentence behind it.

    `alone` is a bin without neighbours, whose interval no band shows.
    """

    x: float
    y: float
    top: float
    bottom: float
    few: bool
    text: str
    alone: bool = False


@dataclass(frozen=True)
class Tick:
    """A label on the time axis; `edge` keeps the outer ones inside the drawing."""

    x: float
    text: str
    edge: str = ""


@dataclass(frozen=True)
class TrendChart:
    """Dots by time; `lines` and `bands` are SVG point lists of runs of neighbouring bins; `changes` are x positions."""

    dots: tuple[Dot, ...]
    lines: tuple[str, ...]
    bands: tuple[str, ...]
    ticks: tuple[Tick, ...]
    changes: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """One part of the bar that shows how a judge's units fall out."""

    kind: str
    n: int
    width: float


def composition(counts: Counts) -> tuple[Part, ...]:
    """Passed, failed, unscored and not judged as parts of a bar; empty parts are left out."""
    numbers = (
        ("passed", counts.passed),
        ("failed", counts.failed),
        ("unscored", counts.unscored),
        ("not-judged", counts.not_judged),
    )
    return tuple(Part(kind, n, 100 * n / counts.total) for kind, n in numbers if n)


def trend_chart(trend: Trend) -> TrendChart:
    """The drawing of a trend with at least one bin."""
    width = _WIDTH_MS[trend.unit]
    start = trend.bins[0].start_ms
    span = trend.bins[-1].start_ms + width - start
    dots = [_dot(b, (b.start_ms + width / 2 - start) / span * 100, trend.unit) for b in trend.bins]
    runs: list[list[Dot]] = []
    for i, dot in enumerate(dots):
        if i == 0 or trend.bins[i].start_ms - trend.bins[i - 1].start_ms > width:
            runs.append([])
        runs[-1].append(dot)
    changes = [(b.start_ms - start) / span * 100 for b in trend.bins if b.judge_changed]
    dots = [replace(dot, alone=len(run) == 1) for run in runs for dot in run]
    long = [run for run in runs if len(run) > 1]
    return TrendChart(
        tuple(dots), tuple(map(_line, long)), tuple(map(_band, long)), _ticks(trend, dots), tuple(changes)
    )


def _dot(found: TrendBin, x: float, unit: str) -> Dot:
    e = found.estimate
    value, low, high = (v if v is not None else 0.0 for v in (e.value, e.low, e.high))
    when = words.moment(found.start_ms) if unit == "hour" else words.day(found.start_ms)
    week = "week of " if unit == "week" else ""
    text = f"{week}{when}: {words.rate(e)} [{words.interval(e)}], n = {e.n_judged}"
    return Dot(x, 100 - 100 * value, 100 - 100 * high, 100 - 100 * low, e.n_judged < FEW, text)


def _points(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs)


def _line(run: list[Dot]) -> str:
    return _points([(d.x, d.y) for d in run])


def _band(run: list[Dot]) -> str:
    return _points([(d.x, d.top) for d in run] + [(d.x, d.bottom) for d in reversed(run)])


def _ticks(trend: Trend, dots: list[Dot]) -> tuple[Tick, ...]:
    """The first and last bin, and those nearest the thirds of the axis where there is room for a label."""
    places = sorted({_nearest(dots, x) for x in (0.0, 33.3, 66.7, 100.0)})
    last = places[-1]
    kept = [places[0]]
    for place in places[1:]:
        free = dots[place].x - dots[kept[-1]].x >= _ROOM
        if place == last or (free and dots[last].x - dots[place].x >= _ROOM):
            kept.append(place)
    return tuple(_tick(trend, dots, i) for i in kept)


def _nearest(dots: list[Dot], x: float) -> int:
    return min(range(len(dots)), key=lambda i: abs(dots[i].x - x))


def _tick(trend: Trend, dots: list[Dot], i: int) -> Tick:
    start = trend.bins[i].start_ms
    hour = words.moment(start).rpartition(", ")[2] if trend.unit == "hour" else ""
    edge = "first" if dots[i].x < 15 else "last" if dots[i].x > 85 else ""
    return Tick(dots[i].x, f"{words.day(start, year=False)} {hour}".strip(), edge)
