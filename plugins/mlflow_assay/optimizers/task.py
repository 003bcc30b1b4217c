"""What an optimizer works from, whoever asks for it: prompts, rows to learn from, rows to choose by, a way to try.

Every set of prompts that has been tried on all validation rows is a candidate, in whatever order a library tries
them; the best candidate is the one with the highest mean validation score, the earliest of equals. So what is best so
far is known at any moment, also when a search is cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import AssayError, NotTrustedError
from mlflow_assay.optimizers.journal import digest
from mlflow_assay.optimizers.rollouts import SpentError
from mlflow_assay.optimizers.template import Template

if TYPE_CHECKING:
    from mlflow_assay.optimizers.writer import Writer

__all__ = ["Candidate", "Example", "Score", "Task"]

Prompts = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """One row, as optimizers see it.

    Attributes:
        id: identity of the row.
        inputs: what the agent is asked.
        expectations: what should come out, by name.
        outputs: what the agent answered once, or what it should have; None where not kept.
        record: the row as the trying function takes it.
    """

    id: str
    inputs: Mapping[str, Any]
    expectations: Mapping[str, Any]
    outputs: Any = None
    record: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Score:
    """How one answer fared.

    Attributes:
        value: in [0, 1]; 1 is right.
        outputs: the answer; None where the agent failed.
        reason: the judge's rationale, or how the agent failed.
    """

    value: float
    outputs: Any
    reason: str


@dataclass(frozen=True)
class Candidate:
    """Prompts that were tried on all validation rows.

    Attributes:
        number: in order of trying, from 0; 0 is the prompts as they are.
        prompts: text by prompt name.
        score: mean score over the validation rows, in [0, 1].
        note: what was tried, for a reader.
    """

    number: int
    prompts: Prompts
    score: float
    note: str


class Task:
    """One optimization, without the rows that decide about it: those an optimizer never sees.

    Args:
        prompts: the prompts as they are: text by name, a chat prompt's messages as JSON.
        train: rows to learn from.
        validation: rows to choose by; learning from them spoils the choice.
        attempt: tries prompts on examples and says how each answer fared, in their order.
        writer: the model that writes texts; None where there is none.
        seed: of everything random.
        told: called for each new candidate.
    """

    def __init__(
        self,
        prompts: Prompts,
        train: Sequence[Example],
        validation: Sequence[Example],
        attempt: Callable[[Prompts, Sequence[Example]], Sequence[Score]],
        *,
        writer: Writer | None = None,
        seed: int = 0,
        told: Callable[[Candidate], None] = lambda _: None,
    ) -> None:
        self.prompts, self.train, self.validation = dict(prompts), tuple(train), tuple(validation)
        self.templates = {name: Template.read(text) for name, text in prompts.items()}
        self.writer, self.seed = writer, seed
        self._attempt, self._told = attempt, told
        self._scores: dict[tuple[str, str], Score] = {}
        self._tried: dict[str, Candidate] = {}
        self._ids = {e.id for e in self.validation}
        self.spent: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more can be tried or written: for libraries that swallow what ends their search."""
        return self.spent is not None or (self.writer is not None and self.writer.broken is not None)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All so far, in order."""
        return tuple(self._tried.values())

    @property
    def best(self) -> Candidate:
        """The best so far, the prompts as they are included.

        Raises:
            NotTrustedError: not even those were tried on all validation rows.
        """
        if not self._tried:
            raise NotTrustedError("Nothing was tried on the validation rows.", found=self.spent)
        return max(self._tried.values(), key=lambda c: (c.score, -c.number))

    def evaluate(self, prompts: Prompts, examples: Sequence[Example], note: str = "") -> list[Score]:
        """How the agent fares with these prompts on these examples, in their order; known answers are not asked again.

        Prompts that have lost a variable get 0 without a call: the agent would not be told what it is asked.

        Raises:
            SpentError: the budget does not cover it; nothing more can be tried.
        """
        whole = self._whole(prompts)
        key = digest(whole)
        due = [e for e in examples if (key, e.id) not in self._scores]
        if due:
            for example, score in zip(due, self._try(whole, due), strict=True):
                self._scores[(key, example.id)] = score
        if key not in self._tried and all((key, e.id) in self._scores for e in self.validation):
            self._register(key, whole, note)
        return [self._scores[(key, e.id)] for e in examples]

    def evaluate_one(self, prompts: Prompts, example: Example, note: str = "") -> Score:
        """The same for one example; where it is a validation row, all of them are tried at once, side by side."""
        whole = self._whole(prompts)
        if example.id in self._ids:
            self.evaluate(whole, self.validation, note)
        return self.evaluate(whole, [example], note)[0]

    def score(self, prompts: Prompts, note: str = "") -> float:
        """Mean validation score of these prompts, in [0, 1]; they are a candidate from now on.

        Raises:
            SpentError: the budget does not cover it.
        """
        found = self.evaluate(prompts, self.validation, note)
        return sum(s.value for s in found) / len(found)

    def changed(self, name: str, text: str) -> dict[str, str]:
        """The prompts as they are, with one of them replaced."""
        return {**self.prompts, name: text}

    def _whole(self, prompts: Prompts) -> dict[str, str]:
        if strays := sorted(set(prompts) - set(self.prompts)):
            raise AssayError("A candidate names prompts that are not optimized.", found=strays, valid=self.prompts)
        return {**self.prompts, **prompts}

    def _try(self, prompts: Prompts, examples: Sequence[Example]) -> Sequence[Score]:
        lost = [f"{name} has lost {{{{{v}}}}}" for name, t in self.templates.items() for v in t.lacks(prompts[name])]
        if lost:
            return [Score(0.0, None, f"The prompt cannot be used: {', '.join(lost)}.")] * len(examples)
        try:
            return self._attempt(prompts, examples)
        except SpentError as error:
            self.spent = str(error)
            raise

    def _register(self, key: str, prompts: Prompts, note: str) -> None:
        found = [self._scores[(key, e.id)].value for e in self.validation]
        made = Candidate(len(self._tried), dict(prompts), sum(found) / len(found), note or "proposed")
        self._tried[key] = made
        self._told(made)
