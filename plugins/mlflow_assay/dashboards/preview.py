"""A static page of a board, from the same JSON and live query results, to be looked at without Grafana.

It shows layout, titles, units, thresholds and series, not Grafana's look. Charts are matplotlib's, inlined as SVG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from mlflow_assay.dashboards import drawing
from mlflow_assay.dashboards.asking import Asker, Frame, Range, Span
from mlflow_assay.dashboards.files import BoardFile
from mlflow_assay.dashboards.formats import shown
from mlflow_assay.errors import StoreError

__all__ = ["Tile", "preview", "unit_of"]

_MAX_ROWS = 20
_PREFIX = re.compile(r"^(gen_ai\.)?(evaluation\.|assay\.|mlflow\.)?(?=.)")


@dataclass(frozen=True)
class Tile:
    """One panel as the page shows it: where it lies, and its body as markup."""

    title: str
    description: str
    kind: str
    x: int
    y: int
    w: int
    h: int
    body: Markup
    note: str = ""


def preview(board: BoardFile, asker: Asker, span: Range, chosen: Mapping[str, str] | None = None) -> str:
    """The page as HTML.

    A panel whose query is refused shows the refusal in its place.

    Raises:
        StoreError: Prometheus cannot be asked for the values of the board's variables.
    """
    values = asker.variables(board, chosen or {}, span)
    tiles = [_tile(panel, asker, values, span) for panel in board.model["panels"]]
    environment = Environment(
        loader=PackageLoader("mlflow_assay.dashboards"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    named = [(v.get("label") or v["name"], values.get(v["name"], "")) for v in board.model["templating"]["list"]]
    return environment.get_template("preview.html").render(
        board=board.model,
        tiles=tiles,
        variables=[(label, "All" if value == ".*" else value) for label, value in named if value],
        start=_moment(span.start),
        end=_moment(span.end),
    )


def _tile(panel: Mapping[str, Any], asker: Asker, values: Mapping[str, str], span: Range) -> Tile:
    at = panel["gridPos"]
    try:
        body, note = _body(panel, asker, values, span)
    except StoreError as error:
        body, note = Markup('<p class="error">{}</p>').format(error), "could not be asked"
    place = at["x"] + 1, at["y"] + 1, at["w"], at["h"]
    return Tile(panel.get("title", ""), panel.get("description", ""), panel["type"], *place, body, note)


def _body(panel: Mapping[str, Any], asker: Asker, values: Mapping[str, str], span: Range) -> tuple[Markup, str]:
    kind = panel["type"]
    if kind == "row":
        return Markup(""), ""
    if kind == "text":
        return _markdown(panel["options"]["content"]), ""
    if kind == "table" and panel["targets"][0]["datasource"]["type"] == "tempo":
        spans = asker.spans(panel, values, span)
        return (_span_table(spans) if spans else _empty(panel)), f"{len(spans)} spans"
    frames = [f for f in asker.frames(panel, values, span) if not math.isnan(f.last)]
    if not frames:
        return _empty(panel), ""
    if kind in ("timeseries", "heatmap"):
        return _chart(panel, frames, span), ""
    draw = {"stat": _stat, "bargauge": _bars, "table": _table}[kind]
    return draw(panel, frames), ""


def _defaults(panel: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = panel["fieldConfig"]["defaults"]
    return found


def unit_of(panel: Mapping[str, Any], name: str = "") -> str:
    """The unit of a series by its legend, or of a table's column by its heading; else the panel's."""
    return str(_own(panel, name).get("unit") or _defaults(panel).get("unit", "short"))


def _own(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What overrides say of one series or column."""
    return {
        prop["id"]: prop["value"]
        for override in panel["fieldConfig"].get("overrides", [])
        if override["matcher"]["options"] == name
        for prop in override["properties"]
    }


def _empty(panel: Mapping[str, Any]) -> Markup:
    return Markup('<p class="empty">{}</p>').format(_defaults(panel).get("noValue", "No data"))


def _value(panel: Mapping[str, Any], value: float, name: str = "") -> str:
    settings = {**_defaults(panel), **_own(panel, name)}
    for mapping in settings.get("mappings", []):
        if mapping["type"] == "value" and f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["text"])
    return shown(value, unit_of(panel, name), settings.get("decimals"))


def _colour(panel: Mapping[str, Any], value: float) -> str:
    steps = _defaults(panel).get("thresholds", {}).get("steps") or [{"value": None, "color": "#3274d9"}]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return str(reached[-1])


