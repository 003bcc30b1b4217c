"""OTLP over HTTP with an acknowledgement: what the OTLP sinks share.

The SDK's exporters retry inside `export` and drop what they give up; a durable outbox does the retrying here, so a
request is sent once and its answer, partial success included, is handed back. Endpoint, headers, timeout,
compression and certificates come from the standard `OTEL_EXPORTER_OTLP_*` variables (a signal's own first).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from mlflow_assay import semconv
from mlflow_assay.contracts import AssessmentRevision, Delivery, Outcome
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.http import Client, Reply, deliver, number

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.sdk.resources import Resource

__all__ = [
    "SCOPE",
    "OtlpClient",
    "Signal",
    "VerdictSink",
    "attributes",
    "deliver_protobuf",
    "label_of",
    "proto_resource",
    "proto_scope",
    "refused",
    "resource",
    "verdict_attributes",
    "verdict_span_id",
]

Signal = Literal["traces", "metrics", "logs"]
SCOPE = "mlflow_assay.bridge"
_DEFAULT_ENDPOINT = "http://localhost:4318"
_EXPLANATION_LIMIT = 2000  # characters; Tempo cuts attributes at 2048 bytes by default
_VALUE_LIMIT = 100


class OtlpClient:
    """Posts protobuf of one signal and tells what the far end made of it.

    Args:
        signal: `traces`, `metrics` or `logs`.
        endpoint: base URL; the signal's path is added. None takes it from the environment, or localhost:4318.
        headers: further HTTP headers; values may be secrets and are never logged.
        timeout_s: seconds; None takes the environment's, or 10.

    Raises:
        ConfigError: an endpoint that is no http(s) URL, an unknown compression, a timeout that is no number.
    """

    def __init__(
        self,
        signal: Signal,
        *,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | str | None = None,
    ) -> None:
        self.url = _url(signal, endpoint)
        self._gzip = _compression(signal)
        sent = {"Content-Type": "application/x-protobuf", **_headers(signal), **(headers or {})}
        if self._gzip:
            sent["Content-Encoding"] = "gzip"
        key, certificate = _setting(signal, "CLIENT_KEY"), _setting(signal, "CLIENT_CERTIFICATE")
        self._client = Client(
            sent,
            timeout_s=number("timeout_s", timeout_s or _setting(signal, "TIMEOUT") or 10),
            verify=_setting(signal, "CERTIFICATE") or True,
            cert=(certificate, key) if certificate and key else None,
        )

    def post(self, message: bytes) -> Reply:
        """One request; never raises for the far end's faults."""
        return self._client.send("POST", self.url, data=gzip.compress(message, 5) if self._gzip else message)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _setting(signal: Signal, name: str) -> str | None:
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}")


def _url(signal: Signal, endpoint: str | None) -> str:
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    base = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULT_ENDPOINT
    path = f"/v1/{signal}"
    url = own if own and not endpoint else base.rstrip("/").removesuffix(path) + path
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"The OTLP endpoint for {signal} is no http(s) URL.",
            found=repr(url),
            valid="for example http://localhost:4318 (OTLP over HTTP; the gRPC port 4317 is not spoken)",
        )
    if urlsplit(url).port == 4317:
        raise ConfigError(
            f"The OTLP endpoint for {signal} has the port of OTLP over gRPC; this sends http/protobuf.",
            found=repr(url),
            fix="Use the receiver's HTTP port, by convention 4318.",
        )
    return url


def _compression(signal: Signal) -> bool:
    chosen = (_setting(signal, "COMPRESSION") or "gzip").strip().lower()
    if chosen not in ("gzip", "none"):
        raise ConfigError("OTEL_EXPORTER_OTLP_COMPRESSION is not supported.", found=repr(chosen), valid="gzip, none")
    return chosen == "gzip"


def _headers(signal: Signal) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(_setting(signal, "HEADERS") or "", liberal=True))


# --- one batch, one request -----------------------------------------------------------------------------


