"""SIMBA, GEPA, MIPROv2 and MemAlign, with what was found missing in MLflow's wrappers of them put right.

MLflow's own optimizers compare values as strings, train and choose on the same traces, keep the experts' reasons from
GEPA's reflection, and have no limit of cost. Here verdicts are compared by the judge's pass rule, both kinds of label
weigh the same (so the score rises with kappa and not with guessing the commoner verdict), candidates are chosen on the
validation part, the experts' reasons reach the reflection, and every call counts against one limit.

Importing this module imports no DSPy: that happens when an aligner is used, and needs the extra `dspy`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow.genai.judges.instructions_judge import InstructionsJudge

from mlflow_assay.alignment.aligner import Aligner, Proposal, Task
from mlflow_assay.alignment.labelled import Labelled
from mlflow_assay.contracts import BoundJudge, ModelSettings
from mlflow_assay.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from mlflow_assay.alignment.dspy_program import Workshop

__all__ = ["Gepa", "MemAlign", "MiproV2", "Simba"]

_FEWEST = 10


class _DSPyAligner(Aligner):
    """What the four have in common.

    Args:
        reflection_model: MLflow URI of the model that writes instructions; None takes the judge's own.
        threads: calls made side by side.
        options: as for `Aligner`.
    """

    needs_verdicts: ClassVar[bool] = False
    varies: ClassVar[bool] = False  # whether it learns from how the judge's answers to one question vary

    def __init__(self, *, reflection_model: str | None = None, threads: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.reflection_model, self.threads = reflection_model, threads

    def refusal(self, bound: BoundJudge) -> str | None:
        """Only instructions that read inputs and outputs can be rewritten so."""
        if not isinstance(bound.scorer, InstructionsJudge) or bound.model is None:
            return f"it is of kind {bound.contract.kind!r} and has no instructions of its own to rewrite"
        if "trace" in bound.scorer.template_variables:
            return "it reads {{ trace }} with tools, which costs many calls a trace"
        return super().refusal(bound)

    def propose(self, task: Task) -> Proposal:
        """The instructions the optimizer comes to.

        Raises:
            ConfigError: the extra `dspy` is not installed.
            NotTrustedError: too few labels, the calls ran out, or the instructions came back unchanged.
        """
        _require_dspy()
        from mlflow_assay.alignment.dspy_program import Workshop

        if len(task.train) < _FEWEST:
            raise NotTrustedError(f"{self.name} needs {_FEWEST} training labels.", found=len(task.train))
        workshop = Workshop(task, self._reflection(task), self.threads, fresh=self.varies)
        before = task.asker.calls
        try:
            text = workshop.run(lambda: self._improve(workshop))
        except Exception as error:
            if workshop.exhausted:
                raise NotTrustedError(
                    f"{self.name} did not finish: the limit of model calls was reached.",
                    found=f"{task.asker.calls - before} calls",
                    fix="Raise --max-calls.",
                ) from error
            raise
        base: Any = task.bound.scorer
        if text.strip() == base.instructions.strip():
            raise NotTrustedError(f"{self.name} found no better instructions than those the judge has.")
        return Proposal(
            f"{self.name} rewrote the instructions.",
            instructions=text,
            used=tuple(e.id for e in self._used(task)),
            details={"optimizer_calls": task.asker.calls - before, "calls_ran_out": workshop.exhausted},
        )

    @abstractmethod
    def _improve(self, workshop: Workshop) -> str:
        """The new instructions."""

    def _used(self, task: Task) -> Sequence[Labelled]:
        return (*task.train, *task.validation)

    def _reflection(self, task: Task) -> ModelSettings:
        model = task.model
        if model is None:
            raise ConfigError(f"{self.name} needs a judge model.", fix="Name one with --model.")
        if self.reflection_model in (None, model.uri):
            return model
        same = str(self.reflection_model).partition(":/")[0] == model.uri.partition(":/")[0]
        return ModelSettings(
            str(self.reflection_model), model.base_url if same else None, headers=model.headers if same else {}
        )


class Simba(_DSPyAligner):
    """DSPy's SIMBA: tries rules and cases drawn from where the judge's answers to one question differ.

    A judge that always answers alike (temperature 0) gives it little to learn from. SIMBA itself chooses on its
    training examples, so the steps it offers are compared once more on the validation part.

    Args:
        steps: rounds; each asks the judge `candidates` times about a batch.
        candidates: variants tried a round.
        batch: training examples a round; fewer where there are fewer.
        options: as for `_DSPyAligner`.

    Source: https://dspy.ai/api/optimizers/SIMBA
    """

    name: ClassVar[str] = "simba"
    varies: ClassVar[bool] = True

    def __init__(self, *, steps: int = 4, candidates: int = 4, batch: int = 16, **options: Any) -> None:
        super().__init__(**options)
        self.steps, self.candidates, self.batch = steps, candidates, batch

    def _improve(self, workshop: Workshop) -> str:
        import dspy

        optimizer = dspy.SIMBA(
            metric=workshop.metric,
            bsize=min(self.batch, len(workshop.train)),
            num_candidates=self.candidates,
            max_steps=self.steps,
            num_threads=self.threads,
        )
        best = optimizer.compile(workshop.program(), trainset=workshop.train, seed=self.seed)
        programs = [c["program"] for c in getattr(best, "candidate_programs", [])] or [best]
        return workshop.best_on_validation(programs)


class Gepa(_DSPyAligner):
    """DSPy's GEPA: rewrites the instructions by reflecting on single verdicts and what the experts said of them.

    Args:
        max_metric_calls: judge calls it may make; None takes four for each training and validation trace, or what
            `--max-calls` leaves, whichever is less.
        options: as for `_DSPyAligner`.

    Source: Agrawal et al. 2025, GEPA, arXiv 2507.19457.
    """

    name: ClassVar[str] = "gepa"

    def __init__(self, *, max_metric_calls: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.max_metric_calls = max_metric_calls

    def _improve(self, workshop: Workshop) -> str:
        import dspy

        wanted = self.max_metric_calls or 4 * (len(workshop.train) + len(workshop.validation))
        left = workshop.left
        optimizer = dspy.GEPA(
            metric=workshop.metric_with_reasons,
            max_metric_calls=wanted if left is None else max(1, min(wanted, left * 3 // 4)),
            reflection_lm=workshop.lm,
            num_threads=self.threads,
            seed=self.seed,
        )
        found = optimizer.compile(workshop.program(), trainset=workshop.train, valset=workshop.validation)
        return workshop.text(found)


class MiproV2(_DSPyAligner):
    """DSPy's MIPROv2: proposes instructions and cases, and searches their combinations.

    Args:
        candidates: instructions and sets of cases proposed.
        trials: combinations tried, each on the whole validation part.
        options: as for `_DSPyAligner`.

    Source: Opsahl-Ong et al. 2024, arXiv 2406.11695.
    """

    name: ClassVar[str] = "miprov2"

    def __init__(self, *, candidates: int = 4, trials: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.candidates, self.trials = candidates, trials

    def _improve(self, workshop: Workshop) -> str:
        import dspy

        optimizer = dspy.MIPROv2(
            metric=workshop.metric,
            prompt_model=workshop.lm,
            task_model=workshop.lm,
            auto=None,
            num_candidates=self.candidates,
            num_threads=self.threads,
            seed=self.seed,
        )
        found = optimizer.compile(
            workshop.program(),
            trainset=workshop.train,
            valset=workshop.validation,
            num_trials=self.trials,
            minibatch=False,
            seed=self.seed,
        )
        return workshop.text(found)


class MemAlign(_DSPyAligner):
    """The guidelines MLflow's MemAlign distils from labels and reasons, put into the instructions.

    MemAlign's other half looks up similar cases at judging time; that needs an embedding endpoint and a judge class
    that no definition can say. Here the guidelines alone are kept, so the judge stays an instructions judge.

    Source: MLflow's MemAlign (mlflow.genai.judges.optimizers.memalign), its distillation prompt.
    """

    name: ClassVar[str] = "memalign"

    def _used(self, task: Task) -> Sequence[Labelled]:
        return task.train

    def _improve(self, workshop: Workshop) -> str:
        guidelines = workshop.guidelines()
        if not guidelines:
            raise NotTrustedError("memalign distilled no guideline from the labels.")
        from mlflow.genai.judges.optimizers.memalign.prompts import GUIDELINES_SECTION_HEADER

        listed = "\n".join(f"- {g}" for g in guidelines)
        return f"{workshop.instructions}\n\n{GUIDELINES_SECTION_HEADER}\n{listed}"


def _require_dspy() -> None:
    try:
        import dspy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "This optimizer needs DSPy, which is not installed.", fix="Try: pip install 'mlflow-assay[dspy]'"
        ) from error
