"""GEPA: rewrites instructions by reflecting on single answers and what judges said of them.

The library does the work. MLflow wraps it, too, but its wrapper chooses on the training rows, names the reflecting
model by a string (so its calls cannot be counted, priced or sent to an endpoint of one's own), and lets a rewritten
prompt lose its variables. Here judges' reasons reach the reflection, candidates are chosen on the validation
rows, every call counts against the one budget, and variables stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mlflow_assay.errors import ConfigError
from mlflow_assay.optimizers.examples import answer_of
from mlflow_assay.optimizers.optimizer import PromptOptimizer
from mlflow_assay.optimizers.task import Example, Score, Task

__all__ = ["Gepa"]


class Gepa(PromptOptimizer):
    """Evolves instructions by reflection.

    Args:
        max_metric_calls: answers of the agent it may ask for; None takes ten for each training and validation row,
            within the budget.
        minibatch: training rows reflected on at a time.
        options: as for `PromptOptimizer`.

    Source: Agrawal et al. 2025, GEPA, arXiv 2507.19457.
    """

    name: ClassVar[str] = "gepa"
    needs_writer: ClassVar[bool] = True

    def __init__(self, *, max_metric_calls: int | None = None, minibatch: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.max_metric_calls, self.minibatch = max_metric_calls, minibatch

    def search(self, task: Task) -> None:
        """Let GEPA search; see `PromptOptimizer.search`."""
        try:
            import gepa
        except ImportError as error:
            raise ConfigError(
                "This optimizer needs GEPA, which is not installed.", fix="Try: pip install 'mlflow-assay[dspy]'"
            ) from error
        gepa.optimize(
            seed_candidate={name: t.instructions for name, t in task.templates.items()},
            trainset=list(task.train),
            valset=list(task.validation),
            adapter=_adapter(task),
            reflection_lm=task.writer,
            reflection_minibatch_size=min(self.minibatch, len(task.train)),
            max_metric_calls=self.max_metric_calls or 10 * (len(task.train) + len(task.validation)),
            stop_callbacks=[lambda _: task.over],
            logger=_Silent(),
            display_progress_bar=False,
            seed=task.seed,
        )


def _adapter(task: Task) -> Any:
    """GEPA's view of the agent; made here, since the base class is GEPA's."""
    from gepa import EvaluationBatch, GEPAAdapter

    class Adapter(GEPAAdapter):
        def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
            prompts = _prompts(task, candidate)
            if {e.id for e in batch} <= {e.id for e in task.validation}:
                task.evaluate(prompts, task.validation, "instructions reflected on")
            scores = task.evaluate(prompts, batch, "instructions reflected on")
            tried = list(zip(batch, scores, strict=True))
            return EvaluationBatch(
                outputs=[s.outputs for s in scores],
                scores=[s.value for s in scores],
                trajectories=tried if capture_traces else None,
            )

        def make_reflective_dataset(
            self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
        ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
            records = [_record(example, score) for example, score in eval_batch.trajectories]
            return dict.fromkeys(components_to_update, records)

    return Adapter()


def _prompts(task: Task, candidate: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, text in candidate.items():
        template = task.templates[name]
        found[name] = template.text if text == template.instructions else template.with_instructions(text)
    return found


def _record(example: Example, score: Score) -> dict[str, Any]:
    """One answer for the reflecting model: what was asked, said and expected, and the judges' reason."""
    right = answer_of(example)
    return {
        "Inputs": dict(example.inputs),
        "Answer": score.outputs,
        **({"Expected": right} if right is not None else {}),
        "Feedback": f"{'Right' if score.value >= 1 else 'Wrong'}. {score.reason}",
    }


class _Silent:
    """GEPA's log; the run shows its own progress."""

    def log(self, message: str) -> None:
        """Nothing."""
