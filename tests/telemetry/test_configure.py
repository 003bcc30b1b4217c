"""`telemetry.configure` in a process of its own, against a real MLflow store and a real OTLP receiver.

Beside each repair stands MLflow alone: when one of these controls fails, MLflow has been repaired and so may we be.
"""

from __future__ import annotations

import json

import pytest

from mlflow_assay.sampling import chosen
from mlflow_assay.telemetry.facts import user_hash

KEY = "a key of sixteen characters or more"

APP = '''
import json, os
import mlflow
from mlflow.entities import SpanType

def run(mail="anna@example.com"):
    """One run of an agent, with a failing tool and a model call."""
    with mlflow.start_span("router", span_type=SpanType.AGENT) as root:
        root.set_inputs({"q": f"write to {mail}"})
        root.set_attribute("n", 3)
        root.set_attribute("text", "3")
        root.set_attribute("flag", True)
        root.set_attribute("words", ["a", "b"])
        mlflow.update_current_trace(
            tags={"domain": "billing", "agent": "front"}, session_id="s-1", user="anna", client_request_id=f"id {mail}"
        )
        with mlflow.start_span("model", span_type=SpanType.CHAT_MODEL) as call:
            call.set_inputs({"messages": [{"role": "user", "content": f"hi {mail}"}]})
            call.set_attribute("mlflow.llm.model", "gpt-4.1-mini")
            call.set_attribute("mlflow.llm.provider", "openai")
            call.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 1000000, "output_tokens": 0})
        with mlflow.start_span("step"):
            pass
        with mlflow.start_span("its own") as own:
            own.set_attribute("gen_ai.operation.name", "create_agent")
        with mlflow.start_span("manuals", span_type=SpanType.RETRIEVER):
            pass
        try:
            with mlflow.start_span("lookup", span_type=SpanType.TOOL) as tool:
                tool.set_inputs({"mail": mail})
                raise KeyError(mail)
        except KeyError:
            pass
        root.set_outputs({"a": "done"})
    return root.trace_id

def stored(trace_id):
    mlflow.flush_trace_async_logging()
    trace = mlflow.get_trace(trace_id)
    return {"id": trace_id, "tags": trace.info.tags, "metadata": trace.info.trace_metadata,
            "request_id": trace.info.client_request_id, "spans": [s.to_dict() for s in trace.data.spans],
            "preview": trace.info.request_preview, "inputs": trace.data.spans[0].inputs}
'''

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def alone(make_agent):
    """MLflow's own dual export."""
    agent = make_agent()
    out = agent.run(
        APP + "mlflow.set_experiment('x')\nprint(json.dumps(stored(run())))",
        OTEL_EXPORTER_OTLP_ENDPOINT=agent.receiver.url,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT="true",
        MLFLOW_ENABLE_OTEL_GENAI_SEMCONV="true",
    )
    return agent, out


