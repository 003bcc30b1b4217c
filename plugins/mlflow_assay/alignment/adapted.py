"""Any MLflow `AlignmentOptimizer`, of MLflow or another package: its labels prepared, its result checked."""

from __future__ import annotations

from typing import Any, ClassVar

from mlflow.genai.judges.base import AlignmentOptimizer
from mlflow.genai.judges.instructions_judge import InstructionsJudge

from mlflow_assay.alignment.aligner import Aligner, Proposal, Task
from mlflow_assay.alignment.prepared import prepare
from mlflow_assay.contracts import BoundJudge
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.errors import ConfigError, NotTrustedError

__all__ = ["Adapted"]


class Adapted(Aligner):
    """Runs an optimizer that knows nothing of this pack on the training part.

    What it calls is not counted: such an optimizer asks its models itself.

    Args:
        optimizer: has MLflow's `align(judge, traces)` and returns an instructions judge.
        name: its name, for messages.
        options: as for `Aligner`.
    """

    needs_verdicts: ClassVar[bool] = False

    def __init__(self, optimizer: AlignmentOptimizer, name: str, **options: Any) -> None:
        super().__init__(**options)
        if not hasattr(optimizer, "align"):
            raise ConfigError(
                f"The aligners plugin {name!r} is none.", found=type(optimizer).__name__, valid="an AlignmentOptimizer"
            )
        self._optimizer = optimizer
        self.__dict__["name"] = name  # each has its own

    def refusal(self, bound: BoundJudge) -> str | None:
        """Only an instructions judge can be handed to MLflow's optimizers."""
        if not isinstance(bound.scorer, InstructionsJudge):
            return f"it is of kind {bound.contract.kind!r} and has no instructions of its own to change"
        return super().refusal(bound)

    def propose(self, task: Task) -> Proposal:
        """The instructions of the judge the optimizer returns.

        Raises:
            NotTrustedError: it returns the same instructions.
            ConfigError: it returns something other than an instructions judge.
        """
        judge: Any = task.bound.scorer
        traces = prepare(task.bound, task.train)
        with mlflow_endpoint.route(task.model):
            found: Any = self._optimizer.align(judge, traces)
        if not isinstance(found, InstructionsJudge):
            raise ConfigError(
                f"The optimizer {self.name!r} returned a judge that cannot be written as a definition.",
                found=type(found).__name__,
                valid="an instructions judge, as make_judge makes",
            )
        if found.instructions.strip() == judge.instructions.strip():
            raise NotTrustedError(f"The optimizer {self.name!r} left the instructions as they were.")
        return Proposal(
            f"{self.name} rewrote the instructions.",
            instructions=found.instructions,
            used=tuple(t.info.trace_id for t in traces),
        )
