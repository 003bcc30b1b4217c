"""What the OTLP sinks put on the wire, decoded by a receiver on loopback."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from mlflow_assay import semconv
from mlflow_assay.contracts import Delivery, Outcome
from mlflow_assay.errors import ConfigError, SinkError
from mlflow_assay.sinks.otlp import verdict_span_id
from mlflow_assay.sinks.otlp_event import OtlpEventSink
from mlflow_assay.sinks.otlp_span import OtlpSpanSink
from mlflow_assay.testing import FarEnd
from mlflow_assay.testing.bridge_conformance import sample_revision, sample_revisions


def plain(attributes):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def spans(far_end):
    found = []
    for request in far_end.requests:
        assert (request.method, request.path) == ("POST", "/v1/traces")
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            for scope in resource.scope_spans:
                found += [(span, plain(resource.resource.attributes)) for span in scope.spans]
    return found


def records(far_end):
    logs = [ExportLogsServiceRequest.FromString(r.body) for r in far_end.requests if r.path == "/v1/logs"]
    return [record for log in logs for r in log.resource_logs for s in r.scope_logs for record in s.log_records]


def sent_span(far_end, revision, **options):
    sink = OtlpSpanSink(endpoint=far_end.url, **options)
    assert sink.deliver([revision]) == [Delivery("delivered")]
    sink.close()
    ((span, _),) = spans(far_end)
    return span, plain(span.attributes)


# --- verdict spans --------------------------------------------------------------------------------------


def test_a_verdict_is_a_span_in_the_evaluated_trace_under_the_evaluated_span(far_end):
    revision = sample_revision(7, span_id="00000000000000ab")
    span, facts = sent_span(far_end, revision)
    assert span.trace_id.hex() == f"{7:032x}"
    assert span.parent_span_id.hex() == "00000000000000ab"
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [(f"{7:032x}", "00000000000000ab")]
    assert (span.name, span.kind, span.status.code) == ("evaluation request_resolved", span.SPAN_KIND_INTERNAL, 0)
    assert facts["gen_ai.operation.name"] == "evaluation"


def test_without_a_span_of_its_own_the_parent_is_the_root_and_without_spans_there_is_none(far_end):
    sink = OtlpSpanSink(endpoint=far_end.url)
    sink.deliver([sample_revision(7), sample_revisions()[-1]])
    (under_root, _), (alone, _) = spans(far_end)
    assert under_root.parent_span_id.hex() == f"{7:016x}"
    assert (alone.parent_span_id, list(alone.links)) == (b"", [])


def test_the_run_is_copied_on_so_that_nobody_has_to_join(far_end):
    _, facts = sent_span(far_end, sample_revision())
    assert facts[semconv.GEN_AI_AGENT] == "support"
    assert facts[semconv.GEN_AI_REQUEST_MODEL] == "gpt-4.1-mini"
    assert facts[semconv.GEN_AI_CONVERSATION] == "c-7"
    assert facts[semconv.PROMPT_VERSION] == "support/3"
    assert facts[semconv.ENVIRONMENT] == "test"


def test_a_run_that_names_no_agent_is_found_by_a_query_for_any(far_end):
    _, facts = sent_span(far_end, sample_revisions()[-1])
    assert facts[semconv.GEN_AI_AGENT] == "unknown"


def test_the_verdict_is_said_in_the_standards_names(far_end):
    _, facts = sent_span(far_end, sample_revision(value=False))
    assert facts["gen_ai.evaluation.name"] == "request_resolved"
    assert facts["gen_ai.evaluation.score.value"] == 0.0
    assert facts["gen_ai.evaluation.score.label"] == "fail"
    assert facts["gen_ai.evaluation.explanation"] == "because \u2603"
    assert "error.type" not in facts


def test_an_unscored_verdict_has_no_score_and_says_why_without_making_the_trace_an_error(far_end):
    span, facts = sent_span(far_end, sample_revision(value=None))
    assert semconv.EVALUATION_SCORE not in facts
    assert (facts[semconv.EVALUATION_LABEL], facts["error.type"]) == ("unscored", "timeout")
    assert span.status.code == span.status.STATUS_CODE_UNSET


def test_the_span_ends_at_the_verdict_and_lasts_as_long_as_the_judge_took(far_end):
    revision = sample_revision(latency_ms=800.0)
    span, _ = sent_span(far_end, revision)
    assert span.end_time_unix_nano == revision.changed_ms * 1_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 800_000_000


def test_a_revision_has_one_span_id_for_ever_and_another_revision_another():
    first, edited = sample_revision(), sample_revision(revision=2, change="edited")
    assert verdict_span_id(first) == verdict_span_id(replace(first, rationale="other words", revision=9))
    assert verdict_span_id(first) != verdict_span_id(edited)
    assert len(verdict_span_id(first)) == 16
    assert int(verdict_span_id(first), 16) > 0


def test_an_edit_says_what_it_changes(far_end):
    _, facts = sent_span(far_end, sample_revision(revision=2, change="edited"))
    assert (facts[semconv.CHANGE], facts[semconv.REVISION]) == ("edited", 2)


def test_values_of_expectations_and_long_texts_stay_in_mlflow(far_end):
    """An expectation may hold a whole answer, a feedback a paragraph."""
    sink = OtlpSpanSink(endpoint=far_end.url)
    secret = "the customer's whole story " * 20
    sink.deliver([sample_revision(1, value="42", kind="expectation", outcome=None)])
    sink.deliver([sample_revision(2, value=secret, outcome=None, rationale=None)])
    assert all(semconv.ASSESSMENT_VALUE not in plain(span.attributes) for span, _ in spans(far_end))
    assert all(secret.encode() not in request.body for request in far_end.requests)


def test_a_persons_name_is_on_no_span_in_either_profile(far_end):
    for profile in semconv.PROFILES:
        OtlpSpanSink(endpoint=far_end.url, profile=profile).deliver(sample_revisions())
    assert all(b"ada@example.org" not in request.body for request in far_end.requests)


def test_the_coming_convention_adds_the_evaluator_and_takes_nothing_away(far_end, monkeypatch):
    _, pinned = sent_span(far_end, sample_revision())
    far_end.requests.clear()
    monkeypatch.setenv(semconv.PROFILE_VARIABLE, "next")
    _, coming = sent_span(far_end, sample_revision())
    assert {k: coming[k] for k in pinned} == pinned
    assert {k: v for k, v in coming.items() if k not in pinned} == {
        "gen_ai.evaluation.evaluator.id": "request_resolved",
        "gen_ai.evaluation.evaluator.version": "1",
        "gen_ai.evaluation.evaluator.type": "llm_judge",
    }


def test_an_unknown_profile_is_refused():
    with pytest.raises(ConfigError, match=r"no names profile '2.0'.*1.41.1, next"):
        OtlpSpanSink(profile="2.0")


def test_the_sender_is_named_by_the_standard_variables(far_end, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "quality")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=support")
    sink = OtlpSpanSink(endpoint=far_end.url)
    sink.deliver([sample_revision()])
    ((_, resource),) = spans(far_end)
    assert (resource["service.name"], resource["team"]) == ("quality", "support")
    assert len(resource["service.instance.id"]) == 36


# --- the standard's event --------------------------------------------------------------------------------


def test_the_event_is_the_standards_with_the_evaluated_spans_context(far_end):
    sink = OtlpEventSink(endpoint=far_end.url)
    assert sink.deliver([sample_revision(3, span_id="00000000000000ab")]) == [Delivery("delivered")]
    (record,) = records(far_end)
    facts = plain(record.attributes)
    assert record.event_name == "gen_ai.evaluation.result"
    assert (record.trace_id.hex(), record.span_id.hex()) == (f"{3:032x}", "00000000000000ab")
    assert facts["gen_ai.evaluation.name"] == "request_resolved"
    assert facts["gen_ai.evaluation.score.value"] == 1.0
    assert "error.type" not in facts


def test_the_event_of_an_unscored_verdict_carries_its_error_type(far_end):
    OtlpEventSink(endpoint=far_end.url).deliver([sample_revision(value=None)])
    facts = plain(records(far_end)[0].attributes)
    assert facts["error.type"] == "timeout"
    assert "gen_ai.evaluation.score.value" not in facts


def test_an_expectation_is_no_event(far_end):
    found = OtlpEventSink(endpoint=far_end.url).deliver(sample_revisions())
    assert [d.state for d in found].count("skipped") == 1
    assert len(records(far_end)) == len(sample_revisions()) - 1


def test_the_judges_word_is_the_label_where_nothing_says_which_is_good(far_end):
    OtlpEventSink(endpoint=far_end.url).deliver([sample_revision(value="mostly", outcome=None)])
    assert plain(records(far_end)[0].attributes)[semconv.EVALUATION_LABEL] == "mostly"


# --- acknowledgement ---------------------------------------------------------------------------------------


def test_a_partial_success_is_not_taken_for_success(far_end):
    """The protocol does not say which spans were refused, and forbids sending again."""
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message="span too old")
    far_end.body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    found = OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision(1), sample_revision(2)])
    assert [d.state for d in found] == ["rejected", "rejected"]
    assert "refused 1 of 2 items: span too old" in found[0].detail


def test_a_warning_without_refusals_is_success(far_end):
    partial = ExportTracePartialSuccess(rejected_spans=0, error_message="please send less")
    far_end.body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    assert OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision()]) == [Delivery("delivered")]


def test_one_refused_revision_does_not_take_the_batch_with_it():
    """A 400 names nobody: the batch is halved until the culprit stands alone."""

    class Picky(FarEnd):
        def _answer(self):
            return 400 if sample_revision(3).key.encode() in self.requests[-1].body else 200

    with Picky() as far_end:
        found = OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision(n) for n in range(1, 6)])
    assert [d.state for d in found] == ["delivered", "delivered", "rejected", "delivered", "delivered"]


def test_the_far_ends_own_words_are_in_the_detail(far_end):
    """A collector's refusal is a google.rpc.Status."""
    from google.rpc.status_pb2 import Status

    far_end.status, far_end.body = 503, Status(code=14, message="the queue is full").SerializeToString()
    far_end.headers = {"Content-Type": "application/x-protobuf"}
    (found,) = OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision()])
    assert found.detail == f"{far_end.url}/v1/traces answered 503: the queue is full"
    far_end.body = b"\xff not protobuf"
    (found,) = OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision()])
    assert "not protobuf" in found.detail


