"""Bridge sinks against OpenTelemetry's own exporter: CPU a revision, same spans, same gzip, same far end.

The far end is a process of its own that reads, decompresses and answers 200. The peer is the SDK as an application
would use it: a tracer that makes the spans, and OTLPSpanExporter.export of batches of the same size, each waited for.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_assay import registry
from mlflow_assay.contracts import AssessmentRevision
from mlflow_assay.sinks.otlp import verdict_attributes
from mlflow_assay.testing.bridge_conformance import sample_revision

BATCHES, SIZE, ROUNDS = 20, 200, 3
SERVE = "from mlflow_assay.testing import FarEnd\nwith FarEnd() as f:\n print(f.url, flush=True)\n input()"


def batches() -> list[list[AssessmentRevision]]:
    """New revisions with ids of their own."""
    base = sample_revision()

    def one(number: int) -> AssessmentRevision:
        run = replace(base.trace, trace_id=f"tr-{uuid.uuid4().hex}", root_span_id=uuid.uuid4().hex[:16])
        return replace(base, key=uuid.uuid4().hex, trace=run, assessment_id=f"a-{number}")

    return [[one(n) for n in range(SIZE)] for _ in range(BATCHES)]


def cpu_us(send: Callable[[list[AssessmentRevision]], Any]) -> tuple[float, float]:
    """CPU microseconds a revision, and revisions a second of wall time: the best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        work = batches()
        cpu, wall = time.process_time(), time.perf_counter()
        for batch in work:
            send(batch)
        count = BATCHES * SIZE
        found.append(((time.process_time() - cpu) / count * 1e6, count / (time.perf_counter() - wall)))
    return min(f[0] for f in found), max(f[1] for f in found)


def the_sdk(url: str) -> Callable[[list[AssessmentRevision]], Any]:
    """The same spans by the SDK's tracer and exporter."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult

    tracer = TracerProvider().get_tracer("peer")
    exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=Compression.Gzip)

    def send(batch: list[AssessmentRevision]) -> None:
        spans = []
        for revision in batch:
            context = trace.SpanContext(
                int(revision.trace.otel_trace_id, 16),
                int(revision.trace.root_span_id or "0", 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(1),
            )
            span = tracer.start_span(
                f"evaluation {revision.name}",
                trace.set_span_in_context(trace.NonRecordingSpan(context)),
                links=[trace.Link(context)],
            )
            span.set_attributes({k: v for k, v in verdict_attributes(revision, "1.41.1").items() if v is not None})
            span.end()
            spans.append(span)
        if exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise SystemExit("the SDK's exporter failed")

    return send


def ours(name: str, **options: Any) -> Callable[[list[AssessmentRevision]], Any]:
    """A bridge sink that must deliver everything."""
    sink = registry.load("bridge_sinks", name)(**options)

    def send(batch: list[AssessmentRevision]) -> None:
        if {found.state for found in sink.deliver(batch)} != {"delivered"}:
            raise SystemExit(f"{name} did not deliver")

    return send


def main() -> None:
    """Print CPU and rate of each, and the ratio to the SDK's exporter."""
    far_end = subprocess.Popen([sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert far_end.stdout is not None
    url = far_end.stdout.readline().strip()
    lines = Path("revisions.bench.jsonl")
    senders = {
        "opentelemetry-sdk": the_sdk(url),
        "otlp-span": ours("otlp-span", endpoint=url),
        "otlp-event": ours("otlp-event", endpoint=url),
        "otlp-metrics": ours("otlp-metrics", endpoint=url, interval_s=3600),
        "datadog": ours("datadog", url=url),
        "jsonl": ours("jsonl", path=lines),
    }
    try:
        peer = None
        for name, send in senders.items():
            send(batches()[0])
            cpu, rate = cpu_us(send)
            peer = peer or cpu
            print(f"{name:18} {cpu:7.0f} us CPU a revision, {rate:7.0f}/s, {cpu / peer:5.2f} of the SDK's")
    finally:
        far_end.communicate("\n", timeout=10)
        lines.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
