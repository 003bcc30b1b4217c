"""Labels in and out as CSV, on a real store."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay import registry
from mlflow_assay.contracts import BooleanValue, JudgeContract, Label, LabelSource, NumericValue
from mlflow_assay.errors import InputError
from mlflow_assay.labels.csv_file import COLUMNS, CsvLabels, read_csv, write_csv
from mlflow_assay.labels.designs import draws_of
from mlflow_assay.labels.exchange import EXPORT_COLUMNS, MlflowLabels, exported, import_csv
from mlflow_assay.labels.pick import PickRequest, pick
from mlflow_assay.labels.picking import Share
from mlflow_assay.sources.mlflow_store import MlflowSource

JUDGE = "resolved"


@pytest.fixture
def sheet(tmp_path):
    def write(*lines: str, header: str = ",".join(COLUMNS)) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


def people() -> list[tuple[str, str, object, str | None, str, bool]]:
    """Every human assessment in the store."""
    return sorted(
        (i.trace_id, a.name, a.feedback.value, a.rationale, a.source.source_id, a.valid is not False)
        for i in MlflowSource("test").infos()
        for a in i.assessments
        if str(a.source.source_type) == "HUMAN"
    )


# --- the file -------------------------------------------------------------------------------------------


def test_columns_may_come_in_any_order_and_further_ones_are_passed_over(sheet):
    path = sheet("x, yes ,note,tr-1", "", header="extra,Value,rationale,TRACE_ID")
    (row,) = read_csv(path)
    assert (row.line, row.trace_id, row.value, row.rationale, row.by, row.name) == (
        2,
        "tr-1",
        "yes",
        "note",
        None,
        None,
    )


def test_a_file_from_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("\ufefftrace_id,value\r\ntr-1,ja\r\n".encode())
    assert read_csv(path)[0].trace_id == "tr-1"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=20), max_size=4))
def test_any_text_comes_back_from_the_file(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, ("trace_id", "value", "rationale"), [("tr-1", "yes", text) for text in texts])
    assert [row.rationale for row in read_csv(path)] == [text.strip() or None for text in texts]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"needs the columns trace_id and value once each. Found: nothing"),
        ("id,value\n1,2\n", r"needs the columns trace_id and value .*Found: \['id', 'value'\]"),
        ("trace_id,value,value\n", "once each"),
        ("trace_id,value\ntr-1,yes,more\n", r"line 2: 3 fields under 2 columns.*double quotes"),
        ('trace_id,value\ntr-1,"yes\n', "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_csv(path)


def test_a_file_that_is_no_utf8_is_refused(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b"trace_id,value\ntr-1,\xff\n")
    with pytest.raises(InputError, match="Valid: UTF-8 text"):
        read_csv(path)


# --- import ---------------------------------------------------------------------------------------------


def test_labels_land_on_their_traces_as_human_feedback(judged, contracts, sheet):
    a, b = judged(passes=2)
    report = import_csv(
        sheet(f"{a},resolved,YES,clear,ana,", f'{b},,no,"it, broke",,'), "test", contracts, name=JUDGE, by="ben"
    )
    assert (report.written, report.replaced, report.already, report.bad) == (2, 0, 0, [])
    assert people() == sorted([(a, JUDGE, "yes", "clear", "ana", True), (b, JUDGE, "no", "it, broke", "ben", True)])


def test_the_same_file_twice_changes_nothing(judged, contracts, sheet):
    a, b = judged(passes=2)
    path = sheet(f"{a},resolved,yes,,ana,0.5", f"{b},resolved,no,,ana,")
    import_csv(path, "test", contracts)
    before = people()
    again = import_csv(path, "test", contracts)
    assert (again.written, again.replaced, again.already) == (0, 0, 2) and people() == before


def test_a_changed_label_replaces_the_labellers_own_and_no_other(judged, contracts, sheet):
    (a,) = judged(passes=1)
    import_csv(sheet(f"{a},resolved,yes,,ana,", f"{a},resolved,yes,,ben,"), "test", contracts)
    report = import_csv(sheet(f"{a},resolved,no,looked again,Ana,"), "test", contracts)
    assert (report.written, report.replaced) == (0, 1)
    valid = {(by.lower(), value) for _, _, value, _, by, ok in people() if ok}
    assert valid == {("ana", "no"), ("ben", "yes")}
    assert len(people()) == 3  # the old word stays, marked invalid


def test_every_bad_line_is_named_and_nothing_is_written(judged, contracts, sheet):
    (a,) = judged(passes=1)
    path = sheet(
        f"{a},resolved,yes,,ana,",
        f"{a},resolved,maybe,,ben,",
        "tr-gone,resolved,yes,,ana,",
        ",resolved,yes,,ana,",
        f"{a},resolved,no,,ana,",
        f"{a},resolved,yes,,cleo,1.5",
        f"{a},resolved,yes,,,",
    )
    with pytest.raises(InputError) as raised:
        import_csv(path, "test", contracts)
    told = str(raised.value)
    assert "6 lines of" in told and "so nothing was" in told and "--skip-bad" in told
    for text in (
        "line 3: value 'maybe' is none of resolved's (yes/no/cannot_tell",
        "line 4: no trace 'tr-gone' in experiment 'test'",
        "line 5: trace_id missing",
        "line 6: 'ana' labelled this trace differently in line 2",
        "line 7: probability '1.5' does not lie in (0, 1]",
        "line 8: by (or --by) missing",
    ):
        assert text in told
    assert people() == []


def test_bad_lines_can_be_left_out(judged, contracts, sheet):
    (a,) = judged(passes=1)
    report = import_csv(
        sheet(f"{a},resolved,yes,,ana,", "tr-gone,resolved,yes,,ana,"), "test", contracts, skip_bad=True
    )
    assert report.written == 1 and len(report.bad) == 1 and len(people()) == 1


def test_a_dry_run_counts_and_writes_nothing(judged, contracts, sheet):
    (a,) = judged(passes=1)
    report = import_csv(sheet(f"{a},resolved,yes,,ana,0.5"), "test", contracts, dry_run=True)
    assert report.written == 1 and people() == []
    assert all("assay" not in key for i in MlflowSource("test").infos() for key in i.tags)


@pytest.mark.parametrize(
    ("spec", "text", "stored"),
    [
        (BooleanValue(), "Pass", True),
        (BooleanValue(good=False), "no", False),
        (NumericValue(1, 5, 4, integer=True), "4", 4),
        (NumericValue(0, 1, 0.5), "0.25", 0.25),
    ],
)
def test_values_are_stored_on_the_judges_scale(judged, sheet, spec, text, stored):
    (a,) = judged(passes=1)
    import_csv(sheet(f"{a},tone,{text},,ana,"), "test", {"tone": JudgeContract("tone", "?", spec)})
    ((_, _, value, *_),) = people()
    assert value == stored and type(value) is type(stored)


def test_an_expert_may_say_that_it_cannot_be_told(judged, contracts, sheet):
    (a,) = judged(passes=1)
    import_csv(sheet(f"{a},resolved,Cannot_Tell,,ana,"), "test", contracts)
    assert people()[0][2] == "cannot_tell"


def test_labels_of_no_known_judge_are_taken_as_they_stand_and_told(judged, sheet):
    a, b, c = judged(passes=3)
    report = import_csv(sheet(f"{a},mood,true,,ana,", f"{b},mood,3,,ana,", f"{c},mood,fine,,ana,"), "test", {})
    assert {value for _, _, value, *_ in people()} == {True, 3.0, "fine"}
    assert report.notes == ["No judge is named 'mood': its values were taken as they stand."]


def test_a_probability_that_comes_with_the_label_is_kept_unless_the_trace_was_drawn_here(
    judged, contracts, sheet, tags_of
):
    ids = judged(passes=4)
    drawn = pick(PickRequest("test", JUDGE, "week 48", Share(2)), contracts).new
    other = next(i for i in ids if i not in drawn)
    import_csv(sheet(f"{other},resolved,yes,,ana,0.125", f"{drawn[0]},resolved,yes,,ana,0.125"), "test", contracts)
    assert draws_of(tags_of(other))[JUDGE].probability == 0.125
    assert draws_of(tags_of(drawn[0]))[JUDGE].probability == 0.5


# --- export ---------------------------------------------------------------------------------------------


def test_export_puts_probability_and_verdict_beside_each_label(judged, contracts, label):
    judged(passes=4, fails=2)
    drawn = pick(PickRequest("test", JUDGE, "week 48", Share(4)), contracts).new
    label(drawn[0], "no", by="ana")
    label(drawn[0], "yes", by="ben")
    label(drawn[0], "yes", by="ana")  # her last word
    rows = [dict(zip(EXPORT_COLUMNS, row, strict=True)) for row in exported(MlflowSource("test"), contracts)]
    assert {(r["by"], r["value"]) for r in rows} == {("ana", "yes"), ("ben", "yes")}
    stratum = rows[0]["stratum"]
    assert rows[0]["probability"] == (0.5 if stratum == "pass" else 1.0)
    assert (rows[0]["verdict"], rows[0]["judge_value"]) == (("pass", "yes") if stratum == "pass" else ("fail", "no"))
    assert rows[0]["queue"] == "week 48" and rows[0]["labelled_at_ms"] > 0


def test_an_export_can_be_imported_and_changes_nothing(judged, contracts, label, tmp_path):
    a, b, c = judged(passes=3)
    label(a, "yes")
    label(b, "no", by="ben")
    label(c, True, name="thumb")
    long = "why, " * 900 + "\n«end»"
    import mlflow
    from mlflow.entities import AssessmentSource

    mlflow.log_feedback(trace_id=c, name=JUDGE, value="no", rationale=long, source=AssessmentSource("HUMAN", "ana"))
    out = tmp_path / "out.csv"
    assert run("labels", "export", "-e", "test", "--out", str(out)).output == f"4 labels written to {out}.\n"
    before = people()
    report = import_csv(out, "test", contracts)
    assert (report.written, report.replaced, report.already) == (0, 0, 4) and people() == before


def test_expectations_and_machines_verdicts_are_no_labels(judged, contracts, label):
    import mlflow
    from mlflow.entities import AssessmentSource

    (a,) = judged(passes=1)
    mlflow.log_expectation(trace_id=a, name="route", value="billing", source=AssessmentSource("HUMAN", "ana"))
    mlflow.log_feedback(trace_id=a, name="speed", value=True, source=AssessmentSource("CODE", "script"))
    label(a, True, name="thumb")
    rows = list(exported(MlflowSource("test"), contracts))
    assert [(row[1], row[2]) for row in rows] == [("thumb", True)]


# --- sources and commands -------------------------------------------------------------------------------


def test_both_label_sources_are_registered_and_give_labels(judged, label, sheet):
    (a,) = judged(passes=1)
    label(a, "yes")
    label(a, "no", by="ben")
    mlflow_source = registry.load("label_sources", "mlflow")("test", [JUDGE])
    csv_source = registry.load("label_sources", "csv")(sheet(f"{a},resolved,yes,,ana,"))
    assert isinstance(mlflow_source, LabelSource) and isinstance(csv_source, LabelSource)
    assert isinstance(mlflow_source, MlflowLabels) and isinstance(csv_source, CsvLabels)
    assert set(mlflow_source.labels()) == {Label(a, JUDGE, "yes", "ana"), Label(a, JUDGE, "no", "ben")}
    assert list(csv_source.labels()) == [Label(a, JUDGE, "yes", "ana")]


def test_a_csv_source_says_which_line_lacks_what(sheet):
    with pytest.raises(InputError, match="line 2: trace_id, name, value and by are needed"):
        list(CsvLabels(sheet("tr-1,,yes,,ana,")).labels())


def run(*arguments: str):
    from mlflow_assay.cli import assay

    return CliRunner().invoke(assay, arguments)


def test_the_import_command_reports_and_fails_when_lines_were_left_out(judged, sheet):
    (a,) = judged(passes=1)
    path = sheet(f"{a},,yes,,ana,", "tr-gone,,yes,,ana,")
    done = run("labels", "import", str(path), "-e", "test", "--name", "thumb", "--skip-bad")
    assert done.exit_code == 1
    assert "1 labels written, 0 replaced, 0 already there, 1 lines left out." in done.output
    assert "line 3: no trace 'tr-gone'" in done.output
    again = run("labels", "import", str(path), "-e", "test", "--name", "thumb", "--skip-bad", "--json")
    assert json.loads(again.stdout)["already"] == 1


def test_a_judge_may_be_named_as_in_the_catalogue(judged, sheet):
    """`mlflow/Safety` gives verdicts named `Safety`, and its labels bear that name."""
    (a,) = judged(passes=1)
    assert (
        run("labels", "import", str(sheet(f"{a},,yes,,ana,")), "-e", "test", "--name", "mlflow/Safety").exit_code == 0
    )
    assert [(name, value) for _, name, value, *_ in people()] == [("Safety", "yes")]
    assert f"{a},Safety,yes" in run("labels", "export", "-e", "test", "--name", "mlflow/Safety").stdout


def test_export_goes_to_standard_output(judged, label):
    (a,) = judged(passes=1)
    label(a, True)
    rows = list(csv.DictReader(io.StringIO(run("labels", "export", "-e", "test").stdout)))
    assert [(r["trace_id"], r["value"], r["by"]) for r in rows] == [(a, "true", "ana")]
