"""DeepEval goldens: as objects, and as the JSON file `EvaluationDataset.add_goldens_from_json_file` reads.

`input` and `actual_output` are texts there: a text, the only text of a mapping, else JSON. `expected_response`,
`context` and `expected_tool_calls` among the expectations are the golden's own fields. The whole row goes along in
`additional_metadata["assay"]`, so nothing is lost; what was edited in the golden's own fields wins on the way back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.canonical import plain
from mlflow_assay.datasets.formats.parts import (
    CONTEXT,
    EXPECTED,
    TOOLS,
    from_mapping,
    library,
    new_path,
    one_text,
    with_text,
)
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import InputError

if TYPE_CHECKING:
    from deepeval.dataset import Golden

__all__ = ["DeepEvalGoldens", "from_goldens", "to_goldens"]

_OURS = "assay"


def to_goldens(rows: Iterable[DatasetRow]) -> Iterator[Golden]:
    """A DeepEval golden for each row.

    Raises:
        ConfigError: DeepEval is not installed.
    """
    golden = library("deepeval.dataset", "deepeval").Golden
    tool = library("deepeval.test_case", "deepeval").ToolCall
    for row in rows:
        tools = row.expectations.get(TOOLS)
        named = _are_calls(tools)
        yield golden(
            input=one_text(row.inputs) or "",
            actual_output=one_text(row.outputs),
            expected_output=one_text(row.expectations.get(EXPECTED)),
            context=_texts(row.expectations.get(CONTEXT)),
            expected_tools=[tool(**_call(t)) for t in tools or []] if named else None,
            name=row.id,
            additional_metadata={_OURS: row.to_dict()},
        )


def from_goldens(goldens: Iterable[Golden]) -> Iterator[DatasetRow]:
    """The row of each golden."""
    for number, golden in enumerate(goldens):
        yield _row(golden, f"golden {number}")


class DeepEvalGoldens:
    """Entry point `deepeval` of `mlflow_assay.dataset_formats`."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Write a JSON file of goldens."""
        dump = {"by_alias": False, "exclude_none": True, "mode": "json"}
        with new_path(path).open("x", encoding="utf-8") as file:
            json.dump([golden.model_dump(**dump) for golden in to_goldens(rows)], file)
        return {}

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """Rows of a JSON file of goldens, also of one DeepEval saved."""
        found = library("deepeval.dataset", "deepeval").EvaluationDataset()
        try:
            found.add_goldens_from_json_file(str(path))
        except (ValueError, AttributeError, TypeError, OSError) as error:
            raise InputError(f"{path}: this is no file of goldens: {error}") from error
        yield from from_goldens(found.goldens)


def _row(golden: Any, where: str) -> DatasetRow:
    if not hasattr(golden, "input"):
        raise InputError(f"{where}: a conversational golden is a scenario to be played, which no row can hold.")
    metadata = dict(golden.additional_metadata or {})
    facts = dict(metadata.pop(_OURS, None) or {"inputs": {"input": golden.input}, "outputs": golden.actual_output})
    before = facts["inputs"]
    facts["inputs"] = with_text(before, golden.input)
    facts["outputs"] = with_text(facts.get("outputs"), golden.actual_output)
    expected = dict(facts.get("expectations") or {})
    for key, value in ((EXPECTED, golden.expected_output), (CONTEXT, golden.context)):
        same = one_text(expected.get(key)) if key == EXPECTED else _texts(expected.get(key))
        if value != same:
            expected = {k: v for k, v in {**expected, key: value}.items() if v is not None}
    if TOOLS not in expected and golden.expected_tools:
        expected[TOOLS] = [{"name": t.name, "arguments": t.input_parameters or {}} for t in golden.expected_tools]
    if facts["inputs"] != before:
        facts.pop("id", None)
    tags = dict(facts.get("tags") or {}) | {str(k): one_text(plain(v)) or "" for k, v in metadata.items()}
    return from_mapping({**facts, "expectations": expected, "tags": tags}, where)


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    return [one_text(v) or "" for v in value] if isinstance(value, list) else None


def _are_calls(tools: Any) -> bool:
    return isinstance(tools, list) and bool(tools) and all(isinstance(t, Mapping) and "name" in t for t in tools)


def _call(tool: Mapping[str, Any]) -> dict[str, Any]:
    arguments = tool.get("arguments")
    return {"name": str(tool["name"]), "input_parameters": dict(arguments) if isinstance(arguments, Mapping) else None}
