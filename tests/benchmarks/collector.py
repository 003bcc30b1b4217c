"""What do the shipped collector files cost? Spans a second and CPU a span against the same collector, no processors.

Run from the repository: `python tests/benchmarks/collector.py [--seconds 10]`, after `make stack-build`.

Each contender is the built collector with the same receiver, the same queue on disk (fsync as shipped) and the same
exporter, to a second collector that drops everything; between them lie no processors, only redaction, only rates and
sampling, or all as shipped. Load: OTLP/HTTP requests of 50 traces of 10 spans, each trace id new, sent as fast as they
are acknowledged over four connections, after one warm-up second. `small`: 8 short attributes a span. `content`: one
span of a trace carries 4 KB of text in and 4 KB out, which redaction has to read.

Read the CPU column: load generator, both collectors and whatever else runs share the machine's cores, so wall time says
less. One in ten traces is marked to be kept and the baseline of 10 % is on, as in production.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "stack"))

from assay_stack.ports import Ports
from assay_stack.services import Collector

TRACES, SPANS, CONNECTIONS = 50, 10, 4
MARK = b"\xaa\xbb\xcc\xdd\xee\xff\x00\x11"  # first half of every trace id of a request, replaced before sending
PLAIN = """
receivers: {otlp: {protocols: {http: {endpoint: "${env:ASSAY_OTLP_HTTP}"}}}}
exporters:
  otlp_grpc/tempo:
    endpoint: ${env:ASSAY_TEMPO_OTLP}
    tls: {insecure: true}
    sending_queue:
      storage: file_storage/queue
      queue_size: 10000
      num_consumers: 4
      batch: {flush_timeout: 1s, sizer: items, min_size: 2048, max_size: 8192}
"""
NOTHING = PLAIN + "service: {pipelines: {traces: {receivers: [otlp], exporters: [otlp_grpc/tempo]}}}\n"
REDACTED = (
    PLAIN[PLAIN.index("exporters:") :].replace("exporters:", "exporters:\n  nop: {}")
    + """
service:
  pipelines:
    traces/out: {receivers: [forward/traces], exporters: [otlp_grpc/tempo]}
    logs/out: {receivers: [forward/logs], exporters: [nop]}
    metrics/out: {receivers: [forward/metrics], exporters: [nop]}
"""
)
UNREDACTED = "service: {pipelines: {traces/edge: {processors: [memory_limiter]}}}\n"
DROP = """
receivers: {otlp: {protocols: {grpc: {endpoint: "${env:ASSAY_OTLP_GRPC}", max_recv_msg_size_mib: 64}}}}
exporters: {nop: {}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}
"""
CONTENDERS = {
    "no processors": (("base.yaml",), NOTHING),
    "redaction": (("base.yaml", "edge.yaml"), REDACTED),
    "rates and sampling": (("base.yaml", "edge.yaml", "core.yaml"), UNREDACTED),
    "shipped": (("base.yaml", "edge.yaml", "core.yaml"), "{}\n"),
}
TEXT = "The customer says the phone shows no bars since the update. I checked the line and the plan; both are active. "


def body(content: bool) -> bytes:
    """One export request, serialized; every trace id begins with MARK."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "bench"
    spans = group.scope_spans.add().spans
    now = time.time_ns()
    for trace in range(TRACES):
        for number in range(SPANS):
            span = spans.add(name=f"execute_tool tool_{number}", kind=1, span_id=os.urandom(8))
            span.trace_id = MARK + trace.to_bytes(8, "big")
            span.start_time_unix_nano, span.end_time_unix_nano = now - 50_000_000, now
            for key in ("gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.tool.name", "gen_ai.conversation.id"):
                span.attributes.add(key=key).value.string_value = f"value-{number}"
            for key in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "assay.a"):
                span.attributes.add(key=key).value.int_value = 100 + number
            span.attributes.add(key="sampling.keep").value.bool_value = trace % 10 == 0
            if content and number == 0:
                for key in ("gen_ai.input.messages", "gen_ai.output.messages"):
                    span.attributes.add(key=key).value.string_value = (TEXT * 40)[:4096]
    return request.SerializeToString()


@dataclass
class Result:
    """Of one contender: spans acknowledged a second, and microseconds of the collector's CPU a span."""

    rate: float
    cpu: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(address: str, request: bytes, until: float, counts: list[int]) -> None:
    """Sends until the time is up; appends how many requests were acknowledged."""
    host, port = address.split(":")
    connection, done = http.client.HTTPConnection(host, int(port), timeout=60), 0
    while time.monotonic() < until:
        fresh = request.replace(MARK, os.urandom(8))
        connection.request("POST", "/v1/traces", fresh, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        answer.read()
        done += answer.status == 200
        if answer.status != 200:
            time.sleep(0.01)
    counts.append(done)


def drive(collector: Collector, request: bytes, seconds: float) -> Result:
    """Warm-up, then the measured time."""
    counts: list[int] = []

    def run(length: float) -> float:
        counts.clear()
        began = time.monotonic()
        arguments = (collector.http, request, began + length, counts)
        threads = [threading.Thread(target=load, args=arguments) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - began

    run(1.0)
    before = cpu_seconds(collector.pid)
    took = run(seconds)
    spans = sum(counts) * TRACES * SPANS
    return Result(spans / took, (cpu_seconds(collector.pid) - before) / spans * 1e6)


def measure(name: str, folder: Path, request: bytes, seconds: float) -> Result:
    """Starts the sink and the contender, drives it, ends both."""
    ports = Ports()
    files, extra = CONTENDERS[name]
    drop, last = folder / "drop.yaml", folder / f"{name}.yaml"
    drop.write_text(DROP, encoding="utf-8")
    last.write_text(extra, encoding="utf-8")
    sink = Collector(folder / "sink", ports, configs=("base.yaml", str(drop)))
    settings = {"ASSAY_DECISION_WAIT": "5s", "ASSAY_DECISION_WAIT_AFTER_ROOT": "5s", "ASSAY_METRICS_INTERVAL": "15s"}
    where = folder / name.replace(" ", "-")
    collector = Collector(where, ports, tempo_otlp=sink.grpc, configs=(*files, str(last)), settings=settings)
    try:
        sink.start()
        collector.start()
        return drive(collector, request, seconds)
    finally:
        collector.kill()
        sink.kill()
        ports.release()


def main() -> None:
    """Prints one table a load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time a contender")
    parser.add_argument("--rounds", type=int, default=3, help="the middle of so many runs is shown")
    options = parser.parse_args()
    for kind in ("small", "content"):
        request = body(kind == "content")
        print(f"\n{kind}: {len(request) / TRACES / SPANS:.0f} bytes a span")
        print(f"{'contender':22}{'spans/s':>10}{'CPU us/span':>14}{'CPU x':>8}")
        found: dict[str, list[Result]] = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):  # in turns, so that a busy minute hits all
            for name in CONTENDERS:
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    found[name].append(measure(name, Path(folder), request, options.seconds))
        middle = {name: sorted(results, key=lambda r: r.cpu)[len(results) // 2] for name, results in found.items()}
        for name, result in middle.items():
            ratio = result.cpu / middle["no processors"].cpu
            print(f"{name:22}{result.rate:>10,.0f}{result.cpu:>14.1f}{ratio:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
