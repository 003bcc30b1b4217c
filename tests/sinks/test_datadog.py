"""What the Datadog sink sends: against a schema of our own, and against what ddtrace's own client sends."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.contracts import Delivery
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.datadog import DatadogSink, metric_of
from mlflow_assay.testing.bridge_conformance import sample_revision, sample_revisions

from .datadog_agent import running_agent

SCHEMA = {
    "type": "object",
    "required": ["event_kind", "join_on", "label", "metric_type", "ml_app", "timestamp_ms", "tags", "eval_scope"],
    "additionalProperties": False,
    "properties": {
        "event_kind": {"const": "evaluation"},
        "join_on": {
            "type": "object",
            "additionalProperties": False,
            "required": ["span"],
            "properties": {
                "span": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["trace_id", "span_id"],
                    "properties": {
                        "trace_id": {"type": "string", "pattern": "^[1-9][0-9]{0,38}$"},
                        "span_id": {"type": "string", "pattern": "^[1-9][0-9]{0,19}$"},
                    },
                }
            },
        },
        "label": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]{0,199}$"},
        "metric_type": {"enum": ["score", "categorical", "boolean", "json"]},
        "score_value": {"type": "number"},
        "categorical_value": {"type": "string", "minLength": 1},
        "boolean_value": {"type": "boolean"},
        "json_value": {"type": "object"},
        "ml_app": {"type": "string", "minLength": 1},
        "timestamp_ms": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "contains": {"const": "source:otel"}, "items": {"pattern": "^[^:]+:.+$"}},
        "assessment": {"enum": ["pass", "fail"]},
        "reasoning": {"type": "string", "maxLength": 5000},
        "eval_scope": {"enum": ["span", "trace"]},
        "metadata": {"type": "object"},
    },
    "oneOf": [{"required": [f"{kind}_value"]} for kind in ("score", "categorical", "boolean", "json")],
}


def sent(far_end):
    return [m for r in far_end.requests for m in json.loads(r.body)["data"]["attributes"]["metrics"]]


def test_every_sort_of_revision_fits_the_schema(far_end):
    sink = DatadogSink(api_key="k", url=far_end.url)
    found = sink.deliver([r for r in sample_revisions() if r.trace.service])
    assert {d.state for d in found} == {"delivered", "skipped"}
    assert len(sent(far_end)) == len(sample_revisions()) - 2  # an expectation, and a trace without spans
    for metric in sent(far_end):
        jsonschema.validate(metric, SCHEMA)


@given(st.text(min_size=1, max_size=300))
def test_any_name_becomes_a_label_datadog_takes(name):
    jsonschema.validate(metric_of(sample_revision(name=name), "app"), SCHEMA)


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(min_size=1), st.just({"a": 1})))
def test_any_value_has_a_type_of_its_own(value):
    jsonschema.validate(metric_of(sample_revision(value=value), "app"), SCHEMA)


def test_ids_are_decimal_as_for_spans_that_opentelemetry_brought():
    metric = metric_of(sample_revision(255, span_id="00000000000000ff"), "app")
    assert metric["join_on"] == {"span": {"trace_id": "255", "span_id": "255"}}
    assert (metric["eval_scope"], metric_of(sample_revision(255), "app")["eval_scope"]) == ("span", "trace")


def test_an_unscored_verdict_is_neither_pass_nor_fail():
    metric = metric_of(sample_revision(value=None), "app")
    assert "assessment" not in metric
    assert (metric["metric_type"], metric["categorical_value"]) == ("categorical", "unscored:timeout")


def test_a_deletion_says_so():
    metric = metric_of(sample_revision(change="deleted", revision=2), "app")
    assert "assessment" not in metric
    assert metric["categorical_value"] == "deleted"
    assert "assay_change:deleted" in metric["tags"]


def test_a_persons_name_stays_here(far_end):
    DatadogSink(api_key="k", url=far_end.url).deliver(sample_revisions())
    assert all(b"ada@example.org" not in r.body for r in far_end.requests)


def test_without_an_application_name_it_is_rejected_with_what_to_do(far_end, monkeypatch):
    bare = sample_revision()
    nameless = type(bare.trace)(trace_id=bare.trace.trace_id, experiment_id="1", root_span_id=bare.trace.root_span_id)
    revision = type(bare)(**{**vars(bare), "trace": nameless})
    sink = DatadogSink(api_key="k", url=far_end.url)
    assert sink.deliver([revision])[0].state == "rejected"
    monkeypatch.setenv("DD_LLMOBS_ML_APP", "shop")
    assert sink.deliver([revision]) == [Delivery("delivered")]
    assert sent(far_end)[0]["ml_app"] == "shop"


def test_the_key_and_the_site_come_from_the_environment(monkeypatch):
    with pytest.raises(ConfigError, match=r"has no API key.*DD_API_KEY"):
        DatadogSink()
    monkeypatch.setenv("DD_API_KEY", "k")
    monkeypatch.setenv("DD_SITE", "datadoghq.eu")
    assert DatadogSink()._base == "https://api.datadoghq.eu"
    monkeypatch.setenv("DD_SITE", "evil.example/path?")
    with pytest.raises(ConfigError, match="DD_SITE is no site"):
        DatadogSink()


# --- Datadog's own test agent, with its own client as the oracle ------------------------------------------------


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    with running_agent(tmp_path_factory.mktemp("datadog") / "agent.log") as running:
        yield running


def as_call(metric):
    """The arguments with which ddtrace's client should send the same."""
    tags = dict(tag.split(":", 1) for tag in metric["tags"])
    kind = metric["metric_type"]
    call = {
        "label": metric["label"],
        "metric_type": kind,
        "value": metric[f"{kind}_value"],
        "span": metric["join_on"]["span"],
        "tags": {k: v for k, v in tags.items() if k not in ("ml_app", "source")},
        "ml_app": metric["ml_app"],
        "timestamp_ms": metric["timestamp_ms"],
        "metadata": metric["metadata"],
        "eval_scope": metric["eval_scope"],
    }
    return {**call, **{key: metric[key] for key in ("assessment", "reasoning") if key in metric}}


@pytest.mark.integration
@pytest.mark.slow
def test_our_payload_is_what_ddtraces_own_client_sends(agent):
    """Every sort of revision; only the client's version tag is its own."""
    sink = DatadogSink(url=agent.url + "/evp_proxy/v2", ml_app="shop")
    found = sink.deliver(sample_revisions())
    ours = agent.evaluations()
    assert [d.state for d in found].count("delivered") == len(ours) == len(sample_revisions()) - 2

    agent.clear()
    agent.submit([as_call(metric) for metric in ours])
    theirs = agent.evaluations()
    assert len(theirs) == len(ours)
    for our, their in zip(ours, theirs, strict=True):
        their_tags = {tag for tag in their.pop("tags") if not tag.startswith("ddtrace.version:")}
        assert set(our.pop("tags")) == their_tags
        assert our == their
