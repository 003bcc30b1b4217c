"""A board: sections of panels laid out on Grafana's grid, with the variables and links that all boards share."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from mlflow_assay.dashboards.panels import PROMETHEUS, Tile
from mlflow_assay.errors import ConfigError
from mlflow_assay.semconv import (
    ALL_AGENTS,
    ENVIRONMENT,
    EVALUATION_NAME,
    EXPERIMENT_ID,
    GEN_AI_AGENT,
    M_KPI_UNITS,
    M_VERDICTS,
    prometheus_label,
    prometheus_name,
)

__all__ = ["COLUMNS", "TAG", "Board", "Section"]

COLUMNS: Final = 24
TAG: Final = "mlflow-assay"
_FIRST_JUDGE: Final = "request_resolved"  # where there is none of this name, Grafana takes the first there is


@dataclass(frozen=True)
class Section:
    """A titled row of the board and its tiles, set left to right and wrapped at 24 columns."""

    title: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Board:
    """One dashboard.

    Attributes:
        uid: stable; also the name of its JSON file.
        title, description: in the reader's words.
        sections: top to bottom.
        audience: tag for the list, for example `stakeholders`.
        about_one: whether the board is about one number: one judge, and one agent or all together.
        since: default start of the time range.
        refresh: how often Grafana asks again.
    """

    uid: str
    title: str
    description: str
    sections: Sequence[Section]
    audience: str
    about_one: bool = False
    since: str = "now-7d"
    refresh: str = "5m"
    variables: Sequence[Any] = field(default_factory=tuple)

    def to_json(self) -> str:
        """Classic dashboard JSON: sorted keys, two spaces, a final newline; equal for equal code."""
        built = self._builder().build()
        return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(built)), indent=2, sort_keys=True) + "\n"

    def _builder(self) -> Any:
        made = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG, self.audience])
            .readonly()
            .refresh(self.refresh)
            .time(self.since, "now")
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .variables([*_variables(self.about_one), *self.variables])
            .link(_links())
            .annotation(_annotation("Releases and prompt versions", ["mlflow-assay", "release"]))
        )
        for item in _placed(self):
            made = made.with_row(item) if isinstance(item, dashboard.Row) else made.with_panel(item)
        return made


def _placed(board: Board) -> list[Any]:
    """Rows and panels with ids and positions; nothing overlaps and nothing leaves the grid."""
    placed: list[Any] = []
    y = 0
    for section in board.sections:
        placed.append(dashboard.Row(section.title).id(len(placed) + 1).grid_pos(_at(0, y, COLUMNS, 1)))
        y, x, tallest = y + 1, 0, 0
        for tile in section.tiles:
            if tile.width > COLUMNS:
                raise ConfigError(f"A panel of {board.uid} is {tile.width} columns wide.", valid=f"1 to {COLUMNS}")
            if x + tile.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            panel = copy.deepcopy(tile.panel)  # a tile is a value: it may stand in several places
            placed.append(panel.id(len(placed) + 1).grid_pos(_at(x, y, tile.width, tile.height)))
            x, tallest = x + tile.width, max(tallest, tile.height)
        y += tallest
    return placed


def _at(x: int, y: int, w: int, h: int) -> Any:
    return models.GridPos(x=x, y=y, w=w, h=h)


def _variables(one: bool) -> list[Any]:
    """Data sources, experiment, agent, judge, environment, window, and where MLflow's pages are."""
    kpi, verdicts = prometheus_name(M_KPI_UNITS), prometheus_name(M_VERDICTS)
    experiment = prometheus_label(EXPERIMENT_ID)
    chosen = f'{{{experiment}=~"$experiment"}}'
    windows = (
        dashboard.CustomVariable("window")
        .label("KPI window")
        .description("The fixed window a KPI is computed over, ending now.")
    )
    return [
        _source("prometheus", "Metrics", "Prometheus with the bridge's metrics."),
        _source("tempo", "Traces", "Tempo with the agents' traces and the verdict spans."),
        _values("experiment", "Experiment", "MLflow experiment id.", kpi, experiment),
        _values("environment", "Environment", "deployment.environment.name.", verdicts, prometheus_label(ENVIRONMENT)),
        _values("agent", "Agent", "gen_ai.agent.name.", kpi + chosen, prometheus_label(GEN_AI_AGENT), one=one),
        _values("judge", "Judge", "Whose verdicts.", kpi + chosen, prometheus_label(EVALUATION_NAME), one=one),
        windows.values("7d,24h,28d").current(models.VariableOption(text="7d", value="7d", selected=True)),
        dashboard.TextBoxVariable("mlflow")
        .label("MLflow")
        .description("Address of MLflow's pages, for the links to traces.")
        .default_value("http://localhost:5000"),
    ]


def _source(kind: str, label: str, description: str) -> Any:
    return dashboard.DatasourceVariable(kind).type(kind).label(label).description(description)


def _values(name: str, label: str, description: str, of: str, attribute: str, one: bool = False) -> Any:
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .query(f"label_values({of}, {attribute})")
        .datasource(PROMETHEUS)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(not one)
        .include_all(not one)
    )
    if not one:
        everything = models.VariableOption(text="All", value="$__all", selected=True)
        return variable.all_value(".*").current(everything)
    if name == "agent":
        return variable.current(models.VariableOption(text=ALL_AGENTS, value=ALL_AGENTS, selected=True))
    return variable.current(models.VariableOption(text=_FIRST_JUDGE, value=_FIRST_JUDGE, selected=True))


def _links() -> Any:
    return (
        dashboard.DashboardLink("Agent quality boards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .keep_time(True)
        .include_vars(True)
    )


def _annotation(name: str, tags: list[str]) -> Any:
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(common_models.DataSourceRef(type_val="grafana", uid="-- Grafana --"))
        .enable(True)
        .icon_color("#8e8e8e")
        .target(_tags(tags))
    )


def _tags(tags: list[str]) -> Any:
    return dashboard.AnnotationTarget().limit(100).match_any(False).tags(tags).type("tags")
