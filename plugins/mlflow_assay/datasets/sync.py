"""Two ways between a dataset here and MLflow's own evaluation dataset of the same name.

MLflow's has no versions, so the last synchronised version is noted on it as a tag, and both sides are compared with
that one: what changed on one side goes to the other. A row changed on both sides, differently, is a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay.datasets.canonical import canonical
from mlflow_assay.datasets.dataset import Dataset
from mlflow_assay.datasets.mlflow_records import Unmapped, from_record, to_records
from mlflow_assay.datasets.model import About, DatasetRow
from mlflow_assay.errors import ConflictError, StoreError

if TYPE_CHECKING:
    from mlflow.genai.datasets import EvaluationDataset

    from mlflow_assay.contracts import DatasetStore

__all__ = ["Synced", "pull", "push", "sync"]

_REFERENCE, _DIGEST, _STORE = "assay.dataset.version", "assay.dataset.digest", "assay.dataset.store"
_BATCH = 500

Rows = dict[str, DatasetRow]


@dataclass(frozen=True)
class Synced:
    """What a synchronisation did.

    Attributes:
        version: the version both sides hold now.
        mlflow_id: MLflow's id of its dataset.
        here: rows added, changed and removed here.
        there: rows added, changed and removed in MLflow.
        conflicts: ids of rows changed on both sides, settled as asked.
        unmapped: what could not be carried over, by reason, with counts.
    """

    version: str
    mlflow_id: str
    here: Mapping[str, int]
    there: Mapping[str, int]
    conflicts: tuple[str, ...] = ()
    unmapped: Mapping[str, int] = field(default_factory=dict)


def push(dataset: Dataset, name: str | None = None, experiment_ids: Sequence[str] = ()) -> Synced:
    """Make MLflow's dataset hold exactly this version's rows; it is created where there is none.

    Args:
        dataset: what to push.
        name: of MLflow's dataset; None takes the dataset's own.
        experiment_ids: experiments a new one belongs to.

    Raises:
        StoreError: MLflow refuses it or cannot be reached.
    """
    found = _open(name or dataset.manifest.name, experiment_ids)
    unmapped = Unmapped()
    wanted = {canonical(r["inputs"]): r for r in to_records(dataset.rows(), unmapped)}
    there = _write(found, wanted, dataset)
    return Synced(dataset.reference, found.dataset_id, {}, there, (), dict(unmapped.reasons))


def pull(name: str, unmapped: Unmapped | None = None) -> list[DatasetRow]:
    """The rows of MLflow's dataset of that name.

    Raises:
        StoreError: MLflow has none.
    """
    found = _find(name)
    if found is None:
        raise StoreError(f"MLflow has no evaluation dataset {name!r}.", fix="Push one first, or name it rightly.")
    return [from_record(record, unmapped or Unmapped()) for record in _records(found)]


def sync(
    store: DatasetStore,
    name: str,
    mlflow_name: str | None = None,
    *,
    experiment_ids: Sequence[str] = (),
    prefer: Literal["here", "mlflow"] | None = None,
) -> Synced:
    """Carry over what changed on either side since the last time; a new version is written where MLflow's changed.

    Args:
        store: where the dataset is.
        name: of the dataset here; it is created from MLflow's where there is none.
        mlflow_name: of MLflow's dataset; None takes the same name.
        experiment_ids: experiments a new dataset of MLflow's belongs to.
        prefer: which side wins a conflict; None makes one an error.

    Raises:
        ConflictError: rows changed on both sides, or another writer was first here; nothing was written.
        StoreError: MLflow cannot be used, or neither side has such a dataset.
    """
    found, unmapped = _open(mlflow_name or name, experiment_ids), Unmapped()
    versions = store.versions(name)
    latest = versions[-1] if versions else None
    mine = {row.id: row for row in store.rows(latest)} if latest else {}
    theirs = _joined((from_record(record, unmapped) for record in _records(found)), mine)
    base = _base(store, found, name, mine)
    merged, conflicts = _merge(base, mine, theirs, prefer)
    if not merged and not mine and not theirs:
        raise StoreError(f"Neither the store nor MLflow has a dataset {name!r} with rows.")
    here = _counts(mine, merged)
    if any(here.values()) or latest is None:
        about = About(how="sync", query={"mlflow_dataset": found.name, "mlflow_dataset_id": found.dataset_id})
        latest = store.write(name, merged.values(), about, expect=latest.version if latest else 0)
    lost = Unmapped()
    records = {canonical(r["inputs"]): r for r in to_records(merged.values(), lost)}
    there = _write(found, records, Dataset(latest, store))
    reasons = unmapped.reasons + lost.reasons
    return Synced(latest.reference, found.dataset_id, here, there, tuple(conflicts), dict(reasons))


# --- comparing -------------------------------------------------------------------------------------------


def _joined(rows: Iterable[DatasetRow], mine: Rows) -> Rows:
    """MLflow's rows by id, and with them those of mine MLflow cannot hold: they count as unchanged there."""
    found = {row.id: row for row in rows}
    held = {canonical(row.inputs) for row in found.values()}
    mapped = {canonical(r["inputs"]) for r in to_records(mine.values(), Unmapped())}
    ids = {r["tags"]["assay.dataset.id"] for r in to_records(mine.values(), Unmapped())}
    for row in mine.values():
        text = canonical(row.inputs)
        if text not in mapped or (row.id not in ids and text in held):
            found[row.id] = row
    return found


