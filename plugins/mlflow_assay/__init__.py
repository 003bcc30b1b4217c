"""Trusted agent-quality measurement on top of MLflow.

    import mlflow_assay as assay

    judges = assay.build_judges(["request_resolved"], model=assay.ModelSettings("openai:/gpt-4.1-mini"))
    report = assay.score(assay.MlflowSource("support"), judges)

Names are imported when they are first used, so `import mlflow_assay` imports neither MLflow nor any judge library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_assay.contracts import BoundJudge, JudgeContract, ModelSettings, Outcome, Unscored, UnscoredError
    from mlflow_assay.datasets.build import BuildPlan
    from mlflow_assay.datasets.store import load_dataset
    from mlflow_assay.engine.report import RunReport
    from mlflow_assay.errors import AssayError
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.pipeline import build_dataset, build_judges, evaluate, optimization, optimize, score
    from mlflow_assay.sources.mlflow_store import MlflowSource
    from mlflow_assay.trust.estimate import Estimate

__all__ = [
    "AssayError",
    "BoundJudge",
    "BuildPlan",
    "Catalogue",
    "Estimate",
    "JudgeContract",
    "MlflowSource",
    "ModelSettings",
    "Outcome",
    "RunReport",
    "Unscored",
    "UnscoredError",
    "build_dataset",
    "build_judges",
    "evaluate",
    "load_dataset",
    "optimization",
    "optimize",
    "score",
]

_HOMES = {
    "AssayError": "errors",
    "BoundJudge": "contracts",
    "BuildPlan": "datasets.build",
    "Catalogue": "judges.catalogue",
    "Estimate": "trust.estimate",
    "JudgeContract": "contracts",
    "MlflowSource": "sources.mlflow_store",
    "ModelSettings": "contracts",
    "Outcome": "contracts",
    "RunReport": "engine.report",
    "Unscored": "contracts",
    "UnscoredError": "contracts",
    "build_dataset": "pipeline",
    "build_judges": "pipeline",
    "evaluate": "pipeline",
    "load_dataset": "datasets.store",
    "optimization": "pipeline",
    "optimize": "pipeline",
    "score": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mlflow-assay")
    if name not in _HOMES:
        raise AttributeError(f"module 'mlflow_assay' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mlflow_assay.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