def _stat(panel: Mapping[str, Any], frames: Sequence[Frame]) -> Markup:
    mode = panel["options"].get("textMode", "value")
    cells = []
    for frame in frames[:_MAX_ROWS]:
        name = frame.legend if mode != "value" else ""
        number = "" if mode == "name" else _value(panel, frame.last, frame.legend)
        size = "big" if len(frames) == 1 else "medium"
        cells.append(
            Markup('<div class="stat {}"><span class="name">{}</span><b style="color:{}">{}</b></div>').format(
                size, "" if mode == "name" else name, _colour(panel, frame.last), name if mode == "name" else number
            )
        )
    return Markup('<div class="stats">{}</div>').format(Markup("").join(cells))


def _bars(panel: Mapping[str, Any], frames: Sequence[Frame]) -> Markup:
    ordered = sorted(frames, key=lambda frame: -frame.last)[:_MAX_ROWS]
    top = _defaults(panel).get("max") or max((f.last for f in ordered), default=1) or 1
    rows = [
        Markup(
            '<div class="bar"><span class="name">{}</span><span class="track"><i style="width:{:.1f}%"></i></span>'
            "<b>{}</b></div>"
        ).format(frame.legend, 100 * max(0.0, min(1.0, frame.last / top)), _value(panel, frame.last))
        for frame in ordered
    ]
    return Markup('<div class="bars">{}</div>').format(Markup("").join(rows))


def _table(panel: Mapping[str, Any], frames: Sequence[Frame]) -> Markup:
    chosen = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    ordered = sorted(chosen["renameByName"].items(), key=lambda item: chosen["indexByName"][item[0]])
    columns: Mapping[str, str] = dict(ordered)
    rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for frame in frames:
        labels = {k: v for k, v in frame.labels.items() if k != "__name__"}
        row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
        row[f"Value #{frame.ref}"] = frame.last
    for sort in panel["options"].get("sortBy", []):
        key = next(name for name, heading in columns.items() if heading == sort["displayName"])
        down = -1 if sort.get("desc") else 1
        rows = dict(sorted(rows.items(), key=lambda item: _order(item[1].get(key), down)))
    cells = [
        [_cell(panel, row.get(name), heading) for name, heading in columns.items()]
        for row in list(rows.values())[:_MAX_ROWS]
    ]
    return _html_table(list(columns.values()), cells)


def _order(value: Any, down: int) -> tuple[int, float]:
    return (1, 0.0) if not isinstance(value, float) or math.isnan(value) else (0, down * value)


def _cell(panel: Mapping[str, Any], value: Any, heading: str) -> str:
    if value is None:
        return "–"
    return _value(panel, value, heading) if isinstance(value, float) else str(value)


def _span_table(spans: Sequence[Span]) -> Markup:
    names = list(dict.fromkeys(name for span in spans for name in span.attributes))
    named = any(span.name for span in spans)  # Tempo says the name only where the query asks for it
    cells = [
        [
            _moment(span.started),
            span.trace_id[:8] + "…",
            *([span.name] if named else []),
            *(str(span.attributes.get(name, "–")) for name in names),
        ]
        for span in spans[:_MAX_ROWS]
    ]
    headings = ["time", "trace", *(["span"] if named else []), *(_PREFIX.sub("", name) for name in names)]
    return _html_table(headings, cells)


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = Markup("").join(Markup("<th>{}</th>").format(h) for h in headings)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td data-heading="{}">{}</td>').format(heading, cell)
                for heading, cell in zip(headings, row, strict=True)
            )
        )
        for row in rows
    )
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        head, body
    )


def _chart(panel: Mapping[str, Any], frames: Sequence[Frame], span: Range) -> Markup:
    """A chart, and where it is wide another for small screens."""

    def drawn(columns: int, rows: int) -> Markup:
        canvas = drawing.Canvas(columns, rows, span.start, span.end)
        heat = panel["type"] == "heatmap"
        svg = drawing.heat(frames, canvas) if heat else drawing.lines(panel, frames, unit_of(panel), canvas)
        return Markup(svg)  # noqa: S704 - matplotlib's own SVG

    at = panel["gridPos"]
    if at["w"] < drawing.WIDE:
        return drawn(at["w"], at["h"])
    both = Markup('<div class="chart wide">{}</div><div class="chart narrow">{}</div>')
    return both.format(drawn(at["w"], at["h"]), drawn(*drawing.NARROW))


def _markdown(text: str) -> Markup:
    from markdown_it import MarkdownIt

    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))  # noqa: S704 - raw HTML is off


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")
