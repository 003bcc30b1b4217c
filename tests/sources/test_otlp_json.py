from __future__ import annotations

import base64
import json

import pytest

from mlflow_assay.errors import InputError
from mlflow_assay.sources.otlp_json import OtlpJsonImporter

TRACE, OTHER = "5b8aa5a2d2c872e8321cf37308d69df2", "0af7651916cd43dd8448eb211c80319c"
ROOT, CHILD = "051581bf3cb55c13", "b7ad6b7169203331"


def runs(path):
    return list(OtlpJsonImporter().runs(path))


def test_ids_and_times_stay_what_they_are(write, export, span):
    run = runs(write([export(span(TRACE, ROOT), span(TRACE, CHILD, ROOT))], lines=True))[0]
    root, child = run.spans

    assert (run.id, run.trace_id, run.partial) == (TRACE, TRACE, True)
    assert (root.trace_id, root.span_id, root.parent_id) == (f"tr-{TRACE}", ROOT, None)
    assert (child.span_id, child.parent_id) == (CHILD, ROOT)
    assert (root.start_time_ns, root.end_time_ns) == (1740823200000000123, 1740823201500000456)


def test_one_run_for_each_trace_of_a_line(write, export, span):
    lines = [export(span(TRACE, ROOT), span(OTHER, ROOT)), export(span(TRACE, CHILD, ROOT))]

    assert [r.id for r in runs(write(lines, lines=True))] == [TRACE, OTHER, TRACE]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_may_hold_one_document_however_it_is_laid_out_and_packed(tmp_path, write, export, span, indent, zipped):
    document = export(span(TRACE, ROOT))
    path = write(document, zipped=zipped)
    if not zipped:
        path.write_text(json.dumps(document, indent=indent))

    assert [r.id for r in runs(path)] == [TRACE]


def test_names_as_protobuf_spells_them_are_read_too(write, span):
    snake = {
        "resource_spans": [
            {"scope_spans": [{"spans": [{"trace_id": TRACE, "span_id": ROOT, "name": "a",
                                         "start_time_unix_nano": "1", "end_time_unix_nano": 2}]}]}
        ]
    }  # fmt: skip

    assert runs(write([snake], lines=True))[0].spans[0].name == "a"


@pytest.mark.parametrize("parent", ["", "0000000000000000"])
def test_no_parent_and_an_all_zero_parent_make_a_root(write, export, span, parent):
    assert runs(write([export(span(TRACE, ROOT, parent))], lines=True))[0].spans[0].parent_id is None


def test_links_events_errors_and_bytes_survive(write, export, span):
    full = span(
        TRACE,
        ROOT,
        attributes={"blob": {"bytesValue": base64.b64encode(b"\x00\xff\x10").decode()}, "n": {"intValue": "7"}},
        links=[{"traceId": OTHER, "spanId": CHILD}],
        events=[{"timeUnixNano": "5", "name": "exception", "attributes": []}],
        status={"code": 2, "message": "boom"},
    )
    found = runs(write([export(full)], lines=True))[0].spans[0]

    assert (found.links[0].trace_id, found.links[0].span_id) == (f"tr-{OTHER}", CHILD)
    assert found.events[0].name == "exception"
    assert (found.status.status_code.value, found.status.description) == ("ERROR", "boom")
    assert found.get_attribute("n") == 7
    assert "xff" in str(found.get_attribute("blob"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"traceId": "zz"}, r"spans\[0\]\.traceId is not 32 hex digits, found 'zz'"),
        ({"traceId": base64.b64encode(bytes.fromhex(TRACE)).decode()}, r"traceId is not 32 hex digits"),
        ({"traceId": "0" * 32}, r"traceId is not 32 hex digits"),
        ({"spanId": None}, r"spanId is not 16 hex digits"),
        ({"parentSpanId": "12"}, r"parentSpanId is not 16 hex digits"),
        ({"endTimeUnixNano": None}, r"endTimeUnixNano is not a time"),
        ({"startTimeUnixNano": 0}, r"startTimeUnixNano is not a time"),
        ({"links": [{"traceId": TRACE}]}, r"links\.spanId is not 16 hex digits"),
        ({"attributes": [{"key": "a", "value": {"intValue": "x"}}]}, r"not OTLP: Failed to parse"),
        ({"events": 3}, r"not OTLP: Failed to parse"),
    ],
)
def test_a_broken_span_is_refused_with_file_line_and_place(write, export, span, change, complaint):
    lines = [export(span(TRACE, ROOT)), export({**span(TRACE, CHILD), **change})]

    with pytest.raises(InputError, match=r"runs\.json:2: .*" + complaint):
        runs(write(lines, lines=True))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"resourceSpans": []}\n\n{"resourceSpans": [\n', r":3: not valid JSON: Expecting value at column 20"),
        ("{\n", r":2: not valid JSON|:1: not valid JSON"),
        ("", r"is empty"),
        ('{"resourceLogs": []}', r":1: .*holds other signals than traces"),
        ('{"simulations": []}', r":1: .*use --format tau2"),
        ("[1]", r":1: .*found a JSON list"),
        ('{"resourceSpans": 1}', r"resourceSpans is not a list"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": ["x"]}]}]}', r"spans\[0\] is not an object"),
    ],
)
def test_a_file_that_is_no_trace_export_is_refused_with_its_line(tmp_path, text, complaint):
    path = tmp_path / "t.jsonl"
    path.write_text(text)

    with pytest.raises(InputError, match=complaint):
        runs(path)
