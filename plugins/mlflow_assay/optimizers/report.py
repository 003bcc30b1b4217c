"""What an optimization came to: everything needed to see why the gate decided as it did."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_assay.engine.budget import Spend
from mlflow_assay.optimizers.task import Candidate
from mlflow_assay.trust.compare import Comparison
from mlflow_assay.trust.prompt_gate import PromptDecision

__all__ = ["OptimizationReport"]


@dataclass(frozen=True)
class OptimizationReport:
    """An optimization from dataset to decision.

    Attributes:
        prompts: registered version each prompt started from, by name.
        optimizer, options, seed: as asked for.
        dataset: reference, digest and address of the dataset.
        split: row ids by part, and in none.
        judges: digest by judge; the first is the target.
        agent, writer: what was asked, and the model that wrote, None for none.
        candidates: tried on the validation rows, in order; the first is the prompts as they are.
        chosen: the best of them.
        decision: the gate's; None where no candidate beat the prompts as they are on validation, so none was tested.
        reason: the gate's reason, or why nothing was tested.
        failed_outside: test rows left out because a call failed for reasons outside agent, prompts and judges.
        rows: by test row, what the target said of old and new.
        calls: made, by purpose, in this attempt; answers from the journal are not among them.
        spent: calls, tokens and dollars in all attempts.
        unpriced: calls whose cost is not known; they count as free in `spent`.
        cost_unit: in which unit the decision's costs are.
        stopped: why the search ended early, or None.
        notes: what the reader must know.
        seconds: wall time of this attempt.
    """

    prompts: Mapping[str, int]
    optimizer: str
    options: Mapping[str, Any]
    seed: int
    dataset: Mapping[str, str]
    split: Mapping[str, list[str]]
    judges: Mapping[str, str]
    agent: str
    writer: str | None
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    decision: PromptDecision | None
    reason: str
    failed_outside: int
    rows: Mapping[str, Mapping[str, Any]]
    calls: Mapping[str, int]
    spent: Spend
    unpriced: int
    cost_unit: str
    stopped: str | None
    notes: tuple[str, ...]
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the new prompts may take the old ones' place."""
        return self.decision is not None and self.decision.accepted

    @property
    def target(self) -> str:
        """The judge that decides."""
        return next(iter(self.judges))

    @property
    def old(self) -> Mapping[str, str]:
        """The prompts as they are."""
        return self.candidates[0].prompts

    @property
    def changed(self) -> dict[str, str]:
        """The chosen prompts that differ from those they started from."""
        return {name: text for name, text in self.chosen.prompts.items() if text != self.old[name]}

    @property
    def comparison(self) -> Comparison | None:
        """The target's, on the test rows."""
        return self.decision.comparison if self.decision else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of everything."""
        plain = ("optimizer", "seed", "agent", "writer", "reason", "failed_outside", "unpriced", "cost_unit", "stopped")
        return {name: getattr(self, name) for name in plain} | {
            "accepted": self.accepted,
            "prompts": dict(self.prompts),
            "options": dict(self.options),
            "dataset": dict(self.dataset),
            "split": dict(self.split),
            "judges": dict(self.judges),
            "candidates": [
                {"number": c.number, "score": c.score, "note": c.note, "prompts": dict(c.prompts)}
                for c in self.candidates
            ],
            "chosen": self.chosen.number,
            "decision": self.decision.to_dict() if self.decision else None,
            "rows": {k: dict(v) for k, v in self.rows.items()},
            "calls": dict(self.calls),
            "spent": {"calls": self.spent.calls, "tokens": self.spent.tokens, "usd": self.spent.usd},
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def table(self) -> Iterator[tuple[str, str, str, str]]:
        """By judge on the test rows: judge, before, after, change with its interval."""
        for name, c in (self.decision.comparisons if self.decision else {}).items():
            yield name, percent(c.value_a), percent(c.value_b), change(c)

    def facts(self) -> Iterator[tuple[str, str]]:
        """What the figures rest on, as (what, in words)."""
        sizes = ", ".join(f"{len(ids)} {part}" for part, ids in self.split.items() if ids)
        yield "dataset", f"{self.dataset['reference']} (digest {self.dataset['digest'][:12]}): {sizes}"
        yield "candidates", f"{len(self.candidates)} tried; chosen number {self.chosen.number}: {self.chosen.note}"
        first = self.candidates[0].score
        yield (
            "validation",
            f"{percent(first)} as they are, {percent(self.chosen.score)} chosen (it chose; it proves nothing)",
        )
        made = ", ".join(f"{n} {who}" for who, n in sorted(self.calls.items()) if n) or "none"
        yield "calls", f"{made} this time; {self.spent.calls} in all, {self.money}"
        if self.failed_outside:
            yield (
                "left out",
                f"{self.failed_outside} test rows, whose calls failed for reasons outside agent and prompts",
            )
        for note in (*((self.stopped,) if self.stopped else ()), *self.notes):
            yield "note", note

    @property
    def money(self) -> str:
        """What it cost, as far as known."""
        unknown = f"; the cost of {self.unpriced} calls is not known" if self.unpriced else ""
        return f"${self.spent.usd:.4f}{unknown}"

    def markdown(self) -> str:
        """The report for a reader, as Markdown."""
        word = "accepted" if self.accepted else "not accepted"
        names = ", ".join(f"{name} (version {version})" for name, version in self.prompts.items())
        lines = [f"# Optimization of {', '.join(self.prompts)}: {word}", "", self.reason, ""]
        lines += [
            f"From {names} by `{self.optimizer}`, seed {self.seed}. The table is on test rows the optimizer never saw.",
            "",
        ]
        if self.decision:
            level = f"{self.decision.comparison.confidence:.0%}"
            lines += [f"| judge | before | after | change, {level} interval |", "|---|---|---|---|"]
            lines += [f"| {' | '.join(row)} |" for row in self.table()] + [""]
        lines += [f"- {what}: {text}" for what, text in self.facts()]
        lines += ["", "| candidate | validation | what was tried |", "|---|---|---|"]
        lines += [f"| {c.number} | {percent(c.score)} | {c.note} |" for c in self.candidates]
        for name, text in self.changed.items():
            lines += ["", f"## {name}", "", "```diff", *diff(self.old[name], text), "```"]
        return "\n".join(lines) + "\n"


def diff(old: str, new: str) -> list[str]:
    """What was changed, line by line."""
    made = difflib.unified_diff(old.splitlines(), new.splitlines(), "before", "after", lineterm="", n=1)
    return [line.replace("```", "'''") for line in made]


def percent(value: float | None) -> str:
    """A share for a reader."""
    return "none" if value is None else f"{100 * value:.0f} %"


def change(c: Comparison) -> str:
    """The difference with its interval, in points."""
    if c.difference is None:
        return "cannot be said"
    low, high = (f"{100 * v:+.0f}" if v is not None else "?" for v in (c.low, c.high))
    return f"{100 * c.difference:+.0f} [{low}, {high}]"
