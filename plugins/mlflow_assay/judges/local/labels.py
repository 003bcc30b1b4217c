"""Labels of traces from their assessments: pass or fail, one a trace, conflicts settled and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, Label, UnscoredError, ValueSpec

if TYPE_CHECKING:
    from mlflow.entities import Assessment, TraceInfo

__all__ = ["LabelSet", "LabelSource", "of_traces", "settle"]

LabelSource = Literal["human", "code", "any"]


@dataclass(frozen=True)
class LabelSet:
    """One label a trace, and what happened to the rest.

    Attributes:
        name: the assessment's name.
        passed: trace id -> whether it passes.
        conflicts: traces whose labels disagreed and whose majority was taken.
        ties: traces left out because as many said pass as fail.
        unreadable: labels left out because they are neither pass nor fail, by value.
        sources: labels used, by source (`human`, `code`, `llm_judge`, `given`).
    """

    name: str
    passed: Mapping[str, bool]
    conflicts: int = 0
    ties: int = 0
    unreadable: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

    def only(self, trace_ids: Collection[str]) -> LabelSet:
        """The labels of some traces, for example of those to learn from; the counts stay those of all."""
        return replace(self, passed={i: p for i, p in self.passed.items() if i in trace_ids})


def settle(
    labels: Iterable[Label], name: str, value: ValueSpec | None = None, sources: Mapping[str, int] | None = None
) -> LabelSet:
    """One label a trace: each labeller's last word, then the majority; ties are left out.

    Args:
        labels: oldest first.
        name: the assessment's name; others are ignored.
        value: how a value is read and which passes; None reads yes/no with yes as pass.
        sources: counts to carry along.
    """
    spec = value or BooleanValue()
    votes: dict[str, dict[str, bool]] = {}
    unreadable: Counter[str] = Counter()
    for label in labels:
        if label.name != name:
            continue
        try:
            passed = spec.passes(spec.read(label.value))  # type: ignore[arg-type]
        except UnscoredError:
            unreadable[repr(label.value)[:60]] += 1
            continue
        said = votes.setdefault(label.trace_id, {})
        said.pop(label.by, None)
        said[label.by] = passed
    return _count(name, votes, unreadable, sources)


def _count(
    name: str, votes: Mapping[str, Mapping[str, bool]], unreadable: Counter[str], sources: Mapping[str, int] | None
) -> LabelSet:
    balance = {i: sum(1 if v else -1 for v in said.values()) for i, said in votes.items()}
    mixed = {i for i, said in votes.items() if len(set(said.values())) > 1}
    passed = {i: b > 0 for i, b in balance.items() if b}
    used = sources if sources is not None else {"given": sum(len(s) for s in votes.values())}
    return LabelSet(name, passed, len(mixed & passed.keys()), len(votes) - len(passed), dict(unreadable), dict(used))


def of_traces(
    infos: Iterable[TraceInfo], name: str, source: LabelSource = "human", value: ValueSpec | None = None
) -> LabelSet:
    """The labels called `name` on these traces.

    Feedback and expectations count; overridden and failed ones do not, nor do verdicts of local judges, which
    would otherwise learn from themselves.

    Args:
        infos: trace infos with their assessments (spans are not needed).
        name: the assessment's name.
        source: `human`, `code` (such as recorded ground truth), or `any`, which includes LLM judges.
        value: see `settle`.
    """
    labels: list[Label] = []
    sources: Counter[str] = Counter()
    for info in infos:
        for found in sorted(info.assessments or [], key=lambda a: a.create_time_ms or 0):
            said = _value(found)
            kind = str(found.source.source_type).lower()
            if found.name != name or said is None or (source != "any" and kind != source):
                continue
            sources[kind] += 1
            labels.append(Label(info.trace_id, name, said, f"{kind}:{found.source.source_id}", found.rationale))
    return settle(labels, name, value, sources)


def _value(assessment: Assessment) -> object | None:
    """The value said, or None where it is overridden, failed or a local judge's own verdict."""
    metadata = assessment.metadata or {}
    if assessment.valid is False or assessment.error is not None or metadata.get(semconv.JUDGE_KIND) == "local":
        return None
    held = assessment.feedback or assessment.expectation
    value: object | None = held.value if held is not None else None
    return value
