"""What an optimizer is here: MLflow's `BasePromptOptimizer`, working from a `Task`.

So each works with `mlflow.genai.optimize_prompts(optimizer=…)`, where it chooses on a validation part of the rows it is
given, and under the gate of `assay optimize`, which proves the choice on rows no optimizer sees.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from mlflow.genai.optimize.optimizers import BasePromptOptimizer
from mlflow.genai.optimize.types import EvaluationResultRecord, PromptOptimizerOutput

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import AssayError, ConfigError, NotTrustedError
from mlflow_assay.optimizers.journal import Journal, digest
from mlflow_assay.optimizers.rollouts import Purse, SpentError
from mlflow_assay.optimizers.task import Candidate, Example, Score, Task
from mlflow_assay.optimizers.writer import Writer

__all__ = ["PromptOptimizer"]

_FEWEST = 4


class PromptOptimizer(BasePromptOptimizer):
    """Base of our optimizers. A subclass says what it needs, and tries candidates on a `Task`.

    Args:
        seed: of everything random.
        writer_model: with `optimize_prompts`, MLflow URI or settings of the model that writes prompts.
        max_calls: with `optimize_prompts`, calls of agent and writing model that may be made; None is no limit.
        validation: with `optimize_prompts`, share of the rows to choose by, in (0, 1).
    """

    name: ClassVar[str] = ""
    needs_writer: ClassVar[bool] = False

    def __init__(
        self,
        *,
        seed: int = 0,
        writer_model: str | ModelSettings | None = None,
        max_calls: int | None = None,
        validation: float = 0.34,
    ) -> None:
        if not 0 < validation < 1:
            raise ConfigError("The share of rows to choose by is between 0 and 1.", found=validation)
        self.seed, self.max_calls, self.validation = seed, max_calls, validation
        self.writer_model = ModelSettings(writer_model) if isinstance(writer_model, str) else writer_model

    @abstractmethod
    def search(self, task: Task) -> None:
        """Try candidates with `task.score` and `task.evaluate`; nothing is returned, the task knows the best.

        Raises:
            NotTrustedError: the rows do not suffice.
            ConfigError: something is missing, such as an extra or a model that writes.
            SpentError: the budget is spent; what was tried stands.
        """

    def run(self, task: Task) -> Candidate:
        """Try the prompts as they are, then search; the best candidate.

        Raises:
            ConfigError, NotTrustedError: as `search`; or not even the prompts as they are could be tried.
        """
        if self.needs_writer and task.writer is None:
            raise ConfigError(
                f"{self.name} needs a model that writes prompts.",
                fix="Name one with --writer, or writer_model= in Python.",
            )
        try:
            task.score(task.prompts, "as they are")
            self.search(task)
        except SpentError:
            if not task.candidates:
                raise
        except Exception:
            # Libraries wrap or swallow what ended their search; a spent budget is an ordinary end of it.
            if not task.over or not task.candidates:
                raise
        self._check_writer(task)
        return task.best

    def _check_writer(self, task: Task) -> None:
        """A writing model that stopped answering ends the search; with nothing found before, it is an error."""
        if task.writer is None or task.writer.broken is None:
            return
        if task.best.number == 0:
            raise AssayError(
                f"The model that writes prompts, {task.writer.model.uri!r}, did not answer; nothing was changed.",
                found=task.writer.broken,
                fix="The same command goes on from here when it does.",
            )
        task.spent = f"The model that writes prompts stopped answering ({task.writer.broken})."

    def optimize(
        self,
        eval_fn: Callable[[dict[str, str], list[dict[str, Any]]], list[EvaluationResultRecord]],
        train_data: list[dict[str, Any]],
        target_prompts: dict[str, str],
        enable_tracking: bool = True,
    ) -> PromptOptimizerOutput:
        """MLflow's own door: the prompts that did best on a validation part of the rows.

        Rows are parted by near-duplicates, so that no row to choose by resembles one to learn from. The scores
        returned are those on the validation part. Nothing proves the gain here: that is what `assay optimize` does.

        Args:
            eval_fn: MLflow's; it is not called from two threads at once.
            train_data: rows with `inputs` and `expectations` (or `outputs`).
            target_prompts: text by prompt name.
            enable_tracking: log the score of each candidate as a step of the metric `eval_score` to the active run.

        Raises:
            ConfigError, NotTrustedError: as `run`.
        """
        purse, journal = Purse(max_calls=self.max_calls), Journal()
        told = _log if enable_tracking else _ignore
        train, validation = self._parts(_examples(train_data))
        writer = Writer(self.writer_model, purse, journal) if self.writer_model else None
        task = Task(
            target_prompts,
            train,
            validation,
            lambda prompts, examples: _by_mlflow(eval_fn, purse, prompts, examples),
            writer=writer,
            seed=self.seed,
            told=told,
        )
        best, first = self.run(task), task.candidates[0]
        return PromptOptimizerOutput(
            optimized_prompts=dict(best.prompts), initial_eval_score=first.score, final_eval_score=best.score
        )

    def _parts(self, examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
        from mlflow_assay.datasets.model import DatasetRow
        from mlflow_assay.optimizers.parts import parted

        if len(examples) < _FEWEST:
            raise NotTrustedError(f"{self.name} needs {_FEWEST} different rows at least.", found=len(examples))
        rows = [DatasetRow(dict(e.inputs), expectations=dict(e.expectations), id=e.id) for e in examples]
        # Nothing is tested here, so the two later parts serve the choice together.
        half = self.validation / 2
        part = {row.id: row.split for row in parted(rows, (1 - self.validation, half, half), self.seed)}
        train = [e for e in examples if part[e.id] == "train"]
        return train, [e for e in examples if part[e.id] in ("validation", "test")]


def _examples(train_data: Sequence[Mapping[str, Any]]) -> list[Example]:
    """MLflow's rows; the same inputs and expectations twice count once."""
    found: dict[str, Example] = {}
    for record in train_data:
        expected = record.get("expectations") or {}
        if not expected and record.get("outputs") is not None:
            expected = {"expected_response": record["outputs"]}
        key = digest(record["inputs"], expected)
        found.setdefault(key, Example(key, record["inputs"], expected, record.get("outputs"), dict(record)))
    return list(found.values())


def _by_mlflow(eval_fn: Any, purse: Purse, prompts: Mapping[str, str], examples: Sequence[Example]) -> list[Score]:
    estimates = []
    try:
        for _ in examples:
            estimates.append(purse.reserve("agent"))
    except SpentError:
        for estimate in estimates:
            purse.budget.settle(estimate, type(estimate)())
        raise
    try:
        results = eval_fn(dict(prompts), [e.record for e in examples])
    finally:
        for estimate in estimates:
            purse.settle("agent", estimate, None)
    return [_score(result) for result in results]


def _score(result: EvaluationResultRecord) -> Score:
    if result.score is None:
        raise ConfigError("Optimizing needs scorers.", fix="Give optimize_prompts(scorers=[…]).")
    reason = "; ".join(f"{name}: {text}" for name, text in result.rationales.items() if text)
    return Score(float(result.score), result.outputs, reason)


def _log(candidate: Candidate) -> None:
    import mlflow

    if mlflow.active_run() is not None:
        mlflow.log_metric("eval_score", candidate.score, step=candidate.number)


def _ignore(candidate: Candidate) -> None:
    """Nothing."""