def deliver_protobuf(
    client: OtlpClient, request_type: Any, response_type: Any, make: Any, revisions: Sequence[AssessmentRevision]
) -> list[Delivery]:
    """Send revisions as one OTLP request and read the acknowledgement.

    A partial success does not say which items were refused, and the protocol forbids sending the request again: the
    whole batch then counts as rejected, so that it stands in the dead letters and not nowhere.

    Args:
        make: builds the request message of some revisions.
    """

    def send(some: Sequence[AssessmentRevision]) -> Sequence[Delivery] | Reply:
        message: Any = make(some)
        if not isinstance(message, request_type):
            raise TypeError(f"{make} made no {request_type}")
        reply = client.post(message.SerializeToString())
        left = refused(response_type, reply) if reply.accepted else None
        if left is None:
            return reply
        count, why = left
        return [Delivery("rejected", f"{client.url} refused {count} of {len(some)} items: {why}")] * len(some)

    return deliver(revisions, send)


def refused(response_type: Any, reply: Reply) -> tuple[int, str] | None:
    """How many items a partial success refused and why; None where it took all."""
    from google.protobuf.message import DecodeError

    try:
        partial = response_type.FromString(reply.body).partial_success
    except DecodeError:  # a 2xx with another body, as proxies and some vendors send: the status is what counts
        return None
    counts = [int(value) for field, value in partial.ListFields() if field.name.startswith("rejected_")]
    return (sum(counts), str(partial.error_message) or "no reason given") if sum(counts) else None


class VerdictSink:
    """What the sinks that send each verdict as an OTLP item of its own share.

    Args:
        endpoint, headers, timeout_s: see `OtlpClient`.
        profile: names profile, see `semconv`.
    """

    signal: ClassVar[Signal]

    def __init__(
        self,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | str | None = None,
        profile: str | None = None,
    ) -> None:
        self._client = OtlpClient(self.signal, endpoint=endpoint, headers=headers, timeout_s=timeout_s)
        self._profile = semconv.profile(profile)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


# --- resource, scope and attributes ------------------------------------------------------------------------


@cache
def _instance() -> str:
    return str(uuid.uuid4())


def resource() -> Resource:
    """Who sends: service name (`OTEL_SERVICE_NAME`, else `mlflow-assay`), its version, one instance id a process.

    `OTEL_RESOURCE_ATTRIBUTES` adds to it and overrides it.
    """
    told = tuple(os.environ.get(name, "") for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"))
    return _resource(told)


@lru_cache(maxsize=8)
def _resource(told: tuple[str, ...]) -> Resource:
    """Made once for what the environment tells: the SDK looks through all installed packages for detectors."""
    from opentelemetry.sdk.resources import Resource

    given = Resource.create()
    own: dict[str, Any] = {"service.version": _version(), semconv.SERVICE_INSTANCE: _instance()}
    kept = {key: value for key, value in given.attributes.items() if key != semconv.SERVICE_NAME}
    name = str(given.attributes.get(semconv.SERVICE_NAME, ""))
    own[semconv.SERVICE_NAME] = "mlflow-assay" if name.startswith("unknown_service") else name
    return Resource({**own, **kept}, semconv.SCHEMA_URL)


def proto_resource() -> Any:
    """The resource as an OTLP message."""
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ProtoResource

    return ProtoResource(attributes=attributes(resource().attributes))


def proto_scope() -> Any:
    """The instrumentation scope as an OTLP message."""
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope

    return InstrumentationScope(name=SCOPE, version=_version())


@cache
def _version() -> str:
    return version("mlflow-assay")


def attributes(values: Mapping[str, Any]) -> list[KeyValue]:
    """OTLP attributes; entries that are None are left out."""
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

    return [KeyValue(key=key, value=_any(value)) for key, value in values.items() if value is not None]


def _any(value: Any) -> AnyValue:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))


def verdict_span_id(revision: AssessmentRevision) -> str:
    """16 hex digits, never all zero: the same revision always has the same span."""
    return hashlib.sha256(f"evaluation\x1f{revision.key}".encode()).hexdigest()[:15] + "1"


