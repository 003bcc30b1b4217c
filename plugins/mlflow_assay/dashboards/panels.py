"""Panels with the pack's defaults: title, description, unit and an empty state that explains itself are required.

Colour is never the only sign: states are words, thresholds are drawn as lines, numbers stay visible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    tempo,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import SearchTableType
from grafana_foundation_sdk.models.text import TextMode

from mlflow_assay.dashboards.queries import Query
from mlflow_assay.semconv import EXPERIMENT_ID, prometheus_label

__all__ = [
    "PROMETHEUS",
    "TEMPO",
    "Band",
    "Steps",
    "Tile",
    "bad_below",
    "bad_from",
    "bars",
    "grid",
    "heat",
    "note",
    "numbers",
    "slow_from",
    "traces",
    "trend",
]

PROMETHEUS: Final = common_models.DataSourceRef(type_val="prometheus", uid="${prometheus}")
TEMPO: Final = common_models.DataSourceRef(type_val="tempo", uid="${tempo}")
# Tempo's table of spans holds the trace's id in `traceIdHidden`; the experiment is an attribute each verdict carries.
IN_MLFLOW: Final = (
    f'${{mlflow}}/#/experiments/${{__data.fields["{EXPERIMENT_ID}"]}}/traces'
    "?selectedEvaluationId=tr-${__data.fields.traceIdHidden}"
)
# Without it Tempo (2.8 and newer) returns whichever matches it finds first, which may be days old.
_NEWEST: Final = "with (most_recent=true)"
BLUE, GREEN, ORANGE, RED = "#3274d9", "#299c46", "#e0752d", "#c4162a"


@dataclass(frozen=True)
class Tile:
    """A panel and its size: width in columns of 24, height in rows of about 38 pixels."""

    panel: Any
    width: int
    height: int


@dataclass(frozen=True)
class Band:
    """Legends of an interval's two ends, drawn as a band."""

    low: str
    high: str


Steps = Sequence[tuple[float | None, str]]
PLAIN: Final[Steps] = ((None, BLUE),)


def slow_from(value: float) -> Steps:
    """Thresholds of a number that wants a look from this value on."""
    return (None, BLUE), (value, ORANGE)


def bad_from(value: float) -> Steps:
    """Thresholds of a number that is bad from this value on."""
    return (None, BLUE), (value, RED)


def bad_below(value: float) -> Steps:
    """Thresholds of a number that is bad below this value."""
    return (None, RED), (value, BLUE)


def numbers(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int,
    height: int = 5,
    empty: str,
    decimals: int | None = None,
    words: Mapping[str, str] | None = None,
    steps: Steps = PLAIN,
    show: Literal["value", "value_and_name", "name"] = "value",
    units: Mapping[str, str] | None = None,
) -> Tile:
    """Big numbers, one a series: as they are at the end of the time range, not the last ones somewhere within it.

    Args:
        empty: what is shown where there is no data, in words a reader can act on.
        words: texts for values (`{"1": "clear"}`).
        steps: thresholds as (from, colour); the first has None.
        units: of single series, by legend.
        show: the value alone, with the series' name, or the name alone (for a state said by a label).
    """
    mode = common_models.BigValueTextMode
    panel = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .text_mode({"value": mode.VALUE, "value_and_name": mode.VALUE_AND_NAME, "name": mode.NAME}[show])
        .thresholds(_thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    )
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        panel.mappings([_words(words)])
    for legend, own in (units or {}).items():
        plain = models.DynamicConfigValue(id_val="decimals", value=0)
        panel.override_by_name(legend, [models.DynamicConfigValue(id_val="unit", value=own), plain])
    return _finish(panel, title, description, _now(queries), unit, empty, width, height)


def trend(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int,
    height: int = 8,
    empty: str,
    low: float | None = 0,
    high: float | None = None,
    band: Band | None = None,
    stacked: bool = False,
    threshold: float | None = None,
) -> Tile:
    """Series over time.

    Args:
        low, high: fixed ends of the axis; None fits the data.
        band: draws the two named series as a shaded interval.
        threshold: a line to compare with.
    """
    panel = (
        timeseries.Panel()
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        .line_width(2)
        .fill_opacity(30 if stacked else 0)
        .show_points(common_models.VisibilityMode.AUTO)
        .span_nulls(False)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if threshold is not None:
        panel.thresholds(_thresholds([(None, BLUE), (threshold, ORANGE)]))
        line = common_models.GraphThresholdsStyleMode.DASHED
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(line))
    if band:
        _draw_band(panel, band)
    return _finish(panel, title, description, queries, unit, empty, width, height)


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int,
    height: int = 8,
    empty: str,
    high: float | None = None,
) -> Tile:
    """One bar a series, each with its value written beside it."""
    panel = (
        bargauge.Panel()
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .value_mode(common_models.BarGaugeValueMode.TEXT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(BLUE))
        .min(0)
    )
    if high is not None:
        panel.max(high)
    if unit == "short":
        panel.decimals(0)  # counts, which Prometheus estimates between two looks
    return _finish(panel, title, description, _now(queries), unit, empty, width, height)


