"""Redaction, on what really leaves the collector: raw requests to a back end, with secrets planted in every field."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from assay_stack import otlp
from assay_stack.otlp import Sink
from assay_stack.ports import Ports
from assay_stack.services import Collector

pytestmark = pytest.mark.integration

SECRETS = {
    "e-mail": "maria.keller+bills@mail.example.co.uk",
    "phone, international": "+49 170 1234567",
    "phone, compact": "+14155552671",
    "phone, North America": "(415) 555-2671",
    "phone, dashes": "415-555-2671",
    "phone, trunk": "0170 1234567",
    "social security number": "078-05-1120",
    "Visa": "4111 1111 1111 1111",
    "Visa, compact": "4111111111111111",
    "Mastercard": "5500-0000-0000-0004",
    "American Express": "3714 496353 98431",
    "Diners Club": "3056 930902 5904",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "OpenAI key": "sk-proj-abcDEF0123456789abcDEF0123",
    "Anthropic key": "sk-ant-api03-abcDEF0123456789abcDEF0",
    "AWS key": "AKIAIOSFODNN7EXAMPLE",
    "Google key": "AIza" + "Sy0123456789abcdefABCDEF01234567890",
    "GitHub token": "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "GitLab token": "glpat-" + "abcdefghij0123456789",
    "Slack token": "xoxb-" + "123456789012-abcdefghijkl",
    "Hugging Face token": "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEF01",
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "bearer": "Bearer abcdef0123456789.xyz",
    "basic": "Authorization: Basic dXNlcjpwYXNzd29yZA==",
    "Langfuse key": "pk-lf-3f1c2b7e-0a1b-4c2d-8e3f-1234567890ab",
    "Stripe key": "sk_live_" + "abcdefghijklmnop1234",
    "password in JSON": '"password": "correct-horse-battery"',
    "password in a URL": "postgres://app:s3cretpw@db/x",
}
HIDDEN = {  # what of the text above must be gone
    "password in JSON": "correct-horse-battery",
    "password in a URL": "s3cretpw",
    "bearer": "abcdef0123456789.xyz",
    "basic": "dXNlcjpwYXNzd29yZA==",
}
ALLOWED = {
    "an MLflow trace id": "tr-4bf92f3577b34da6a3ce929d0e0e4736",
    "a span id": "00f067aa0ba902b7",
    "a UUID": "550e8400-e29b-41d4-a716-446655440000",
    "milliseconds": "1795300000123",
    "nanoseconds": "1795300000123456789",
    "a time": "2026-11-23T03:12:44.123456Z",
    "a date": "2026-11-23",
    "a model": "claude-3-5-sonnet-20241022",
    "a price": "USD 1,234.56",
    "an address of a service": "https://api.example.com/v1/chat?limit=100",
    "a version": "torch==2.9.1+cu128",
    "an order": "order 4711 of 12345",
    "a word with sk": "risk-assessment-of-something-long",
}


@pytest.fixture(scope="module")
def through(tmp_path_factory, collector_binary) -> Iterator[tuple[Collector, Sink]]:
    """A collector with the shipped files whose Datadog and Loki are a sink that keeps every byte."""
    ports = Ports()
    with Sink() as sink:
        settings = {
            "ASSAY_DATADOG_TRACES": f"{sink.url}/v1/traces",
            "ASSAY_LOKI_OTLP": sink.url,
            "DD_API_KEY": "not-a-key",
        }
        files = ("base.yaml", "edge.yaml", "core.yaml", "overlays/datadog.yaml", "overlays/loki.yaml")
        collector = Collector(tmp_path_factory.mktemp("collector"), ports, configs=files, settings=settings)
        collector.start()
        yield collector, sink
        collector.kill()  # it would wait for a Tempo that is not there
        ports.release()


def until(sink: Sink, marker: bytes) -> bytes:
    """Everything received, once the marker has arrived."""
    import time

    for _ in range(200):
        found = [request.body for request in sink.requests if marker in request.body]
        if found:
            return b"".join(found)
        time.sleep(0.1)
    raise AssertionError(f"{marker!r} did not arrive")


def marker() -> str:
    return f"marker-{os.urandom(6).hex()}"


def send_span(through, text: str) -> bytes:
    """One span with the text in every field of it, its events, its scope and its resource; the bytes that left."""
    collector, sink = through
    mark, inside = marker(), f"Call me at {text}, please. 你好"
    event = {"timeUnixNano": "1795300000000000000", "name": inside, "attributes": otlp.attributes({"gen_ai.x": inside})}
    span = otlp.agent_span(
        otlp.new_trace(),
        f"{mark} {inside}",
        error=inside,
        state=f"vendor={inside}",
        events=[event],
        text=inside,
        json='{"messages": [{"role": "user", "content": "' + inside.replace('"', "'") + '"}]}',
        listed=[inside, "other"],
        mapped={"deep": {"deeper": inside}},
    )
    scope = {"name": inside, "version": inside, "attributes": otlp.attributes({"scope.note": inside})}
    body = otlp.traces([span], resource={"host.note": inside}, scope=scope)
    assert otlp.post(f"http://{collector.http}/v1/traces", body) == 200
    return until(sink, mark.encode())


def send_log(through, text: str) -> bytes:
    """One verdict event with the text in every field, twice: as text body and as structured body."""
    collector, sink = through
    mark, inside = marker(), f"The customer wrote {text} to us"
    record = {
        "timeUnixNano": "1795300000000000000",
        "eventName": "gen_ai.evaluation.result",
        "severityText": inside,
        "attributes": otlp.attributes({"gen_ai.evaluation.explanation": inside, "mark": mark, "listed": [inside]}),
    }
    bodies = [otlp.value(inside), otlp.value({"a": {"b": [inside]}})]
    body = otlp.logs([{**record, "body": b} for b in bodies], resource={"host.note": inside})
    assert otlp.post(f"http://{collector.http}/v1/logs", body) == 200
    return until(sink, mark.encode())


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_leaves_in_no_field_of_a_trace(through, kind):
    left = send_span(through, SECRETS[kind])
    assert HIDDEN.get(kind, SECRETS[kind]).encode() not in left
    assert left.count(b"****") >= 10  # each field was reached


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_leaves_in_no_field_of_a_log(through, kind):
    left = send_log(through, SECRETS[kind])
    assert HIDDEN.get(kind, SECRETS[kind]).encode() not in left
    assert left.count(b"****") >= 5


@pytest.mark.parametrize("kind", ALLOWED)
def test_what_is_no_secret_is_left_alone(through, kind):
    left = send_span(through, ALLOWED[kind])
    assert left.count(ALLOWED[kind].encode()) >= 10
    assert b"****" not in left
    assert send_log(through, ALLOWED[kind]).count(ALLOWED[kind].encode()) >= 5


@pytest.mark.parametrize(
    "key", ["api_key", "x-api-key", "http.request.header.authorization", "db.password", "client_secret"]
)
def test_a_value_is_hidden_by_the_name_of_its_key(through, key):
    collector, sink = through
    mark = marker()
    span = otlp.span(otlp.new_trace(), mark, **{key.replace(".", "__"): "hunter2", "gen_ai__operation__name": "chat"})
    otlp.post(f"http://{collector.http}/v1/traces", otlp.traces([span]))
    left = until(sink, mark.encode())
    assert b"hunter2" not in left
    assert key.encode() in left


def test_numbers_the_dashboards_need_stay_numbers(through):
    """Redaction of all types must not turn token counts, scores and flags into text."""
    collector, sink = through
    mark = marker()
    labels = {
        "gen_ai__usage__input_tokens": 123456789,
        "gen_ai__evaluation__score__value": 0.123456789,
        "sampling__keep": True,
    }
    span = otlp.agent_span(otlp.new_trace(), mark, card=4111111111111111, **labels)
    otlp.post(f"http://{collector.http}/v1/traces", otlp.traces([span]))
    until(sink, mark.encode())
    (found,) = (s for s in sink.spans_named(mark))
    values = {a.key: a.value for a in found.attributes}
    assert values["gen_ai.usage.input_tokens"].int_value == 123456789
    assert values["gen_ai.evaluation.score.value"].double_value == 0.123456789
    assert values["sampling.keep"].bool_value is True
    assert values["card"].string_value == "****"


def test_names_lifted_for_redaction_are_put_back(through):
    collector, sink = through
    mark = marker()
    event = {"timeUnixNano": "1795300000000000000", "name": "exception", "attributes": otlp.attributes({"a": "b"})}
    span = otlp.agent_span(otlp.new_trace(), mark, error="timed out", state="vendor=abc", events=[event])
    otlp.post(f"http://{collector.http}/v1/traces", otlp.traces([span], scope={"name": "lib", "version": "1.2"}))
    left = until(sink, mark.encode())
    (found,) = (s for s in sink.spans_named(mark))
    assert (found.name, found.status.message, found.trace_state) == (mark, "timed out", "vendor=abc")
    assert [e.name for e in found.events] == ["exception"]
    assert b"assay.lift" not in left


def test_long_content_is_cut_before_it_costs_anything(through):
    collector, sink = through
    mark = marker()
    span = otlp.agent_span(otlp.new_trace(), mark, gen_ai__input__messages="word " * 50_000)
    otlp.post(f"http://{collector.http}/v1/traces", otlp.traces([span]))
    until(sink, mark.encode())
    (found,) = (s for s in sink.spans_named(mark))
    assert {len(a.value.string_value) for a in found.attributes if a.key == "gen_ai.input.messages"} == {8192}


def test_attributes_of_links_are_out_of_reach(through):
    """A limit of the collector's processors, stated in edge.yaml: when this fails, they can do it and we should."""
    collector, sink = through
    mark, trace = marker(), otlp.new_trace()
    link = {"traceId": trace, "spanId": "1" * 16, "attributes": otlp.attributes({"note": "maria@example.com"})}
    otlp.post(f"http://{collector.http}/v1/traces", otlp.traces([otlp.agent_span(trace, mark, links=[link])]))
    assert b"maria@example.com" in until(sink, mark.encode())


