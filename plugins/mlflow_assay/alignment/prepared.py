"""Labelled traces as MLflow's optimizers expect them: one human label a trace, named and valued as the judge's own.

MLflow compares values as strings, so a reviewer's `True` never equals a judge's "yes"; it settles conflicts by which
was last, and it reads the root span, not the fields a definition maps. All of that is put right on copies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_assay.alignment.labelled import Labelled
from mlflow_assay.contracts import BoundJudge, NumericValue
from mlflow_assay.engine.judging import subject_of

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["prepare"]

_BY = "experts"


def prepare(bound: BoundJudge, found: Sequence[Labelled]) -> list[Trace]:
    """Copies of the traces; those whose label names no single value of the judge's scale are left out."""
    return [_copy(bound, example) for example in found if value_of(bound, example) is not None]


def value_of(bound: BoundJudge, example: Labelled) -> Any | None:
    """The label as a value the judge gives; for a score with a good/bad label, the end of the scale that is meant."""
    if example.label.value is not None or not isinstance(bound.contract.value, NumericValue):
        return example.label.value
    spec = bound.contract.value
    return spec.high if example.passed == (spec.better == "higher") else spec.low


def _copy(bound: BoundJudge, example: Labelled) -> Trace:
    from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback, Trace

    copied = Trace.from_dict(json.loads(json.dumps(example.trace.to_dict(), default=str)))
    expectations = [a for a in example.trace.info.assessments or [] if a.expectation is not None]
    label = Feedback(
        name=bound.name,
        value=value_of(bound, example),
        rationale=" / ".join(example.label.rationales) or None,
        source=AssessmentSource(AssessmentSourceType.HUMAN, _BY),
        trace_id=example.id,
    )
    copied.info.assessments = [*expectations, label]
    _show(bound, example, copied)
    return copied


def _show(bound: BoundJudge, example: Labelled, copied: Trace) -> None:
    """Put what the judge is shown into the copy's root span, where MLflow looks for it."""
    from mlflow.tracing.constant import SpanAttributeKey

    if not bound.fields:
        return
    subject = subject_of(bound, example.trace)
    for span in copied.data.spans:
        if span.parent_id is None:
            attributes: Any = span._span._attributes
            held = dict(attributes)
            held[SpanAttributeKey.INPUTS] = json.dumps(subject.inputs, ensure_ascii=False, default=str)
            held[SpanAttributeKey.OUTPUTS] = json.dumps(subject.outputs, ensure_ascii=False, default=str)
            span._span._attributes = held
