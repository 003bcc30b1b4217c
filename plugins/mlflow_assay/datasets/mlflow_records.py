"""A row as a record of MLflow's own evaluation dataset, and back; what a record cannot hold goes into its tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_assay.datasets.canonical import canonical
from mlflow_assay.datasets.model import SPLITS, DatasetRow

__all__ = ["Unmapped", "from_record", "to_records"]

_TAG = "assay.dataset."
_OURS = ("session", "slice", "split", "group")
_USER = "mlflow.user"  # MLflow adds it to every record
_SESSION_FIELDS = {"persona", "goal", "context", "simulation_guidelines"}


@dataclass
class Unmapped:
    """What could not be carried over, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)

    def note(self, reason: str) -> None:
        """One more of this."""
        self.reasons[reason] += 1


def to_records(rows: Iterable[DatasetRow], unmapped: Unmapped) -> list[dict[str, Any]]:
    """Records for `merge_records`; MLflow keeps one for each inputs, so of rows with the same inputs the first counts.

    Rows MLflow has no place for are left out and noted.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not isinstance(row.inputs, Mapping) or not row.inputs:
            unmapped.note("row left out: MLflow takes inputs that are a mapping with at least one key")
        elif "goal" in row.inputs and set(row.inputs) - _SESSION_FIELDS:
            unmapped.note("row left out: MLflow takes `goal` among the inputs for a simulated session's")
        elif (key := canonical(row.inputs)) in found:
            unmapped.note("row left out: MLflow keeps one record for each inputs")
        else:
            found[key] = _record(row)
    return list(found.values())


def _record(row: DatasetRow) -> dict[str, Any]:
    facts = row.to_dict()
    tags = dict(facts["tags"]) | {_TAG + name: facts[name] for name in _OURS if facts[name] is not None}
    tags[_TAG + "id"] = row.id
    if row.weight != 1.0:
        tags[_TAG + "weight"] = repr(row.weight)
    if row.redacted:
        tags[_TAG + "redacted"] = canonical(dict(row.redacted))
    kind, source = ("TRACE", {"trace_id": row.trace_id}) if row.trace_id else ("CODE", {})
    return {
        "inputs": facts["inputs"],
        "outputs": facts["outputs"],
        "expectations": facts["expectations"],
        "tags": tags,
        "source": {"source_type": kind, "source_data": source},
    }


def from_record(record: Mapping[str, Any], unmapped: Unmapped) -> DatasetRow:
    """The row of one record, as `EvaluationDataset.to_df` gives it."""
    tags = {str(k): v if isinstance(v, str) else canonical(v) for k, v in (record.get("tags") or {}).items()}
    if tags.pop(_USER, None) is not None:
        unmapped.note(f"tag left out: {_USER}, which MLflow sets on every record")
    ours = {name: tags.pop(_TAG + name, None) for name in (*_OURS, "id", "weight", "redacted")}
    trace_id = record.get("source_id") if str(record.get("source_type")).upper() == "TRACE" else None
    if trace_id is None and record.get("source_id"):
        tags[_TAG + "source"] = f"{record.get('source_type')}:{record['source_id']}"
        unmapped.note("source kept as a tag: it is no trace")
    if ours["split"] not in (*SPLITS, None):
        unmapped.note(f"split {ours['split']!r} left out: there is no such split")
        ours["split"] = None
    return DatasetRow(
        inputs=record["inputs"],
        outputs=record.get("outputs"),
        expectations=record.get("expectations") or {},
        trace_id=trace_id,
        session=ours["session"],
        slice=ours["slice"],
        split=ours["split"],
        group=ours["group"],
        tags=tags,
        weight=float(ours["weight"] or 1.0),
        redacted=json.loads(ours["redacted"] or "{}"),
        id=ours["id"] or "",
    )
