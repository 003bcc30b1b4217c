"""The gate for an agent's changed prompts: better by one judge, and not worse by any other, on rows never seen before.

A judge is measured against labels (`gate.Gate`); a prompt by what judges say of the answers it leads to. Both sides
answer the same rows, so the test is paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust.compare import Comparison, compare

__all__ = ["PromptDecision", "PromptGate"]

Verdicts = Sequence[Any]
Route = Literal["better", "cheaper"]


@dataclass(frozen=True)
class PromptDecision:
    """What the gate decided, and on which evidence.

    Attributes:
        accepted: whether the new prompts may take the old ones' place.
        route: `better`, or `cheaper` (not worse by the margin, and cheaper); None when not accepted.
        reason: one or two sentences for a reader.
        target: the judge that decides.
        comparisons: by judge, old (A) against new (B) on the same test rows.
        n: test rows with the target's verdict on both sides.
        n_needed: how many more test rows the decision lacks; 0 when it lacks none, None when it cannot be said.
        old_cost: mean cost of answering a row with the old prompts, in any one unit; None when unknown.
        new_cost: the same with the new ones.
        alpha: chance of accepting prompts that are no better (or, for `cheaper`, worse by the margin or more).
        margin: how much worse still counts as not worse, as a share of rows that pass.
    """

    accepted: bool
    route: Route | None
    reason: str
    target: str
    comparisons: Mapping[str, Comparison]
    n: int
    n_needed: int | None
    old_cost: float | None
    new_cost: float | None
    alpha: float
    margin: float

    @property
    def comparison(self) -> Comparison:
        """The target judge's."""
        return self.comparisons[self.target]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of all attributes."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"comparisons": {name: c.to_dict() for name, c in self.comparisons.items()}}


