"""`configure`: turns the export on in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from mlflow_assay.errors import ConfigError
from mlflow_assay.redaction import Redactor
from mlflow_assay.telemetry.settings import Settings, environment_headers, traces_url

if TYPE_CHECKING:
    from mlflow_assay.telemetry.processors import AssayOtelProcessor

__all__ = ["Telemetry", "configure"]

_log = logging.getLogger(__name__)
_DEFAULT = Redactor()


class Telemetry:
    """What `configure` set up.

    Attributes:
        settings: as they hold now.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def processor(self) -> AssayOtelProcessor:
        """The span processor at work in MLflow's tracer provider.

        Raises:
            ConfigError: MLflow has built its tracing without it, so nothing is exported as configured.
        """
        import mlflow

        from mlflow_assay.telemetry.processors import AssayOtelProcessor

        provider: Any = mlflow.tracing.get_bridged_tracer_provider()
        active = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
        for found in active:
            if isinstance(found, AssayOtelProcessor):
                return found
        raise ConfigError(
            "MLflow's tracing runs without the assay's exporter.",
            found=", ".join(type(p).__name__ for p in active) or "no span processor",
            fix="Call telemetry.configure before tracing is switched off or a provider of your own is set.",
        )

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Send what is waiting, to MLflow and to the endpoint; whether all was handed over in time."""
        import mlflow

        mlflow.flush_trace_async_logging()
        return bool(self.processor.force_flush(int(timeout_s * 1000)))


def configure(
    endpoint: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    service: str | None = None,
    environment: str | None = None,
    redactor: Redactor | None = _DEFAULT,
    redact_mlflow: bool = False,
    content: bool = True,
    judge_sample: float | None = None,
    user_key: str | None = None,
    tags: Iterable[str] | None = None,
    span_metrics: bool = False,
    timeout_s: float = 10.0,
) -> Telemetry:
    """Send traces to MLflow *and*, by the GenAI conventions, to an OTLP/HTTP endpoint; redacted on the way out.

    Call it once, early; calling it again replaces what was set. It may come before or after the first span, but runs
    open at that moment may lose their export. What it adds to MLflow's export (tried on 3.17 and 3.18; a newer MLflow
    is refused where it no longer takes our exporter):

    - on each span: `gen_ai.conversation.id` (the session), `user.hash`, `gen_ai.agent.name`, `assay.prompt.version`,
      the trace's tags as `assay.slice.<tag>`, `mlflow.experiment.id`, `assay.cost_usd` on a model call, `error.type`,
      and `sampling.keep` on runs that `assay watch --sample` will judge;
    - on the root: `assay.trace.cost_usd`;
    - masks in names, attributes, events, exceptions, stack traces, status texts and links.

    Faults and defaults of MLflow that are worked around, each with a test in tests/telemetry:

    - setting an OTLP endpoint *replaces* MLflow's storage, so that no assessment is possible: both are kept;
    - the protocol defaults to gRPC, whose exporter is another package: http/protobuf is set;
    - with OTLP alone, a tag set on a trace loses its root span ("Cannot mutate immutable"): does not arise;
    - session, user, tags, cost and prompt version never leave: added, also where `mlflow.tracing.set_destination` has
      MLflow forget a trace before it is exported;
    - attributes leave as JSON texts (`"true"`, `"\\"c1\\""`): sent with their types;
    - spans whose type is no operation of the conventions leave named after their type, untyped ones all as `UNKNOWN`:
      they keep their names;
    - a failed span leaves without `error.type`: added from its exception;
    - `OTEL_EXPORTER_OTLP_ENDPOINT` turns on a metric labelled with every tag and metadatum, user and session included:
      off unless `span_metrics`;
    - `mlflow.tracing.configure` replaces span processors and `mlflow.tracing.reset` forgets them: redaction is not one
      of them, and survives both;
    - span processors do not reach exceptions, events, status texts, names, tags, metadata, previews, the client's
      request id and assessments: with `redact_mlflow` these are masked in MLflow's copy too. Not reached: what is
      written to a trace after its root span has ended (`set_trace_tag`, `log_feedback`), attachments (images, audio),
      and spans sent to MLflow's server by others over OTLP; redact those in the collector.

    Args:
        endpoint: base URL (`/v1/traces` is added) or full traces URL; None takes `OTEL_EXPORTER_OTLP_*`.
        headers: added to those of `OTEL_EXPORTER_OTLP_HEADERS`; kept in this process, not in its environment.
        service: `service.name`; None takes `OTEL_SERVICE_NAME`.
        environment: `deployment.environment.name`, for example `production`.
        redactor: None exports unmasked. The default takes `ASSAY_REDACTION` (a YAML file) if set, else `Redactor()`.
        redact_mlflow: mask MLflow's copy as well; users are stored there as their hash where `user_key` is given.
        content: False leaves out messages, tool arguments and results, and what exceptions say.
        judge_sample: the same share as `assay watch --sample`; None takes `ASSAY_JUDGE_SAMPLE`, else 0.
        user_key: secret of 16 characters or more for the user's hash; None takes `ASSAY_USER_KEY`; without one, users
            are not exported.
        tags: which trace tags to export; None all but MLflow's own.
        span_metrics: export MLflow's span duration metric, where an endpoint for metrics is set.
        timeout_s: seconds an export may take.

    Raises:
        ConfigError: a setting is not valid, the exporter is not installed, or this MLflow does not take it.
    """
    settings = Settings(
        endpoint=traces_url(endpoint),
        headers={**environment_headers(), **{k.lower(): v for k, v in (headers or {}).items()}},
        service=service or os.environ.get("OTEL_SERVICE_NAME"),
        environment=environment,
        redactor=_redactor(redactor),
        redact_mlflow=redact_mlflow,
        content=content,
        judge_sample=_share() if judge_sample is None else judge_sample,
        user_key=user_key or os.environ.get("ASSAY_USER_KEY") or None,
        tags=None if tags is None else tuple(tags),
        span_metrics=span_metrics,
        timeout_s=timeout_s,
    )
    _require_exporter()
    _set_environment(settings)
    from mlflow_assay.telemetry import processors

    processors.install(settings)
    telemetry = Telemetry(settings)
    if not processors.is_tested():
        _ = telemetry.processor  # raises where this MLflow goes past it
    _log.info("Traces go to MLflow and to %s.", settings.endpoint)
    return telemetry


def _redactor(given: Redactor | None) -> Redactor | None:
    path = os.environ.get("ASSAY_REDACTION")
    return Redactor.from_yaml(path) if given is _DEFAULT and path else given


def _share() -> float:
    text = os.environ.get("ASSAY_JUDGE_SAMPLE") or "0"
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError("ASSAY_JUDGE_SAMPLE is no number.", found=repr(text), valid="0 to 1") from error


def _require_exporter() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "The OTLP exporter over HTTP is not installed.", fix="pip install opentelemetry-exporter-otlp-proto-http"
        ) from error


def _set_environment(settings: Settings) -> None:
    said = settings.mlflow_variables()
    attributes = _stated_attributes()
    attributes |= settings.resource_attributes()
    if attributes:
        said["OTEL_RESOURCE_ATTRIBUTES"] = ",".join(f"{name}={quote(value)}" for name, value in attributes.items())
    os.environ.update(said)


def _stated_attributes() -> dict[str, str]:
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if "=" in pair)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
