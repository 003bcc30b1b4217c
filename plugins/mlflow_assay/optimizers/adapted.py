"""Any other `BasePromptOptimizer`, of MLflow or another package, under the same budget and choice."""

from __future__ import annotations

from typing import Any

from mlflow.genai.optimize.optimizers import BasePromptOptimizer
from mlflow.genai.optimize.types import EvaluationResultRecord

from mlflow_assay.optimizers.optimizer import PromptOptimizer
from mlflow_assay.optimizers.task import Example, Task

__all__ = ["Adapted"]


class Adapted(PromptOptimizer):
    """An optimizer that knows nothing of a `Task`.

    It is handed the training rows. Whatever it tries there is scored by the judge; what it returns is compared with
    the prompts as they are on the validation rows. Calls it makes itself, to a model of its own, are not counted.

    Args:
        optimizer: the other one.
        name: what it is called.
        seed: passed on to nothing: the other one has its own.
    """

    def __init__(self, optimizer: BasePromptOptimizer, name: str, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self._optimizer = optimizer
        self.name = name  # type: ignore[misc]

    def search(self, task: Task) -> None:
        """Let the other one optimize, and try what it returns."""
        by_id = {e.id: e for e in task.train}
        rows = [_row(e) for e in task.train]

        def evaluate(prompts: dict[str, str], dataset: list[dict[str, Any]]) -> list[EvaluationResultRecord]:
            examples = [by_id[record["id"]] for record in dataset]
            scores = task.evaluate(prompts, examples)
            return [
                EvaluationResultRecord(
                    inputs=dict(e.inputs),
                    outputs=s.outputs,
                    expectations=dict(e.expectations),
                    score=s.value,
                    trace=None,  # MLflow's own code allows for none, too
                    rationales={"judge": s.reason},
                )
                for e, s in zip(examples, scores, strict=True)
            ]

        found = self._optimizer.optimize(evaluate, rows, dict(task.prompts), enable_tracking=False)
        task.score(found.optimized_prompts, f"what {self.name} returned")


def _row(example: Example) -> dict[str, Any]:
    expected = dict(example.expectations)
    return {"id": example.id, "inputs": dict(example.inputs), "expectations": expected, "outputs": example.outputs}
