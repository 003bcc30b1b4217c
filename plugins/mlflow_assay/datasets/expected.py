"""What should have been, according to people: a trace's expectations, and its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mlflow_assay.datasets.canonical import canonical
from mlflow_assay.labels.rows import Mark, Row

__all__ = ["LABEL", "RATIONALE", "expectations", "labels"]

LABEL = "label."  # label.<name> = the people's value, as JSON
RATIONALE = "rationale."  # rationale.<name> = why


def expectations(row: Row, feedback: Sequence[str] = ()) -> dict[str, Any]:
    """What the trace should have come to, by name.

    A person's word goes before recorded ground truth; among people the majority's, then the latest. What was
    corrected (overridden) no longer counts; the correction does.

    Args:
        row: the trace's assessments.
        feedback: names of people's feedback that says what should have been, such as the right category.
    """
    found: dict[str, list[Mark]] = {}
    for mark in row.marks:
        said = mark.expectation or (mark.human and mark.name in feedback)
        if said and mark.valid and mark.error is None and mark.value is not None:
            found.setdefault(mark.name, []).append(mark)
    return {name: _settled(marks).value for name, marks in sorted(found.items())}


def labels(row: Row) -> dict[str, str]:
    """People's feedback on the trace as tags: what they said, and why."""
    found: dict[str, list[Mark]] = {}
    for mark in row.marks:
        if mark.human and mark.valid and not mark.expectation and mark.error is None and mark.value is not None:
            found.setdefault(mark.name, []).append(mark)
    tags: dict[str, str] = {}
    for name, marks in sorted(found.items()):
        settled = _settled(marks)
        tags[LABEL + name] = canonical(settled.value)
        if settled.rationale:
            tags[RATIONALE + name] = settled.rationale
    return tags


def _settled(marks: Iterable[Mark]) -> Mark:
    every = list(marks)
    people = [mark for mark in every if mark.human] or every
    last = list({mark.source: mark for mark in sorted(people, key=lambda m: m.time_ms)}.values())
    votes = Counter(canonical(mark.value) for mark in last)
    most = max(votes.values())
    return max((m for m in last if votes[canonical(m.value)] == most), key=lambda m: m.time_ms)
