"""What an assessment's state in MLflow means beside what is already known of it: the revisions to be shipped.

A pure function, so that it can be tested to exhaustion. States of an assessment: unknown, standing, not standing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mlflow_assay.contracts import AssessmentRevision

__all__ = ["Known", "Observed", "ObservedTrace", "Step", "revision_key", "revisions"]

Change = Literal["created", "edited", "deleted"]


@dataclass(frozen=True)
class Known:
    """What the outbox knows of an assessment.

    Attributes:
        assessment_id, trace_id: MLflow's ids.
        content: digest of what it said when last seen, 32 hex digits.
        standing: whether it stood.
        revision: number of its last revision; 0 for what is followed but never shipped.
        key: key of its last revision; empty where there is none.
        updated_ms: MLflow's time of its last change.
        name: the assessment's name, value: digest of its value alone, 16 hex digits (see `counting`).
        trace_ms: start of its trace by MLflow.
    """

    assessment_id: str
    trace_id: str
    content: str
    standing: bool
    revision: int
    key: str
    updated_ms: int
    name: str
    value: str
    trace_ms: int


@dataclass(frozen=True)
class Observed:
    """An assessment as MLflow has it now.

    Attributes:
        state: the same as facts to be known, its revision and key not yet given.
        says: what it says, as a revision without key and number; None for what is followed and not shipped.
    """

    state: Known
    says: AssessmentRevision | None


@dataclass(frozen=True)
class ObservedTrace:
    """All assessments of one trace as MLflow has them now; what is known of the trace and not among them is gone."""

    trace_id: str
    assessments: tuple[Observed, ...] = ()


@dataclass(frozen=True)
class Step:
    """What is known after the revisions, and the revisions."""

    known: Known
    made: tuple[AssessmentRevision, ...]


def revisions(known: Known | None, seen: Observed | None, said: AssessmentRevision | None, now_ms: int) -> Step:
    """The revisions that lead from what is known to what is seen, in order, and what is known after them.

    Args:
        known: None when the assessment was never seen.
        seen: None when it is no longer in MLflow.
        said: what the last revision said; needed when `seen` is None and the assessment stood.
        now_ms: the time given to a deletion, of which MLflow keeps none.
    """
    state = seen.state if seen is not None else replace(_sure(known), standing=False)
    says = seen.says if seen is not None else said
    made: list[AssessmentRevision] = []
    number, key = (known.revision, known.key) if known is not None else (0, "")
    if says is not None:
        for change in _changes(known, state):
            number += 1
            before, key = key, revision_key(state.assessment_id, number, change, state.content)
            changed = max(now_ms, state.updated_ms) if change == "deleted" else state.updated_ms
            made.append(
                replace(says, key=key, change=change, revision=number, replaces=before or None, changed_ms=changed)
            )
    return Step(replace(state, revision=number, key=key), tuple(made))


def _sure(known: Known | None) -> Known:
    if known is None:
        raise ValueError("an assessment neither known nor seen has no revisions")
    return known


def _changes(known: Known | None, state: Known) -> Iterator[Change]:
    if known is None:
        yield "created"
        if not state.standing:
            yield "deleted"
    elif known.standing and not state.standing:
        yield "deleted"
    elif not known.standing and state.standing:
        yield "created"
    elif state.standing and known.content != state.content:
        yield "edited"


def revision_key(assessment_id: str, number: int, change: str, content: str) -> str:
    """32 hex digits that name one revision: the same in every worker that sees the same history."""
    basis = "\x1f".join((assessment_id, str(number), change, content))
    return hashlib.sha256(basis.encode()).hexdigest()[:32]
