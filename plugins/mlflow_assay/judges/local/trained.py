"""What training leaves behind: all a local judge is made of, and all its file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_assay.judges.local.confidence import Confidence
from mlflow_assay.judges.local.crossval import Linear
from mlflow_assay.judges.local.embedder import EmbedderRef
from mlflow_assay.judges.local.examples import Field
from mlflow_assay.judges.local.report import TrainingReport

__all__ = ["Trained"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A text classifier trained on labelled traces: its numbers and its evidence.

    Attributes:
        name: the assessment name of its verdicts.
        purpose: the question it answers.
        good: the value a passing trace gets; False where the label names a fault, such as `pii_leak`.
        fields: what it reads, kinds settled.
        model: blocks, coefficients and intercept.
        seen: category field -> its values in training, for fields another is crossed with.
        confidence: from score to chance of being right.
        threshold: least confidence with which it answers.
        report: the evidence.
        trained_on: ids of the traces whose labels it learnt.
        versions: of the libraries it was trained with.
        embedder: the embedding model it reads meaning with, or None.
    """

    name: str
    purpose: str
    good: bool
    fields: tuple[Field, ...]
    model: Linear
    seen: Mapping[str, tuple[str, ...]]
    confidence: Confidence
    threshold: float
    report: TrainingReport
    trained_on: frozenset[str]
    versions: Mapping[str, str]
    embedder: EmbedderRef | None = None
