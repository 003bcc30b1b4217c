"""What Langfuse and Phoenix are sent, and what a lines file keeps."""

from __future__ import annotations

import json
import math

import pytest

from mlflow_assay.contracts import Delivery
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.langfuse import LangfuseSink
from mlflow_assay.sinks.phoenix import PhoenixSink
from mlflow_assay.sinks.revisions_jsonl import RevisionLinesSink
from mlflow_assay.testing import FarEnd
from mlflow_assay.testing.bridge_conformance import sample_revision, sample_revisions


def bodies(far_end):
    return [json.loads(r.body) for r in far_end.requests]


# --- Langfuse -------------------------------------------------------------------------------------------


@pytest.fixture
def langfuse(far_end):
    made = LangfuseSink(host=far_end.url, public_key="pk", secret_key="sk-12345678")
    yield made
    made.close()


def test_an_edit_replaces_the_score_and_a_deletion_deletes_it(far_end, langfuse):
    langfuse.deliver([sample_revision(1)])
    langfuse.deliver([sample_revision(1, value=False, change="edited", revision=2)])
    langfuse.deliver([sample_revision(1, change="deleted", revision=3)])
    first, second, third = far_end.requests
    assert json.loads(first.body)["id"] == json.loads(second.body)["id"] == f"a-{1:032x}"
    assert (third.method, third.path) == ("DELETE", f"/api/public/scores/a-{1:032x}")


def test_a_score_deleted_before_is_deleted(far_end, langfuse):
    far_end.status = 404
    assert langfuse.deliver([sample_revision(1, change="deleted", revision=2)]) == [Delivery("delivered")]


@pytest.mark.parametrize(
    ("value", "kind", "sent"), [(True, "BOOLEAN", 1), (0.5, "NUMERIC", 0.5), ("mostly", "CATEGORICAL", "mostly")]
)
def test_each_value_has_langfuses_type(far_end, langfuse, value, kind, sent):
    langfuse.deliver([sample_revision(1, value=value)])
    (score,) = bodies(far_end)
    assert (score["dataType"], score["value"], score["traceId"]) == (kind, sent, f"{1:032x}")


def test_unscored_is_skipped_and_not_a_zero(far_end, langfuse):
    (found,) = langfuse.deliver([sample_revision(1, value=None)])
    assert (found.state, far_end.requests) == ("skipped", [])


def test_an_outage_is_noticed_once_a_batch(far_end, langfuse):
    far_end.status = 503
    found = langfuse.deliver([sample_revision(n) for n in range(1, 20)])
    assert {d.state for d in found} == {"retry"}
    assert len(far_end.requests) == 1


def test_keys_are_needed():
    with pytest.raises(ConfigError, match="LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"):
        LangfuseSink()


# --- Phoenix --------------------------------------------------------------------------------------------


def test_an_annotation_is_identified_by_the_assessment_so_that_an_edit_replaces_it(far_end):
    sink = PhoenixSink(host=far_end.url)
    sink.deliver([sample_revision(1), sample_revision(2, value=None)])
    sink.deliver([sample_revision(1, change="deleted", revision=2)])
    (one, two), (gone,) = (body["data"] for body in bodies(far_end))
    assert one["identifier"] == gone["identifier"] == f"a-{1:032x}"
    assert one["result"] == {"label": "pass", "score": 1.0, "explanation": "because \u2603"}
    assert two["result"] == {"label": "unscored"}
    assert gone["result"] == {"label": "deleted"}
    assert (one["span_id"], one["annotator_kind"]) == (f"{1:016x}", "LLM")


def test_a_trace_without_spans_is_annotated_as_a_trace(far_end):
    assert {d.state for d in PhoenixSink(host=far_end.url).deliver(sample_revisions())} == {"delivered", "skipped"}
    assert far_end.paths() == ["/v1/span_annotations", "/v1/trace_annotations"]


def test_a_span_phoenix_does_not_have_yet_makes_only_its_own_annotation_wait():
    class Phoenix(FarEnd):
        def _answer(self):
            return 404 if f"{2:016x}".encode() in self.requests[-1].body else 200

    with Phoenix() as far_end:
        found = PhoenixSink(host=far_end.url).deliver([sample_revision(n) for n in (1, 2, 3)])
    assert [d.state for d in found] == ["delivered", "retry", "delivered"]


def test_numbers_json_does_not_have_are_sent_as_text(far_end):
    PhoenixSink(host=far_end.url).deliver([sample_revision(1, score=math.inf)])
    assert bodies(far_end)[0]["data"][0]["result"]["score"] == "inf"


# --- lines ----------------------------------------------------------------------------------------------


def test_a_line_holds_the_whole_revision(tmp_path):
    path = tmp_path / "out.jsonl"
    RevisionLinesSink(path).deliver(sample_revisions())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in lines] == [r.key for r in sample_revisions()]
    assert lines[0]["trace"]["agent"] == "support"
    assert lines[2]["outcome"] == "unscored"


def test_a_killed_writers_half_line_spoils_no_other(tmp_path):
    path = tmp_path / "out.jsonl"
    sink = RevisionLinesSink(path)
    sink.deliver([sample_revision(1)])
    path.write_bytes(path.read_bytes()[:-20])
    sink.deliver([sample_revision(2)])
    assert sink.held([sample_revision(1), sample_revision(2)]) == {sample_revision(1).key: 0, sample_revision(2).key: 1}


def test_a_folder_that_is_not_there_is_a_retry_with_the_reason(tmp_path):
    (found,) = RevisionLinesSink(tmp_path / "no" / "out.jsonl").deliver([sample_revision()])
    assert found.state == "retry"
    assert "No such file" in found.detail


def test_a_full_disk_is_a_retry():
    """/dev/full refuses every write, as a full disk does."""
    (found,) = RevisionLinesSink("/dev/full").deliver([sample_revision()])
    assert (found.state, "No space left" in found.detail) == ("retry", True)
