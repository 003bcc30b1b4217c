"""The experts' labels of traces as an aligner needs them: one a trace, on the judge's scale, with the reasons given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, CategoricalValue, JudgeContract, UnscoredError
from mlflow_assay.labels.verdicts import read_label

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace, TraceInfo

__all__ = ["Label", "LabelSet", "Labelled", "attach", "read_labels"]

Source = Literal["human", "code", "any"]

_SESSION = "mlflow.trace.session"


@dataclass(frozen=True)
class Label:
    """What the experts settled on for one trace.

    Attributes:
        trace_id: `tr-<32 hex>`.
        passed: good or bad, by the judge's pass rule.
        value: the same on the judge's scale; None where good or bad leaves more than one value open.
        rationales: the reasons given by those who said so, oldest first.
        correction: whether all labels are corrections of a judge's verdict. Such traces were picked because the judge
            looked wrong, so they may teach, but never test.
    """

    trace_id: str
    passed: bool
    value: Any | None
    rationales: tuple[str, ...] = ()
    correction: bool = False


@dataclass(frozen=True)
class Labelled:
    """A trace with its label."""

    trace: Trace
    label: Label

    @property
    def id(self) -> str:
        """The trace's id."""
        return str(self.trace.info.trace_id)

    @property
    def passed(self) -> bool:
        """Whether the experts call it good."""
        return self.label.passed

    @property
    def session(self) -> str | None:
        """MLflow's session id; None for a trace on its own."""
        return self.trace.info.trace_metadata.get(_SESSION) or None


@dataclass(frozen=True)
class LabelSet:
    """The labels found, and what happened to the rest.

    Attributes:
        name: the assessment's name.
        labels: one a trace, in the order of the traces.
        conflicts: traces whose labellers disagreed and whose majority was taken.
        ties: traces left out because as many said good as bad.
        unreadable: labels left out because they are neither, by value.
        seen: all assessment names by people on these traces, for error messages.
    """

    name: str
    labels: tuple[Label, ...]
    conflicts: int = 0
    ties: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    seen: tuple[str, ...] = ()


def read_labels(infos: Iterable[TraceInfo], name: str, contract: JudgeContract, source: Source = "human") -> LabelSet:
    """The labels called `name`: each labeller's last word, then the majority; ties are left out and counted.

    Feedback and expectations count. Overridden and failed assessments do not, nor do verdicts of judges.

    Args:
        infos: trace infos with their assessments (spans are not needed).
        name: the assessment's name, compared as MLflow's optimizers do: without regard to case.
        contract: the judge's; its scale and pass rule read the values, so that True, "yes" and "pass" are one.
        source: `human`, `code` (such as recorded ground truth), or `any` of these two.
    """
    labels, unreadable, seen = [], Counter[str](), set[str]()
    conflicts = ties = 0
    wanted = ("human", "code") if source == "any" else (source,)
    for info in infos:
        machine = {a.assessment_id for a in info.assessments or [] if _kind(a) != "human"}
        votes: dict[str, tuple[bool, Any, Assessment]] = {}
        for found in sorted(info.assessments or [], key=lambda a: a.create_time_ms or 0):
            value = _value(found)
            if value is None or _kind(found) not in wanted or semconv.JUDGE_DIGEST in (found.metadata or {}):
                continue
            seen.add(str(found.name))
            if found.name.strip().lower() != name.strip().lower():
                continue
            passed = read_label(value, contract)
            if passed is None:
                unreadable[repr(value)[:60]] += 1
            else:
                votes[f"{_kind(found)}:{found.source.source_id}"] = (passed, value, found)
        balance = sum(1 if passed else -1 for passed, _, _ in votes.values())
        ties += bool(votes) and balance == 0
        if balance:
            conflicts += abs(balance) < len(votes)
            labels.append(_settle(info.trace_id, balance > 0, list(votes.values()), contract, machine))
    return LabelSet(name, tuple(labels), conflicts, ties, dict(unreadable), tuple(sorted(seen)))


def attach(traces: Sequence[Trace], labels: Iterable[Label]) -> list[Labelled]:
    """Traces with their labels, in the order of the traces; those without a label are left out."""
    by_id = {label.trace_id: label for label in labels}
    return [Labelled(t, by_id[t.info.trace_id]) for t in traces if t.info.trace_id in by_id]


def _settle(
    trace_id: str,
    passed: bool,
    votes: Sequence[tuple[bool, Any, Assessment]],
    contract: JudgeContract,
    machine: set[str | None],
) -> Label:
    agreeing = [(value, found) for said, value, found in votes if said == passed]
    values = [v for v in (_on_scale(value, passed, contract) for value, _ in agreeing) if v is not None]
    reasons = tuple(dict.fromkeys(f.rationale.strip() for _, f in agreeing if f.rationale and f.rationale.strip()))
    correction = all(f.overrides is not None and f.overrides in machine for _, _, f in votes)
    return Label(trace_id, passed, max(values, key=values.count) if values else None, reasons, correction)


def _on_scale(value: Any, passed: bool, contract: JudgeContract) -> Any | None:
    """The label as a value the judge may give, where it says which."""
    spec = contract.value
    if isinstance(spec, BooleanValue):
        return spec.good if passed else not spec.good
    try:
        return spec.read(value)
    except UnscoredError:
        if not isinstance(spec, CategoricalValue):
            return None
    scored = [o for o in spec.options if o not in spec.undecided and (o in spec.good) == passed]
    return scored[0] if len(scored) == 1 else None


def _kind(assessment: Assessment) -> str:
    return str(assessment.source.source_type).lower() if assessment.source else ""


def _value(assessment: Assessment) -> Any | None:
    """The value said; None where it is overridden or failed."""
    if assessment.valid is False or assessment.error is not None:
        return None
    held = assessment.feedback or assessment.expectation
    return held.value if held is not None else None
