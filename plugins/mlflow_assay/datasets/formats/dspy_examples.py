"""DSPy examples: as objects, and as JSON lines.

The inputs are an example's input fields by their names, the expectations its other fields; an expectation with the
name of an input is called `expected_<name>`. The rest of the row goes along under `dspy_assay`, which DSPy leaves out
of `keys()`, `inputs()` and `labels()`, so nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.canonical import plain
from mlflow_assay.datasets.formats.parts import from_mapping, library, new_path
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import InputError

if TYPE_CHECKING:
    import dspy

__all__ = ["DspyExamples", "from_examples", "to_examples"]

_OURS = "dspy_assay"
_TEXT = "input"  # the input field of a row whose inputs are no mapping
_KEYS = "input_keys"


def to_examples(rows: Iterable[DatasetRow]) -> Iterator[dspy.Example]:
    """A DSPy example for each row.

    Raises:
        ConfigError: DSPy is not installed.
    """
    example = library("dspy", "dspy").Example
    for row in rows:
        inputs, expected = _inputs(row), _expected(row)
        yield example(**inputs, **expected, **{_OURS: row.to_dict()}).with_inputs(*inputs)


def from_examples(examples: Iterable[dspy.Example]) -> Iterator[DatasetRow]:
    """The row of each example; one of somebody else's needs its input fields named (`with_inputs`)."""
    for number, example in enumerate(examples):
        yield _row(dict(example.toDict()), set(example.inputs().keys()), f"example {number}")


class DspyExamples:
    """Entry point `dspy` of `mlflow_assay.dataset_formats`."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Write one JSON object a line: `input_keys`, and the example's fields."""
        with new_path(path).open("x", encoding="utf-8") as file:
            for example in to_examples(rows):
                line = {_KEYS: sorted(example.inputs().keys()), "fields": plain(example.toDict())}
                file.write(json.dumps(line) + "\n")
        return {}

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """Rows of a file that `write` wrote."""
        example = library("dspy", "dspy").Example
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    found = json.loads(line)
                    made = example(**found["fields"]).with_inputs(*found[_KEYS])
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{path}:{number}: this is no DSPy example.", valid='{"input_keys": […], "fields": {…}}'
                    ) from error
                yield from from_examples([made])


def _inputs(row: DatasetRow) -> dict[str, Any]:
    return {str(k): v for k, v in row.inputs.items()} if isinstance(row.inputs, Mapping) else {_TEXT: row.inputs}


def _expected(row: DatasetRow) -> dict[str, Any]:
    taken = _inputs(row)
    return {f"expected_{name}" if name in taken else name: value for name, value in row.expectations.items()}


def _row(fields: dict[str, Any], keys: set[str], where: str) -> DatasetRow:
    if not keys:
        raise InputError(
            f"{where}: it names no input fields.", fix="Say which they are: example.with_inputs('question')."
        )
    facts = plain(fields.pop(_OURS, None) or {"inputs": None})
    fields = {name: plain(value) for name, value in fields.items() if not name.startswith("dspy_")}
    inputs = {name: value for name, value in fields.items() if name in keys}
    labels = {name: value for name, value in fields.items() if name not in keys}
    if facts["inputs"] is None:
        return from_mapping({"inputs": inputs, "expectations": labels}, where)
    row = from_mapping(facts, where)
    if _inputs(row) != inputs:
        facts = {**facts, "inputs": inputs, "id": None}
    if _expected(row) != labels:
        facts["expectations"] = labels
    return from_mapping(facts, where)
