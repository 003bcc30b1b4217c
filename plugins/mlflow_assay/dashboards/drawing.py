"""Series over time and heat maps as inline SVG, by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from mlflow_assay.dashboards.asking import Frame
from mlflow_assay.dashboards.formats import shown

__all__ = ["NARROW", "WIDE", "Canvas", "heat", "lines"]

_COLOURS: Final = ("#1f60c4", "#e0752d", "#299c46", "#8f3bb8", "#c4162a", "#0a8f8f", "#b0790a", "#5c5c5c")
_DASHES: Final = ("-", "--", ":", "-.")
_MOST_IN_LEGEND: Final = 12
NARROW: Final = (7, 7)  # columns and rows of a chart that is read on a telephone
WIDE: Final = 10  # columns from which a chart, shrunk to a telephone's screen, has letters too small to read


@dataclass(frozen=True)
class Canvas:
    """What a chart is drawn on: columns and rows of the board's grid, and the time range in Unix seconds."""

    columns: int
    rows: int
    start: float
    end: float


def lines(panel: Mapping[str, Any], frames: Sequence[Frame], unit: str, canvas: Canvas) -> str:
    """A time series panel: series, interval band, threshold line, legend with last values."""
    figure, axes = _axes(canvas)
    defaults = panel["fieldConfig"]["defaults"]
    low, high = _band(panel)
    by_name = {frame.legend: frame for frame in frames}
    if low in by_name and high in by_name:
        times, bottom, top = _common(by_name[low], by_name[high])
        axes.fill_between(times, bottom, top, color="#8e8e8e", alpha=0.25, linewidth=0, label=f"{low} – {high}")
    drawn = [frame for frame in frames if frame.legend not in (low, high)]
    if defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal":
        _stack(axes, drawn)
    else:
        for i, frame in enumerate(drawn):
            style = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)]}
            axes.plot(
                _times(frame),
                [v for _, v in frame.points],
                linewidth=1.4,
                marker=_marker(frame),
                ms=2.5,
                label=f"{frame.legend}   {shown(frame.last, unit)}",
                **style,
            )
    for step in defaults.get("thresholds", {}).get("steps", [])[1:]:
        if defaults.get("custom", {}).get("thresholdsStyle", {}).get("mode") == "dashed":
            axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=1)
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    return _svg(figure, axes)


def heat(frames: Sequence[Frame], canvas: Canvas) -> str:
    """A heat map from cumulative buckets: each row is a bucket less the one below."""
    import numpy as np

    figure, axes = _axes(canvas)
    ordered = sorted(frames, key=lambda frame: float(frame.labels.get("le", "inf")))
    times = sorted({t for frame in ordered for t, _ in frame.points})
    total = np.array([[dict(frame.points).get(t, 0.0) for t in times] for frame in ordered])
    own = np.diff(total, axis=0, prepend=0).clip(min=0)
    used = [i for i in range(len(ordered)) if own[i].max() > 0] or [0]
    rows = list(range(min(used), max(used) + 1))
    edges = [_moment(t) for t in times]
    axes.pcolormesh(edges, range(len(rows)), own[rows], cmap="Blues", shading="nearest")
    axes.set_yticks(range(len(rows)), [f"≤ {ordered[i].labels.get('le')}" for i in rows])
    return _svg(figure, axes, legend=False)


def _axes(canvas: Canvas) -> tuple[Any, Any]:
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure

    width, height = 0.58 * canvas.columns, 0.36 * canvas.rows
    figure = Figure(figsize=(max(width, 2.6), max(height, 1.5)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(date2num(_moment(canvas.start)), date2num(_moment(canvas.end)))
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.tick_params(labelsize=7, colors="#555555", length=2)
    for side in axes.spines.values():
        side.set_color("#cccccc")
    return figure, axes


def _svg(figure: Any, axes: Any, legend: bool = True) -> str:
    import matplotlib
    import matplotlib.dates as dates

    locator = dates.AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(fontsize=7, color="#555555")
    handles, _ = axes.get_legend_handles_labels()
    if legend and handles:
        figure.legend(
            handles=handles[:_MOST_IN_LEGEND], loc="outside lower center", ncols=2, fontsize=6.5, frameon=False
        )
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlflow-assay"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _band(panel: Mapping[str, Any]) -> tuple[str, str]:
    for override in panel["fieldConfig"].get("overrides", []):
        for prop in override["properties"]:
            if prop["id"] == "custom.fillBelowTo":
                return str(prop["value"]), str(override["matcher"]["options"])
    return "", ""


def _common(low: Frame, high: Frame) -> tuple[list[datetime], list[float], list[float]]:
    tops = dict(high.points)
    both = [(t, v, tops[t]) for t, v in low.points if t in tops]
    return [_moment(t) for t, _, _ in both], [v for _, v, _ in both], [v for _, _, v in both]


def _stack(axes: Any, frames: Sequence[Frame]) -> None:
    times = sorted({t for frame in frames for t, _ in frame.points})
    values = [[dict(frame.points).get(t, 0.0) for t in times] for frame in frames]
    labels = [f"{frame.legend}   {shown(frame.last, 'short')}" for frame in frames]
    axes.stackplot([_moment(t) for t in times], values, labels=labels, colors=_COLOURS, alpha=0.75)


def _marker(frame: Frame) -> str | None:
    """Dots where points are few, or stand alone between gaps, where no line would show them."""
    gaps = sum(math.isnan(value) for _, value in frame.points)
    return "o" if len(frame.points) < 30 or gaps > len(frame.points) / 2 else None


def _times(frame: Frame) -> list[datetime]:
    return [_moment(t) for t, _ in frame.points]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
