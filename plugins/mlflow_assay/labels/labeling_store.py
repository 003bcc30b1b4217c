"""The door MLflow finds in the entry points `mlflow.labeling_store`: labeling sessions on open-source servers.

MLflow imports this module while it is itself being imported, so it imports nothing; what does the work is in
`labeling_sessions`, loaded when a labeling session is first asked for. Until then nothing in MLflow changes.
"""

from __future__ import annotations

from typing import Any

__all__ = ["labeling_store"]


def labeling_store(tracking_uri: str | None = None) -> Any:
    """An MLflow `AbstractLabelingStore` over review queues and label schemas.

    Args:
        tracking_uri: as MLflow resolved it.
    """
    from mlflow_assay.labels.labeling_sessions import ReviewQueueLabelingStore

    return ReviewQueueLabelingStore(tracking_uri)
