"""Assessments as Datadog (LLM Observability) evaluations, API eval-metric v2. Entry point `datadog`.

Joined to the span that OpenTelemetry brought there: decimal ids and the tag `source:otel`, on which Datadog waits for
the span's conversion. Key and site come from `DD_API_KEY` and `DD_SITE`; the key is never logged. The option `url`
(or `DD_LLMOBS_OVERRIDE_ORIGIN`) sends elsewhere, as to an Agent's `/evp_proxy/v2`.

Datadog does not say how evaluations sent twice are shown and offers nothing to take one back: a deletion is an
evaluation of its type `categorical`, value `deleted`, under the same label, tagged `assay_change:deleted`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, Delivery, Outcome
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.http import Client, Reply, deliver, number

__all__ = ["DatadogSink", "metric_of"]

_PATH = "/api/intake/llm-obs/v2/eval-metric"
_LABEL_LIMIT = 200
_TEXT_LIMIT = 5000


class DatadogSink:
    """Posts evaluations; returns when Datadog has taken them.

    Args:
        api_key: None takes `DD_API_KEY`. May be left out where `url` is given (an Agent adds its own).
        site: None takes `DD_SITE`, or `datadoghq.com`.
        url: base URL in place of `https://api.<site>`; None takes `DD_LLMOBS_OVERRIDE_ORIGIN`.
        ml_app: the application's name there; None takes each run's service name, else `DD_LLMOBS_ML_APP`.
        timeout_s: seconds a request may take.

    Raises:
        ConfigError: no key, or an option that is not one.
    """

    name: ClassVar[str] = "datadog"
    guarantee: ClassVar[str] = (
        "An evaluation sent again has the same span, label and time; what Datadog makes of two is not "
        "documented. A deletion is an evaluation `deleted`. Expectations are skipped."
    )

    def __init__(
        self,
        api_key: str | None = None,
        site: str | None = None,
        url: str | None = None,
        ml_app: str | None = None,
        timeout_s: float | str = 15.0,
    ) -> None:
        key, base = api_key or os.environ.get("DD_API_KEY"), url or os.environ.get("DD_LLMOBS_OVERRIDE_ORIGIN")
        if not key and not base:
            raise ConfigError("The sink 'datadog' has no API key.", fix="Set DD_API_KEY, and DD_SITE for your region.")
        site = site or os.environ.get("DD_SITE") or "datadoghq.com"
        if not re.fullmatch(r"[A-Za-z0-9.-]+", site):
            raise ConfigError("DD_SITE is no site.", found=repr(site), valid="for example datadoghq.eu")
        self._base = (base or f"https://api.{site}").rstrip("/")
        if urlsplit(self._base).scheme not in ("http", "https"):
            raise ConfigError("The URL for Datadog is no http(s) URL.", found=repr(self._base))
        headers = {"DD-API-KEY": key} if key else {}
        if "/evp_proxy/" in self._base:
            headers["X-Datadog-EVP-Subdomain"] = "api"
        self._client = Client(headers, timeout_s=number("timeout_s", timeout_s))
        self._ml_app = ml_app

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Send what has a form there as one request."""
        skipped = [self._skipped(revision) for revision in revisions]
        sendable = [revision for revision, reason in zip(revisions, skipped, strict=True) if reason is None]
        sent = iter(deliver(sendable, self._send))
        return [reason or next(sent) for reason in skipped]

    def _skipped(self, revision: AssessmentRevision) -> Delivery | None:
        if revision.kind == "expectation":
            return Delivery("skipped", "an expectation is no evaluation")
        if _span_of(revision) is None:
            return Delivery("skipped", "the trace has no spans, and Datadog joins on one")
        if self._app(revision) is None:
            return Delivery("rejected", "no ml_app: the run names no service; set DD_LLMOBS_ML_APP and replay")
        return None

    def _app(self, revision: AssessmentRevision) -> str | None:
        return self._ml_app or revision.trace.service or os.environ.get("DD_LLMOBS_ML_APP")

    def _send(self, revisions: Sequence[AssessmentRevision]) -> Reply:
        metrics = [metric_of(revision, self._app(revision) or "") for revision in revisions]
        body = {"data": {"type": "evaluation_metric", "attributes": {"metrics": metrics}}}
        return self._client.send("POST", self._base + _PATH, json=body)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def metric_of(revision: AssessmentRevision, ml_app: str) -> dict[str, Any]:
    """One evaluation as the API takes it.

    Args:
        revision: feedback on a trace with a span.
        ml_app: the application's name.
    """
    kind, value = _typed(revision)
    metric: dict[str, Any] = {
        "event_kind": "evaluation",
        "join_on": {
            "span": {
                "trace_id": str(int(revision.trace.otel_trace_id, 16)),
                "span_id": str(int(_span_of(revision) or "0", 16)),
            }
        },
        "label": _label(revision.name),
        "metric_type": kind,
        f"{kind}_value": value,
        "ml_app": ml_app,
        "timestamp_ms": revision.changed_ms,
        "tags": _tags(revision, ml_app),
        # A verdict without a span of its own is about the whole run; its root span stands for it.
        "eval_scope": "span" if revision.span_id else "trace",
        "metadata": _metadata(revision),
    }
    if revision.outcome in (Outcome.PASS, Outcome.FAIL) and revision.change != "deleted":
        metric["assessment"] = revision.outcome.value
    if revision.rationale:
        metric["reasoning"] = revision.rationale[:_TEXT_LIMIT]
    return metric


def _span_of(revision: AssessmentRevision) -> str | None:
    return revision.span_id or revision.trace.root_span_id


def _typed(revision: AssessmentRevision) -> tuple[str, Any]:
    value = revision.value
    if revision.change == "deleted":
        return "categorical", "deleted"
    if revision.outcome is Outcome.UNSCORED or value is None:
        return "categorical", f"unscored:{revision.reason or 'unknown'}"
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float) and math.isfinite(value):
        return "score", value
    if isinstance(value, Mapping):
        return "json", dict(value)
    return "categorical", str(value)[:_LABEL_LIMIT]


def _label(name: str) -> str:
    """A label as Datadog takes it: letters, digits and `_`, a letter first, at most 200."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return (clean if clean[:1].isalpha() else f"j_{clean}")[:_LABEL_LIMIT]


def _tags(revision: AssessmentRevision, ml_app: str) -> list[str]:
    facts = {
        "ml_app": ml_app,
        "source": "otel",
        "env": revision.trace.environment,
        "agent": revision.trace.agent,
        "judge_version": revision.judge_version,
        "source_type": revision.source_type.lower(),
        "assay_change": revision.change,
        **revision.trace.slices,
    }
    return [f"{key}:{value}" for key, value in facts.items() if value]


def _metadata(revision: AssessmentRevision) -> dict[str, Any]:
    facts = {
        semconv.ASSESSMENT_ID: revision.assessment_id,
        semconv.REVISION_KEY: revision.key,
        semconv.REVISION: revision.revision,
        semconv.JUDGE_DIGEST: revision.judge_digest,
        semconv.JUDGE_MODEL: revision.judge_model,
        semconv.EVALUATION_NAME: revision.name,
        semconv.GEN_AI_CONVERSATION: revision.trace.conversation,
        semconv.PROMPT_VERSION: revision.trace.prompt_version,
        semconv.UNSCORED_REASON: revision.reason,
    }
    return {key: value for key, value in facts.items() if value is not None}