def _base(store: DatasetStore, found: EvaluationDataset, name: str, mine: Rows) -> Rows:
    """What both sides held after the last synchronisation; nothing where there was none."""
    tags = found.tags or {}
    digest, noted = tags.get(_DIGEST), str(tags.get(_REFERENCE, ""))
    if not digest or noted.split("@")[0] != name:
        return {}
    try:
        version = store.find(f"{name}@{digest}")
    except StoreError:
        return {}  # that version has been removed: both sides are compared with one another alone
    return {row.id: row for row in store.rows(version)}


def _merge(base: Rows, mine: Rows, theirs: Rows, prefer: str | None) -> tuple[Rows, list[str]]:
    merged: Rows = {}
    conflicts: list[str] = []
    for id_ in dict.fromkeys((*mine, *theirs)):
        was, here, there = (_content(side.get(id_)) for side in (base, mine, theirs))
        if here == there or there == was:
            kept = mine.get(id_)
        elif here == was:
            kept = theirs.get(id_)
        else:
            conflicts.append(id_)
            kept = (theirs if prefer == "mlflow" else mine).get(id_)
        if kept is not None:
            merged[id_] = kept
    if conflicts and prefer is None:
        raise ConflictError(
            f"{len(conflicts)} rows changed both here and in MLflow, first {conflicts[0]}; nothing was written.",
            fix="Say which side wins: prefer='here' or 'mlflow' (--prefer).",
        )
    return merged, conflicts


def _content(row: DatasetRow | None) -> str | None:
    return None if row is None else row.content


def _counts(before: Rows, after: Rows) -> dict[str, int]:
    return {
        "added": sum(i not in before for i in after),
        "changed": sum(i in before and before[i].content != row.content for i, row in after.items()),
        "removed": sum(i not in after for i in before),
    }


# --- MLflow ----------------------------------------------------------------------------------------------


def _find(name: str) -> EvaluationDataset | None:
    from mlflow.exceptions import MlflowException
    from mlflow.genai.datasets import get_dataset

    from mlflow_assay.sources.mlflow_store import reach

    reach()
    try:
        return get_dataset(name=name)
    except MlflowException as error:
        if "not found" in str(error):
            return None
        raise StoreError(f"MLflow's evaluation dataset {name!r} cannot be read: {error.message}") from error


def _open(name: str, experiment_ids: Sequence[str]) -> EvaluationDataset:
    from mlflow.exceptions import MlflowException
    from mlflow.genai.datasets import create_dataset

    try:
        return _find(name) or create_dataset(name=name, experiment_id=list(experiment_ids) or None)
    except MlflowException as error:
        raise StoreError(f"MLflow cannot make the evaluation dataset {name!r}: {error.message}") from error


def _records(found: EvaluationDataset) -> list[dict[str, Any]]:
    frame = found.to_df()
    records: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return records


def _write(found: EvaluationDataset, wanted: Mapping[str, dict[str, Any]], dataset: Dataset) -> dict[str, int]:
    """Make MLflow's dataset hold exactly these records. Changed ones are put anew: MLflow would mix old and new."""
    from mlflow.exceptions import MlflowException
    from mlflow.genai.datasets import set_dataset_tags

    quiet = Unmapped()
    old = {canonical(record["inputs"]): record for record in _records(found)}
    same = {k for k, r in old.items() if k in wanted and _same(r, wanted[k], quiet)}
    gone = [str(record["dataset_record_id"]) for key, record in old.items() if key not in same]
    fresh = [record for key, record in wanted.items() if key not in same]
    try:
        for start in range(0, len(gone), _BATCH):
            found.delete_records(gone[start : start + _BATCH])
        for start in range(0, len(fresh), _BATCH):
            found.merge_records(fresh[start : start + _BATCH])
        noted = {_REFERENCE: dataset.reference, _DIGEST: dataset.digest, _STORE: dataset.store.url}
        set_dataset_tags(dataset_id=found.dataset_id, tags=noted)
    except MlflowException as error:
        raise StoreError(f"MLflow's evaluation dataset {found.name!r} cannot be written: {error.message}") from error
    return {
        "added": sum(key not in old for key in wanted),
        "changed": sum(key in old and key not in same for key in wanted),
        "removed": sum(key not in wanted for key in old),
    }


def _same(old: Mapping[str, Any], new: Mapping[str, Any], quiet: Unmapped) -> bool:
    flat = {
        **new,
        "source_type": new["source"]["source_type"],
        "source_id": new["source"]["source_data"].get("trace_id"),
    }
    return from_record(old, quiet).content == from_record(flat, quiet).content
