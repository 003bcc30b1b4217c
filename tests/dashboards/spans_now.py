"""Agent runs as OpenTelemetry spans with GenAI names, sent to a collector: good ones, slow ones, broken ones."""

from __future__ import annotations

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode

from mlflow_assay import semconv as s


def send(endpoint: str, seconds: float) -> int:
    """Send runs for some time; how many."""
    provider = TracerProvider(resource=Resource({"service.name": "support"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    tracer, count, until = provider.get_tracer("agents"), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        run(tracer, count, broken=count % 4 == 0)
        count += 1
        time.sleep(0.2)
    provider.shutdown()
    return count


def run(tracer, number: int, broken: bool) -> None:
    agent = {s.GEN_AI_OPERATION: "invoke_agent", s.GEN_AI_AGENT: "billing-agent", s.GEN_AI_CONVERSATION: f"c{number}"}
    model = {
        s.GEN_AI_REQUEST_MODEL: "gpt-4.1-mini",
        s.GEN_AI_INPUT_TOKENS: 900,
        s.GEN_AI_OUTPUT_TOKENS: 120,
        s.COST: 0.0125,
    }
    tool = {s.GEN_AI_OPERATION: "execute_tool", s.GEN_AI_TOOL_NAME: "lookup_bill", s.GEN_AI_AGENT: "billing-agent"}
    with tracer.start_as_current_span("invoke_agent billing-agent", attributes=agent) as root:
        with tracer.start_as_current_span("chat gpt-4.1-mini", attributes={s.GEN_AI_OPERATION: "chat", **model}):
            pass
        with tracer.start_as_current_span("execute_tool lookup_bill", attributes=tool) as call:
            if broken:
                for span in (call, root):
                    span.set_attribute(s.ERROR_TYPE, "TimeoutError")
                    span.set_status(Status(StatusCode.ERROR, "the tool did not answer"))