@pytest.fixture(scope="module")
def ours(make_agent):
    """The same run with `configure`, in an environment that sets a base endpoint; nothing is flushed by hand."""
    agent = make_agent()
    out = agent.run(
        f"""{APP}
from mlflow_assay import telemetry
telemetry.configure(headers={{"X-Api-Key": "header-secret"}}, service="support", environment="test",
                    judge_sample=1.0, user_key={KEY!r})
mlflow.set_experiment('x')
print(json.dumps(stored(run())))
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=agent.receiver.url,
        OTEL_RESOURCE_ATTRIBUTES="team=billing",
    )
    return agent, out


def test_the_trace_is_in_mlflow_and_at_the_endpoint_under_one_id(ours):
    agent, stored = ours
    named = {"invoke_agent router", "chat gpt-4.1-mini", "execute_tool lookup", "step", "its own", "retrieval manuals"}
    assert set(agent.receiver.spans) == named
    assert {span["trace_id"] for span in agent.receiver.spans.values()} == {stored["id"].removeprefix("tr-")}
    assert len(stored["spans"]) == 6
    assert stored["inputs"] == {"q": "write to anna@example.com"}


def test_session_user_tags_experiment_and_agent_leave_with_every_span(ours):
    agent, stored = ours
    for span in agent.receiver.spans.values():
        attributes = span["attributes"]
        assert attributes["gen_ai.conversation.id"] == "s-1"
        assert attributes["user.hash"] == user_hash("anna", KEY)
        assert attributes["assay.slice.domain"] == "billing"
        assert attributes["mlflow.experiment.id"] == "1"
        assert attributes["gen_ai.agent.name"] == "router"
    assert stored["metadata"]["mlflow.trace.user"] == "anna"


def test_mlflow_alone_leaves_them_out(alone):
    agent, stored = alone
    assert stored["metadata"]["mlflow.trace.session"] == "s-1"
    left = [key for span in agent.receiver.spans.values() for key in span["attributes"]]
    assert not {"gen_ai.conversation.id", "user.hash"} & set(left)
    assert not [key for key in left if "domain" in key or "session" in key]


def test_cost_is_on_the_model_call_and_summed_on_the_root(ours):
    spans = ours[0].receiver.spans
    assert spans["chat gpt-4.1-mini"]["attributes"]["assay.cost_usd"] == pytest.approx(0.4)
    assert spans["invoke_agent router"]["attributes"]["assay.trace.cost_usd"] == pytest.approx(0.4)
    assert "assay.cost_usd" not in spans["execute_tool lookup"]["attributes"]
    assert spans["chat gpt-4.1-mini"]["attributes"]["gen_ai.usage.input_tokens"] == 1_000_000


def test_a_run_chosen_for_judging_is_marked_on_every_span_as_a_boolean(ours):
    """The root arrives last, after a tail sampler may have decided."""
    assert [span["attributes"]["sampling.keep"] for span in ours[0].receiver.spans.values()] == [True] * 6


def test_attributes_leave_with_their_types(ours, alone):
    mine = ours[0].receiver.spans["invoke_agent router"]["attributes"]
    assert (mine["n"], mine["text"], mine["flag"], mine["words"]) == (3, "3", True, ["a", "b"])
    theirs = alone[0].receiver.spans["invoke_agent router"]["attributes"]
    assert (theirs["n"], theirs["text"], theirs["flag"]) == ("3", '"3"', "true")


def test_a_span_without_a_standard_operation_keeps_its_name(ours, alone):
    spans = ours[0].receiver.spans
    assert "gen_ai.operation.name" not in spans["step"]["attributes"]
    assert spans["its own"]["attributes"]["gen_ai.operation.name"] == "create_agent"
    assert spans["retrieval manuals"]["attributes"]["gen_ai.operation.name"] == "retrieval"
    assert {"UNKNOWN", "RETRIEVER"} <= set(alone[0].receiver.spans)


def test_a_failed_span_says_the_type_of_its_error(ours, alone):
    assert ours[0].receiver.spans["execute_tool lookup"]["attributes"]["error.type"] == "KeyError"
    assert "error.type" not in ours[0].receiver.spans["chat gpt-4.1-mini"]["attributes"]
    assert "error.type" not in alone[0].receiver.spans["execute_tool lookup"]["attributes"]


def test_what_leaves_is_masked_and_says_how_often(ours, alone):
    agent, _ = ours
    assert not [body for _, _, body in agent.receiver.requests if b"anna@" in body]
    tool = agent.receiver.spans["execute_tool lookup"]
    assert tool["attributes"]["gen_ai.tool.call.arguments"] == '{"mail": "[EMAIL]"}'
    assert tool["attributes"]["assay.redacted"] >= 4  # arguments, status, message, stack trace
    assert tool["events"][0][1]["exception.message"] == "'[EMAIL]'"
    assert tool["status"][1] == "KeyError: '[EMAIL]'"
    assert [body for _, _, body in alone[0].receiver.requests if b"anna@" in body]


def test_no_metric_with_users_and_sessions_as_labels_is_sent(ours, alone):
    assert set(ours[0].receiver.paths) == {"/v1/traces"}
    assert "/v1/metrics" in alone[0].receiver.paths
    labelled = [body for path, _, body in alone[0].receiver.requests if path == "/v1/metrics"]
    assert any(b"metadata.mlflow.trace.session" in body for body in labelled)


def test_headers_are_sent_and_stay_out_of_environment_and_log(ours):
    agent, _ = ours
    assert {headers["x-api-key"] for _, headers, _ in agent.receiver.requests} == {"header-secret"}
    assert "header-secret" not in agent.output


def test_the_resource_names_service_environment_and_what_was_set_before(ours):
    resource = ours[0].receiver.spans["invoke_agent router"]["resource"]
    assert resource["service.name"] == "support"
    assert resource["deployment.environment.name"] == "test"
    assert resource["team"] == "billing"
    assert resource["telemetry.sdk.name"] == "mlflow"


# --- what MLflow's tracing does in between ----------------------------------------------------------------------


def test_the_export_survives_whatever_starts_mlflows_tracing_anew(make_agent):
    """Spans before configure, a second configure, reset, a new tracking URI, an explicit destination."""
    agent = make_agent()
    ids = agent.run(
        APP
        + """
from mlflow_assay import telemetry
url = os.environ["OTLP_URL"]
mlflow.set_experiment("x")
before = run()
ids = {}
telemetry.configure("http://127.0.0.1:9", service="wrong")
one = telemetry.configure(url, service="support", user_key="0123456789abcdef")
ids["after a span"] = run()
mlflow.tracing.configure(span_processors=[])
ids["span processors"] = run()
mlflow.tracing.reset()
ids["reset"] = run()
mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"] + "?x=1")
mlflow.set_experiment("x")
ids["tracking uri"] = run()
from mlflow.entities.trace_location import MlflowExperimentLocation
mlflow.tracing.set_destination(MlflowExperimentLocation("1"))
ids["destination"] = run()
assert one.flush()
assert one.processor is not None
present = [key for key, trace_id in ids.items() if mlflow.get_trace(trace_id) is not None]
print(json.dumps({"ids": ids, "before": before, "present": present}))
"""
    )
    roots = {}
    for export in agent.receiver.exports:
        for resource in export.resource_spans:
            for scope in resource.scope_spans:
                roots |= {span.trace_id.hex(): span for span in scope.spans if not span.parent_span_id}
    assert ids["before"].removeprefix("tr-") not in roots
    assert sorted(ids["present"]) == sorted(ids["ids"])
    for moment, trace_id in ids["ids"].items():
        root = roots[trace_id.removeprefix("tr-")]
        attributes = {item.key: item.value.string_value for item in root.attributes}
        assert attributes["gen_ai.conversation.id"] == "s-1", moment
        assert attributes["user.hash"] == user_hash("anna", "0123456789abcdef"), moment
    assert not [body for _, _, body in agent.receiver.requests if b"anna@" in body]


def test_prompts_and_chosen_tags_leave_and_unchosen_runs_are_not_marked(make_agent):
    agent = make_agent()
    rate = 0.5
    out = agent.run(
        APP
        + f"""
from mlflow_assay import telemetry
telemetry.configure(os.environ["OTLP_URL"], tags=["agent"], judge_sample={rate}, content=False)
mlflow.set_experiment("x")
mlflow.genai.register_prompt("triage", "Say hello to {{{{name}}}}")
ids = []
for _ in range(12):
    with mlflow.start_span("work") as span:
        mlflow.update_current_trace(tags={{"agent": "front", "domain": "billing"}})
        prompt = mlflow.genai.load_prompt("prompts:/triage/1")
        with mlflow.start_span("tool", span_type="TOOL") as tool:
            tool.set_inputs({{"secret thing": 1}})
    ids.append(span.trace_id)
try:
    with mlflow.start_span("broken"):
        raise ValueError("secret thing")
except ValueError:
    pass
print(json.dumps(ids))
"""
    )
    roots = {}
    for export in agent.receiver.exports:
        for resource in export.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    roots |= {span.trace_id.hex(): span} if not span.parent_span_id else {}
    for trace_id in out:
        attributes = {item.key: item.value for item in roots[trace_id.removeprefix("tr-")].attributes}
        assert ("sampling.keep" in attributes) is chosen(trace_id, rate)
        assert attributes["assay.prompt.version"].string_value == "triage/1"
        assert attributes["gen_ai.agent.name"].string_value == "front"
        assert "assay.slice.agent" in attributes
        assert "assay.slice.domain" not in attributes
        assert "user.hash" not in attributes
    assert not [body for _, _, body in agent.receiver.requests if b"secret thing" in body]
    broken = agent.receiver.spans["broken"]
    assert broken["attributes"]["error.type"] == "ValueError"


def test_otlp_alone_loses_tagged_roots_in_mlflow_and_nothing_here(make_agent):
    """The control: without dual export MLflow stores nothing, and a tag costs the root span."""
    agent = make_agent()
    out = agent.run(
        APP + "mlflow.set_experiment('x')\nrun()\nprint(json.dumps([mlflow.get_last_active_trace_id()]))",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=agent.receiver.url + "/v1/traces",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
    )
    assert out == [None]
    assert "router" not in agent.receiver.spans
    assert "lookup" in agent.receiver.spans


def test_mlflow_alone_speaks_grpc_where_no_protocol_is_named(make_agent):
    """The control: an HTTP endpoint gets nothing of the run, whether MLflow refuses it or the export fails."""
    agent = make_agent()
    out = agent.run(
        APP
        + """
mlflow.set_experiment("x")
try:
    run()
    said = "sent"
except Exception as error:
    said = f"{type(error).__name__}: {error}"
print(json.dumps([said]))
""",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=agent.receiver.url + "/v1/traces",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="1",
        MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT="true",
    )
    assert agent.receiver.spans == {}
    told = (out[0] + agent.output).lower()
    assert "http/2" in told or "grpc" in told, told[-2000:]


def test_mlflows_own_span_processors_leave_leaks_and_are_forgotten(make_agent):
    """The control of the last two repairs: inputs are masked, the rest is not; after a reset nothing is."""
    agent = make_agent()
    out = agent.run(
        APP
        + """
def mask(span):
    span.set_inputs("masked")

mlflow.set_experiment("x")
mlflow.tracing.configure(span_processors=[mask])
masked = stored(run())
mlflow.tracing.reset()
mlflow.set_experiment("x")
print(json.dumps({"masked": masked, "after": stored(run())}))
"""
    )
    assert out["masked"]["inputs"] == "masked"
    assert "anna@example.com" in out["masked"]["request_id"], "the client's request id is out of their reach"
    assert "anna@example.com" in json.dumps([span["events"] for span in out["masked"]["spans"]]), "so are exceptions"
    assert out["after"]["inputs"] == {"q": "write to anna@example.com"}


def test_an_endpoint_that_is_down_neither_stops_the_agent_nor_mlflow(make_agent):
    agent = make_agent()
    out = agent.run(
        APP
        + """
from mlflow_assay import telemetry
telemetry.configure("http://127.0.0.1:9", headers={"X-Api-Key": "header-secret"}, timeout_s=1)
mlflow.set_experiment("x")
print(json.dumps(stored(run())))
"""
    )
    assert len(out["spans"]) == 6
    assert "header-secret" not in agent.output


def test_mlflows_copy_is_masked_too_when_told(make_agent):
    """Everything of 4.2: inputs, names, exceptions, events, tags, metadata, previews, request id, assessments."""
    agent = make_agent()
    out = agent.run(
        APP
        + """
import mlflow_assay.telemetry as telemetry
from mlflow.entities import SpanEvent
telemetry.configure(os.environ["OTLP_URL"], redact_mlflow=True, user_key="0123456789abcdef")
mlflow.set_experiment("x")
with mlflow.start_span("ask anna@example.com") as span:
    span.add_event(SpanEvent("note anna@example.com", attributes={"to": "anna@example.com"}))
    span.set_attribute("contact", {"mail": "anna@example.com", "card": 4111111111111111})
    span.set_attribute("api_key", "secret-value")
    mlflow.update_current_trace(
        tags={"who": "anna@example.com"}, metadata={"m": "anna@example.com"}, user="anna@example.com",
        session_id="call 555-123-2001", request_preview="anna@example.com", response_preview="anna@example.com")
    mlflow.log_feedback(trace_id=span.trace_id, name="ok", value=True, rationale="anna@example.com wrote")
named = span.trace_id
plain = run()
mlflow.flush_trace_async_logging()
both = [mlflow.get_trace(t) for t in (named, plain)]
print(json.dumps({"all": [t.to_json() for t in both], "inputs": both[1].data.spans[0].inputs,
                  "attributes": both[0].data.spans[0].attributes,
                  "said": [a.rationale for a in both[0].info.assessments],
                  "user": both[0].info.trace_metadata["mlflow.trace.user"],
                  "usage": both[1].info.trace_metadata["mlflow.trace.tokenUsage"]}))
"""
    )
    text = " ".join(out["all"])
    for planted in ("anna@example.com", "555-123-2001", "4111111111111111", "secret-value"):
        assert planted not in text
    assert out["inputs"] == {"q": "write to [EMAIL]"}
    assert out["attributes"]["contact"] == {"mail": "[EMAIL]", "card": "[CARD]"}
    assert out["attributes"]["api_key"] == "[SECRET]"
    assert out["said"] == ["[EMAIL] wrote"]
    assert out["user"] == user_hash("anna@example.com", "0123456789abcdef")
    assert '"input_tokens": 1000000' in out["usage"]
    assert not [body for _, _, body in agent.receiver.requests if b"anna@" in body]
