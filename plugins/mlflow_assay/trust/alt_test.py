"""The alternative-annotator test: may the judge stand in for an expert?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust._arrays import Floats, codes, same_length
from mlflow_assay.trust._design import clustered_variance
from mlflow_assay.trust._tables import is_missing
from mlflow_assay.trust.ratings import Ratings

MIN_UNITS = 30  # below this the t-test of one expert is not trusted (section 3 of the paper)


@dataclass(frozen=True)
class AltTest:
    """Outcome of the alternative-annotator test.

    Attributes:
        winning_rate: share of experts the judge replaces significantly, in [0, 1].
        advantage: mean probability that the judge represents the others at least as well as the expert left
            out, in [0, 1].
        passed: whether the winning rate is 1/2 or more.
        epsilon: the cost advantage granted to the judge.
        experts: per expert (id, n, advantage of judge, advantage of expert, p-value, replaced).
        skipped: experts with too few shared traces.
    """

    winning_rate: float
    advantage: float
    passed: bool
    epsilon: float
    experts: tuple[tuple[Hashable, int, float, float, float, bool], ...]
    skipped: tuple[Hashable, ...]

    @property
    def summary(self) -> str:
        """One sentence for a reader."""
        won, total = sum(e[-1] for e in self.experts), len(self.experts)
        word = "may" if self.passed else "may not yet"
        return f"The judge {word} replace an expert: it wins against {won} of {total}."

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        keys = ("expert", "n", "judge_advantage", "expert_advantage", "p_value", "replaced")
        return asdict(self) | {
            "experts": [dict(zip(keys, e, strict=True)) for e in self.experts],
            "skipped": list(self.skipped),
            "summary": self.summary,
        }


def by_rejections(p_values: Sequence[float], rate: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected with the false discovery rate held under any dependence.

    Args:
        p_values: p-values in [0, 1], any length.
        rate: false discovery rate, in (0, 1).

    Source: Benjamini & Yekutieli 2001, Annals of Statistics 29:1165.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not p.size:
        return []
    order, ranks = np.argsort(p), np.arange(1, p.size + 1)
    under = np.flatnonzero(p[order] <= rate * ranks / (p.size * (1 / ranks).sum()))
    rejected = np.zeros(p.size, dtype=bool)
    rejected[order[: under[-1] + 1 if under.size else 0]] = True
    return [bool(r) for r in rejected]


def alt_test(
    ratings: Ratings,
    judge: Sequence[Any],
    *,
    epsilon: float = 0.2,
    scoring: Literal["match", "distance"] = "match",
    clusters: Sequence[Hashable] | None = None,
    rate: float = 0.05,
    min_units: int = MIN_UNITS,
) -> AltTest:
    """Tests whether the judge represents the experts as well as a left-out expert does.

    Args:
        ratings: labels of two or more experts (three or more advised).
        judge: the judge's verdict per unit of `ratings`, None for unscored.
        epsilon: how much worse than an expert the judge may be for being cheaper: 0.2 against specialists, 0.15
            against trained raters, 0.1 against crowd workers.
        scoring: `match` counts equal values, `distance` uses minus the root mean squared difference (numbers).
        clusters: session id of each unit, None for a unit on its own.
        rate: false discovery rate over experts.
        min_units: experts with fewer shared traces are skipped.

    Returns:
        The outcome; see `AltTest`.

    Raises:
        ConfigError: lengths differ, epsilon is not in [0, 1), or distances are asked of values that are no numbers.
        NotTrustedError: no expert shares `min_units` judged traces with another expert.

    Source: Calderon, Reichart & Dror 2025, ACL, arXiv 2501.10970.
    """
    n = same_length(units=ratings.units, judge=judge, clusters=clusters)
    if not 0 <= epsilon < 1 or scoring not in ("match", "distance"):
        raise ConfigError("epsilon lies in [0, 1) and scoring is match or distance.", found=(epsilon, scoring))
    group, tested, skipped = codes(clusters, n), [], []
    for column, rater in enumerate(ratings.raters):
        units, wins = _wins(ratings, judge, column, scoring)
        if len(units) < max(2, min_units):
            skipped.append(rater)
            continue
        p = _p_value(wins[:, 1] - wins[:, 0] - epsilon, group[units])
        tested.append((rater, len(units), float(wins[:, 0].mean()), float(wins[:, 1].mean()), p))
    if not tested:
        raise NotTrustedError(
            "The alt-test needs experts who share judged traces.",
            found=f"no expert with {min_units} traces that another expert labelled too",
            fix="Let two or more experts label the same traces.",
        )
    replaced = by_rejections([t[-1] for t in tested], rate)
    winning = sum(replaced) / len(replaced)
    experts = tuple((*t, r) for t, r in zip(tested, replaced, strict=True))
    advantage = float(np.mean([t[2] for t in tested]))
    return AltTest(winning, advantage, winning >= 0.5, epsilon, experts, tuple(skipped))


def _wins(ratings: Ratings, judge: Sequence[Any], column: int, scoring: str) -> tuple[list[int], Floats]:
    """Units usable for one expert, and per unit whether the judge and the expert represent the rest as well."""
    units, wins = [], []
    for i, row in enumerate(ratings.values):
        others = [v for j, v in enumerate(row) if j != column and not is_missing(v)]
        if not others or is_missing(row[column]) or is_missing(judge[i]):
            continue
        ours, theirs = _score(judge[i], others, scoring), _score(row[column], others, scoring)
        units.append(i)
        wins.append((float(ours >= theirs), float(theirs >= ours)))
    return units, np.array(wins).reshape(-1, 2)


def _score(value: Any, others: Sequence[Any], scoring: str) -> float:
    if scoring == "match":
        return float(np.mean([value == o for o in others]))
    try:
        return -math.sqrt(sum((float(value) - float(o)) ** 2 for o in others) / len(others))
    except (TypeError, ValueError) as error:
        raise ConfigError("Scoring by distance needs numbers.", found=repr(value)) from error


def _p_value(excess: Floats, clusters: Any) -> float:
    """One-sided t-test that the mean excess of expert over judge is below 0; sums over clusters."""
    mean = float(excess.mean())
    variance, count = clustered_variance((excess - mean) / excess.size, clusters)
    if count < 2:
        return 1.0
    if variance <= 1e-15:
        return 0.0 if mean < 0 else 1.0
    return float(special.stdtr(count - 1, mean / math.sqrt(variance)))
