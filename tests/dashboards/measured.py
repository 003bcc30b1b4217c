"""What the panels showed when the live test ran, beside what the trust code says, as dashboards/MEASURED.md.

ASSAY_MEASURED=dashboards/MEASURED.md pytest tests/dashboards/test_live.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.dashboards.asking import Frame
from mlflow_assay.dashboards.formats import shown
from mlflow_assay.semconv import prometheus_label, prometheus_name

GAUGES = {prometheus_name(name): name for name, metric in semconv.METRICS.items() if metric.kind == "gauge"}
_GAUGE = re.compile(r"(max|min)(?: by \(([^()]*)\) )?\((\w+)\{([^{}]*)\}\)")
_LARGEST = re.compile(r"(topk|bottomk)\(\d+, (.*)\)")
_MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
_MOST_SHOWN, _LONGEST = 4, 110

Labels = frozenset[tuple[str, str]]


def trusted(query: str, gauges: Iterable[Mapping[str, Any]]) -> dict[Labels, float] | None:
    """What a panel's query over one KPI gauge must return, worked out from what the trust code computed last.

    Args:
        query: with variables filled in.
        gauges: rows with metric, labels and value, by OpenTelemetry's names.

    Returns:
        Value by grouped labels; None for a query that asks for something else.
    """
    if largest := _LARGEST.fullmatch(query):
        query = largest[2]
    asked = _GAUGE.fullmatch(query)
    if asked is None or asked[3] not in GAUGES:
        return None
    function, grouped, name, inside = asked.groups()
    rows = [row for row in gauges if row["metric"] == GAUGES[name]]
    if not rows:
        return None
    by = [label.strip() for label in (grouped or "").split(",") if label.strip()]
    found: dict[Labels, list[float]] = {}
    for row in rows:
        labels = {prometheus_label(label): str(value) for label, value in row["labels"].items()}
        if all(_matches(labels.get(label, ""), how, value) for label, how, value in _MATCHER.findall(inside)):
            found.setdefault(_set({label: labels.get(label, "") for label in by}), []).append(row["value"])
    return {key: {"max": max, "min": min}[function](values) for key, values in found.items()}


def by_labels(frames: Iterable[Frame], end: float) -> dict[Labels, float]:
    """The value at the end of the time range (Unix seconds) of each series that has one then."""
    return {_set(frame.labels): frame.last for frame in frames if frame.points[-1][0] >= end - 1}


def _set(labels: Mapping[str, str]) -> Labels:
    return frozenset((label, value) for label, value in labels.items() if value and label != "__name__")


def _matches(value: str, how: str, wanted: str) -> bool:
    if how == "=~":
        return re.fullmatch(wanted, value) is not None
    return (value == wanted) == (how == "=")


def brief(query: str) -> str:
    """A query without its selectors, for a table."""
    bare = re.sub(r"\s+", " ", query if query.startswith("{ ") else re.sub(r"\{[^{}]*\}", "", query))
    bare = re.sub(r" \| select\(.*$", "", bare)
    return bare if len(bare) <= _LONGEST else bare[: _LONGEST - 1] + "…"


@dataclass
class Ledger:
    """Rows of the table, written as Markdown at the end."""

    about: str = ""
    rows: dict[str, dict[str, list[tuple[str, str, str, str]]]] = field(default_factory=dict)

    def add(self, board: str, title: str, query: str, measured: str, expected: str = "") -> None:
        """One query of one panel."""
        self.rows.setdefault(board, {}).setdefault(title, []).append((title, brief(query), measured, expected))

    def write(self, path: Path) -> None:
        """All of it, board by board."""
        parts = [self.about]
        for board, panels in sorted(self.rows.items()):
            parts.append(
                f"\n## {board}\n\n| panel | query, without selectors | shown | expected |\n|---|---|---|---|\n"
            )
            for rows in panels.values():
                parts += [f"| {' | '.join(_cell(text) for text in row)} |\n" for row in rows]
        path.write_text("".join(parts), encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def values(named: Mapping[str, float], unit: str) -> str:
    """A few values with their names."""
    said = [f"{' '.join(name.split())}: {shown(value, unit)}".removeprefix(": ") for name, value in named.items()]
    more = f", and {len(said) - _MOST_SHOWN} more" if len(said) > _MOST_SHOWN else ""
    return "; ".join(said[:_MOST_SHOWN]) + more


def names(frames: Iterable[Frame], highest: bool = False) -> dict[str, float]:
    """Last (or highest) values by legend, or by the values of the labels where a table has none."""
    found = {}
    for frame in frames:
        labels = " ".join(value for label, value in sorted(frame.labels.items()) if label != "__name__")
        name = labels if "=" in frame.legend or frame.legend == "value" else frame.legend
        found[name] = max(value for _, value in frame.points if value == value) if highest else frame.last
    return found


def today() -> str:
    """The date, UTC."""
    return datetime.now(timezone.utc).date().isoformat()
