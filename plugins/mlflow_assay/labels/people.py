"""People's labels (or recorded ground truth) for one judge: one a unit, conflicts kept and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.rows import Mark, Row
from mlflow_assay.labels.verdicts import JudgeVerdicts, read_label, scale_value
from mlflow_assay.trust.ratings import Ratings, human_ceiling

__all__ = ["FoundLabels", "Labels", "check_labels", "label_names", "labels_of"]


@dataclass(frozen=True)
class Labels:
    """The human (or ground-truth) labels a judge is checked against.

    Attributes:
        names: assessment or expectation names they were read from.
        sources: who gave them.
        human: whether people gave all of them, rather than recorded ground truth.
        n: units with a usable label.
        conflicts: units on which people disagree; the majority counts.
        ties: of those, units without a majority; not used.
        unreadable: labels whose value is neither pass nor fail.
        simulated: labels marked as made by a simulation.
        ceiling: mean chance-corrected agreement among people, None when fewer than two labelled the same units.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    human: bool
    n: int
    conflicts: int = 0
    ties: int = 0
    unreadable: int = 0
    simulated: int = 0
    ceiling: float | None = None


@dataclass(frozen=True)
class FoundLabels:
    """The labels of one judge's units.

    Attributes:
        agreed: unit to good or bad (the majority where people disagree, nothing on a tie).
        ratings: who said good or bad about which unit, conflicts included.
        values: the same on the judge's own scale (numbers or words), where it has more than two values.
        summary: how they came about; None when there is no label at all.
    """

    agreed: Mapping[str, bool]
    ratings: Ratings
    values: Ratings
    summary: Labels | None


def label_names(rows: Sequence[Row]) -> list[str]:
    """Names of all assessments and expectations on these traces."""
    return sorted({m.name for row in rows for m in row.marks if m.valid})


def check_labels(pairs: Sequence[tuple[str, str]], rows: Sequence[Row], judges: Sequence[str]) -> None:
    """See that every (label, judge) names something that is there.

    Raises:
        ConfigError: no assessment or expectation of that name, or no verdict of that judge, on these traces.
    """
    names = sorted({m.name for row in rows for m in row.marks})
    for name, judge in pairs:
        if name not in names:
            raise ConfigError(f"No assessment or expectation {name!r} is on these traces.", valid=names)
        if judge not in judges:
            raise ConfigError(f"No judge {judge!r} gave verdicts on these traces.", valid=judges)


def _candidates(row: Row, judge: str, names: Sequence[str]) -> list[Mark]:
    """The marks of one row that are labels: by name where names are given, else people's under the judge's name.

    A person's override of a verdict is no label here: it is picked because it looked wrong, not sampled.
    """
    if names:
        named = [m for m in row.marks if m.valid and m.name in names and m.error is None]
        return [m for m in named if m.name != judge or m.human]
    ids = {m.id for m in row.marks if not m.human and m.id}
    return [
        m for m in row.marks if m.valid and m.human and not m.expectation and m.name == judge and m.overrides not in ids
    ]


def labels_of(
    found: JudgeVerdicts, rows: Sequence[Row], names: Sequence[str], contract: JudgeContract | None
) -> FoundLabels:
    """One label a unit, and how they came about.

    Args:
        found: the judge's verdicts.
        rows: all traces.
        names: assessments or expectations that hold the labels; empty takes people's feedback under the judge's
            own name.
        contract: the judge's, to read values on its scale.
    """
    latest: dict[tuple[str, str], Mark] = {}
    for row in rows:
        unit = row.unit if found.scope == "session" else row.trace_id
        for mark in sorted(_candidates(row, found.name, names), key=lambda m: m.time_ms):
            latest[unit, f"{mark.source} ({mark.name})" if len(names) > 1 else mark.source] = mark
    read = {key: read_label(mark.value, contract) for key, mark in latest.items()}
    ratings = Ratings.collect((unit, who, value) for (unit, who), value in read.items())
    values = Ratings.collect((unit, who, scale_value(m.value, contract)) for (unit, who), m in latest.items())
    agreed = {str(u): v for u, v in zip(ratings.units, ratings.consensus(), strict=True) if v is not None}
    summary = _summary(ratings, agreed, latest, read, names or (found.name,)) if latest else None
    return FoundLabels(agreed, ratings, values, summary)


def _summary(
    ratings: Ratings,
    agreed: Mapping[str, bool],
    latest: Mapping[tuple[str, str], Mark],
    read: Mapping[tuple[str, str], Any],
    names: Sequence[str],
) -> Labels:
    return Labels(
        names=tuple(names),
        sources=tuple(sorted({mark.source for mark in latest.values()})),
        human=all(mark.human for mark in latest.values()),
        n=len(agreed),
        conflicts=len(ratings.conflicts()),
        ties=len(ratings.units) - len(agreed),
        unreadable=sum(value is None for value in read.values()),
        simulated=sum(m.metadata.get(semconv.SIMULATED) == "true" for m in latest.values()),
        ceiling=human_ceiling(ratings).humans if len(ratings.raters) > 1 else None,
    )
