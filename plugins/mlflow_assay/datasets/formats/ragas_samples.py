"""Ragas `EvaluationDataset` of single turns: as an object, and as the JSON lines it reads.

A sample has no room for more than texts: `user_input`, `response`, `reference` (the expectation `expected_response`),
`reference_contexts` (the expectation `context`) and `rubrics`. Everything else is lost, and said to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.canonical import canonical
from mlflow_assay.datasets.formats.parts import CONTEXT, EXPECTED, library, new_path, one_text
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import InputError

if TYPE_CHECKING:
    from ragas.dataset_schema import EvaluationDataset

__all__ = ["RagasSamples", "from_ragas", "to_ragas"]

_RUBRICS = "rubrics"


def to_ragas(rows: Iterable[DatasetRow], lost: Counter[str] | None = None) -> EvaluationDataset:
    """The rows as a Ragas dataset.

    Args:
        lost: is told what could not be carried over.

    Raises:
        ConfigError: Ragas is not installed.
    """
    schema = library("ragas.dataset_schema", "ragas")
    lost = Counter() if lost is None else lost
    return schema.EvaluationDataset(samples=[schema.SingleTurnSample(**_fields(row, lost)) for row in rows])


def from_ragas(dataset: EvaluationDataset) -> Iterator[DatasetRow]:
    """The row of each sample; a conversation's messages become the inputs.

    A sample's fields that have no expectation of their own keep their names among the expectations.
    """
    for sample in dataset:
        facts: dict[str, Any] = sample.to_dict()
        asked = facts.pop("user_input", None)
        inputs = {"messages": asked} if isinstance(asked, list) else {"input": asked}
        names = {"reference": EXPECTED, "reference_contexts": CONTEXT}
        outputs = facts.pop("response", None)
        expectations = {names.get(name, name): value for name, value in facts.items()}
        yield DatasetRow(inputs, outputs, expectations)


class RagasSamples:
    """Entry point `ragas` of `mlflow_assay.dataset_formats`."""

    def write(self, rows: Iterable[DatasetRow], path: Path) -> Mapping[str, int]:
        """Write the JSON lines that `EvaluationDataset.from_jsonl` reads."""
        lost: Counter[str] = Counter()
        to_ragas(rows, lost).to_jsonl(str(new_path(path)))
        return dict(lost)

    def read(self, path: Path) -> Iterator[DatasetRow]:
        """Rows of a file that `EvaluationDataset.to_jsonl` wrote."""
        schema = library("ragas.dataset_schema", "ragas")
        try:
            found = schema.EvaluationDataset.from_jsonl(str(path))
        except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
            raise InputError(f"{path}: this is no file of Ragas samples: {error}") from error
        yield from from_ragas(found)


def _fields(row: DatasetRow, lost: Counter[str]) -> dict[str, Any]:
    expected = dict(row.expectations)
    reference, context, rubrics = (expected.pop(key, None) for key in (EXPECTED, CONTEXT, _RUBRICS))
    context = [context] if isinstance(context, str) else context
    lost.update(f"expectation {name} left out" for name in expected)
    if not isinstance(row.inputs, str) and set(row.inputs if isinstance(row.inputs, Mapping) else ()) != {"input"}:
        lost["names of inputs left out"] += 1
    if row.outputs is not None and not isinstance(row.outputs, str):
        lost["outputs made a text"] += 1
    for name in ("trace_id", "session", "slice", "split", "group"):
        lost[f"{name} left out"] += getattr(row, name) is not None
    lost["tags left out"] += bool(row.tags)
    lost["weight left out"] += row.weight != 1.0
    for name in [name for name, count in lost.items() if not count]:
        del lost[name]
    return {
        "user_input": one_text(row.inputs),
        "response": one_text(row.outputs),
        "reference": one_text(reference),
        "reference_contexts": [one_text(c) or "" for c in context] if isinstance(context, list) else None,
        "rubrics": {str(k): one_text(v) or canonical(v) for k, v in rubrics.items()} if rubrics else None,
    }
