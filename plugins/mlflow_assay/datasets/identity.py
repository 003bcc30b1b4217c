"""How MLflow is told which dataset a run used: name, digest, source, schema and profile of one version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlflow_assay.datasets.model import Manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SOURCE_TYPE", "attach", "identity"]

SOURCE_TYPE = "assay"

_LONGEST_DIGEST = 36  # of MLflow's own


def identity(store_url: str, manifest: Manifest, split: str | None = None) -> dict[str, str]:
    """The fields of MLflow's `Dataset` entity for one version, or one split of it.

    The name holds version and split, since MLflow keeps one source for each name and digest. The digest is the first
    36 digits of the version's; the profile holds all 64.
    """
    profile: dict[str, Any] = {
        "num_rows": manifest.splits.get(split, 0) if split else manifest.rows,
        "digest": manifest.digest,
        "splits": dict(manifest.splits),
    }
    return {
        "name": f"{manifest.reference}/{split}" if split else manifest.reference,
        "digest": manifest.digest[:_LONGEST_DIGEST],
        "source_type": SOURCE_TYPE,
        "source": json.dumps({"store": store_url, "reference": manifest.reference, "split": split}),
        "schema": json.dumps({"assay": dict(manifest.schema)}),
        "profile": json.dumps(profile),
    }


def attach(frame: pd.DataFrame, store_url: str, manifest: Manifest, split: str | None = None) -> pd.DataFrame:
    """The frame with the identity where `mlflow.genai.evaluate` looks for it; it counts while no value is changed."""
    from mlflow.genai.datasets.evaluation_dataset import compute_records_sha256
    from mlflow.utils.mlflow_tags import MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY

    known = identity(store_url, manifest, split) | {"records_sha256": compute_records_sha256(frame)}
    frame.attrs[MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY] = known
    return frame
