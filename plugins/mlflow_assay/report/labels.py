"""People's labels for a judge, and what follows from them: the corrected rate and the agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.errors import ConfigError
from mlflow_assay.report.model import Labels
from mlflow_assay.report.rows import Mark, Row
from mlflow_assay.report.verdicts import JudgeVerdicts, read_label
from mlflow_assay.trust.ratings import Ratings, human_ceiling

__all__ = ["check_labels", "labels_of"]


def check_labels(pairs: Sequence[tuple[str, str]], rows: Sequence[Row], judges: Sequence[str]) -> None:
    """See that every `--label NAME=JUDGE` names something that is there.

    Raises:
        ConfigError: no assessment or expectation NAME, or no verdict of JUDGE, in these traces.
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
) -> tuple[dict[str, bool], Labels | None]:
    """One label a unit, and how they came about.

    Args:
        found: the judge's verdicts.
        rows: all traces.
        names: assessments or expectations that hold the labels; empty takes people's feedback under the judge's
            own name.
        contract: the judge's, to read values on its scale.

    Returns:
        Unit to good or bad (the majority where people disagree, nothing on a tie), and a summary; the summary
        is None when there is no label at all.
    """
    latest: dict[tuple[str, str], Mark] = {}
    for row in rows:
        unit = row.unit if found.scope == "session" else row.trace_id
        for mark in sorted(_candidates(row, found.name, names), key=lambda m: m.time_ms):
            latest[unit, f"{mark.source} ({mark.name})" if len(names) > 1 else mark.source] = mark
    if not latest:
        return {}, None
    read = {key: read_label(mark.value, contract) for key, mark in latest.items()}
    ratings = Ratings.collect((unit, who, value) for (unit, who), value in read.items())
    agreed = {str(u): v for u, v in zip(ratings.units, ratings.consensus(), strict=True) if v is not None}
    return agreed, _summary(ratings, agreed, latest, read, names or (found.name,))


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
