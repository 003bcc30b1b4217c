"""Few-shot cases near what the agent gets wrong; no model writes anything.

DSPy's KNNFewShot looks neighbours up for each request while the agent runs. A registered prompt is one text and can
look nothing up, so the neighbours are chosen once: the training rows that lie nearest to the rows answered wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.optimizers.categories import _numbers
from mlflow_assay.optimizers.examples import answer_of, hosts, with_examples
from mlflow_assay.optimizers.optimizer import PromptOptimizer
from mlflow_assay.optimizers.task import Example, Score, Task
from mlflow_assay.optimizers.words import nearest, text_of

__all__ = ["KnnFewShot"]


class KnnFewShot(PromptOptimizer):
    """Solved training cases nearest to the agent's failures, as many as do best on the validation rows.

    Args:
        sizes: numbers of cases tried.
        label: the expectation that holds the right answer; None takes the only one, or `expected_response`.
        options: as for `PromptOptimizer`.

    Source: choosing cases by likeness, Liu et al. 2022, "What Makes Good In-Context Examples for GPT-3?",
        arXiv 2101.06804.
    """

    name: ClassVar[str] = "knn_few_shot"

    def __init__(self, *, sizes: Sequence[int] = (4, 8, 16), label: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.sizes, self.label = _numbers("sizes", sizes), label

    def search(self, task: Task) -> None:
        """Try each number of cases in each prompt that sees the inputs.

        Raises:
            NotTrustedError: no training row says what is right.
        """
        scores = task.evaluate(task.prompts, task.train)
        solved = [(e, a) for e, s in zip(task.train, scores, strict=True) if (a := self._answer(e, s)) is not None]
        if not solved:
            raise NotTrustedError(
                "No training row says what is right.",
                found=f"{len(task.train)} rows, {sum(s.value >= 1 for s in scores)} of them answered rightly",
                fix="Give rows an expectation, and name it with --option label=NAME.",
            )
        wrong = [e for e, s in zip(task.train, scores, strict=True) if s.value < 1] or list(task.train)
        order = _order([e for e, _ in solved], wrong)
        for name in hosts(task):
            for size in sorted({min(size, len(order)) for size in self.sizes if size}):
                cases = [(solved[i][0].inputs, solved[i][1]) for i in order[:size]]
                task.score(with_examples(task, name, cases), f"{size} cases near the failures in {name}")

    def _answer(self, example: Example, score: Score) -> str | None:
        return answer_of(example, score.outputs if score.value >= 1 else None, self.label)


def _order(solved: Sequence[Example], wrong: Sequence[Example]) -> list[int]:
    """Solved cases by how many failures have them among their nearest, each failure's nearest counting most."""
    near = nearest([text_of(e) for e in wrong], [text_of(e) for e in solved])
    ranks = np.argsort(np.argsort(-near, axis=1, kind="stable"), axis=1)
    votes = (1.0 / (1.0 + ranks)).sum(0)
    return [int(i) for i in np.argsort(-votes, kind="stable")]