def test_the_collector_writes_no_secret_to_its_log(through):
    collector, _ = through
    send_span(through, SECRETS["e-mail"])
    log = collector.log.read_text(encoding="utf-8")
    assert [kind for kind, secret in SECRETS.items() if secret in log] == []
    assert "not-a-key" not in log


def test_datadog_is_sent_genai_spans_only_marked_for_its_llm_product(through):
    collector, sink = through
    mark, trace = marker(), otlp.new_trace()
    spans = [
        otlp.agent_span(trace, mark, gen_ai__request__model="m"),
        otlp.span(trace, f"GET /{mark}", http__request__method="GET"),
        otlp.verdict_span(trace, mark),
    ]
    otlp.post(f"http://{collector.http}/v1/traces", otlp.traces(spans))
    left = until(sink, mark.encode())
    (request,) = (r for r in sink.requests if mark.encode() in r.body)
    assert [s.name for s in sink.spans_named(mark)] == [mark]
    headers = {key.lower(): text for key, text in request.headers.items()}
    assert (headers["dd-api-key"], headers["dd-otlp-source"]) == ("not-a-key", "llmobs")
    assert b"dd_llmobs_enabled" in left
    (found,) = sink.spans_named(mark)
    assert {a.key: a.value.string_value for a in found.attributes}["gen_ai.provider.name"] == "unknown"
