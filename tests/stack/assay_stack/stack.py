"""The servers together, each started when first asked for, and questions to them."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from assay_stack.ports import Ports
from assay_stack.services import Collector, Mlflow, Postgres, Prometheus, Service, Tempo

T = TypeVar("T")
FIXED = {"otlp_grpc": 4317, "otlp_http": 4318, "tempo": 3200, "prometheus": 9090, "postgres": 5433, "mlflow": 5000}


def get_json(url: str, **parameters: Any) -> Any:
    """The JSON answer to a GET; parameters that are None are left out."""
    query = urllib.parse.urlencode({k: v for k, v in parameters.items() if v is not None})
    request = urllib.request.Request(f"{url}?{query}", headers={"Accept": "application/json"})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return json.load(response)
    except urllib.error.HTTPError as error:
        error.msg = f"{error.msg}: {error.read(500).decode(errors='replace')}"
        raise


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """OTLP attributes as a plain dictionary."""

    def value(any_value: dict[str, Any]) -> Any:
        if not any_value:
            return None
        (kind, found), *_ = any_value.items()
        if kind == "intValue":
            return int(found)
        return [value(v) for v in found.get("values", [])] if kind == "arrayValue" else found

    return {a["key"]: value(a.get("value", {})) for a in attributes}


class Stack:
    """All servers of one test session or one `make stack`. A context manager; `close` stops what was started.

    Args:
        fixed: The ports of FIXED instead of free ones.
        settings: Environment of the collector's configuration, over the tests' own.
        folder: Where data and logs go; None for a new temporary folder that `close` removes.
    """

    def __init__(
        self, *, fixed: bool = False, settings: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="assay-stack-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
        self._temporary = folder is None
        self._ports = ports = Ports()
        at: Mapping[str, int] = FIXED if fixed else {}
        self._tempo = Tempo(self.folder / "tempo", ports, http=at.get("tempo"))
        self._prometheus = Prometheus(self.folder / "prometheus", ports, http=at.get("prometheus"))
        self._collector = Collector(
            self.folder / "collector",
            ports,
            tempo_otlp=f"127.0.0.1:{self._tempo.otlp}",
            prometheus=self._prometheus.url,
            settings=settings,
            grpc=at.get("otlp_grpc"),
            http=at.get("otlp_http"),
        )
        self._prometheus.collector_port = self._collector.self_port
        self._prometheus.tempo_port = int(self._tempo.url.rsplit(":", 1)[1])
        self._postgres = Postgres(self.folder / "postgres", ports, port=at.get("postgres"))
        self._mlflow = Mlflow(self.folder / "mlflow", ports, port=at.get("mlflow"))

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def services(self) -> dict[str, Service]:
        """By name, in the order in which to start them."""
        found = (self._postgres, self._prometheus, self._tempo, self._collector, self._mlflow)
        return {service.name: service for service in found}

    def service(self, name: str) -> Any:
        """One server, to kill, pause, start; starting it is yours."""
        return self.services[name]

    def _up(self, service: Service) -> None:
        if not service.running:
            service.start()

    def up(self, *names: str) -> None:
        """Starts the named servers, by default collector, Tempo and Prometheus, and waits until all are healthy."""
        chosen = [self.services[name] for name in names or ("tempo", "prometheus", "collector")]
        for service in chosen:
            service.start(wait=False)
        for service in chosen:
            service.wait()

    def close(self) -> None:
        """Stops every server and gives ports and folder back."""
        for service in reversed(list(self.services.values())):
            service.stop(grace=5)
        self._ports.release()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- addresses; reading one starts its server ---

    @property
    def otlp_http(self) -> str:
        """Base URL of the collector's OTLP/HTTP receiver."""
        self._up(self._collector)
        return f"http://{self._collector.http}"

    @property
    def otlp_grpc(self) -> str:
        """host:port of the collector's OTLP/gRPC receiver, without TLS."""
        self._up(self._collector)
        return self._collector.grpc

    @property
    def tempo(self) -> str:
        """Base URL of Tempo's API."""
        self._up(self._tempo)
        return self._tempo.url

    @property
    def prometheus(self) -> str:
        """Base URL of Prometheus."""
        self._up(self._prometheus)
        return self._prometheus.url

    @property
    def postgres(self) -> str:
        """SQLAlchemy URL of the database `assay`."""
        return self.new_database("assay")

    @property
    def mlflow(self) -> str:
        """Tracking URI of the MLflow server."""
        self._up(self._mlflow)
        return self._mlflow.url

    def new_database(self, name: str) -> str:
        """SQLAlchemy URL of a database of this name, made when it is not there."""
        self._up(self._postgres)
        return self._postgres.create(name)

    # --- questions ---

    def eventually(self, ask: Callable[[], T], timeout: float = 60.0, every: float = 0.25) -> T:
        """The first truthy answer; AssertionError with the last answer or error when none comes in time (seconds)."""
        deadline = time.monotonic() + timeout
        last: T | Exception | None = None
        while time.monotonic() < deadline:
            try:
                last = answer = ask()
                if answer:
                    return answer
            except (AssertionError, OSError) as problem:
                last = problem
            time.sleep(every)
        raise AssertionError(f"not within {timeout:g} s; last: {last!r}")

    def search(self, traceql: str, *, limit: int = 1000, hours: float = 24 * 7) -> list[dict[str, Any]]:
        """Traces with spans that match, each {"traceID": 32 hex digits, "spans": [{"spanID", "name", "attributes"}]}.

        Attributes are those of the query and of its `select(…)`. Looks `hours` back and one hour ahead.
        """
        now = int(time.time())
        found = get_json(
            f"{self.tempo}/api/search",
            q=traceql,
            limit=limit,
            spss=10_000,
            start=now - int(hours * 3600),
            end=now + 3600,
        )
        return [
            {
                "traceID": trace["traceID"].zfill(32),
                "spans": [
                    {**span, "spanID": span["spanID"].zfill(16), "attributes": _plain(span.get("attributes", []))}
                    for group in trace.get("spanSets", [])
                    for span in group.get("spans", [])
                ],
            }
            for trace in found.get("traces", [])
        ]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace as OTLP JSON, attributes as a plain dictionary; [] when Tempo does not have it."""
        import base64

        def hexed(text: str) -> str:
            return base64.b64decode(text).hex() if text else ""

        try:
            found = get_json(f"{self.tempo}/api/v2/traces/{trace_id}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [
            {
                **span,
                "traceId": hexed(span["traceId"]),
                "spanId": hexed(span["spanId"]),
                "parentSpanId": hexed(span.get("parentSpanId", "")),
                "attributes": _plain(span.get("attributes", [])),
                "resource": _plain(group.get("resource", {}).get("attributes", [])),
            }
            for group in found.get("trace", {}).get("resourceSpans", [])
            for scope in group.get("scopeSpans", [])
            for span in scope.get("spans", [])
        ]

    def promql(self, query: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: labels and value of each series."""
        found = get_json(f"{self.prometheus}/api/v1/query", query=query)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def exemplars(self, query: str, *, hours: float = 1) -> list[dict[str, Any]]:
        """Exemplars of the last `hours`: labels, value, timestamp, and the labels of the series."""
        now = time.time()
        found = get_json(
            f"{self.prometheus}/api/v1/query_exemplars", query=query, start=now - hours * 3600, end=now + 60
        )["data"]
        return [{**e, "value": float(e["value"]), "series": s["seriesLabels"]} for s in found for e in s["exemplars"]]
