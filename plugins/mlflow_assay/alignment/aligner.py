"""What an aligner is: MLflow's `AlignmentOptimizer`, with a proposal that can be written down, tested and refused."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from mlflow.genai.judges import make_judge
from mlflow.genai.judges.base import AlignmentOptimizer, Judge
from mlflow.genai.judges.instructions_judge import InstructionsJudge

from mlflow_assay.alignment import shown
from mlflow_assay.alignment.labelled import Labelled, attach, read_labels
from mlflow_assay.alignment.split import split
from mlflow_assay.alignment.verdicts import Asker, Verdict, standing
from mlflow_assay.contracts import (
    BooleanValue,
    BoundJudge,
    CategoricalValue,
    JudgeContract,
    ModelSettings,
    NumericValue,
    ValueSpec,
)
from mlflow_assay.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from mlflow_assay.judges.local.judge import LocalJudge

__all__ = ["Aligner", "Proposal", "Task", "rewritten"]

_GOOD_WORDS = ("yes", "pass", "true", "good", "correct")


@dataclass(frozen=True)
class Task:
    """What an aligner works from. It holds nothing of the test part.

    Attributes:
        bound: the judge as it is.
        train: labelled traces to learn from.
        validation: labelled traces to choose by; learning from them spoils the choice.
        groups: trace id to group (session or near-duplicates); groups are in one part only.
        verdicts: the judge's own verdicts by trace id, on train and validation, as far as the aligner asked for them.
        asker: asks judges, within the limit of calls.
        label: the labels' name.
    """

    bound: BoundJudge
    train: tuple[Labelled, ...]
    validation: tuple[Labelled, ...]
    groups: Mapping[str, int]
    verdicts: Mapping[str, Verdict]
    asker: Asker
    label: str

    @property
    def model(self) -> ModelSettings | None:
        """The one judge model."""
        return self.bound.model

    def ask(self, instructions: str, found: Sequence[Labelled], *, fresh: bool = False) -> dict[str, Verdict]:
        """What the judge would say with other instructions, by trace id; `fresh` asks even where that is known."""
        return self.asker.ask(rewritten(self.bound, instructions), found, fresh=fresh)


@dataclass(frozen=True)
class Proposal:
    """A changed judge: exactly one of the four changes.

    Attributes:
        summary: one sentence on what was changed.
        appendix: text put behind the instructions.
        instructions: whole new instructions, MLflow's variables in them.
        threshold: a new pass threshold on the judge's own scale.
        local: a trained classifier that takes the judge's place.
        used: ids of the traces whose labels the new judge holds or learnt from.
        details: figures for the report, JSON-ready.
    """

    summary: str
    appendix: str | None = None
    instructions: str | None = None
    threshold: float | None = None
    local: LocalJudge | None = None
    used: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [v for v in (self.appendix, self.instructions, self.threshold, self.local) if v is not None]
        if len(given) != 1:
            raise ConfigError("A proposal is exactly one change.", found=f"{len(given)} changes")


class Aligner(AlignmentOptimizer):
    """Base of our aligners; `judge.align(traces, aligner)` works with each.

    A subclass says what it needs, and makes a `Proposal` from a `Task`.

    Args:
        seed: of everything random; the same seed, labels and replies give the same judge.
        max_calls: with `judge.align`, model calls that may be made; None is no limit.
        value: with `judge.align`, the judge's scale and pass rule; None reads them off the judge where it can.
    """

    name: ClassVar[str] = ""
    needs_verdicts: ClassVar[bool] = True  # of the judge as it is, on train and validation
    calls_llm: ClassVar[bool] = True

    def __init__(self, *, seed: int = 0, max_calls: int | None = None, value: ValueSpec | None = None) -> None:
        self.seed, self.max_calls, self.value = seed, max_calls, value

    def refusal(self, bound: BoundJudge) -> str | None:
        """Why this judge cannot be aligned this way; None when it can."""
        if bound.contract.scope == "session":
            return "it judges whole sessions, and alignment learns from single traces"
        return None

    @abstractmethod
    def propose(self, task: Task) -> Proposal:
        """A changed judge.

        Raises:
            NotTrustedError: the labels do not suffice, or nothing better than the judge as it is was found.
            ConfigError: something is missing, such as an extra.
        """

    def align(self, judge: Judge, traces: list[Trace]) -> Judge:
        """MLflow's own door: a changed judge from traces that carry human labels under the judge's name.

        The traces are parted by group into training and validation. Nothing is held out to prove the change: that is
        the caller's part, or that of `assay align`.

        Raises:
            ConfigError: the judge cannot be aligned this way, or its scale cannot be read.
            NotTrustedError: the labels do not suffice.
        """
        bound = _bound(judge, self.value)
        if reason := self.refusal(bound):
            raise ConfigError(f"The judge {judge.name!r} cannot be aligned by {self.name!r}: {reason}.")
        proposal = self.propose(self._task(bound, traces))
        return self._judge(bound, proposal)

    def _task(self, bound: BoundJudge, traces: Sequence[Trace]) -> Task:
        found = read_labels([t.info for t in traces], bound.name, bound.contract)
        examples = attach(traces, found.labels)
        if not examples:
            raise NotTrustedError(
                f"No trace has a usable human label named {bound.name!r}.", found=", ".join(found.seen) or "no label"
            )
        parts = split(
            [e.passed for e in examples],
            [e.session for e in examples],
            [shown.text(bound, e.trace) for e in examples],
            requests=[shown.request(e.trace) for e in examples],
            seed=self.seed,
            fractions=(0.6, 0.2, 0.2),
        )
        asker, known = Asker(self.max_calls), standing(traces, bound, any_version=True)
        if self.needs_verdicts and self.calls_llm:
            known |= asker.ask(bound, [e for e in examples if e.id not in known])
        # Nothing is tested here, so the two later parts serve the choice together.
        return Task(
            bound,
            tuple(examples[i] for i in parts.train),
            tuple(examples[i] for i in (*parts.validation, *parts.test)),
            {e.id: g for e, g in zip(examples, parts.groups, strict=True)},
            known,
            asker,
            bound.name,
        )

    def _judge(self, bound: BoundJudge, proposal: Proposal) -> Judge:
        judge: Any = bound.scorer
        if proposal.appendix is not None or proposal.instructions is not None:
            text = proposal.instructions or f"{judge.instructions}\n\n{proposal.appendix}"
            return _with_instructions(judge, text)
        if proposal.threshold is not None:
            assert isinstance(bound.contract.value, NumericValue)  # noqa: S101 - only scores have a threshold
            spec = replace(bound.contract.value, threshold=proposal.threshold)
            changed: Any = _with_instructions(judge, judge.instructions)
            changed._pass_if = spec.passes  # MLflow's own pass rule of a scorer; in this process only
            return changed
        from mlflow_assay.alignment.local_judge import LocalAlignedJudge

        assert proposal.local is not None  # noqa: S101 - a proposal is exactly one change
        return LocalAlignedJudge(proposal.local, judge.name)


def rewritten(bound: BoundJudge, instructions: str) -> BoundJudge:
    """The judge with other instructions; its digest changes with them."""
    digest = hashlib.sha256(f"{bound.digest}\x1f{instructions}".encode()).hexdigest()[:16]
    return replace(bound, scorer=_with_instructions(bound.scorer, instructions), digest=digest)


def _with_instructions(judge: Any, instructions: str) -> Judge:
    """A copy of MLflow's judge with other instructions; everything else stays, the endpoint included."""
    if not isinstance(judge, InstructionsJudge):
        raise ConfigError(f"The judge {judge.name!r} has no instructions that could be changed.")
    return make_judge(
        name=judge.name,
        instructions=instructions,
        model=judge.model,
        description=judge.description,
        feedback_value_type=judge.feedback_value_type,
        inference_params=judge._inference_params,
        base_url=judge._base_url,
        extra_headers=judge._extra_headers,
        generate_rationale_first=judge._generate_rationale_first,
    )