def grid(
    title: str,
    description: str,
    *,
    rows: Mapping[str, str],
    values: Mapping[str, Query],
    unit: str,
    width: int,
    height: int = 8,
    empty: str,
    order: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    words: Mapping[str, Mapping[str, str]] | None = None,
    sort: str | None = None,
) -> Tile:
    """A table that joins instant queries on their labels: one row a label set, one column a query.

    Args:
        rows: the labels that make a row, by attribute name, each with its heading; labels not named are hidden.
        values: the queries by heading.
        order: headings from left to right; as they are named in `rows` and `values` where none is given.
        units: of single columns, by heading; `short` ones are counts, shown whole.
        words: texts for a column's values (`{"1": "yes"}`), by heading.
        sort: heading to sort by, largest first; a leading `-` sorts smallest first.
    """
    fields = {heading: prometheus_label(name) for name, heading in rows.items()}
    fields |= {heading: f"Value #{_ref(i)}" for i, heading in enumerate(values)}
    names = [fields[heading] for heading in order or fields]
    shown = {
        "indexByName": {name: i for i, name in enumerate(names)},
        "renameByName": {field: heading for heading, field in fields.items()},
    }
    panel = (
        table.Panel()
        .transformations(
            [
                models.DataTransformerConfig(id_val="merge", options={}),
                models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": names}}),
                models.DataTransformerConfig(id_val="organize", options={"excludeByName": {}, **shown}),
            ]
        )
        .show_header(True)
    )
    if sort:
        heading = sort.removeprefix("-")
        panel.sort_by([common.TableSortByFieldState().display_name(heading).desc(not sort.startswith("-"))])
    for heading, own in (units or {}).items():
        count = [models.DynamicConfigValue(id_val="decimals", value=0)] if own == "short" else []
        panel.override_by_name(heading, [models.DynamicConfigValue(id_val="unit", value=own), *count])
    for heading, said in (words or {}).items():
        panel.override_by_name(heading, [models.DynamicConfigValue(id_val="mappings", value=[_words(said)])])
    asked = [replace(query, legend="") for query in _now(values.values())]
    return _finish(panel, title, description, asked, unit, empty, width, height, tabled=True)


def heat(title: str, description: str, query: Query, *, width: int, height: int = 8, empty: str) -> Tile:
    """A histogram over time, from its buckets."""
    panel = heatmap.Panel().calculate(False).show_legend()
    return _finish(panel, title, description, [query], "short", empty, width, height, heat=True)


def traces(
    title: str, description: str, query: str, *, width: int, height: int = 10, empty: str, limit: int = 50
) -> Tile:
    """The newest spans that match a TraceQL search, each a click from its trace in Tempo and in MLflow."""
    target = (
        tempo.Dataquery()
        .query(f"{query} {_NEWEST}")
        .query_type("traceql")
        .table_type(SearchTableType.SPANS)
        .limit(limit)
        .ref_id("A")
        .datasource(TEMPO)
    )
    panel = table.Panel().show_header(True).targets([target]).datasource(TEMPO).unit("short").no_value(empty)
    panel.data_links([_link("Open the trace in MLflow", IN_MLFLOW)])
    return Tile(panel.title(title).description(description), width, height)


def note(title: str, description: str, content: str, *, width: int, height: int = 4) -> Tile:
    """Words on the board itself."""
    panel = text.Panel().mode(TextMode.MARKDOWN).content(content)
    return Tile(panel.title(title).description(description), width, height)


def _now(queries: Iterable[Query]) -> list[Query]:
    """The value at the end of the time range; Tempo's metrics queries are always of a range."""
    return [replace(query, instant=not query.tempo) for query in queries]


def _ref(number: int) -> str:
    return chr(ord("A") + number)


def _finish(
    panel: Any,
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    empty: str,
    width: int,
    height: int,
    *,
    tabled: bool = False,
    heat: bool = False,
) -> Tile:
    """What every panel has."""
    targets = [_target(query, _ref(i), tabled, heat) for i, query in enumerate(queries)]
    source = TEMPO if all(query.tempo for query in queries) else PROMETHEUS
    panel.title(title).description(description).targets(targets).datasource(source)
    panel.no_value(empty)
    if not heat:
        panel.unit(unit)
    for query, target in zip(queries, targets, strict=True):
        if query.tempo and query.legend:  # Tempo's queries have no legend of their own
            name = re.sub(r"\{\{.*?\}\}", "${__field.labels}", query.legend)
            panel.override_by_query(target.build().ref_id, [models.DynamicConfigValue("displayName", name)])
    return Tile(panel, width, height)


def _target(query: Query, ref: str, tabled: bool, heat: bool) -> Any:
    if query.tempo:
        return tempo.Dataquery().query(query.expr).query_type("traceql").ref_id(ref).datasource(TEMPO)
    target = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(PROMETHEUS)
    target.legend_format(query.legend or "__auto")
    if query.instant:
        target.instant()
    else:
        target.range()
    if query.exemplars:
        target.exemplar(True)
    if tabled:
        target.format(PromQueryFormat.TABLE)
    if heat:
        target.format(PromQueryFormat.HEATMAP)
    return target


def _draw_band(panel: Any, band: Band) -> None:
    value = models.DynamicConfigValue
    thin = value(id_val="custom.lineWidth", value=0)
    grey = value(id_val="color", value={"mode": "fixed", "fixedColor": "#8e8e8e"})
    panel.override_by_name(band.low, [thin, grey])
    fill = [value(id_val="custom.fillBelowTo", value=band.low), value(id_val="custom.fillOpacity", value=25)]
    panel.override_by_name(band.high, [thin, grey, *fill])


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> Any:
    made = [models.Threshold(value=start, color=colour) for start, colour in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(made)


def _words(words: Mapping[str, str]) -> Any:
    made = {value: models.ValueMappingResult(text=word, index=i) for i, (value, word) in enumerate(words.items())}
    return models.ValueMap(options=made)


def _link(title: str, url: str) -> Any:
    return dashboard.DashboardLink(title).url(url).target_blank(True)