def test_bodies_are_compressed_unless_switched_off(far_end, monkeypatch):
    OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision()])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision()])
    assert [r.headers.get("Content-Encoding") for r in far_end.requests] == ["gzip", None]
    assert len(spans(far_end)) == 2


def test_endpoint_and_headers_come_from_the_standard_variables(far_end, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", far_end.url + "/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", far_end.url + "/elsewhere")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b,authorization=Bearer%20t")
    OtlpSpanSink().deliver([sample_revision()])
    OtlpEventSink().deliver([sample_revision()])
    assert far_end.paths() == ["/v1/traces", "/elsewhere"]
    assert [r.headers["x-tenant"] for r in far_end.requests] == ["a b", "a b"]


@pytest.mark.parametrize("endpoint", ["localhost:4317", "grpc://localhost:4317"])
def test_an_endpoint_that_is_no_url_is_refused_with_an_example(endpoint):
    with pytest.raises(ConfigError, match=r"no http.*for example http://localhost:4318"):
        OtlpSpanSink(endpoint=endpoint)


def test_the_port_of_grpc_is_refused_with_the_one_to_use():
    with pytest.raises(ConfigError, match=r"OTLP over gRPC.*by convention 4318"):
        OtlpSpanSink(endpoint="http://localhost:4317")


