"""Assessments as Arize Phoenix annotations over its REST API. Bridge entry point `phoenix`.

The annotation's identifier is the assessment's id: sending twice is one annotation, an edit replaces it. Phoenix has
no way over REST to delete one of a span, so a deletion leaves it with the label `deleted` and no score. Host and key
come from `PHOENIX_COLLECTOR_ENDPOINT` and `PHOENIX_API_KEY`. The span must be in Phoenix already: until it is,
delivery is retried. Run against Phoenix 20.26 (edit, deletion, resend, late span).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, Delivery
from mlflow_assay.sinks.http import Client, Reply, deliver, number
from mlflow_assay.sinks.otlp import label_of

__all__ = ["PhoenixSink"]

_DEFAULT_HOST = "http://localhost:6006"
_KINDS = {"LLM_JUDGE": "LLM", "HUMAN": "HUMAN"}


class PhoenixSink:
    """Posts annotations and waits until Phoenix has stored them.

    Args:
        host, api_key: None takes the environment's.
        timeout_s: seconds a request may take.
    """

    name: ClassVar[str] = "phoenix"
    guarantee: ClassVar[str] = (
        "Never doubled: the annotation's identifier is the assessment's. Edits replace; a deletion leaves the "
        "label `deleted`. Expectations are skipped."
    )

    def __init__(self, host: str | None = None, api_key: str | None = None, timeout_s: float | str = 10.0) -> None:
        self._base = (host or os.environ.get("PHOENIX_COLLECTOR_ENDPOINT") or _DEFAULT_HOST).rstrip("/")
        key = api_key or os.environ.get("PHOENIX_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = Client(headers, timeout_s=number("timeout_s", timeout_s))

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Send what is about a span, and what is about a trace without one."""
        done: dict[str, Delivery] = {}
        for path, of_span in (("span_annotations", True), ("trace_annotations", False)):
            some = [r for r in revisions if r.kind == "feedback" and bool(_span_of(r)) is of_span]
            found = deliver(some, lambda batch, path=path: self._send(path, batch))  # type: ignore[misc]
            done.update(zip((r.key for r in some), found, strict=True))
        skipped = Delivery("skipped", "an expectation is no annotation")
        return [done.get(revision.key, skipped) for revision in revisions]

    def _send(self, path: str, revisions: Sequence[AssessmentRevision]) -> Reply | Sequence[Delivery]:
        body = {"data": [_annotation(revision) for revision in revisions]}
        reply = self._client.send("POST", f"{self._base}/v1/{path}", params={"sync": "true"}, json=body)
        if reply.status == 404 and len(revisions) > 1:
            # One unknown span refuses all: each by itself, or the known would wait for the unknown.
            return [found for revision in revisions for found in deliver([revision], lambda one: self._send(path, one))]
        return reply

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _span_of(revision: AssessmentRevision) -> str | None:
    return revision.span_id or revision.trace.root_span_id


def _annotation(revision: AssessmentRevision) -> dict[str, Any]:
    gone, span = revision.change == "deleted", _span_of(revision)
    target = {"span_id": span} if span else {"trace_id": revision.trace.otel_trace_id}
    result = {
        "label": "deleted" if gone else label_of(revision),
        "score": None if gone else revision.score,
        "explanation": None if gone else revision.rationale,
    }
    facts = {
        semconv.REVISION_KEY: revision.key,
        semconv.JUDGE_VERSION: revision.judge_version,
        semconv.UNSCORED_REASON: revision.reason,
    }
    return {
        **target,
        "name": revision.name,
        "annotator_kind": _KINDS.get(revision.source_type, "CODE"),
        "result": {key: value for key, value in result.items() if value is not None},
        "metadata": {key: value for key, value in facts.items() if value is not None},
        "identifier": revision.assessment_id,
    }
