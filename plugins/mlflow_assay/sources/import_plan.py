"""What the files of an import hold, found by reading all of them once before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow_assay.contracts import TraceImporter
from mlflow_assay.sources.recorded import RecordedAssessment, RecordedJudge, RecordedRun

__all__ = ["Plan", "PlannedRun", "plan"]


@dataclass
class PlannedRun:
    """What one trace must hold in the end: span ids, and assessments by id."""

    format: str
    trace_id: str | None
    span_ids: set[str] = field(default_factory=set)
    assessments: dict[str, RecordedAssessment] = field(default_factory=dict)


@dataclass
class Plan:
    """What the files hold, before anything is written.

    Attributes:
        runs: planned traces by the recording's run id.
        readings: how many verdicts of a judge had a spelling, and how it was read: (judge, spelling, read as).
        unscored: verdicts that could not be read, by reason.
        judges: the recorded judges by name and digest.
        pieces: how many runs the files hold, a run standing in several files counted in each.
        verdicts_left_out: recorded verdicts that were not asked for.
    """

    runs: dict[str, PlannedRun] = field(default_factory=dict)
    readings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unscored: Counter[str] = field(default_factory=Counter)
    judges: dict[tuple[str, str], RecordedJudge] = field(default_factory=dict)
    pieces: int = 0
    verdicts_left_out: int = 0

    @property
    def spans(self) -> int:
        """How many spans the planned traces hold."""
        return sum(len(run.span_ids) for run in self.runs.values())

    def add(self, run: RecordedRun, verdicts: bool) -> None:
        """Count one run of a file in."""
        self.pieces += 1
        planned = self.runs.setdefault(run.id, PlannedRun(run.format, run.trace_id))
        if run.partial or not planned.span_ids:
            planned.span_ids.update(span.span_id for span in run.spans)
        for found in run.assessments:
            if found.judge:
                self.judges.setdefault((found.judge.name, found.judge.digest), found.judge)
            if found.kind == "verdict" and not verdicts:
                self.verdicts_left_out += 1
            elif found.id not in planned.assessments:
                planned.assessments[found.id] = replace(found, rationale=None, judge=None)
                self._count(found)

    def _count(self, found: RecordedAssessment) -> None:
        if found.kind == "verdict":
            self.readings[found.name, found.raw or "", found.read_as or ""] += 1
            if found.unscored:
                self.unscored[found.unscored[0].value] += 1


def plan(importer: TraceImporter, paths: Sequence[Path], *, verdicts: bool = False) -> Plan:
    """Read all files once, checking them, and say what an import would write.

    Args:
        importer: of the files' format.
        paths: the files.
        verdicts: whether recorded verdicts are to be imported too.

    Raises:
        InputError: a file cannot be read in this format.
    """
    found = Plan()
    for path in paths:
        for run in importer.runs(path):
            found.add(run, verdicts)
    return found
