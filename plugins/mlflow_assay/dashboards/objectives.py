"""Objectives: what is promised, how much of the budget is left, how fast it burns. Entry point `objectives`."""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import Query, Tile, grid, trend
from mlflow_assay.dashboards.promql import Match, by, series
from mlflow_assay.semconv import WINDOW, prometheus_label
from mlflow_assay.slo.burn import WINDOWS
from mlflow_assay.slo.names import (
    S_BAD,
    S_BUDGET,
    S_BUDGET_HIGH,
    S_BUDGET_LOW,
    S_BURN,
    S_BURN_LOW,
    S_OBJECTIVE,
    S_SAMPLE,
    SLO,
)

_NO_RULES: Final = "No recording rules: `assay slo build slo.yaml`, and assay.rules.yaml into Prometheus' rule_files."
_LONG: Final[Match] = {WINDOW: f'=~"{"|".join(window.long for window in WINDOWS)}"'}
_DAY: Final[Match] = {WINDOW: '="1d"'}
_NAMED: Final = f"{{{{{SLO}}}}} {{{{{prometheus_label(WINDOW)}}}}}"


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-objectives",
        title="Agent quality: objectives",
        description="Objectives of slo.yaml: error budget left, how fast it burns, on how many events that rests.",
        audience="platform",
        sections=[
            Section("Where things stand", [table()]),
            Section("Is a budget burning?", [burn_low(), burn(), sample(), left()]),
        ],
    )


def table() -> Tile:
    """Every objective in one table."""
    day = ((S_SAMPLE, _DAY), (S_BAD, _DAY))
    asked = [(name, None) for name in (S_OBJECTIVE, S_BUDGET_LOW, S_BUDGET, S_BUDGET_HIGH)]
    named = ("Objective", "Budget left, at worst", "Budget left", "At best", "Events in a day", "Of these bad")
    return grid(
        "Objectives",
        "Error budget left over 28 days, with both ends of the interval: below zero the objective is missed. Latency "
        "has no such budget here. Bad events are the judge's own word.",
        [Query(by(series(name, match), SLO, function="max")) for name, match in (*asked, *day)],
        unit="percentunit",
        columns={SLO: "Name"} | {f"Value #{chr(ord('A') + i)}": name for i, name in enumerate(named)},
        units=dict.fromkeys(("Events in a day", "Of these bad"), "short"),
        sort="Budget left, at worst",
        width=24,
        empty=_NO_RULES,
    )


def burn_low() -> Tile:
    """What the alerts look at."""
    return trend(
        "Burns at least so fast",
        "Lower end of the 95 % interval of the burn rate, by window: what the alerts look at. At 1 the budget lasts "
        "just as long as the objective's 28 days.",
        [Query(by(series(S_BURN_LOW, _LONG), SLO, WINDOW, function="max"), _NAMED)],
        unit="short",
        width=12,
        empty=_NO_RULES,
        threshold=1,
    )


def burn() -> Tile:
    """The point estimate."""
    return trend(
        "Burns so fast, as seen",
        "The burn rate itself: with few events it jumps, and no alert looks at it alone.",
        [Query(by(series(S_BURN, _LONG), SLO, WINDOW, function="max"), _NAMED)],
        unit="short",
        width=12,
        empty=_NO_RULES,
        threshold=1,
    )


def sample() -> Tile:
    """How many events."""
    return trend(
        "Events it rests on",
        "Scored verdicts, or runs, in each window: below the objective's minimum sample no alert fires.",
        [Query(by(series(S_SAMPLE, _LONG), SLO, WINDOW, function="max"), _NAMED)],
        unit="short",
        width=12,
        empty=_NO_RULES,
    )


def left() -> Tile:
    """Budget over time."""
    return trend(
        "Error budget left",
        "Over 28 days, at the rate itself and at the lower end of its interval; below zero the objective is missed.",
        [
            Query(by(series(S_BUDGET), SLO, function="max"), f"{{{{{SLO}}}}}"),
            Query(by(series(S_BUDGET_LOW), SLO, function="max"), f"{{{{{SLO}}}}} (at worst)"),
        ],
        unit="percentunit",
        width=12,
        empty=_NO_RULES,
        low=None,
        threshold=0,
    )
