"""Did the change help? Two versions on the same inputs, tested as pairs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust import _paired
from mlflow_assay.trust._arrays import Floats, binary, check_confidence, codes, numeric, same_length
from mlflow_assay.trust._design import cluster_sums, design_effect
from mlflow_assay.trust._difference import corrected_difference
from mlflow_assay.trust._paired import mcnemar_exact
from mlflow_assay.trust._types import Estimate
from mlflow_assay.trust.planning import rows_needed
from mlflow_assay.trust.trials import pass_k, pass_k_values

__all__ = [
    "Comparison",
    "compare",
    "compare_pass_k",
    "corrected_difference",
    "holm",
    "holm_adjust",
    "mcnemar_exact",
    "pass_k",
    "pass_k_values",
    "rows_needed",
]


@dataclass(frozen=True)
class Comparison:
    """Version B against version A on the same inputs.

    Attributes:
        name: what was compared, usually the judge's name.
        kind: `share` of passes, or `mean` score.
        n: pairs used.
        n_dropped: pairs left out because a side is unscored.
        value_a: pass share or mean score of A on the pairs used; None without pairs.
        value_b: the same of B.
        wins: ids (or positions) of pairs B did better on.
        losses: ids (or positions) of pairs A did better on.
        ties: number of pairs on which they are equal.
        difference: value_b - value_a; None without pairs.
        low: lower end of the difference's interval; None when impossible.
        high: upper end, likewise.
        confidence: level in (0, 1).
        p_value: two-sided p that there is no difference; None without pairs.
        p_adjusted: the same after Holm's adjustment over several comparisons; None when not adjusted.
        method: `mcnemar-exact`, `sign-flip-exact` (sessions repeat) or `sign-flip` (mean scores).
        better: which direction is good, `higher` or `lower`.
        margin: how much worse B may be and still count as non-inferior; None when not asked.
        effect: the difference the power answer is about; None when not asked.
        n_needed: how many more pairs would show `effect` with 80 % power (or as asked); None when not asked.
        corrected: the difference corrected for judge error, where both sides carry enough labels; else None.
        notes: what the reader must know; plain sentences.
    """

    name: str
    kind: Literal["share", "mean"]
    n: int
    n_dropped: int
    value_a: float | None
    value_b: float | None
    wins: tuple[Hashable, ...]
    losses: tuple[Hashable, ...]
    ties: int
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    p_value: float | None
    method: str
    p_adjusted: float | None = None
    better: Literal["higher", "lower"] = "higher"
    margin: float | None = None
    effect: float | None = None
    n_needed: int | None = None
    corrected: Estimate | None = None
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Literal["better", "worse", "inconclusive"]:
        """Whether B is shown to be better or worse at this confidence, by the adjusted p where there is one."""
        p = self.p_value if self.p_adjusted is None else self.p_adjusted
        if p is None or self.difference is None or p > 1 - self.confidence + 1e-12 or not self.difference:
            return "inconclusive"
        return "better" if (self.difference > 0) == (self.better == "higher") else "worse"

    @property
    def non_inferior(self) -> bool | None:
        """Whether the interval rules out that B is worse by the margin or more; None when it cannot be said."""
        if self.margin is None or self.low is None or self.high is None:
            return None
        return self.low > -self.margin if self.better == "higher" else self.high < self.margin

    @property
    def verdict(self) -> str:
        """One paragraph for a reader."""
        if not self.n or self.difference is None:
            return f"{self.name}: no pair has a verdict on both sides."
        heads = {"better": "B is better", "worse": "B is worse", "inconclusive": "no difference shown"}
        parts = [f"{self.name}: {heads[self.outcome]}: {self._numbers()}, {self._p_text()}."]
        if self.non_inferior is not None:
            word = "ruled out" if self.non_inferior else "not ruled out"
            parts.append(f"That B is worse by {self._amount(self.margin or 0)} or more is {word}.")
        if self.outcome == "inconclusive" and self.n_needed and self.effect:
            parts.append(f"{self.n_needed} more rows are needed to see {self._amount(self.effect)}.")
        return " ".join((*parts, *self.notes))

    def _numbers(self) -> str:
        scale, unit = (100, " points") if self.kind == "share" else (1, "")
        digits = 1 if self.kind == "share" else 3
        text = f"{scale * (self.difference or 0):+.{digits}f}{unit}"
        if self.low is not None and self.high is not None:
            text += f" [{scale * self.low:+.{digits}f}, {scale * self.high:+.{digits}f}]"
        counts = (("win", len(self.wins)), ("loss", len(self.losses)), ("tie", self.ties))
        plural = {"win": "wins", "loss": "losses", "tie": "ties"}
        listed = ", ".join(f"{c} {word if c == 1 else plural[word]}" for word, c in counts)
        return f"{text}, {listed} in {self.n} pairs"

    def _p_text(self) -> str:
        p, word = (self.p_value, "p") if self.p_adjusted is None else (self.p_adjusted, "Holm-adjusted p")
        return f"{word} = {p:.2g}" if p is not None else "no p-value"

    def _amount(self, value: float) -> str:
        return f"{100 * value:g} points" if self.kind == "share" else f"{value:g}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `outcome`, `non_inferior` and `verdict`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {key: list(fields[key]) for key in ("wins", "losses", "notes")}
        corrected = None if self.corrected is None else self.corrected.to_dict()
        derived = {"outcome": self.outcome, "non_inferior": self.non_inferior, "verdict": self.verdict}
        return fields | lists | {"corrected": corrected} | derived


def compare(
    a: Sequence[Any],
    b: Sequence[Any],
    *,
    kind: Literal["auto", "share", "mean"] = "auto",
    clusters: Sequence[Hashable] | None = None,
    labels_a: Sequence[Any] | None = None,
    labels_b: Sequence[Any] | None = None,
    ids: Sequence[Hashable] | None = None,
    name: str = "KPI",
    better: Literal["higher", "lower"] = "higher",
    margin: float | None = None,
    effect: float | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compares two versions by their verdicts (or scores) on the same inputs.

    Pass/fail verdicts: exact McNemar test and Tango's score interval; where sessions or tasks repeat, the exact
    sign-flip test over them and the same interval at the effective sample size. Scores: sign-flip test and
    studentised bootstrap over sessions.

    Args:
        a: verdicts (True/False/1/0) or scores of the first version, None or NaN for unscored, shape (n,).
        b: the same of the second version, aligned with `a` by input, shape (n,).
        kind: `share`, `mean`, or `auto`: a share when every value is true/false or 0/1. Say `mean` for scores that
            may happen to be 0 or 1 throughout.
        clusters: session or task id of each pair, None for a pair on its own, shape (n,).
        labels_a: experts' good/bad of the first version's runs, for the corrected difference (share only).
        labels_b: likewise of the second version's runs.
        ids: what to call each pair in `wins` and `losses`; None uses positions.
        name: what is compared.
        better: which direction is good; a pass is always the better verdict.
        margin: non-inferiority margin, above 0, in the unit of the values (0.05 is 5 points).
        effect: the difference to plan for; None means 0.05 for a share and nothing for a mean.
        power: chance with which that difference shall be shown, in (0, 1).
        confidence: level of the interval; the test's level is 1 - confidence.
        seed: of the resampling; the same seed gives the same result.

    Returns:
        A Comparison; with no usable pair its numbers are None and the outcome is inconclusive.

    Raises:
        ConfigError: lengths differ, values are of the wrong kind, margin or effect is not above 0.

    Source: McNemar 1947; Tango 1998, Statistics in Medicine 17:891; Miller 2024, arXiv 2411.00640; further in
        `_paired`.
    """
    check_confidence(confidence)
    for word, amount in (("margin", margin), ("effect", effect)):
        if amount is not None and not amount > 0:
            raise ConfigError(f"{word} must be above 0.", found=amount)
    if better not in ("higher", "lower") or kind not in ("auto", "share", "mean"):
        raise ConfigError("Unknown direction or kind.", found=f"better {better!r}, kind {kind!r}")
    n = same_length(a=a, b=b, clusters=clusters, labels_a=labels_a, labels_b=labels_b, ids=ids)
    x, y, is_share = _read(a, b, kind)
    if is_share and better == "lower":
        raise ConfigError("A pass is always the better verdict.", fix="Apply the pass rule before comparing.")
    used = ~np.isnan(x) & ~np.isnan(y)
    sign = 1 if better == "higher" else -1
    gap, names = sign * (y - x), list(ids) if ids is not None else list(range(n))
    base = Comparison(
        name=name,
        kind="share" if is_share else "mean",
        n=int(used.sum()),
        n_dropped=n - int(used.sum()),
        value_a=float(x[used].mean()) if used.any() else None,
        value_b=float(y[used].mean()) if used.any() else None,
        wins=tuple(names[i] for i in np.flatnonzero(gap > 0)),
        losses=tuple(names[i] for i in np.flatnonzero(gap < 0)),
        ties=int((gap == 0).sum()),
        difference=float((y - x)[used].mean()) if used.any() else None,
        low=None,
        high=None,
        confidence=confidence,
        p_value=None,
        method="none",
        better=better,
        margin=margin,
        effect=0.05 if effect is None and is_share else effect,
    )
    if not used.any():
        return base
    group = codes(clusters, n)[used]
    tested = (_test_shares if is_share else _test_means)(base, (y - x)[used], group, seed, power)
    return _with_correction(tested, a, b, labels_a, labels_b, clusters, seed)


