"""When may a cheaper judge answer alone? A confidence threshold for each tier of a cascade, gated by labels.

Nothing here believes a confidence: a threshold is accepted only where the labels show, at a stated error
probability, that verdicts at or above it agree with them often enough. Where they do not show it, the tier never
answers. A judge's agreement with itself is no label.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import Bools, Floats, binary, codes, numeric, same_length

__all__ = ["CascadeGate", "TierGate", "calibrate_cascade", "clopper_pearson_lower", "labels_for_gate"]

MAX_THRESHOLDS = 10


@dataclass(frozen=True)
class TierGate:
    """What the labels allow one tier.

    Attributes:
        threshold: least confidence, in [0, 1], at which its verdict is accepted; None: it never answers.
        rows: labelled rows that reached the tier with a verdict and a confidence.
        accepted, agreed: of these, rows at or above the threshold, and rows there on which it agrees with the
            label. Without a threshold: those of the strictest threshold tested; 0 when none could be tested.
        lower: lower confidence bound of the agreement at that threshold; None when none could be tested.
        delta: probability of error the bound is at.
    """

    threshold: float | None
    rows: int
    accepted: int
    agreed: int
    lower: float | None
    delta: float


@dataclass(frozen=True)
class CascadeGate:
    """The gates of a cascade's tiers, with the evidence.

    Attributes:
        agreement: agreement with the labels that accepted verdicts must reach, in (0, 1).
        delta: probability that some tier's accepted verdicts agree less than that all the same.
        rows: labelled rows used, one of each group.
        left_out: labelled rows not used because another of their group was.
        gates: one a tier, in order.
        last_rows, last_agreed: labelled rows no gate accepted and on which the judge behind the gates has a
            verdict, and those on which it agrees. A report, not a guarantee; 0 where it has no verdicts.
    """

    agreement: float
    delta: float
    rows: int
    left_out: int
    gates: tuple[TierGate, ...]
    last_rows: int = 0
    last_agreed: int = 0

    @property
    def supported(self) -> bool:
        """Whether any tier may answer."""
        return any(gate.threshold is not None for gate in self.gates)

    @property
    def answered(self) -> float:
        """Share of the labelled rows answered by a gated tier, in [0, 1]."""
        taken = sum(gate.accepted for gate in self.gates if gate.threshold is not None)
        return taken / self.rows if self.rows else 0.0

    @property
    def summary(self) -> str:
        """One sentence for a reader."""
        told = "; ".join(self.tell(n) for n in range(len(self.gates)))
        return f"For an agreement of {self.agreement:g} at {1 - self.delta:.0%} confidence, {self.rows} labels: {told}."

    def tell(self, tier: int) -> str:
        """What was found of one tier (from 0), as a clause."""
        gate = self.gates[tier]
        seen = f"{gate.agreed} of {gate.accepted} agree, at least {gate.lower:.3f}" if gate.lower is not None else ""
        if gate.threshold is not None:
            return f"tier {tier + 1} answers from a confidence of {gate.threshold:.4g} ({seen})"
        least = labels_for_gate(self.agreement, gate.delta)
        few = f"{gate.rows} rows with a confidence reached it; it takes {least} or more without one mistake"
        return f"tier {tier + 1} never answers ({seen or few})"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `supported`, `answered` and `summary`."""
        return {
            **asdict(self),
            "gates": [asdict(gate) for gate in self.gates],
            "supported": self.supported,
            "answered": self.answered,
            "summary": self.summary,
        }


def clopper_pearson_lower(successes: int, trials: int, delta: float) -> float:
    """The one-sided lower confidence bound of a proportion, in [0, 1]; exact, so it covers at least 1 - delta.

    Args:
        successes: 0 to trials.
        trials: 0 or more; with 0 the bound is 0.
        delta: error probability in (0, 1).

    Source: Clopper & Pearson 1934, Biometrika 26:404.
    """
    return float(special.betaincinv(successes, trials - successes + 1, delta)) if successes else 0.0


def labels_for_gate(agreement: float, delta: float) -> int:
    """The fewest labelled rows, all agreeing, at which a gate opens."""
    return math.ceil(math.log(delta) / math.log(agreement) - 1e-9)


