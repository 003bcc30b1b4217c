"""Redaction of a revision before it is kept in the outbox: nothing that is masked ever gets further than MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlflow_assay.bridge.revision import Redact
from mlflow_assay.contracts import AssessmentRevision
from mlflow_assay.redaction import Redactor

__all__ = ["redacting"]


def redacting(redactor: Redactor) -> Redact:
    """Masks everything in a revision that a person or a model may have written freely.

    That is the value, rationale, reason, source, metadata, conversation and copied tags, and the agent's and model's
    names, which come from spans where no tag says them. Left as they are: ids, the names of judge, service and
    prompt, numbers and times.
    """

    def redact(revision: AssessmentRevision) -> AssessmentRevision:
        trace = replace(
            revision.trace,
            agent=_text(redactor, revision.trace.agent),
            model=_text(redactor, revision.trace.model),
            conversation=_text(redactor, revision.trace.conversation),
            slices=_texts(redactor, revision.trace.slices),
        )
        return replace(
            revision,
            trace=trace,
            value=redactor.redact(revision.value).value,
            rationale=_text(redactor, revision.rationale),
            reason=_text(redactor, revision.reason),
            source_id=redactor.text(revision.source_id),
            metadata=_texts(redactor, revision.metadata),
        )

    return redact


def _text(redactor: Redactor, text: str | None) -> str | None:
    return redactor.text(text) if text else text


def _texts(redactor: Redactor, held: Mapping[str, str]) -> Mapping[str, str]:
    masked: Mapping[str, str] = redactor.redact(dict(held)).value
    return masked