def label_of(revision: AssessmentRevision) -> str | None:
    """`gen_ai.evaluation.score.label`: pass, fail or unscored, else the value where it is a short word or a bool."""
    if revision.outcome is not None:
        return revision.outcome.value
    value = revision.value
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) and 0 < len(value) <= 40 and value.isprintable() else None


def verdict_attributes(revision: AssessmentRevision, profile: str) -> dict[str, Any]:
    """What a verdict span and a verdict event say: the standard's names, then ours. None means absent."""
    return {**_standard(revision), **_run(revision), **_ours(revision), **_coming(revision, profile)}


def _standard(revision: AssessmentRevision) -> dict[str, Any]:
    return {
        semconv.EVALUATION_NAME: revision.name,
        semconv.EVALUATION_SCORE: None if revision.score is None else float(revision.score),
        semconv.EVALUATION_LABEL: label_of(revision) if revision.kind == "feedback" else None,
        semconv.EVALUATION_EXPLANATION: revision.rationale and revision.rationale[:_EXPLANATION_LIMIT],
        semconv.ERROR_TYPE: (revision.reason or "unscored") if revision.outcome is Outcome.UNSCORED else None,
    }


def _run(revision: AssessmentRevision) -> dict[str, Any]:
    """Of the evaluated run, so that nobody has to join."""
    trace = revision.trace
    return {
        semconv.GEN_AI_AGENT: trace.agent,
        semconv.GEN_AI_REQUEST_MODEL: trace.model,
        semconv.GEN_AI_CONVERSATION: trace.conversation,
        semconv.PROMPT_VERSION: trace.prompt_version,
        semconv.ENVIRONMENT: trace.environment,
        semconv.EXPERIMENT_ID: trace.experiment_id,
        **{f"{semconv.SLICE}.{tag}": value for tag, value in trace.slices.items()},
    }


def _ours(revision: AssessmentRevision) -> dict[str, Any]:
    return {
        semconv.ASSESSMENT_ID: revision.assessment_id,
        semconv.ASSESSMENT_KIND: revision.kind,
        semconv.ASSESSMENT_VALUE: _value(revision),
        semconv.REVISION_KEY: revision.key,
        semconv.REVISION: revision.revision,
        semconv.CHANGE: revision.change,
        semconv.SOURCE_TYPE: revision.source_type.lower(),
        semconv.OUTCOME: revision.outcome.value if revision.outcome else None,
        semconv.UNSCORED_REASON: revision.reason,
        semconv.JUDGE_VERSION: revision.judge_version,
        semconv.JUDGE_DIGEST: revision.judge_digest,
        semconv.JUDGE_MODEL: revision.judge_model,
        semconv.CASCADE_STAGE: revision.cascade_stage,
        semconv.CACHE_HIT: revision.cache_hit,
        semconv.JUDGE_INPUT_TOKENS: revision.input_tokens,
        semconv.JUDGE_OUTPUT_TOKENS: revision.output_tokens,
        semconv.JUDGE_COST: revision.cost_usd,
        semconv.LATENCY_MS: revision.latency_ms,
    }


def _value(revision: AssessmentRevision) -> str | None:
    """A short scalar as text. Expectations may hold whole answers: their values stay in MLflow."""
    value = revision.value
    if revision.kind != "feedback" or not isinstance(value, bool | int | float | str):
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _VALUE_LIMIT else None


def _coming(revision: AssessmentRevision, profile: str) -> dict[str, Any]:
    """Names the convention is about to get; see `semconv`."""
    if profile != "next":
        return {}
    return {
        # A person's id is often an e-mail address.
        semconv.EVALUATOR_ID: None if revision.source_type == "HUMAN" else revision.source_id,
        semconv.EVALUATOR_VERSION: revision.judge_version,
        semconv.EVALUATOR_TYPE: revision.source_type.lower(),
    }