def calibrate_cascade(
    confidences: Sequence[Sequence[float | None]],
    agrees: Sequence[Sequence[bool | None]],
    *,
    agreement: float = 0.9,
    delta: float = 0.05,
    last: Sequence[bool | None] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> CascadeGate:
    """A threshold for each tier such that what the tier accepts agrees with the labels often enough.

    For each tier, thresholds are tested from strict to loose and the loosest before the first failure is taken
    (fixed-sequence testing), each by the Clopper-Pearson lower bound of the agreement at or above it. Which
    thresholds are tested, and the first, depend on the confidences only. The first is the strictest that would pass
    with no disagreement, or with one or two where there are three or six times the rows that takes: a stricter start
    falls to one unlucky row.
    `delta` is divided by the number of tiers (Bonferroni). A tier behind another is tested on the rows that reach it;
    since these depend on the labels through the thresholds before, its share of delta is divided further by the number
    of outcomes those could have had. With probability 1 - delta or more, the accepted verdicts of every tier, hence
    of all together, agree with the labels at a rate of `agreement` or more on rows like those given.

    Args:
        confidences: for each gated tier in order its confidence in each row, in [0, 1], None where it reached no
            verdict, shape (tiers, n).
        agrees: whether each tier's verdict equals the label, None where either is missing, shape (tiers, n).
        agreement: what accepted verdicts must reach, in (0, 1).
        delta: error probability over the whole cascade, in (0, 1).
        last: whether the verdict of the ungated judge behind the tiers equals the label, None where either is
            missing, shape (n,); None for no such judge. It is reported, not gated.
        groups: session or user of each row; of each group one row, drawn at random, is used, since the bound
            counts rows as independent. None for rows on their own, shape (n,).
        seed: of that draw.

    Raises:
        ConfigError: lengths differ, no tier, a confidence outside [0, 1], a level outside (0, 1).

    Source: Jung et al., Trust or Escalate, ICLR 2025, arXiv 2407.18370; fixed-sequence testing as in Angelopoulos et
        al., Learn then Test, arXiv 2110.01052. The further division for later tiers is ours.
    """
    sure = [numeric(c, f"confidences[{t}]") for t, c in enumerate(confidences)]
    right = [binary(a, f"agrees[{t}]") for t, a in enumerate(agrees)]
    behind = binary(last, "last") if last is not None else None
    n = same_length(**{f"tier {t}": c for t, c in enumerate([*sure, *right])}, last=behind, groups=groups)
    _check(sure, right, agreement, delta)
    known = [~np.isnan(values) for values in (*right, *([] if behind is None else [behind]))]
    labelled: Bools = np.logical_or.reduce(known)
    used = _one_a_group(labelled, groups, n, seed)
    gates, open_rows, outcomes = [], used.copy(), 1
    for confidence, agreed in zip(sure, right, strict=True):
        level = delta / len(sure) / outcomes
        usable = open_rows & ~np.isnan(confidence) & ~np.isnan(agreed)
        tested = list(_thresholds(confidence[usable], agreement, level))
        gate = _gate(confidence[usable], agreed[usable], tested, agreement, level)
        gates.append(gate)
        outcomes *= len(tested) + 1
        if gate.threshold is not None:
            open_rows &= ~(usable & (confidence >= gate.threshold))
    final = open_rows & ~np.isnan(behind) if behind is not None else np.zeros(n, dtype=np.bool_)
    right_at_last = int(behind[final].sum()) if behind is not None else 0
    return CascadeGate(
        agreement,
        delta,
        rows=int(used.sum()),
        left_out=int(labelled.sum() - used.sum()),
        gates=tuple(gates),
        last_rows=int(final.sum()),
        last_agreed=right_at_last,
    )


def _check(sure: Sequence[Floats], right: Sequence[Floats], agreement: float, delta: float) -> None:
    if not sure or len(sure) != len(right):
        raise ConfigError(
            "A cascade needs one or more gated tiers, each with confidences and agreement.",
            found=f"{len(sure)} and {len(right)}",
        )
    if not (0 < agreement < 1 and 0 < delta < 1):
        raise ConfigError(
            "The agreement and delta of a calibration lie between 0 and 1.",
            found=f"agreement {agreement}, delta {delta}",
            valid="for example 0.9 and 0.05",
        )
    for tier, confidence in enumerate(sure):
        stray = confidence[~np.isnan(confidence) & ((confidence < 0) | (confidence > 1))]
        if stray.size:
            raise ConfigError(f"confidences[{tier}] holds {stray[0]:g}.", valid="0 to 1, or None for no verdict")


def _one_a_group(labelled: Bools, groups: Sequence[Hashable] | None, n: int, seed: int) -> Bools:
    """Labelled rows, one drawn from each group."""
    order = np.random.default_rng(seed).permutation(n) if groups is not None else np.arange(n)
    order = order[labelled[order]]
    chosen = order[np.unique(codes(groups, n)[order], return_index=True)[1]]
    used = np.zeros(n, dtype=np.bool_)
    used[chosen] = True
    return used


def _thresholds(confidence: Floats, agreement: float, delta: float) -> Iterator[float]:
    """The thresholds to test, strict to loose: at most ten, at equal shares of the rows, from the first to pass."""
    points = np.unique(confidence)
    if points.size > MAX_THRESHOLDS:
        shares = 1 - np.arange(1, MAX_THRESHOLDS + 1) / MAX_THRESHOLDS
        points = np.unique(np.quantile(confidence, shares, method="higher"))
    spare = min(2, confidence.size // (3 * labels_for_gate(agreement, delta)))
    for point in points[::-1]:
        rows = int((confidence >= point).sum())
        if clopper_pearson_lower(max(0, rows - spare), rows, delta) >= agreement:
            yield float(point)


def _gate(confidence: Floats, agreed: Floats, tested: Sequence[float], agreement: float, delta: float) -> TierGate:
    found: TierGate | None = None
    for threshold in tested:
        above = confidence >= threshold
        rows, right = int(above.sum()), int(agreed[above].sum())
        lower = clopper_pearson_lower(right, rows, delta)
        if lower < agreement:
            return found or TierGate(None, confidence.size, rows, right, lower, delta)
        found = TierGate(threshold, confidence.size, rows, right, lower, delta)
    return found or TierGate(None, confidence.size, 0, 0, None, delta)
