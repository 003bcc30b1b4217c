"""Assessment revisions as JSON, the form in which the outbox keeps them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from mlflow_assay.contracts import AssessmentRevision, EvaluatedTrace, Outcome

__all__ = ["decode", "encode"]

_REVISION = frozenset(f.name for f in fields(AssessmentRevision))
_TRACE = frozenset(f.name for f in fields(EvaluatedTrace))


def encode(revision: AssessmentRevision) -> str:
    """One JSON object; fields that are None are left out."""
    kept = {name: value for name, value in vars(revision).items() if value is not None}
    kept["trace"] = {name: value for name, value in vars(revision.trace).items() if value is not None}
    return json.dumps(kept, ensure_ascii=False, default=str, separators=(",", ":"))


def decode(text: str) -> AssessmentRevision:
    """The revision that was encoded; fields a later version of the package has added there are passed over."""
    held: dict[str, Any] = {k: v for k, v in json.loads(text).items() if k in _REVISION}
    trace = EvaluatedTrace(**{k: v for k, v in held.pop("trace").items() if k in _TRACE})
    outcome = held.pop("outcome", None)
    return AssessmentRevision(trace=trace, outcome=None if outcome is None else Outcome(outcome), **held)
