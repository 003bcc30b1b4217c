"""Local judges: text classifiers trained from labelled traces. No key, no model call, nothing leaves the machine.

    labels = of_traces(infos, "correct_route")                      # who said what, conflicts settled
    options = Options(["first_user_message", "tag:agent"])          # what the judge reads
    judge = train(traces, labels, name="routing", options=options)  # a LocalJudge with its evidence
    judge.report.kappa_low, judge.report.refusals                   # may it be used?
    judge.save("routing.judge.zip"); LocalScorer(LocalJudge.load("routing.judge.zip"))

The saved file holds words and word fragments of the training texts (digits and e-mail addresses masked), so it is
as confidential as they are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_assay.judges.local.definition import save_with_definition
    from mlflow_assay.judges.local.examples import Example, Field
    from mlflow_assay.judges.local.judge import LocalJudge, Prediction
    from mlflow_assay.judges.local.labels import LabelSet, of_traces, settle
    from mlflow_assay.judges.local.report import TrainingReport
    from mlflow_assay.judges.local.scorer import LocalScorer
    from mlflow_assay.judges.local.training import Options, train, train_examples

_WHERE = {
    "Example": "examples",
    "Field": "examples",
    "LabelSet": "labels",
    "LocalJudge": "judge",
    "LocalScorer": "scorer",
    "Options": "training",
    "Prediction": "judge",
    "TrainingReport": "report",
    "of_traces": "labels",
    "save_with_definition": "definition",
    "settle": "labels",
    "train": "training",
    "train_examples": "training",
}

__all__ = [
    "Example",
    "Field",
    "LabelSet",
    "LocalJudge",
    "LocalScorer",
    "Options",
    "Prediction",
    "TrainingReport",
    "of_traces",
    "save_with_definition",
    "settle",
    "train",
    "train_examples",
]


def __getattr__(name: str) -> Any:
    """Import on first use: the catalogue lists this library without loading scikit-learn."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
