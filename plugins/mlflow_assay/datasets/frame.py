"""A version as a pandas frame that carries its identity into MLflow's evaluation runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.columns import COLUMNS, JSON_COLUMNS
from mlflow_assay.datasets.identity import attach

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_assay.contracts import DatasetStore
    from mlflow_assay.datasets.model import Manifest

__all__ = ["to_evaluation", "to_frame"]


def to_frame(store: DatasetStore, manifest: Manifest, split: str | None = None) -> pd.DataFrame:
    """A column for each field of a row; JSON cells are read into Python values. See `Dataset.to_pandas`."""
    return attach(_frame(_columns(store, manifest, split, COLUMNS[:-1])), store.url, manifest, split)


def to_evaluation(
    store: DatasetStore, manifest: Manifest, split: str | None = None, *, outputs: bool = False
) -> pd.DataFrame:
    """The columns `mlflow.genai.evaluate` reads. See `Dataset.to_evaluation`."""
    names = ("inputs", "outputs", "expectations", "tags") if outputs else ("inputs", "expectations", "tags")
    columns = _columns(store, manifest, split, (*names, "id", "trace_id"))
    ids = zip(columns.pop("tags"), columns.pop("id"), columns.pop("trace_id"), strict=True)
    columns["tags"] = [
        tags | {"assay.dataset.row": row} | ({"assay.dataset.trace": trace} if trace else {})
        for tags, row, trace in ids
    ]
    return attach(_frame(columns), store.url, manifest, split)


def _columns(
    store: DatasetStore, manifest: Manifest, split: str | None, names: tuple[str, ...]
) -> dict[str, list[Any]]:
    import pyarrow.compute as pc

    keep = None if split is None else pc.field("split") == split
    table = store.arrow(manifest).to_table(columns=list(names), filter=keep)
    return {name: _values(name, table.column(name).to_pylist()) for name in names}


def _values(name: str, values: list[Any]) -> list[Any]:
    return [None if v is None else json.loads(v) for v in values] if name in JSON_COLUMNS else values


def _frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    import pandas as pd

    # Objects throughout: pandas' own text type would turn None into NaN, which is no value of any field.
    typed = {name: pd.Series(values, dtype=float if name == "weight" else object) for name, values in columns.items()}
    return pd.DataFrame(typed)
