"""Other forms of a dataset: what goes out comes back, what is lost is said, what others wrote is read."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay import registry
from mlflow_assay.datasets.formats import Format
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import ConfigError, InputError

NEEDS = {"deepeval": "deepeval", "ragas": "ragas", "dspy": "dspy", "huggingface": "datasets"}
LOSSLESS = [name for name in registry.available("dataset_formats") if name != "ragas"]

TRICKY = [
    DatasetRow("just text", "an answer", {"expected_response": "yes"}),
    DatasetRow({"question": 'Quotes " commas, and\nnew lines; ünïcode 日本 \u2028'}, {"answer": None}),
    DatasetRow({"a": 1, "b": [1.5, None, {"c": True}]}, [1, "2"], {"a": 1, "expected_a": 2, "context": ["x", "y"]}),
    DatasetRow(
        {"request": "with all there is"},
        {"answer": "text"},
        {
            "expected_response": {"route": "billing"},
            "expected_tool_calls": [{"name": "get_invoice", "arguments": {"month": "March"}}, {"name": "pay"}],
            "context": "one passage",
        },
        trace_id="tr-0123456789abcdef0123456789abcdef",
        session="s1",
        slice="phones",
        split="train",
        group="g1",
        tags={"label.ok": "false", "k": ""},
        weight=1 / 3,
        redacted={"email": 2},
    ),
    DatasetRow({"same": "inputs"}, trace_id="tr-1", id="0" * 31 + "1"),
    DatasetRow({"same": "inputs"}, trace_id="tr-2", id="0" * 31 + "2", split="test"),
    DatasetRow({"number": "007", "empty": ""}, "", {"flag": False, "zero": 0}),
    DatasetRow(["a", "list"], 0),
]


def plugin(name: str) -> Format:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed: pip install 'mlflow-assay[{NEEDS[name]}]'")
    return registry.load("dataset_formats", name)()


def by_id(rows) -> list[DatasetRow]:
    return sorted(rows, key=lambda row: row.id)


@pytest.mark.parametrize("name", LOSSLESS)
def test_everything_comes_back(name, tmp_path):
    made = plugin(name)
    assert isinstance(made, Format)
    assert made.write(TRICKY, tmp_path / "out") == {}
    found = by_id(made.read(tmp_path / "out"))
    for before, after in zip(by_id(TRICKY), found, strict=True):
        assert after.to_dict() == before.to_dict()
        assert after.content == before.content


@pytest.mark.parametrize("name", registry.available("dataset_formats"))
def test_nothing_that_is_there_is_overwritten(name, tmp_path):
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        plugin(name).write(TRICKY, path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", [n for n in registry.available("dataset_formats") if n != "csv"])
def test_what_is_not_in_the_format_is_refused_with_its_place(name, tmp_path):
    path = tmp_path / "in"
    path.write_text('{"nonsense": [\n')
    with pytest.raises(InputError, match=str(path)):
        list(plugin(name).read(path))


@pytest.mark.parametrize("name", [n for n in LOSSLESS if n != "huggingface"])
def test_no_rows_are_no_rows(name, tmp_path):
    made = plugin(name)
    made.write([], tmp_path / "out")
    assert list(made.read(tmp_path / "out")) == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["jsonl", "csv"])
@given(
    inputs=values.filter(lambda v: v is not None),
    outputs=values,
    expected=st.dictionaries(st.text(max_size=5), values, max_size=3),
)
def test_any_json_value_comes_back(name, inputs, outputs, expected, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "out"
    row = DatasetRow(inputs, outputs, expected)
    made = registry.load("dataset_formats", name)()
    made.write([row], path)
    (found,) = made.read(path)
    assert found.content == row.content


# --- what others wrote --------------------------------------------------------------------------------------


def test_a_spreadsheet_of_questions_becomes_rows(tmp_path):
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "language", "expectations.expected_response", "split"])
        writer.writerow(["Why?", "en", "Because.", "test"])
        writer.writerow(["Was?", "de", "", ""])
    first, second = plugin("csv").read(path)
    assert first.inputs == {"question": "Why?", "language": "en"}
    assert (first.expectations, first.split) == ({"expected_response": "Because."}, "test")
    assert (second.expectations, second.split) == ({}, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"outputs": 1}', "has no inputs"),
        ('{"inputs": 1, "colour": 2}', "no field 'colour'"),
        ('{"inputs": 1, "split": "dev"}', "split cannot be 'dev'"),
        ("[1]", "a row is a JSON object"),
        ('{"inputs": 1, "id": "x"}', "id cannot be 'x'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"inputs": {"q": 1}}\n\n' + line + "\n")
    with pytest.raises(InputError, match=said) as raised:
        list(plugin("jsonl").read(path))
    assert f"{path}:3" in str(raised.value)


def test_a_csv_line_with_too_few_cells_is_named(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(InputError, match="there is no header"):
        list(plugin("csv").read(empty))
    path = tmp_path / "rows.csv"
    path.write_text("inputs,outputs\n1,2\n3\n")
    with pytest.raises(InputError, match=r"rows.csv:3: the line has another number of cells"):
        list(plugin("csv").read(path))


def test_hugging_face_opens_what_was_saved_and_its_own_parts_are_splits(tmp_path):
    made = plugin("huggingface")
    import datasets

    made.write(TRICKY, tmp_path / "ours")
    opened = datasets.load_from_disk(str(tmp_path / "ours"))
    assert set(opened) == {"train", "test", "unassigned"}
    theirs = datasets.DatasetDict({"test": datasets.Dataset.from_list([{"question": "Why?", "meta": {"n": 1}}])})
    theirs.save_to_disk(str(tmp_path / "theirs"))
    (row,) = made.read(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="no rows to write"):
        made.write([], tmp_path / "none")
    assert (row.inputs, row.split) == ({"question": "Why?", "meta": {"n": 1}}, "test")


def test_goldens_are_what_deepeval_reads_and_edits_in_them_win(tmp_path):
    made = plugin("deepeval")
    from deepeval.dataset import EvaluationDataset, Golden

    from mlflow_assay.datasets.formats.deepeval_goldens import from_goldens, to_goldens

    made.write(TRICKY, tmp_path / "goldens.json")
    theirs = EvaluationDataset()
    theirs.add_goldens_from_json_file(str(tmp_path / "goldens.json"))
    full = next(g for g in theirs.goldens if g.input == "with all there is")
    assert full.actual_output == "text"
    assert full.context == ["one passage"]
    assert [t.name for t in full.expected_tools] == ["get_invoice", "pay"]
    theirs.save_as("json", str(tmp_path), "saved")
    assert [r.content for r in made.read(tmp_path / "saved.json")] == [r.content for r in TRICKY]
    full.input, full.expected_output = "another question", "another answer"
    (row,) = from_goldens([full])
    assert row.inputs == {"request": "another question"}
    assert row.expectations["expected_response"] == "another answer"
    assert row.session == "s1"
    assert row.id != TRICKY[3].id
    (foreign,) = from_goldens([Golden(input="q", expected_output="a", additional_metadata={"source": "wiki"})])
    assert foreign.inputs == {"input": "q"}
    assert (foreign.expectations, foreign.tags) == ({"expected_response": "a"}, {"source": "wiki"})
    assert len(list(to_goldens([foreign]))) == 1


def test_ragas_samples_carry_what_they_can_and_say_what_they_cannot(tmp_path):
    made = plugin("ragas")
    from ragas import EvaluationDataset

    row = DatasetRow(
        {"input": "Why?"},
        "Because.",
        {"expected_response": "So.", "context": ["p1", "p2"], "rubrics": {"score1": "bad"}},
    )
    assert made.write([row], tmp_path / "one.jsonl") == {}
    assert [r.content for r in made.read(tmp_path / "one.jsonl")] == [row.content]
    lost = made.write(TRICKY, tmp_path / "many.jsonl")
    assert lost["session left out"] == 1
    assert lost["expectation flag left out"] == 1
    theirs = EvaluationDataset.from_jsonl(str(tmp_path / "many.jsonl"))
    assert len(theirs) == len(TRICKY)
    assert theirs[0].user_input == "just text"
    assert theirs[0].reference == "yes"


def test_dspy_examples_have_inputs_and_labels_and_edits_win():
    plugin("dspy")
    import dspy

    from mlflow_assay.datasets.formats.dspy_examples import from_examples, to_examples

    examples = list(to_examples(TRICKY))
    third = examples[2]
    assert set(third.inputs().keys()) == {"a", "b"}
    assert set(third.labels().keys()) == {"expected_a", "context"} | ({"expected_expected_a"} & set(third.keys()))
    examples[3].request = "changed"
    row = next(iter(from_examples([examples[3]])))
    assert row.inputs == {"request": "changed"}
    assert row.session == "s1"
    (theirs,) = from_examples([dspy.Example(question="q", answer="a").with_inputs("question")])
    assert (theirs.inputs, theirs.expectations) == ({"question": "q"}, {"answer": "a"})
    with pytest.raises(ValueError, match="Inputs have not been set"):
        list(from_examples([dspy.Example(question="q")]))


def test_rows_are_json_lines_anyone_can_read(tmp_path):
    plugin("jsonl").write(TRICKY, tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines[3]["expectations"]["expected_response"] == {"route": "billing"}
