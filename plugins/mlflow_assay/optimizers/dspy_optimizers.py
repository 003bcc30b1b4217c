"""DSPy's MIPROv2 and BootstrapFewShot over prompts of MLflow's registry.

DSPy optimizes programs it runs itself. Here the program is the user's agent: each prompt is a DSPy predictor whose
instructions and cases stand for the prompt's, and running it asks the agent with those in place. Candidates are chosen
on the validation rows, and every call counts against the one budget.

Importing this module imports no DSPy: that happens when an optimizer is used, and needs the extra `dspy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_assay.errors import ConfigError
from mlflow_assay.optimizers.categories import _numbers
from mlflow_assay.optimizers.optimizer import PromptOptimizer
from mlflow_assay.optimizers.task import Task

if TYPE_CHECKING:
    from mlflow_assay.optimizers.prompt_program import Workshop

__all__ = ["BootstrapFewShot", "MiproV2"]


class MiproV2(PromptOptimizer):
    """Proposes instructions and cases, and searches their combinations.

    Args:
        candidates: instructions, and sets of cases, proposed for each prompt.
        trials: combinations tried, each on all validation rows.
        cases: cases in a prompt at most; 0 optimizes instructions alone.
        label: the expectation that holds the right answer; None takes the only one, or `expected_response`.
        options: as for `PromptOptimizer`.

    Source: Opsahl-Ong et al. 2024, arXiv 2406.11695.
    """

    name: ClassVar[str] = "miprov2"
    needs_writer: ClassVar[bool] = True

    def __init__(
        self, *, candidates: int = 5, trials: int = 10, cases: int = 4, label: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.candidates, self.trials, self.cases, self.label = candidates, trials, cases, label

    def search(self, task: Task) -> None:
        """Let DSPy search; see `PromptOptimizer.search`."""
        _workshop(task, self.label).run(self._compile)

    def _compile(self, workshop: Workshop) -> None:
        import dspy

        optimizer = dspy.MIPROv2(
            metric=workshop.metric,
            prompt_model=workshop.lm,
            task_model=workshop.lm,
            auto=None,
            num_candidates=self.candidates,
            max_bootstrapped_demos=self.cases,
            max_labeled_demos=self.cases,
            num_threads=1,  # the agent answers a whole validation part side by side already
            seed=self.seed,
        )
        optimizer.compile(
            workshop.program(),
            trainset=workshop.train,
            valset=workshop.validation,
            num_trials=self.trials,
            minibatch=False,
            seed=self.seed,
        )


class BootstrapFewShot(PromptOptimizer):
    """Cases the agent itself solved, and labelled ones beside them, as many as do best on the validation rows.

    Args:
        sizes: numbers of cases tried; half of each may be cases the agent solved.
        label: the expectation that holds the right answer; None takes the only one, or `expected_response`.
        options: as for `PromptOptimizer`.

    Source: Khattab et al. 2023, DSPy, arXiv 2310.03714.
    """

    name: ClassVar[str] = "bootstrap_few_shot"

    def __init__(self, *, sizes: Sequence[int] = (4, 8), label: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.sizes, self.label = _numbers("sizes", sizes), label

    def search(self, task: Task) -> None:
        """Let DSPy collect cases; see `PromptOptimizer.search`."""
        _workshop(task, self.label).run(self._compile)

    def _compile(self, workshop: Workshop) -> None:
        import dspy

        for size in self.sizes:
            optimizer = dspy.BootstrapFewShot(
                metric=workshop.solved, max_bootstrapped_demos=max(1, size // 2), max_labeled_demos=size
            )
            found = optimizer.compile(workshop.program(), trainset=workshop.train)
            workshop.score(found, f"up to {size} cases, some the agent solved itself")


def _workshop(task: Task, label: str | None) -> Workshop:
    try:
        import dspy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "This optimizer needs DSPy, which is not installed.", fix="Try: pip install 'mlflow-assay[dspy]'"
        ) from error
    from mlflow_assay.optimizers.prompt_program import Workshop

    return Workshop(task, label)