def test_a_redirect_is_not_followed(far_end):
    """A POST that is redirected becomes a GET, and headers go to a stranger."""
    far_end.status, far_end.headers = 301, {"Location": far_end.url + "/other"}
    (found,) = OtlpSpanSink(endpoint=far_end.url).deliver([sample_revision()])
    assert (found.state, far_end.paths()) == ("retry", ["/v1/traces"])


# --- asking Tempo ----------------------------------------------------------------------------------------


def test_tempo_is_asked_how_many_spans_it_holds(far_end):
    """Two copies of one revision, none of the other."""
    span = {"attributes": [{"key": semconv.REVISION_KEY, "value": {"stringValue": sample_revision(1).key}}]}

    far_end.body = json.dumps({"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [span, span, {}]}]}]}}).encode()
    sink = OtlpSpanSink(endpoint=far_end.url, tempo=far_end.url)
    assert sink.held([sample_revision(1)]) == {sample_revision(1).key: 2}
    assert far_end.paths() == [f"/api/v2/traces/{1:032x}"]


def test_a_trace_tempo_does_not_know_holds_nothing_and_a_broken_tempo_is_an_error(far_end):
    sink = OtlpSpanSink(endpoint=far_end.url, tempo=far_end.url)
    far_end.status = 404
    assert sink.held([sample_revision(1)]) == {sample_revision(1).key: 0}
    far_end.status = 500
    with pytest.raises(SinkError, match=r"Tempo could not be asked: .*500"):
        sink.held([sample_revision(1)])


def test_outcomes_are_the_labels():
    assert [o.value for o in Outcome] == ["pass", "fail", "unscored"]
