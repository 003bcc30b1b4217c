"""One version of a dataset, as its users hold it: rows one by one, or a frame MLflow evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_assay.datasets.model import SPLITS, DatasetRow, Manifest
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_assay.contracts import DatasetStore

__all__ = ["Dataset"]


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset, and the store it can be read from."""

    manifest: Manifest
    store: DatasetStore

    @property
    def digest(self) -> str:
        """Over the rows' content, 64 hex digits."""
        return self.manifest.digest

    @property
    def reference(self) -> str:
        """`NAME@v3`."""
        return self.manifest.reference

    @property
    def uri(self) -> str:
        """Store and version in one address, such as `s3://bucket/datasets/misrouted@v3`."""
        return f"{self.store.url.rstrip('/')}/{self.reference}"

    def __len__(self) -> int:
        return self.manifest.rows

    def rows(self, split: str | None = None) -> Iterator[DatasetRow]:
        """The rows, or those of one split, without holding them all in memory.

        Raises:
            ConfigError: there is no such split.
        """
        if split is not None and split not in SPLITS:
            raise ConfigError(f"There is no split {split!r}.", valid=SPLITS)
        return self.store.rows(self.manifest, split=split)

    def to_pandas(self, split: str | None = None) -> pd.DataFrame:
        """A frame with a column for each field of `DatasetRow`; `inputs`, `outputs` and the like are Python values.

        It carries the dataset's identity, so `mlflow.genai.evaluate(data=frame, …)` and `mlflow_assay.evaluate`
        record exactly this dataset and digest on the run.
        """
        from mlflow_assay.datasets.frame import to_frame

        return to_frame(self.store, self.manifest, split)

    def to_evaluation(self, split: str | None = None, *, outputs: bool = False) -> pd.DataFrame:
        """A frame for `mlflow.genai.evaluate` and `mlflow_assay.evaluate`: inputs, expectations, tags.

        Like `to_pandas`, it carries the dataset's identity. Tags name each row and the trace it came from.

        Args:
            split: one split only.
            outputs: also the recorded outputs, to judge those; without them the evaluation calls a `predict_fn`.
        """
        from mlflow_assay.datasets.frame import to_evaluation

        return to_evaluation(self.store, self.manifest, split, outputs=outputs)
