"""What telemetry is told, and the environment variables that say the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from mlflow_assay import semconv
from mlflow_assay.errors import ConfigError
from mlflow_assay.redaction import Redactor

__all__ = ["Settings", "environment_headers", "traces_url"]

_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")


@dataclass(frozen=True)
class Settings:
    """Where traces go and what is done to them first.

    Attributes:
        endpoint: full URL of the OTLP/HTTP traces endpoint, as `traces_url` makes it.
        headers: HTTP headers of the export. Values may be secrets: never logged, never put into the environment.
        service: `service.name` of the resource.
        environment: `deployment.environment.name`, or None.
        redactor: masks everything that is exported; None exports as it is.
        redact_mlflow: whether MLflow's own copy is masked too.
        content: whether messages, tool arguments and results, and the texts of exceptions are exported at all.
        judge_sample: share of traces, in [0, 1], marked `sampling.keep` because `assay watch --sample` judges them.
        user_key: key of the keyed hash under which a user is exported; None leaves users out.
        tags: names of the trace tags exported; None exports all but MLflow's own.
        span_metrics: whether MLflow's span duration metric is exported, with its unbounded labels.
        timeout_s: seconds one export may take.
    """

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service: str | None = None
    environment: str | None = None
    redactor: Redactor | None = field(default_factory=Redactor)
    redact_mlflow: bool = False
    content: bool = True
    judge_sample: float = 0.0
    user_key: str | None = field(default=None, repr=False)
    tags: tuple[str, ...] | None = None
    span_metrics: bool = False
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.judge_sample <= 1:
            raise ConfigError("judge_sample is a share of the traces.", found=self.judge_sample, valid="0 to 1")
        if self.redact_mlflow and self.redactor is None:
            raise ConfigError("MLflow's copy cannot be redacted without a redactor.", fix="Give redactor=Redactor().")
        if self.user_key is not None and len(self.user_key) < 16:
            raise ConfigError(
                "The user key is too short to keep users from being guessed.",
                found=f"{len(self.user_key)} characters",
                valid="16 or more",
                fix='python -c "import secrets; print(secrets.token_hex(32))"',
            )
        if any(not value.isprintable() or not name.isprintable() for name, value in self.headers.items()):
            raise ConfigError("A header holds a line break or another control character.")

    def resource_attributes(self) -> dict[str, str]:
        """What `OTEL_RESOURCE_ATTRIBUTES` has to say beyond the service's name."""
        return {semconv.ENVIRONMENT: self.environment} if self.environment else {}

    def mlflow_variables(self) -> dict[str, str]:
        """The variables that make MLflow keep its own copy and send the other one, in this order."""
        said = {
            _ENDPOINT: self.endpoint,
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "MLFLOW_ENABLE_OTLP_EXPORTER": "true",
            "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT": "true",
            "MLFLOW_ENABLE_OTEL_GENAI_SEMCONV": "true",
        }
        if self.service:
            said["OTEL_SERVICE_NAME"] = self.service
        if more := self.resource_attributes():
            said["OTEL_RESOURCE_ATTRIBUTES"] = ",".join(f"{name}={quote(value)}" for name, value in more.items())
        return said


def traces_url(endpoint: str | None) -> str:
    """The full traces URL from a base URL or a full one; None takes the standard variables.

    Raises:
        ConfigError: none given, or no http(s) URL.
    """
    given = endpoint or os.environ.get(_ENDPOINT) or os.environ.get(_BASE)
    if not given:
        raise ConfigError(
            "No OpenTelemetry endpoint is set.",
            valid="a URL such as http://127.0.0.1:4318",
            fix=f"Pass endpoint=… or set {_BASE}.",
        )
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"The endpoint {given!r} is no http(s) URL.", valid="http://HOST:4318, https://HOST/v1/traces"
        )
    if parts.port == 4317:
        raise ConfigError(
            f"The endpoint {given!r} has the port of OTLP over gRPC; this sends http/protobuf.",
            fix="Use the receiver's HTTP port, by convention 4318.",
        )
    is_full = given.rstrip("/").endswith("/v1/traces") or (not endpoint and bool(os.environ.get(_ENDPOINT)))
    return given if is_full else given.rstrip("/") + "/v1/traces"


def environment_headers() -> dict[str, str]:
    """Headers the standard variables set, the traces' own last."""
    found: dict[str, str] = {}
    for name in reversed(_HEADERS):
        for pair in filter(None, os.environ.get(name, "").split(",")):
            key, equals, value = pair.partition("=")
            if not equals:
                raise ConfigError(f"{name} is not written NAME=VALUE,NAME=VALUE.")
            found[unquote(key).strip().lower()] = unquote(value).strip()
    return found