@dataclass(frozen=True)
class PromptGate:
    """The rule by which changed prompts are accepted.

    Attributes:
        alpha: chance of accepting prompts that are no improvement, in (0, 0.5); one-sided.
        margin: how much worse, as a share of rows that pass, still counts as not worse, in (0, 1).
        min_rows: test rows below which nothing is decided.
        effect: improvement the answer "so many rows more" is about, as a share of rows.
        power: chance with which such an improvement shall be shown, in (0, 1).
    """

    alpha: float = 0.05
    margin: float = 0.05
    min_rows: int = 20
    effect: float = 0.1
    power: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or not 0 < self.margin < 1 or self.min_rows < 1:
            raise ConfigError(
                "A gate needs alpha between 0 and 0.5, a margin between 0 and 1, and at least one row.",
                found=f"alpha {self.alpha}, margin {self.margin}, rows {self.min_rows}",
            )

    def decide(
        self,
        target: str,
        old: Mapping[str, Verdicts],
        new: Mapping[str, Verdicts],
        *,
        clusters: Sequence[Hashable] | None = None,
        ids: Sequence[Hashable] | None = None,
        old_cost: float | None = None,
        new_cost: float | None = None,
    ) -> PromptDecision:
        """Decides between old and new prompts on rows neither was chosen by.

        Better: the exact paired test on the target's verdicts shows a gain at level alpha, one-sided. Cheaper: the
        lower end of that difference's interval lies above -margin, and the new cost less. In both cases the lower end
        of every other judge's difference must lie above -margin; all of them must, so no adjustment is needed for
        their number.

        Args:
            target: the judge that is to improve; a key of `old` and `new`.
            old: by judge, its verdicts on the old prompts' answers (True/False/1/0), None where there is none, shape
                (n,). A pair with None on either side is left out: give False where a side has itself to blame.
            new: the same of the new prompts, aligned by row.
            clusters: session or near-duplicate group of each row, None for a row on its own, shape (n,).
            ids: what to call each row among wins and losses; None uses positions.
            old_cost: mean cost of answering a row with the old prompts, in any unit; None when unknown.
            new_cost: the same with the new ones.

        Raises:
            ConfigError: the judges differ between the sides, lengths differ, or a value is no verdict.

        Source: as `compare`; requiring all non-inferiority tests at once is an intersection-union test (Berger 1982,
            Technometrics 24:295), whose level is that of each.
        """
        if set(old) != set(new) or target not in old:
            raise ConfigError(
                f"Both sides need verdicts of the same judges, {target!r} among them.", found=[*old, *new]
            )
        options: dict[str, Any] = {"kind": "share", "clusters": clusters, "ids": ids, "margin": self.margin}
        options |= {"effect": self.effect, "power": self.power, "confidence": 1 - 2 * self.alpha}
        found = {name: compare(old[name], new[name], name=name, **options) for name in old}
        cheaper = None if old_cost is None or new_cost is None else new_cost < old_cost
        route, reason, needed = self._route(target, found, cheaper)
        return PromptDecision(
            route is not None,
            route,
            reason,
            target,
            found,
            found[target].n,
            needed,
            old_cost,
            new_cost,
            self.alpha,
            self.margin,
        )

    def _route(
        self, target: str, found: Mapping[str, Comparison], cheaper: bool | None
    ) -> tuple[Route | None, str, int | None]:
        main = found[target]
        figures = _figures(main)
        if main.n < self.min_rows:
            more = self.min_rows - main.n
            reason = f"The old stays. Too few test rows: {main.n}, and {self.min_rows} are the least."
            return None, f"{reason} ({figures}.)", more
        if main.outcome == "worse":
            return None, f"The old stays. The new is worse: {figures}.", 0
        route: Route | None = None
        if main.outcome == "better":
            route = "better"
        elif main.non_inferior and cheaper:
            route = "cheaper"
        if route is None:
            return None, f"The old stays. {self._short_of(main, cheaper)} ({figures}.)", main.n_needed
        if harmed := [c for name, c in found.items() if name != target and not c.non_inferior]:
            return None, f"The old stays. {self._harm(harmed)} (By {target}: {figures}.)", _more(harmed)
        head = "The new is better" if route == "better" else f"The new is not worse by {self._margin} and cheaper"
        others = f"; by {_listed(found, target)} it is not worse by {self._margin} or more" if len(found) > 1 else ""
        return route, f"{head} on test rows no optimizer saw, by {target}: {figures}{others}.", 0

    def _short_of(self, main: Comparison, cheaper: bool | None) -> str:
        if main.non_inferior:
            known = "it is not cheaper" if cheaper is False else "what it costs is not known"
            return f"The new is not worse by {self._margin}, but not shown to be better, and {known}."
        return "The new is not shown to be better."

    def _harm(self, harmed: Sequence[Comparison]) -> str:
        parts = []
        for c in harmed:
            if c.outcome == "worse":
                parts.append(f"by {c.name} it is worse ({_figures(c)})")
            elif not c.n:
                parts.append(f"{c.name} reached no verdict")
            else:
                parts.append(f"by {c.name} it may be worse by {self._margin} or more ({_figures(c)})")
        return f"The new does not hold what other judges ask: {'; '.join(parts)}."

    @property
    def _margin(self) -> str:
        return f"{100 * self.margin:g} points"


def _figures(c: Comparison) -> str:
    if c.value_a is None or c.value_b is None or c.p_value is None:
        return "no row has a verdict on both sides"
    wins, losses = len(c.wins), len(c.losses)
    one_sided = c.p_value / 2 if wins >= losses else 1 - c.p_value / 2
    low, high = (f"{100 * v:+.0f}" if v is not None else "?" for v in (c.low, c.high))
    return (
        f"{100 * c.value_b:.0f} % of {c.n} rows pass against {100 * c.value_a:.0f} %, {wins} better and {losses} "
        f"worse; difference between {low} and {high} points with {c.confidence:.0%} confidence, "
        f"one-sided p = {one_sided:.2g}"
    )


def _listed(found: Mapping[str, Comparison], target: str) -> str:
    return ", ".join(name for name in found if name != target)


def _more(harmed: Sequence[Comparison]) -> int | None:
    """Rows that would settle what is merely uncertain; 0 where a judge says worse."""
    if any(c.outcome == "worse" for c in harmed):
        return 0
    needed = [c.n_needed for c in harmed]
    return None if None in needed else max(n for n in needed if n is not None)
