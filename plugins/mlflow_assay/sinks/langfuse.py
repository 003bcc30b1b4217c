"""Assessments as Langfuse scores over its public API. Bridge entry point `langfuse`.

The score's id is the assessment's: sending twice is one score, an edit replaces it, a deletion deletes it. Host and
keys come from `LANGFUSE_HOST`, `LANGFUSE_PUBLIC_KEY` and `LANGFUSE_SECRET_KEY`. The run itself must reach Langfuse
over OTLP, with the same trace id; the score may come first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, Delivery, Outcome
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.http import Client, delivery_of, number

__all__ = ["LangfuseSink"]

_DEFAULT_HOST = "https://cloud.langfuse.com"


class LangfuseSink:
    """Posts one score a request; returns when Langfuse has taken it.

    Args:
        host, public_key, secret_key: None takes the environment's.
        timeout_s: seconds a request may take.

    Raises:
        ConfigError: a key is missing.
    """

    name: ClassVar[str] = "langfuse"
    guarantee: ClassVar[str] = (
        "Never doubled: the score's id is the assessment's. Edits replace, deletions delete. Unscored "
        "verdicts and expectations are skipped."
    )

    def __init__(
        self,
        host: str | None = None,
        public_key: str | None = None,
        secret_key: str | None = None,
        timeout_s: float | str = 10.0,
    ) -> None:
        public, secret = public_key or os.environ.get("LANGFUSE_PUBLIC_KEY"), os.environ.get("LANGFUSE_SECRET_KEY")
        secret = secret_key or secret
        if not public or not secret:
            raise ConfigError(
                "The sink 'langfuse' has no keys.", fix="Set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY."
            )
        base = (host or os.environ.get("LANGFUSE_HOST") or _DEFAULT_HOST).rstrip("/")
        self._url = f"{base}/api/public/scores"
        self._client = Client({}, timeout_s=number("timeout_s", timeout_s), auth=(public, secret))

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Send each; once one is to be retried, the rest is too, without asking again."""
        done: list[Delivery] = []
        for revision in revisions:
            down = done[-1] if done and done[-1].state == "retry" else None
            done.append(down or self._one(revision))
        return done

    def _one(self, revision: AssessmentRevision) -> Delivery:
        if revision.kind == "expectation":
            return Delivery("skipped", "an expectation is no score")
        if revision.change == "deleted":
            reply = self._client.send("DELETE", f"{self._url}/{revision.assessment_id}")
            return Delivery("delivered") if reply.status == 404 else delivery_of(reply)
        score = _score(revision)
        if score is None:
            return Delivery("skipped", "unscored, and Langfuse has no score without a value")
        return delivery_of(self._client.send("POST", self._url, json=score))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _score(revision: AssessmentRevision) -> dict[str, Any] | None:
    value = revision.value
    if revision.outcome is Outcome.UNSCORED or value is None:
        return None
    if isinstance(value, bool):
        typed = {"dataType": "BOOLEAN", "value": int(value)}
    elif isinstance(value, int | float) and math.isfinite(value):
        typed = {"dataType": "NUMERIC", "value": value}
    else:
        typed = {"dataType": "CATEGORICAL", "value": str(value)}
    score = {
        "id": revision.assessment_id,
        "traceId": revision.trace.otel_trace_id,
        "observationId": revision.span_id,
        "name": revision.name,
        **typed,
        "comment": revision.rationale,
        "metadata": {
            semconv.REVISION_KEY: revision.key,
            semconv.SOURCE_TYPE: revision.source_type.lower(),
            semconv.OUTCOME: revision.outcome.value if revision.outcome else None,
            semconv.JUDGE_VERSION: revision.judge_version,
        },
    }
    return {key: found for key, found in score.items() if found is not None}
