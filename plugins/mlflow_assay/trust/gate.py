"""The gate: is a changed judge (or prompt) proven enough to take the place of the old one?

A change is accepted on held-out rows it never saw when it is better than the old, or when it is not worse by a margin
and cheaper. Otherwise the old stays, and the decision says why in plain words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import Bools, binary, same_length
from mlflow_assay.trust.agreement import agreement, kappa_gain
from mlflow_assay.trust.compare import Comparison, compare
from mlflow_assay.trust.ratings import Measure

__all__ = ["Gate", "GateDecision"]

Route = Literal["better", "cheaper"]


@dataclass(frozen=True)
class GateDecision:
    """What the gate decided, and on which evidence.

    Attributes:
        accepted: whether the change may take the old one's place.
        route: `better`, or `cheaper` (not worse by the margin, and cheaper); None when not accepted.
        reason: one or two sentences for a reader.
        n: held-out rows with a label that both were asked about.
        n_needed: how many more labels the decision lacks; 0 when it lacks none, None when it cannot be said.
        comparison: rows judged rightly, old (A) against new (B), paired; an unscored row is not judged rightly.
        kappa_old: chance-corrected agreement of the old with the labels, on the rows it scored.
        kappa_new: the same of the new.
        kappa_gain: new minus old on the rows both scored, with its interval; value None where undefined.
        unscored_old: held-out rows the old left unscored.
        unscored_new: the same of the new.
        old_cost: mean cost of a verdict of the old, in any one unit; None when unknown.
        new_cost: the same of the new, in the same unit.
        alpha: chance of accepting a change that is not better (or, for `cheaper`, worse by the margin or more).
        margin: how much worse in the share judged rightly still counts as not worse.
    """

    accepted: bool
    route: Route | None
    reason: str
    n: int
    n_needed: int | None
    comparison: Comparison
    kappa_old: Measure
    kappa_new: Measure
    kappa_gain: Measure
    unscored_old: int
    unscored_new: int
    old_cost: float | None
    new_cost: float | None
    alpha: float
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of all attributes."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        measures = {k: dataclasses.asdict(fields[k]) for k in ("kappa_old", "kappa_new", "kappa_gain")}
        return fields | measures | {"comparison": self.comparison.to_dict()}


@dataclass(frozen=True)
class Gate:
    """The rule by which changes are accepted.

    Attributes:
        alpha: chance of accepting a change that is no improvement, in (0, 0.5); one-sided.
        margin: how much worse, as a share of rows judged rightly, still counts as not worse, in (0, 1).
        kappa_margin: the same for kappa, so that a judge that always gives the commoner verdict does not pass.
        min_labels: held-out labels below which nothing is decided.
        min_class: held-out labels of each kind (good, bad) below which nothing is decided.
        effect: improvement the answer "so many labels more" is about, as a share of rows judged rightly.
        power: chance with which such an improvement shall be shown, in (0, 1).
    """

    alpha: float = 0.05
    margin: float = 0.05
    kappa_margin: float = 0.1
    min_labels: int = 20
    min_class: int = 5
    effect: float = 0.1
    power: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or not 0 < self.margin < 1 or not self.kappa_margin > 0:
            raise ConfigError(
                "A gate needs alpha between 0 and 0.5 and margins above 0.",
                found=f"alpha {self.alpha}, margin {self.margin}, kappa margin {self.kappa_margin}",
            )
        if min(self.min_labels, self.min_class) < 1:
            raise ConfigError("A gate needs at least one label of each kind.", found=self.min_class)

    def decide(
        self,
        old: Sequence[Any],
        new: Sequence[Any],
        human: Sequence[Any],
        *,
        clusters: Sequence[Hashable] | None = None,
        old_cost: float | None = None,
        new_cost: float | None = None,
        ids: Sequence[Hashable] | None = None,
        name: str = "judge",
    ) -> GateDecision:
        """Decides between an old and a new judge on rows neither was fitted on.

        Better: the exact paired test on "judged as the label says" shows a gain at level alpha, one-sided, and kappa
        does not fall. Not worse: the lower end of that difference's interval lies above -margin, and of kappa's above
        -kappa_margin.

        Args:
            old: verdicts of the old (good/bad as True/False/1/0), None where it is unscored, shape (n,).
            new: verdicts of the new on the same rows, likewise.
            human: labels, None where there is none (such rows are left out), shape (n,).
            clusters: session or near-duplicate group of each row, None for a row on its own, shape (n,).
            old_cost: mean cost of a verdict of the old, in any unit; None when unknown.
            new_cost: the same of the new, in the same unit.
            ids: what to call each row among wins and losses; None uses positions.
            name: what is decided about.

        Returns:
            The decision. An unscored row counts as not judged rightly, on either side: a judge cannot win by
            leaving the hard rows out. Leave rows out yourself where a verdict failed for reasons outside the judge.

        Raises:
            ConfigError: lengths differ, or a value is neither good, bad nor None.

        Source: McNemar 1947, Psychometrika 12:153 (exact); interval Tango 1998, Statistics in Medicine 17:891;
            clustered rows and kappa's gain as in `compare` and `kappa_gain`.
        """
        same_length(old=old, new=new, human=human, clusters=clusters, ids=ids)
        o, w, y = binary(old, "old"), binary(new, "new"), binary(human, "human")
        used = ~np.isnan(y)
        rows = np.flatnonzero(used)
        group = None if clusters is None else [clusters[i] for i in rows.tolist()]
        verdicts = [_listed(v[used]) for v in (o, w, y)]
        comparison = compare(
            (o == y)[used].tolist(),
            (w == y)[used].tolist(),
            kind="share",
            clusters=group,
            ids=[i if ids is None else ids[i] for i in rows.tolist()],
            name=f"{name}, judged as the label says",
            margin=self.margin,
            effect=self.effect,
            power=self.power,
            confidence=1 - 2 * self.alpha,
        )
        evidence = _Evidence(
            comparison=comparison,
            kappas=tuple(agreement(v, verdicts[2], clusters=group).kappa for v in verdicts[:2]),
            gain=kappa_gain(*verdicts, clusters=group, confidence=1 - 2 * self.alpha),
            good=int((y[used] == 1).sum()),
            unscored=(int(np.isnan(o[used]).sum()), int(np.isnan(w[used]).sum())),
            costs=(old_cost, new_cost),
        )
        return self._decided(evidence)

    def _decided(self, found: _Evidence) -> GateDecision:
        lacking = self.lacking(found.good, found.comparison.n - found.good)
        route = None if lacking else self._route(found)
        reason, needed = lacking or (self._why(found, route), self._more(found, route))
        return GateDecision(
            accepted=route is not None,
            route=route,
            reason=reason,
            n=found.comparison.n,
            n_needed=needed,
            comparison=found.comparison,
            kappa_old=found.kappas[0],
            kappa_new=found.kappas[1],
            kappa_gain=found.gain,
            unscored_old=found.unscored[0],
            unscored_new=found.unscored[1],
            old_cost=found.costs[0],
            new_cost=found.costs[1],
            alpha=self.alpha,
            margin=self.margin,
        )

    def lacking(self, good: int, bad: int) -> tuple[str, int] | None:
        """What held-out labels are missing to decide at all; None when there are enough.

        Args:
            good: held-out labels that say good.
            bad: held-out labels that say bad.

        Returns:
            A sentence, and how many more held-out labels are needed.
        """
        n, (rarer, kind) = good + bad, min((good, "good"), (bad, "bad"))
        more = max(self.min_labels - n, self.min_class - rarer, 0)
        if n < self.min_labels:
            return f"Too few held-out labels: {n}, and {self.min_labels} are the least; {more} more are needed.", more
        if rarer < self.min_class:
            return (
                f"Too few held-out labels of one kind: {rarer} say {kind}, and {self.min_class} are the least; "
                f"label {more} more that are {kind}.",
                more,
            )
        return None

    def _route(self, found: _Evidence) -> Route | None:
        gain, compared = found.gain, found.comparison
        if compared.outcome == "better" and gain.value is not None and gain.value > 0:
            return "better"
        not_worse = compared.non_inferior and gain.low is not None and gain.low > -self.kappa_margin
        return "cheaper" if not_worse and found.cheaper else None

    def _why(self, found: _Evidence, route: Route | None) -> str:
        figures = found.figures
        if route == "better":
            return f"The new is better on held-out labels it never saw: {figures}."
        if route == "cheaper":
            saved = 1 - (found.costs[1] or 0.0) / (found.costs[0] or 1.0)
            kept = f"The new is not worse by {_points(self.margin)} or more"
            return f"{kept} and costs {saved:.0%} less a verdict: {figures}."
        return f"The old stays. {self._against(found)} ({figures}.)"

    def _against(self, found: _Evidence) -> str:
        compared, gain = found.comparison, found.gain
        if compared.outcome == "worse":
            return "The new is worse on held-out labels."
        if compared.outcome == "better":
            return "More rows are judged rightly, but only by guessing the commoner verdict: kappa does not rise."
        if gain.value is None:
            return "Agreement beyond chance cannot be said: one of them scores too little."
        if compared.non_inferior and found.cheaper:
            return f"The share judged rightly is not worse, but kappa may have fallen by {self.kappa_margin:g} or more."
        if compared.non_inferior:
            known = "it is not cheaper" if found.cheaper is False else "what it costs is not known"
            return f"The new is not worse by {_points(self.margin)}, but not shown to be better, and {known}."
        return "The new is not shown to be better."

    def _more(self, found: _Evidence, route: Route | None) -> int | None:
        return 0 if route or found.comparison.outcome != "inconclusive" else found.comparison.n_needed


@dataclass(frozen=True)
class _Evidence:
    comparison: Comparison
    kappas: tuple[Measure, ...]
    gain: Measure
    good: int
    unscored: tuple[int, int]
    costs: tuple[float | None, float | None]

    @property
    def cheaper(self) -> bool | None:
        """Whether the new costs less; None when one of the costs is unknown."""
        old, new = self.costs
        return None if old is None or new is None or not math.isfinite(old + new) else new < old

    @property
    def figures(self) -> str:
        compared, (old, new) = self.comparison, self.kappas
        wins, losses = len(compared.wins), len(compared.losses)
        unscored = f", {self.unscored[1]} unscored against {self.unscored[0]}" if any(self.unscored) else ""
        low, high = (f"{100 * v:+.0f}" if v is not None else "?" for v in (compared.low, compared.high))
        p = compared.p_value or 0.0
        one_sided = p / 2 if wins >= losses else 1 - p / 2
        return (
            f"right on {_percent(compared.value_b)} of {compared.n} rows against {_percent(compared.value_a)}; of the "
            f"rows they differ on, {wins} for the new and {losses} for the old; difference between {low} and {high} "
            f"points with {compared.confidence:.0%} confidence, one-sided p = {one_sided:.2g}; "
            f"kappa {old} before, {new} after{unscored}"
        )


def _listed(values: Any) -> list[bool | None]:
    missing: Bools = np.isnan(values)
    return [None if m else bool(v) for v, m in zip(values, missing, strict=True)]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f} %"


def _points(value: float) -> str:
    return f"{100 * value:g} points"
