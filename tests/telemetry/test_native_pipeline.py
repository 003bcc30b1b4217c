"""`telemetry.configure`, `assay env --check` and `assay receive` with the real collector, Tempo and Prometheus."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from assay_stack import Stack
from assay_stack.fixtures import need
from assay_stack.ports import Ports
from click.testing import CliRunner

from mlflow_assay.cli import assay
from mlflow_assay.dashboards.traceql import agent_spans
from mlflow_assay.sampling import chosen

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RUNS, RATE = 24, 0.4

APP = f"""
import json, os, time
import mlflow
from mlflow_assay import telemetry
telemetry.configure(os.environ["ENDPOINT"], service="support", judge_sample={RATE}, user_key="0123456789abcdef")
mlflow.set_experiment("x")
ids = []
for number in range({RUNS}):
    with mlflow.start_span("router", span_type="AGENT") as root:
        root.set_inputs({{"q": "write to anna@example.com"}})
        mlflow.update_current_trace(session_id=f"c-{{number}}", user="anna", tags={{"domain": "billing"}})
        with mlflow.start_span("call", span_type="CHAT_MODEL") as call:
            call.set_inputs({{"messages": [{{"role": "user", "content": "I am anna@example.com"}}]}})
            call.set_attribute("mlflow.llm.model", "gpt-4.1-mini")
            call.set_attribute("mlflow.chat.tokenUsage", {{"input_tokens": 10, "output_tokens": 2}})
        if number < 4:
            time.sleep(2.5)  # longer than the sampler waits (1 s here): the first span arrives long before the root
    ids.append(root.trace_id)
print(json.dumps(ids))
"""


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Stack]:
    """Of ordinary traces none is kept, so that what is kept was marked."""
    with Stack(settings={"ASSAY_SAMPLE_PERCENT": "0"}) as servers:
        need(servers.up)
        yield servers


def test_runs_chosen_for_judging_are_all_in_tempo_and_no_other(pipeline, make_agent):
    agent = make_agent()
    ids = agent.run(APP, ENDPOINT=pipeline.otlp_http)
    wanted = {trace.removeprefix("tr-") for trace in ids if chosen(trace, RATE)}
    assert 0 < len(wanted) < RUNS
    query = '{ resource.service.name = "support" && span.sampling.keep = true }'
    pipeline.eventually(lambda: {found["traceID"].zfill(32) for found in pipeline.search(query)} == wanted)
    dropped = sorted({trace.removeprefix("tr-") for trace in ids} - wanted)
    assert [trace for trace in dropped if pipeline.trace(trace)] == []


def test_what_mlflow_leaves_out_is_searched_by_traceql_and_content_is_masked(pipeline, make_agent):
    agent = make_agent()
    ids = agent.run(APP.replace(f"judge_sample={RATE}", "judge_sample=1.0"), ENDPOINT=pipeline.otlp_http)
    first = ids[0].removeprefix("tr-")
    conditions = (
        'span.gen_ai.conversation.id = "c-0" && span.gen_ai.operation.name = "chat" && span.assay.slice.domain = '
        '"billing" && span.gen_ai.agent.name = "router" && span.user.hash != ""'
    )
    spans = pipeline.eventually(lambda: pipeline.trace(first))
    pipeline.eventually(
        lambda: first in {found["traceID"].zfill(32) for found in pipeline.search(f"{{ {conditions} }}")}
    )
    assert len(spans) == 2
    assert "anna" not in json.dumps(spans)
    assert "[EMAIL]" in json.dumps(spans)


def test_red_metrics_carry_the_agent_on_its_model_calls(pipeline, make_agent):
    make_agent().run(APP, ENDPOINT=pipeline.otlp_http)
    query = (
        'sum(traces_span_metrics_calls_total{service_name="support", gen_ai_agent_name="router", '
        'gen_ai_operation_name="chat"})'
    )
    assert pipeline.eventually(lambda: [value for _, value in pipeline.promql(query) if value >= RUNS])


def test_the_shipped_collector_takes_the_test_span(pipeline):
    done = CliRunner().invoke(
        assay, ["env", "--endpoint", pipeline.otlp_http, "--service", "check", "--check", "--json"]
    )
    found = json.loads(done.output)
    assert (done.exit_code, found["taken"]) == (0, True), found
    pipeline.eventually(lambda: pipeline.trace(found["trace_id"]))


def test_the_test_span_is_no_agents_in_rates_and_searches(pipeline, make_agent):
    """Sent before a run of the same service: when that is counted and found, the test span is neither."""
    sent = ["env", "--endpoint", pipeline.otlp_http, "--service", "support-checked", "--check", "--json"]
    check = json.loads(CliRunner().invoke(assay, sent).output)["trace_id"]
    pipeline.eventually(lambda: pipeline.trace(check))
    code = APP.replace('service="support"', 'service="support-checked"').replace(
        f"judge_sample={RATE}", "judge_sample=1.0"
    )
    runs = {trace.removeprefix("tr-") for trace in make_agent().run(code, ENDPOINT=pipeline.otlp_http)}
    calls = 'traces_span_metrics_calls_total{service_name="support-checked"}'
    pipeline.eventually(lambda: sum(value for _, value in pipeline.promql(calls)) == 2 * RUNS)
    assert {series["span_name"] for series, _ in pipeline.promql(calls)} == {"invoke_agent router", "chat gpt-4.1-mini"}

    def searched() -> set[str]:
        return {
            found["traceID"].zfill(32)
            for found in pipeline.search(agent_spans('resource.service.name = "support-checked"'))
        }

    pipeline.eventually(lambda: searched() >= runs)
    assert check not in searched()


COLLECTOR = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
exporters:
  otlp_http/assay:
    endpoint: {assay}
    headers: {{authorization: "Bearer a long token"}}
    sending_queue: {{batch: {{flush_timeout: 200ms}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [otlp_http/assay]}}
    traces: {{receivers: [otlp], exporters: [otlp_http/assay]}}
"""


