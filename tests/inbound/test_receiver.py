"""The receiver on a real socket, the OpenTelemetry SDK's own exporters and raw bytes as its clients, a real MLflow."""

from __future__ import annotations

import gzip
import json
import logging
import time
import urllib.error
import urllib.request

import pytest

from mlflow_assay.errors import ConfigError
from mlflow_assay.inbound.inbox import Inbox
from mlflow_assay.inbound.receiver import Receiver, ReceiverSettings
from mlflow_assay.inbound.writer import Writer

EVENT = "gen_ai.evaluation.result"
JUDGED = {"gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 0.75}


@pytest.fixture
def listen(store, tmp_path):
    """A function that starts a receiver; all are stopped."""
    started = []

    def start(experiments=None, keep_s=3600.0, capacity=10_000, run=True, file="inbox.db", **settings) -> Receiver:
        inbox = Inbox(tmp_path / file, capacity)
        writer = Writer(inbox, experiments, keep_s)
        if not run:
            writer.start = lambda: None
            writer.stop = lambda: None
        receiver = Receiver(ReceiverSettings(port=0, **settings), inbox, writer).start()
        started.append((receiver, inbox))
        receiver.inbox, receiver.writer = inbox, writer
        return receiver

    yield start
    for receiver, inbox in started:
        receiver.stop()
        inbox.close()


def send_event(receiver, trace_id, attributes=None, *, times=1, name=EVENT, span_id=0xB7AD6B7169203331):
    """Through the SDK's logger and its OTLP/HTTP exporter."""
    from opentelemetry import trace
    from opentelemetry._logs import LogRecord
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    provider = LoggerProvider(Resource({"service.name": "evaluator"}))
    provider.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{receiver.url}/v1/logs")))
    context = trace.set_span_in_context(
        trace.NonRecordingSpan(trace.SpanContext(int(trace_id.removeprefix("tr-"), 16), span_id, False))
    )
    for _ in range(times):
        record = LogRecord(
            timestamp=1_795_300_000_000_000_000,
            context=context,
            event_name=name,
            attributes=JUDGED if attributes is None else attributes,
        )
        provider.get_logger("acme.evals").emit(record)
    provider.shutdown()


def assessments(trace_id):
    from mlflow.tracing.client import TracingClient

    return TracingClient().get_trace_info(trace_id).assessments


def until(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
    return found


def post(receiver, body, path="/v1/logs", content_type="application/json", **headers):
    """Status and answer of a raw request."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        receiver.url + path, data=body, headers={"Content-Type": content_type, **headers}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def log_json(trace_id, attributes, **record):
    held = [
        {"key": key, "value": {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}}
        for key, value in attributes.items()
    ]
    one = {"eventName": EVENT, "traceId": trace_id.removeprefix("tr-"), "attributes": held, **record}
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [one]}]}]}).encode()


def test_an_event_from_the_sdk_becomes_an_assessment_on_its_span(listen, log_trace):
    receiver, trace_id = listen(), log_trace()
    send_event(receiver, trace_id, {**JUDGED, "gen_ai.evaluation.explanation": "on topic"})
    (made,) = until(lambda: assessments(trace_id))
    assert (made.name, made.value, made.rationale) == ("Relevance", 0.75, "on topic")
    assert made.span_id == "b7ad6b7169203331"
    assert (made.source.source_type, made.source.source_id) == ("LLM_JUDGE", "acme.evals")
    assert made.metadata["service.name"] == "evaluator"


def test_the_same_event_again_changes_nothing_even_after_a_restart(listen, log_trace):
    receiver, trace_id = listen(), log_trace()
    send_event(receiver, trace_id, times=3)
    until(lambda: assessments(trace_id))
    send_event(receiver, trace_id)
    assert receiver.counts["duplicates"] == 3
    receiver.stop()
    again = listen(file="another.db")  # even with the inbox lost: MLflow knows the id
    send_event(again, trace_id)
    until(lambda: again.writer.counts["stored before"])
    assert len(assessments(trace_id)) == 1


def test_another_value_is_another_assessment(listen, log_trace):
    receiver, trace_id = listen(), log_trace()
    send_event(receiver, trace_id)
    send_event(receiver, trace_id, {**JUDGED, "gen_ai.evaluation.score.value": 0.5})
    until(lambda: len(assessments(trace_id)) == 2)


def test_span_events_and_evaluation_spans_are_read_as_well(listen, log_trace):
    from opentelemetry import trace as api
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    receiver, trace_id = listen(), log_trace()
    parent = api.SpanContext(int(trace_id.removeprefix("tr-"), 16), 0xAAAAAAAAAAAAAAAA, True, api.TraceFlags(1))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces")))
    tracer = provider.get_tracer("acme")
    context = api.set_span_in_context(api.NonRecordingSpan(parent))
    with tracer.start_as_current_span("chat", context=context) as chat:
        chat.add_event(EVENT, {**JUDGED, "gen_ai.evaluation.name": "as event"})
        chat_id = f"{chat.get_span_context().span_id:016x}"
    attributes = {**JUDGED, "gen_ai.evaluation.name": "as span", "gen_ai.operation.name": "evaluation"}
    tracer.start_span("evaluation as span", context=context, attributes=attributes).end()
    tracer.start_span("unrelated", context=context).end()
    until(lambda: len(assessments(trace_id)) == 2)
    assert {a.name: a.span_id for a in assessments(trace_id)} == {"as event": chat_id, "as span": "a" * 16}
    assert receiver.counts["passed over"] == 1


def test_our_own_verdicts_do_not_come_back(listen, log_trace):
    """Not through the bridge's sinks of either form, as they really send them."""
    from mlflow_assay.sinks.otlp_event import OtlpEventSink
    from mlflow_assay.sinks.otlp_span import OtlpSpanSink
    from mlflow_assay.testing.bridge_conformance import sample_revision

    receiver, trace_id = listen(), log_trace()
    for sink in (OtlpEventSink(endpoint=receiver.url), OtlpSpanSink(endpoint=receiver.url)):
        sink.deliver([sample_revision(1)])
        sink.close()
    assert receiver.counts["our own"] == 2
    assert receiver.counts["accepted"] == 0
    assert assessments(trace_id) == []


def test_an_evaluation_waits_for_a_trace_that_comes_later(listen, log_trace):
    import mlflow

    receiver = listen()
    experiment = mlflow.set_experiment("test").experiment_id
    late = "tr-" + "1f" * 16
    send_event(receiver, late)
    until(lambda: receiver.inbox.waiting() == 1)
    time.sleep(0.5)
    assert receiver.inbox.waiting() == 1
    put_trace(late, experiment)
    until(lambda: assessments(late))
    until(lambda: receiver.inbox.waiting() == 0)


def put_trace(trace_id, experiment):
    from mlflow.entities.trace_info import TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.client import TracingClient

    place = TraceLocation.from_experiment_id(experiment)
    TracingClient().start_trace(TraceInfo(trace_id, place, 1_795_300_000_000, TraceState.OK, execution_duration=1))


def test_a_trace_that_never_comes_is_given_up_with_the_reason_and_taken_up_when_sent_again(listen, caplog):
    receiver = listen(keep_s=0.0)
    with caplog.at_level(logging.WARNING):
        send_event(receiver, "tr-" + "2e" * 16)
        until(lambda: receiver.inbox.given_up())
    assert receiver.inbox.given_up() == {"MLflow never came to know the trace": 1}
    assert "never came to know the trace" in caplog.text
    send_event(receiver, "tr-" + "2e" * 16)
    assert receiver.counts["accepted"] == 2


def test_traces_of_other_experiments_are_not_written_to(listen, log_trace):
    trace_id = log_trace()
    receiver = listen(experiments=["424242"])
    send_event(receiver, trace_id)
    until(lambda: receiver.inbox.given_up())
    assert assessments(trace_id) == []


def test_what_was_acknowledged_survives_the_process(listen, log_trace, tmp_path):
    """Acknowledged by a receiver that never stores, and gone; stored by the next."""
    first, trace_id = listen(run=False), log_trace()
    send_event(first, trace_id)
    assert assessments(trace_id) == []
    listen()
    until(lambda: assessments(trace_id))


def test_what_waits_is_stored_once_mlflow_answers_again(listen, log_trace, monkeypatch):
    import mlflow

    trace_id, uri = log_trace(), mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    receiver = listen()
    send_event(receiver, trace_id)
    time.sleep(1.0)
    assert receiver.inbox.waiting() == 1
    mlflow.set_tracking_uri(uri)
    until(lambda: assessments(trace_id))


def test_a_full_inbox_asks_the_sender_to_come_again(listen):
    receiver = listen(run=False, capacity=2)
    for number in range(2):
        assert post(receiver, log_json(f"{number + 1:032x}", JUDGED))[0] == 200
    status, answer = post(receiver, log_json("f" * 32, JUDGED))
    assert (status, json.loads(answer)["message"]) == (503, "too many evaluations wait for MLflow")
    assert receiver.inbox.waiting() == 2


@pytest.mark.parametrize("spelling", ["json", "protobuf"])
def test_what_is_refused_is_counted_with_the_reason_and_the_rest_is_taken(listen, log_trace, spelling):
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    from mlflow_assay.inbound.reading import decode

    receiver, trace_id = listen(), log_trace()
    good, bad = (json.loads(log_json(trace_id, a)) for a in (JUDGED, {"gen_ai.evaluation.name": "empty"}))
    both = {"resourceLogs": [*good["resourceLogs"], *bad["resourceLogs"]]}
    body = json.dumps(both).encode()
    if spelling == "protobuf":
        packed = decode("logs", body, True).SerializeToString()
        status, answer = post(receiver, packed, content_type="application/x-protobuf")
        said = ExportLogsServiceResponse.FromString(answer).partial_success
        rejected, message = said.rejected_log_records, said.error_message
    else:
        status, answer = post(receiver, body)
        said = json.loads(answer)["partialSuccess"]
        rejected, message = int(said["rejectedLogRecords"]), said["errorMessage"]
    assert (status, rejected, message) == (200, 1, "1 × it has neither score, label nor error.type")
    until(lambda: assessments(trace_id))


@pytest.mark.parametrize(
    ("body", "path", "content_type", "status"),
    [
        (b"\xff\xff\xff", "/v1/logs", "application/x-protobuf", 400),
        (b"\xff\xff\xff", "/v1/traces", "application/x-protobuf", 400),
        (b"{", "/v1/logs", "application/json", 400),
        (b"[]", "/v1/logs", "application/json", 400),
        (b'{"resourceLogs": 3}', "/v1/logs", "application/json", 400),
        (b"[" * 100_000, "/v1/logs", "application/json", 400),
        (b'{"a":' * 5_000, "/v1/logs", "application/json", 400),
        (log_json("xyz", JUDGED), "/v1/logs", "application/json", 400),
        (b"\xc3\x28", "/v1/logs", "application/json", 400),
        (b"", "/v1/logs", "text/plain", 415),
        (b"", "/v1/metrics", "application/x-protobuf", 404),
        (b"", "/v1/logs", "application/x-protobuf", 200),
        (b"{}", "/v1/traces", "application/json", 200),
    ],
)
def test_garbage_is_answered_and_changes_nothing(listen, body, path, content_type, status):
    receiver = listen()
    assert post(receiver, body, path, content_type)[0] == status
    assert receiver.counts["accepted"] == 0
    assert post(receiver, b"{}")[0] == 200


def test_a_body_too_large_is_refused_also_when_it_is_small_compressed(listen):
    receiver = listen(max_bytes=100_000)
    assert post(receiver, b" " * 200_000)[0] == 413
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    assert post(receiver, bomb, **{"Content-Encoding": "gzip"})[0] == 413
    assert post(receiver, b"not gzip", **{"Content-Encoding": "gzip"})[0] == 400
    assert post(receiver, gzip.compress(b"{}"), **{"Content-Encoding": "gzip"})[0] == 200


def test_a_token_is_demanded_where_one_is_set(listen):
    receiver = listen(token="a long token")
    assert post(receiver, b"{}")[0] == 401
    assert post(receiver, b"{}", Authorization="Bearer wrong")[0] == 401
    assert post(receiver, b"{}", Authorization="Bearer a long token")[0] == 200
    assert "a long token" not in repr(receiver._settings)


def test_listening_beyond_loopback_without_a_token_is_refused():
    with pytest.raises(ConfigError, match="without a token"):
        ReceiverSettings(host="0.0.0.0")  # noqa: S104
    assert ReceiverSettings(host="0.0.0.0", token="t").port == 4319  # noqa: S104


def test_an_address_that_is_taken_says_so(listen):
    receiver = listen()
    second = Receiver(ReceiverSettings(port=receiver.port), receiver.inbox, Writer(receiver.inbox))
    with pytest.raises(ConfigError, match="cannot be listened on"):
        second.start()
    assert post(receiver, b"{}")[0] == 200


def test_health_counts_what_came(listen, log_trace):
    receiver, trace_id = listen(), log_trace()
    send_event(receiver, trace_id)
    until(lambda: assessments(trace_id))
    until(lambda: receiver.inbox.waiting() == 0)
    with urllib.request.urlopen(f"{receiver.url}/health", timeout=20) as answer:  # noqa: S310
        said = json.load(answer)
    assert (said["status"], said["waiting"], said["accepted"], said["stored"]) == ("ok", 0, 1, 1)


def test_no_content_is_logged(listen, log_trace, caplog):
    with caplog.at_level(logging.DEBUG, logger="mlflow_assay"):
        receiver = listen(keep_s=0.0)
        send_event(receiver, "tr-" + "3d" * 16, {**JUDGED, "gen_ai.evaluation.explanation": "anna@example.com"})
        until(lambda: receiver.inbox.given_up())
    assert "given up" in caplog.text
    assert "anna" not in caplog.text