def _read(a: Sequence[Any], b: Sequence[Any], kind: str) -> tuple[Floats, Floats, bool]:
    x, y = numeric(a, "a"), numeric(b, "b")
    seen = np.concatenate([x, y])
    is_share = bool(np.isin(seen[~np.isnan(seen)], (0.0, 1.0)).all()) if kind == "auto" else kind == "share"
    return (binary(a, "a"), binary(b, "b"), True) if is_share else (x, y, False)


def _effect_of_sessions(gap: Floats, group: Any, confidence: float) -> float:
    return design_effect(gap - gap.mean(), group, np.ones(gap.size), confidence)


def _test_shares(base: Comparison, gap: Floats, group: Any, seed: int, power: float) -> Comparison:
    repeats = np.unique(group).size < gap.size
    deff = _effect_of_sessions(gap, group, base.confidence)
    wins, losses = len(base.wins), len(base.losses)
    low, high = _paired.tango_interval(wins / deff, losses / deff, base.n / deff, base.confidence)
    sums = np.rint(cluster_sums(gap, group)).astype(np.int64)
    p = _paired.sign_flip_exact(sums) if repeats else mcnemar_exact(wins, losses)
    moving = (wins + losses + 0.5) / (base.n + 1)
    notes = (f"Sessions repeat: {base.n} pairs count as {base.n / deff:.0f} independent ones.",) if deff > 1 else ()
    effect = base.effect or 0.05
    needed = rows_needed(effect, variance=moving, confidence=base.confidence, power=power) * deff
    return dataclasses.replace(
        base,
        low=low,
        high=high,
        p_value=p,
        method="sign-flip-exact" if repeats else "mcnemar-exact",
        n_needed=max(0, math.ceil(needed) - base.n),
        notes=notes,
    )