def _bound(judge: Judge, value: ValueSpec | None) -> BoundJudge:
    """An MLflow judge as one of ours, so that engine and pass rule apply to it."""
    found: Any = judge
    needs = {"inputs": "inputs", "outputs": "outputs", "expectations": "expectations", "trace": "spans"}
    fields = [f.name for f in judge.get_input_fields()]
    uri = getattr(found, "model", None)
    base, headers = getattr(found, "_base_url", None), getattr(found, "_extra_headers", None)
    params = getattr(found, "_inference_params", None)
    model = ModelSettings(uri, base, dict(params or {}), dict(headers or {})) if uri else None
    contract = JudgeContract(
        name=judge.name,
        purpose=judge.description or judge.name,
        value=value or _value_of(judge),
        scope="session" if judge.is_session_level_scorer else "trace",
        needs=tuple(needs[f] for f in fields if f in needs),
        kind="instructions" if isinstance(judge, InstructionsJudge) else "mlflow",
        calls_llm=model is not None,
    )
    digest = hashlib.sha256(f"{judge.name}{judge.instructions}{uri}{params}".encode()).hexdigest()[:16]
    return BoundJudge(contract, judge, digest, model)


def _value_of(judge: Judge) -> ValueSpec:
    kind = judge.feedback_value_type
    if kind is bool:
        return BooleanValue()
    options = tuple(get_args(kind)) if get_origin(kind) is Literal else ("yes", "no") if kind is str else ()
    good = tuple(o for o in options if str(o).lower() in _GOOD_WORDS)
    if not good or len(good) == len(options) or not all(isinstance(o, str) for o in options):
        raise ConfigError(
            f"Which values of the judge {judge.name!r} are good cannot be read off it.",
            found=str(kind),
            valid="the aligner's argument value=, for example NumericValue(1, 5, threshold=4)",
        )
    return CategoricalValue(options, good)
