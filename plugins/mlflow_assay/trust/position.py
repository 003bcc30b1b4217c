"""Position bias of a judge that compares two answers: what it says when the answers change places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import same_length
from mlflow_assay.trust._proportion import wilson

__all__ = ["PositionSwap", "position_swap"]


@dataclass(frozen=True)
class PositionSwap:
    """How a comparing judge behaves when the two answers change places.

    Attributes:
        n: pairs judged both ways round.
        n_dropped: pairs left out because a side is unscored.
        consistent: share of pairs with the same winner both ways, in [0, 1].
        low, high: its interval.
        for_first: pairs on which it chose the first place both times.
        for_second: pairs on which it chose the second place both times.
        p_value: two-sided exact p that first and second place are favoured alike; None where neither ever was.
        confidence: level of the interval.
    """

    n: int
    n_dropped: int
    consistent: float
    low: float
    high: float
    for_first: int
    for_second: int
    p_value: float | None
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def position_swap(
    original: Sequence[str | None],
    swapped: Sequence[str | None],
    mirror: Mapping[str, str],
    *,
    confidence: float = 0.95,
) -> PositionSwap:
    """Compare a judge's choices with those it makes when the answers have changed places.

    Args:
        original: the choice for each pair, such as `first`, `second` or `tie`; None is unscored, shape (n,).
        swapped: the choice for the same pairs with the answers swapped, shape (n,).
        mirror: which choice means the other's answer, one direction suffices: `{"first": "second"}` (the key is the
            first place); words that are not named (`tie`) mean themselves.
        confidence: level in (0, 1).

    Raises:
        ConfigError: lengths differ, no pair is judged both ways, or the mirror is not one pair of words.

    Source: Wang et al. 2024, "Large Language Models are not Fair Evaluators", ACL; Zheng et al. 2023,
        arXiv 2306.05685, section 4.
    """
    from scipy.stats import binomtest

    if len(mirror) != 1 or set(mirror) & set(mirror.values()):
        raise ConfigError("A mirror names one pair of choices.", found=dict(mirror), valid="first=second")
    same_length(original=original, swapped=swapped)
    ((first, second),) = mirror.items()
    turned = {first: second, second: first}
    both = [(a, b) for a, b in zip(original, swapped, strict=True) if a is not None and b is not None]
    if not both:
        raise ConfigError(
            "No pair was judged both ways round.", found=f"{len(original)} pairs, all with an unscored side"
        )
    steady = sum(a == turned.get(b, b) for a, b in both)
    for_first = sum(a == b == first for a, b in both)
    for_second = sum(a == b == second for a, b in both)
    moved = for_first + for_second
    low, high = wilson(steady, len(both), confidence)
    p = float(binomtest(for_first, moved, 0.5).pvalue) if moved else None
    dropped = len(original) - len(both)
    return PositionSwap(len(both), dropped, steady / len(both), low, high, for_first, for_second, p, confidence)