def test_evaluations_reach_mlflow_through_a_real_collector(collector_binary, log_trace, tmp_path):
    """Its OTLP exporter, compression and batching included, is one of the senders."""
    from mlflow.tracing.client import TracingClient
    from opentelemetry import trace
    from opentelemetry._logs import LogRecord
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    from mlflow_assay.inbound.inbox import Inbox
    from mlflow_assay.inbound.receiver import Receiver, ReceiverSettings
    from mlflow_assay.inbound.writer import Writer

    trace_ids = [log_trace() for _ in range(3)]
    inbox = Inbox(tmp_path / "inbox.db")
    receiver = Receiver(ReceiverSettings(port=0, token="a long token"), inbox, Writer(inbox)).start()
    port = Ports().next()
    config = tmp_path / "collector.yaml"
    config.write_text(COLLECTOR.format(port=port, assay=receiver.url))
    with (tmp_path / "collector.log").open("wb") as log:
        collector = subprocess.Popen([collector_binary, f"--config={config}"], stdout=log, stderr=log)
    try:
        provider = LoggerProvider()
        provider.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"http://127.0.0.1:{port}/v1/logs")))
        wait_for_port(port)
        for trace_id in trace_ids:
            context = trace.SpanContext(int(trace_id.removeprefix("tr-"), 16), 7, False)
            provider.get_logger("acme").emit(
                LogRecord(
                    timestamp=time.time_ns(),
                    event_name="gen_ai.evaluation.result",
                    context=trace.set_span_in_context(trace.NonRecordingSpan(context)),
                    attributes={"gen_ai.evaluation.name": "tone", "gen_ai.evaluation.score.value": 0.5},
                )
            )
        provider.shutdown()
        client, end = TracingClient(), time.monotonic() + 60
        while not all(client.get_trace_info(t).assessments for t in trace_ids) and time.monotonic() < end:
            time.sleep(0.2)
        assert [[a.value for a in client.get_trace_info(t).assessments] for t in trace_ids] == [[0.5]] * 3
    finally:
        collector.terminate()
        collector.wait(20)
        receiver.stop()
        inbox.close()


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    import socket

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port}")
