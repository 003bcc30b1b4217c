"""A version as a pandas frame that carries its identity into MLflow's evaluation runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.columns import COLUMNS, JSON_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_assay.datasets.model import Dataset

__all__ = ["to_frame"]


def to_frame(dataset: Dataset, split: str | None = None) -> pd.DataFrame:
    """A column for each field of a row; JSON cells are read into Python values. See `Dataset.to_pandas`."""
    import pyarrow.compute as pc

    keep = None if split is None else pc.field("split") == split
    table = dataset.store.arrow(dataset.manifest).to_table(columns=list(COLUMNS[:-1]), filter=keep)
    columns: dict[str, Any] = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        read = [None if v is None else json.loads(v) for v in values] if name in JSON_COLUMNS else values
        columns[name] = read
    return _frame(columns)


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    # Objects throughout: pandas' own text type would turn None into NaN, which is no value of any field.
    typed = {name: pd.Series(values, dtype=float if name == "weight" else object) for name, values in columns.items()}
    return pd.DataFrame(typed)
