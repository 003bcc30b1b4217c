"""Doors in MLflow: `mlflow.dataset_source` (entry point `assay`) and `mlflow.dataset_constructor` (`from_assay`).

    mlflow.log_input(mlflow.data.from_assay("misrouted@golden"), context="evaluation")
    run.inputs.dataset_inputs[0].dataset             # name, digest and source of that version
    mlflow.data.get_source(run.inputs.dataset_inputs[0]).load()  # its rows, from the store they are in

MLflow imports this module while it is itself being imported, so it imports little; what does the work is loaded when
a dataset is first asked for. Without `from __future__ import annotations`: MLflow looks at the constructor's return
type, and a string would not do.
"""

import json
from typing import TYPE_CHECKING, Any

from mlflow.data.dataset import Dataset as MlflowDataset
from mlflow.data.dataset_source import DatasetSource

from mlflow_assay.datasets.dataset import Dataset
from mlflow_assay.datasets.identity import SOURCE_TYPE, identity
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AssayDataset", "AssaySource", "from_assay"]

_PREFIX = "assay-dataset:"


class AssaySource(DatasetSource):
    """One version of a dataset (or one split of it) as MLflow's source of a dataset.

    Args:
        store: URL of the store.
        reference: `NAME@v3`.
        split: None for all rows.
    """

    def __init__(self, store: str, reference: str, split: str | None = None) -> None:
        self.store = store
        self.reference = reference
        self.split = split

    def open(self) -> Dataset:
        """The version, from the store it is in.

        Raises:
            StoreError: it is no longer there.
        """
        from mlflow_assay.datasets.store import load_dataset

        return load_dataset(self.reference, self.store)

    def load(self) -> "pd.DataFrame":
        """Its rows as a pandas frame."""
        return self.open().to_pandas(self.split)

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, Dataset) or (isinstance(raw_source, str) and raw_source.startswith(_PREFIX))

    @classmethod
    def _resolve(cls, raw_source: Any) -> "AssaySource":
        from mlflow_assay.datasets.store import load_dataset

        if isinstance(raw_source, str):
            raw_source = load_dataset(raw_source.removeprefix(_PREFIX))
        return cls(raw_source.store.url, raw_source.reference)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {"store": self.store, "reference": self.reference, "split": self.split}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "AssaySource":
        """The source `to_dict` gave."""
        return cls(source_dict["store"], source_dict["reference"], source_dict.get("split"))


class AssayDataset(MlflowDataset):
    """One version of a dataset as MLflow's own kind of dataset, for `mlflow.log_input`."""

    def __init__(self, dataset: Dataset, split: str | None = None, name: str | None = None) -> None:
        self.dataset = dataset
        self.split = split
        self._facts = identity(dataset.store.url, dataset.manifest, split)
        source = AssaySource(dataset.store.url, dataset.reference, split)
        super().__init__(source, name or self._facts["name"], self._facts["digest"])

    def _compute_digest(self) -> str:
        return self._facts["digest"]

    @property
    def df(self) -> "pd.DataFrame":
        """Its rows as a pandas frame."""
        return self.dataset.to_pandas(self.split)

    @property
    def schema(self) -> Any:
        """Column to type, as stored."""
        return json.loads(self._facts["schema"])

    @property
    def profile(self) -> Any:
        """Row counts, and the whole digest."""
        return json.loads(self._facts["profile"])

    def to_dict(self) -> dict[str, str]:
        """What MLflow stores of it."""
        kept: dict[str, str] = super().to_dict()
        return kept | {"schema": self._facts["schema"], "profile": self._facts["profile"]}


def from_assay(
    reference: str | Dataset,
    store: str | None = None,
    split: str | None = None,
    name: str | None = None,
    digest: str | None = None,
) -> AssayDataset:
    """`mlflow.data.from_assay`: one version of a dataset, to be logged as a run's input.

    Args:
        reference: `NAME@golden` and the like, with the store's URL before it where `store` is not given; or a dataset.
        store: URL of the store; None as in `datasets.store.load_dataset`.
        split: one split only.
        name: in place of the version's own.
        digest: what the digest has to be, or to begin with; None takes what is there.

    Raises:
        ConfigError: the version has another digest.
        StoreError: there is no such version.
    """
    from mlflow_assay.datasets.store import load_dataset

    found = reference if isinstance(reference, Dataset) else load_dataset(reference, store)
    if digest is not None and not found.digest.startswith(digest):
        raise ConfigError(f"{found.reference} is not the dataset asked for.", found=found.digest, valid=f"{digest}…")
    return AssayDataset(found, split, name)