def _test_means(base: Comparison, gap: Floats, group: Any, seed: int, power: float) -> Comparison:
    found = _paired.bootstrap_interval(gap, group, base.confidence, seed=seed)
    needed = None
    if base.effect and gap.size > 1:
        deff = _effect_of_sessions(gap, group, base.confidence)
        rows = rows_needed(base.effect, variance=float(gap.var(ddof=1)), confidence=base.confidence, power=power)
        needed = max(0, math.ceil(rows * deff) - base.n)
    return dataclasses.replace(
        base,
        low=None if found is None else found[1],
        high=None if found is None else found[2],
        p_value=_paired.sign_flip(cluster_sums(gap, group), seed=seed),
        method="sign-flip",
        n_needed=needed,
        notes=() if found else ("All differences are equal or from one session: no interval is possible.",),
    )


def _with_correction(
    base: Comparison,
    a: Sequence[Any],
    b: Sequence[Any],
    labels_a: Sequence[Any] | None,
    labels_b: Sequence[Any] | None,
    clusters: Sequence[Hashable] | None,
    seed: int,
) -> Comparison:
    if labels_a is None or labels_b is None:
        return base
    if base.kind != "share":
        note = "Mean scores are compared as judged: only pass/fail differences are corrected."
        return dataclasses.replace(base, notes=(*base.notes, note))
    try:
        corrected = corrected_difference(
            a,
            b,
            labels_a,
            labels_b,
            clusters=clusters,
            name=base.name,
            confidence=base.confidence,
            seed=seed,
        )
    except NotTrustedError as error:
        return dataclasses.replace(base, notes=(*base.notes, f"Not corrected for judge error: {error}"))
    return dataclasses.replace(base, corrected=corrected)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false claim stays at the level tested.

    Args:
        p_values: p-values in [0, 1], any length.

    Returns:
        Adjusted values in the same order, each at least as large as the original, at most 1.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(1.0, steps)
    return [float(v) for v in adjusted]


def holm_adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with Holm-adjusted p-values, for several judges on the same two versions.

    Comparisons without a p-value are passed through and do not count.

    Source: Holm 1979.
    """
    tested = [c for c in comparisons if c.p_value is not None]
    adjusted = iter(holm([c.p_value for c in tested if c.p_value is not None]))
    return [c if c.p_value is None else dataclasses.replace(c, p_adjusted=next(adjusted)) for c in comparisons]


def compare_pass_k(
    a: Sequence[Any],
    tasks_a: Sequence[Hashable],
    b: Sequence[Any],
    tasks_b: Sequence[Hashable],
    k: int,
    **options: Any,
) -> Comparison:
    """Compares the chance that k trials of a task all pass, task by task.

    Args:
        a: pass/fail of the first version's trials, None for unscored.
        tasks_a: the task of each of them, same length.
        b: pass/fail of the second version's trials; the number of trials may differ.
        tasks_b: the task of each of them.
        k: trials that must all pass, 1 or more.
        options: as for `compare` (name, margin, effect, confidence, seed).

    Returns:
        A Comparison of means over the tasks both versions tried k times or more; wins and losses are task ids.

    Raises:
        ConfigError: lengths differ, k is below 1, or an option is unknown.

    Source: pass^k, Yao et al. 2024, tau-bench, arXiv 2406.12045.
    """
    first, second = pass_k_values(a, tasks_a, k), pass_k_values(b, tasks_b, k)
    shared = [task for task in first if task in second]
    return compare([first[t] for t in shared], [second[t] for t in shared], kind="mean", ids=shared, **options)
