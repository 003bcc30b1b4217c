"""Objectives: what is promised, how much of the budget is left, how fast it burns. Entry point `objectives`."""

from __future__ import annotations

from typing import Final

from mlflow_assay.dashboards.board import Board, Section
from mlflow_assay.dashboards.panels import grid, trend
from mlflow_assay.dashboards.promql import Match, where
from mlflow_assay.dashboards.queries import highest
from mlflow_assay.semconv import WINDOW
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
_DAY: Final[Match] = where(WINDOW, "1d")

STANDING = [
    grid(
        "Objectives",
        "Error budget left over 28 days, with both ends of the interval: below zero the objective is missed. Latency "
        "has no such budget here. Bad events are the judge's own word.",
        rows={SLO: "Name"},
        values={
            "Objective": highest(S_OBJECTIVE, SLO),
            "Budget left, at worst": highest(S_BUDGET_LOW, SLO),
            "Budget left": highest(S_BUDGET, SLO),
            "At best": highest(S_BUDGET_HIGH, SLO),
            "Events in a day": highest(S_SAMPLE, SLO, match=_DAY),
            "Of these bad": highest(S_BAD, SLO, match=_DAY),
        },
        unit="percentunit",
        units=dict.fromkeys(("Events in a day", "Of these bad"), "short"),
        sort="Budget left, at worst",
        width=24,
        empty=_NO_RULES,
    ),
]

BURNING = [
    trend(
        "Burns at least so fast",
        "Lower end of the 95 % interval of the burn rate, by window: what the alerts look at. At 1 the budget lasts "
        "just as long as the objective's 28 days.",
        highest(S_BURN_LOW, SLO, WINDOW, match=_LONG),
        unit="short",
        width=12,
        empty=_NO_RULES,
        threshold=1,
    ),
    trend(
        "Burns so fast, as seen",
        "The burn rate itself: with few events it jumps, and no alert looks at it alone.",
        highest(S_BURN, SLO, WINDOW, match=_LONG),
        unit="short",
        width=12,
        empty=_NO_RULES,
        threshold=1,
    ),
    trend(
        "Events it rests on",
        "Scored verdicts, or runs, in each window: below the objective's minimum sample no alert fires.",
        highest(S_SAMPLE, SLO, WINDOW, match=_LONG),
        unit="short",
        width=12,
        empty=_NO_RULES,
    ),
    trend(
        "Error budget left",
        "Over 28 days, at the rate itself and at the lower end of its interval; below zero the objective is missed.",
        highest(S_BUDGET, SLO),
        highest(S_BUDGET_LOW, SLO, legend="{} (at worst)"),
        unit="percentunit",
        width=12,
        empty=_NO_RULES,
        low=None,
        threshold=0,
    ),
]


def board() -> Board:
    """The board."""
    return Board(
        uid="assay-objectives",
        title="Agent quality: objectives",
        description="Objectives of slo.yaml: error budget left, how fast it burns, on how many events that rests.",
        audience="platform",
        sections=[Section("Where things stand", STANDING), Section("Is a budget burning?", BURNING)],
    )
