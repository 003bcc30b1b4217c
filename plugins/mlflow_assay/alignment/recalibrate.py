"""A better threshold for a judge that already scores well: no model call at all."""

from __future__ import annotations

from typing import ClassVar

from mlflow_assay.alignment.aligner import Aligner, Proposal, Task
from mlflow_assay.contracts import BoundJudge, NumericValue
from mlflow_assay.errors import NotTrustedError
from mlflow_assay.trust.recalibrate import MIN_LABELS
from mlflow_assay.trust.recalibrate import recalibrate as choose

__all__ = ["Recalibrate"]


class Recalibrate(Aligner):
    """Moves the pass threshold of a numeric judge to where it agrees best with the experts.

    Training and validation labels are used together: cross-fitting inside takes the place of a validation part.

    Args:
        min_labels: fewest labelled, scored traces.
        options: as for `Aligner`.
    """

    name: ClassVar[str] = "recalibrate"
    calls_llm: ClassVar[bool] = False

    def __init__(self, *, min_labels: int = MIN_LABELS, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.min_labels = min_labels

    def refusal(self, bound: BoundJudge) -> str | None:
        """Only a judge with numeric values has a threshold."""
        if not isinstance(bound.contract.value, NumericValue):
            return f"it gives no score ({bound.contract.value.describe()}), so there is no threshold to move"
        return super().refusal(bound)

    def propose(self, task: Task) -> Proposal:
        """The threshold with the best kappa on the judge's standing scores.

        Raises:
            NotTrustedError: too few labelled scores, or the threshold is where it should be.
        """
        spec = task.bound.contract.value
        assert isinstance(spec, NumericValue)  # noqa: S101 - refused otherwise
        rows = [e for e in (*task.train, *task.validation) if task.verdicts.get(e.id)]
        found = choose(
            [task.verdicts[e.id].value for e in rows],
            [e.passed for e in rows],
            spec.threshold,
            better=spec.better,
            groups=[task.groups[e.id] for e in rows],
            name=task.bound.name,
            min_labels=self.min_labels,
            seed=self.seed,
        )
        if found.threshold == spec.threshold:
            raise NotTrustedError(
                f"The threshold {spec.threshold:g} is already the best for these labels.", found=found.summary
            )
        summary = f"A score of {found.threshold:g} passes instead of {spec.threshold:g}."
        return Proposal(
            summary, threshold=found.threshold, used=tuple(e.id for e in rows), details={"crossfit": found.to_dict()}
        )
