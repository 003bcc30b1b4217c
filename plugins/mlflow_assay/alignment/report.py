"""What an alignment came to: everything needed to see why the gate decided as it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_assay.alignment.labelled import LabelSet
from mlflow_assay.contracts import BoundJudge
from mlflow_assay.trust.agreement import Agreement, Measure
from mlflow_assay.trust.gate import GateDecision

__all__ = ["AlignmentReport", "Side"]

_PLAIN = (
    *("judge", "optimizer", "seed", "label", "label_source", "model", "cost_unit", "failed_outside"),
    *("forced", "summary", "reused", "seconds", "accepted"),
)


@dataclass(frozen=True)
class Side:
    """One version of the judge: ready to run, and as its definition says it."""

    bound: BoundJudge
    text: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        contract = self.bound.contract
        return {
            "version": contract.version,
            "digest": self.bound.digest,
            "kind": contract.kind,
            "value": contract.value.describe(),
            "definition": self.text,
        }


@dataclass(frozen=True)
class AlignmentReport:
    """An alignment from labels to decision.

    Attributes:
        judge, optimizer, options, seed, label, label_source, model: as asked for.
        labels: labels found, conflicts, ties, unreadable ones.
        split: trace ids by part.
        good: labels that say good, by part.
        old, new: both versions.
        before, after: agreement of each with the held-out labels.
        decision: the gate's.
        cost_unit: in which unit the decision's costs are.
        failed_outside: held-out rows left out because a verdict failed for reasons outside the judges.
        forced: whether the user accepted what the gate did not.
        summary, details: what the optimizer changed, and its own figures.
        used: traces whose labels the new judge holds or learnt from.
        verdicts: by held-out trace: the label, and what old and new said.
        calls: model calls made, by purpose.
        reused: verdicts of the old judge that stood already.
        files: the new version's files by name.
        seconds: wall time.
    """

    judge: str
    optimizer: str
    options: Mapping[str, Any]
    seed: int
    label: str
    label_source: str
    model: str | None
    labels: LabelSet
    split: Mapping[str, Any]
    good: Mapping[str, int]
    old: Side
    new: Side
    before: Agreement
    after: Agreement
    decision: GateDecision
    cost_unit: str
    failed_outside: int
    forced: bool
    summary: str
    details: Mapping[str, Any]
    used: tuple[str, ...]
    verdicts: Mapping[str, Any]
    calls: Mapping[str, int]
    reused: int
    files: Mapping[str, bytes]
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the new version takes the old one's place, by the gate or by force."""
        return self.decision.accepted or self.forced

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of everything but the files' bytes."""
        left_out = {"conflicts": self.labels.conflicts, "ties": self.labels.ties, "unreadable": self.labels.unreadable}
        return {name: getattr(self, name) for name in _PLAIN} | {
            "options": {k: v if isinstance(v, str | int | float | None) else str(v) for k, v in self.options.items()},
            "labels": {"n": len(self.labels.labels), **left_out},
            "split": dict(self.split),
            "old": self.old.to_dict(),
            "new": self.new.to_dict(),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "decision": self.decision.to_dict(),
            "details": dict(self.details),
            "used": list(self.used),
            "verdicts": dict(self.verdicts),
            "calls": dict(self.calls),
            "files": sorted(self.files),
        }

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """The before/after table: what, before, after."""
        before, after, decision = self.before, self.after, self.decision
        yield "version", self.old.bound.contract.version, self.new.bound.contract.version
        yield "what passes", self.old.bound.contract.value.describe(), self.new.bound.contract.value.describe()
        yield "agrees with the experts", _share(before.accuracy), _share(after.accuracy)
        yield "agreement beyond chance (kappa)", str(before.kappa), str(after.kappa)
        yield "passes what is good", _share(before.sensitivity), _share(after.sensitivity)
        yield "fails what is bad", _share(before.specificity), _share(after.specificity)
        yield "unscored", str(decision.unscored_old), str(decision.unscored_new)
        yield self.cost_unit, _cost(decision.old_cost), _cost(decision.new_cost)

    def facts(self) -> Iterator[tuple[str, str]]:
        """What the figures rest on, as (what, in words)."""
        parts = self.split
        sizes = ", ".join(f"{len(parts[p])} {p} ({self.good[p]} good)" for p in ("train", "validation", "test"))
        yield "labels", f"{len(self.labels.labels)} {self.label_source} labels {self.label!r}; {sizes}"
        for what, count in (
            ("conflicts, settled by majority", self.labels.conflicts),
            ("ties, left out", self.labels.ties),
            ("neither good nor bad, left out", sum(self.labels.unreadable.values())),
            ("corrections of a verdict, which teach but never test", sum(x.correction for x in self.labels.labels)),
            ("left out of all parts, since they resemble the test", len(parts["purged"])),
            ("held-out rows without a verdict for reasons outside the judges", self.failed_outside),
        ):
            if count:
                yield "", f"{count} {what}"
        made = ", ".join(f"{count} {who}" for who, count in self.calls.items() if count) or "none"
        yield "model calls", f"{made}; {self.reused} verdicts stood already"
        yield "changed", self.summary

    def markdown(self) -> str:
        """The report for a reader, as Markdown."""
        word = "accepted" if self.decision.accepted else "accepted by force" if self.forced else "not accepted"
        lines = [
            f"# Alignment of {self.judge}: {word}",
            "",
            self.decision.reason,
            "",
            f"Optimizer `{self.optimizer}`, seed {self.seed}, model {self.model or 'none'}. All figures are on "
            f"{self.decision.n} held-out labelled traces the optimizer never saw, with 95 % intervals.",
            "",
            "| | before | after |",
            "|---|---|---|",
            *(f"| {what} | {a} | {b} |" for what, a, b in self.rows()),
            "",
            *(f"- {what + ': ' if what else ''}{text}" for what, text in self.facts()),
        ]
        flips = [i for i, v in self.verdicts.items() if v["old"]["passed"] != v["new"]["passed"]]
        if flips:
            lines += ["", "Traces on which they differ:", "", "| trace | experts | old | new |", "|---|---|---|---|"]
            lines += [
                f"| {i} | {_word(v['human'])} | {_word(v['old']['passed'])} | {_word(v['new']['passed'])} |"
                for i, v in ((i, self.verdicts[i]) for i in flips)
            ]
        return "\n".join(lines) + "\n"


def _share(found: Measure) -> str:
    if found.value is None:
        return "cannot be said"
    interval = "" if found.low is None or found.high is None else f" [{100 * found.low:.0f}, {100 * found.high:.0f}]"
    return f"{100 * found.value:.0f} %{interval}"


def _cost(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _word(passed: bool | None) -> str:
    return "unscored" if passed is None else "good" if passed else "bad"
