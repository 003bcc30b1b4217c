"""Has quality changed, and whose: the agent's or the judge's?

`PassRateAlarm` watches a stream of verdicts and may be looked at after every trace. `check_gold` re-judges a fixed
gold set: the traces do not change, so a shift there is the judge's. `diagnose` puts the two together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import binary, check_confidence
from mlflow_assay.trust._proportion import share
from mlflow_assay.trust._types import Estimate
from mlflow_assay.trust.agreement import Agreement, Measure, agreement, kappa_gain
from mlflow_assay.trust.compare import Comparison, compare

Direction = Literal["drop", "rise", "change"]


class PassRateAlarm:
    """An alarm for a pass rate that stays valid however often it is looked at.

    Evidence is a betting score (e-value): under "the pass rate has not dropped below `baseline`" its expected value
    is at most 1 at every moment, so it reaches 1/alpha in at most a share alpha of all streams, ever. Bets are
    opened anew every `restart_every` verdicts, so that a late drop is not drowned in a long good past.

    Each verdict must come from a session of its own, and `baseline` must be fixed beforehand: a target, or the
    lower end of an earlier window's interval. An average taken as if it were exact makes false alarms.

    Args:
        baseline: the pass rate to hold, in (0, 1).
        alpha: chance of ever raising a false alarm, in (0, 1).
        direction: `drop` (default), `rise`, or `change` for either.
        restart_every: verdicts between new bets, 1 or more; None bets once, from the start.

    Raises:
        ConfigError: an argument is out of range.

    Source: beta-binomial mixture, Robbins 1970, Annals of Mathematical Statistics 41:1397; e-processes, Ramdas,
        Grunwald, Vovk & Shafer 2023, Statistical Science 38:576; restarts, Shin, Ramdas & Rinaldo 2024, e-detectors.
    """

    def __init__(
        self,
        baseline: float,
        *,
        alpha: float = 0.05,
        direction: Direction = "drop",
        restart_every: int | None = 100,
    ) -> None:
        if not 0 < baseline < 1 or not 0 < alpha < 1 or (restart_every is not None and restart_every < 1):
            raise ConfigError(
                "An alarm needs baseline and alpha in (0, 1) and restart_every of 1 or more.",
                found=f"baseline {baseline}, alpha {alpha}, restart_every {restart_every}",
            )
        if direction not in ("drop", "rise", "change"):
            raise ConfigError("Unknown direction.", found=repr(direction), valid="drop, rise, change")
        self.baseline, self.alpha, self.direction = baseline, alpha, direction
        self.restart_every = restart_every
        self.seen = self.passed = self.unscored = 0
        self.alarm_at: int | None = None
        self.e_value = self.highest = 1.0
        self._starts: list[tuple[int, int]] = []  # (seen, passed) when each bet was opened

    @property
    def alarm(self) -> bool:
        """Whether the alarm has been raised; it stays raised."""
        return self.alarm_at is not None

    @property
    def p_value(self) -> float:
        """Anytime-valid p-value in (0, 1]: one over the highest e-value so far."""
        return min(1.0, 1 / self.highest)

    def update(self, verdict: Any) -> bool:
        """Takes one verdict (True/False/1/0; None or NaN is counted as unscored only); returns `alarm`.

        Raises:
            ConfigError: the verdict is not pass/fail.
        """
        value = binary([verdict], "verdict")[0]
        if np.isnan(value):
            self.unscored += 1
            return self.alarm
        if not self._starts or (self.restart_every and self.seen % self.restart_every == 0):
            self._starts.append((self.seen, self.passed))
        self.seen, self.passed = self.seen + 1, self.passed + int(value)
        self.e_value = self._evidence()
        self.highest = max(self.highest, self.e_value)
        if self.alarm_at is None and self.e_value >= 1 / self.alpha:
            self.alarm_at = self.seen
        return self.alarm

    def extend(self, verdicts: Iterable[Any]) -> bool:
        """Takes many verdicts in order; returns `alarm`."""
        for verdict in verdicts:
            self.update(verdict)
        return self.alarm

    def _evidence(self) -> float:
        starts = np.array(self._starts)
        wins = self.passed - starts[:, 1]
        losses = self.seen - starts[:, 0] - wins
        if self.restart_every is None:
            return float(np.exp(self._log_bets(wins, losses))[0])
        order = np.arange(1, len(starts) + 1)
        weights = 1 / (order * (order + 1))  # sums to 1 over all bets ever opened; the unopened hold theirs
        return float(weights @ np.exp(self._log_bets(wins, losses))) + 1 / (len(starts) + 1)

    def _log_bets(self, wins: Any, losses: Any) -> Any:
        null = wins * math.log(self.baseline) + losses * math.log1p(-self.baseline)
        whole = special.betaln(wins + 1, losses + 1)
        if self.direction == "change":
            return whole - null
        side, start = special.betainc(wins + 1, losses + 1, self.baseline), self.baseline
        if self.direction == "rise":
            side, start = special.betaincc(wins + 1, losses + 1, self.baseline), 1 - self.baseline
        return whole + np.log(np.maximum(side, 1e-300)) - math.log(start) - null

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of the whole state; `from_dict` continues where it stopped."""
        return {
            "baseline": self.baseline,
            "alpha": self.alpha,
            "direction": self.direction,
            "restart_every": self.restart_every,
            "seen": self.seen,
            "passed": self.passed,
            "unscored": self.unscored,
            "alarm_at": self.alarm_at,
            "e_value": self.e_value,
            "highest": self.highest,
            "starts": [list(s) for s in self._starts],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PassRateAlarm:
        """The alarm `to_dict` wrote.

        Raises:
            ConfigError: a key is missing.
        """
        try:
            alarm = cls(
                data["baseline"],
                alpha=data["alpha"],
                direction=data["direction"],
                restart_every=data["restart_every"],
            )
            for key in ("seen", "passed", "unscored", "alarm_at", "e_value", "highest"):
                setattr(alarm, key, data[key])
            alarm._starts = [(int(a), int(b)) for a, b in data["starts"]]
        except KeyError as error:
            raise ConfigError("This is not the state of an alarm.", found=f"no key {error.args[0]!r}") from error
        return alarm


def confidence_sequence(passed: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a pass rate that holds at all times at once, so it may be watched.

    Args:
        passed: verdicts that passed, 0 <= passed <= total.
        total: verdicts so far, each from a session of its own; with 0 the interval is (0, 1).
        confidence: level in (0, 1).

    Returns:
        (low, high) in [0, 1], containing passed / total; wider than an interval for one look.

    Raises:
        ConfigError: passed is not in [0, total].

    Source: Robbins 1970, Annals of Mathematical Statistics 41:1397, with a uniform mixture.
    """
    from scipy.optimize import brentq  # half a second to import, and not every command needs it

    check_confidence(confidence)
    if not 0 <= passed <= total:
        raise ConfigError("A pass rate needs 0 <= passed <= total.", found=f"{passed} of {total}")
    if total == 0:
        return 0.0, 1.0
    failed, centre = total - passed, passed / total
    limit = float(special.betaln(passed + 1, failed + 1)) + math.log(1 - confidence)

    def excess(p: float) -> float:
        return limit - float(special.xlogy(passed, p) + special.xlog1py(failed, -p))

    edge = 1e-12
    low = 0.0 if passed == 0 else float(brentq(excess, edge, min(centre, 1 - edge)))
    high = 1.0 if failed == 0 else float(brentq(excess, max(centre, edge), 1 - edge))
    return min(low, centre), max(high, centre)


@dataclass(frozen=True)
class GoldCheck:
    """A judge's verdicts on a fixed gold set, then and now.

    Attributes:
        comparison: now (B) against then (A) on the same traces.
        flips: share of verdicts that differ, with its interval.
        tolerated: share of flips that is this judge's ordinary noise.
        before: agreement with the gold labels then; None without labels.
        now: agreement with the gold labels now; None without labels.
        gain: kappa now minus then; None without labels.
    """

    comparison: Comparison
    flips: Estimate
    tolerated: float
    before: Agreement | None = None
    now: Agreement | None = None
    gain: Measure | None = None

    @property
    def changed(self) -> bool:
        """Whether the judge demonstrably changed.

        True when its pass rate moved, it flips more than is tolerated, or its kappa moved.
        """
        more_flips = self.flips.low is not None and self.flips.low > self.tolerated
        low, high = (None, None) if self.gain is None else (self.gain.low, self.gain.high)
        shifted = low is not None and high is not None and not low <= 0 <= high
        return self.comparison.outcome != "inconclusive" or more_flips or shifted

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `changed`."""
        gain = self.gain
        return {
            "comparison": self.comparison.to_dict(),
            "flips": self.flips.to_dict(),
            "tolerated": self.tolerated,
            "before": None if self.before is None else self.before.to_dict(),
            "now": None if self.now is None else self.now.to_dict(),
            "gain": None if gain is None else {"value": gain.value, "low": gain.low, "high": gain.high},
            "changed": self.changed,
        }


def check_gold(
    before: Sequence[Any],
    now: Sequence[Any],
    labels: Sequence[Any] | None = None,
    *,
    clusters: Sequence[Hashable] | None = None,
    tolerated_flips: float = 0.05,
    name: str = "gold set",
    confidence: float = 0.95,
) -> GoldCheck:
    """Compares a judge with its former self on traces that did not change.

    Args:
        before: its pass/fail then, None for unscored, shape (n,).
        now: its pass/fail now, shape (n,).
        labels: gold good/bad, None where there is none, shape (n,); None without any.
        clusters: session id of each trace, None for a trace on its own, shape (n,).
        tolerated_flips: share of verdicts that flip without any change (from a repeat run), in [0, 1).
        name: of the gold set.
        confidence: that an unchanged judge is not called changed, in (0, 1).

    Returns:
        A GoldCheck. Its two tests (three with labels) share the error evenly, so each interval is at a higher
        level than `confidence`.

    Raises:
        ConfigError: lengths differ, a value is not pass/fail, tolerated_flips is not in [0, 1).

    Source: McNemar 1947 and Tango 1998 through `compare`; Wilson 1927 for the flip rate; Bonferroni over the tests.
    """
    if not 0 <= tolerated_flips < 1:
        raise ConfigError("tolerated_flips lies in [0, 1).", found=tolerated_flips)
    confidence = 1 - (1 - check_confidence(confidence)) / (2 if labels is None else 3)
    comparison = compare(before, now, kind="share", clusters=clusters, name=name, confidence=confidence)
    differ = np.abs(binary(now, "now") - binary(before, "before"))
    flips = share(differ.tolist(), clusters=clusters, name=f"{name}, flips", confidence=confidence)
    if labels is None:
        return GoldCheck(comparison, flips, tolerated_flips)
    old, new, gold = (
        [None if np.isnan(v) else bool(v) for v in binary(values, what)]
        for what, values in (("before", before), ("now", now), ("labels", labels))
    )
    common: dict[str, Any] = {"clusters": clusters, "confidence": confidence}
    return GoldCheck(
        comparison,
        flips,
        tolerated_flips,
        agreement(old, gold, name=f"{name}, then", **common),
        agreement(new, gold, name=f"{name}, now", **common),
        kappa_gain(old, new, gold, **common),
    )


@dataclass(frozen=True)
class Diagnosis:
    """Whose change it is.

    Attributes:
        cause: `agent`, `judge`, `unclear` (the gold set is too small to tell) or `none`.
        text: one or two sentences for a reader.
    """

    cause: Literal["agent", "judge", "unclear", "none"]
    text: str


def diagnose(kpi_change: float | None, gold: GoldCheck) -> Diagnosis:
    """Tells "the judge changed" from "the agent got worse".

    Args:
        kpi_change: by how much the KPI moved once an alarm was raised, in [-1, 1] (-0.1 is 10 points down); None
            or 0 when there is no alarm.
        gold: the gold set re-judged since the KPI was last trusted.

    Returns:
        A Diagnosis. The agent is named only if the gold set rules out a judge shift as large as the KPI's move.
    """
    shift, low, high = gold.comparison.difference, gold.comparison.low, gold.comparison.high
    if gold.changed:
        seen = "" if shift is None else f" ({100 * shift:+.1f} points on {gold.comparison.n} gold traces)"
        tail = "the KPI's move may be the judge's" if kpi_change else "the KPI stands still but means another thing"
        return Diagnosis("judge", f"The judge changed{seen}: {tail}. Check it against labels before acting.")
    if not kpi_change:
        return Diagnosis("none", "Neither the KPI nor the judge on the gold set has demonstrably moved.")
    covered = low is None or high is None or (low <= kpi_change if kpi_change < 0 else high >= kpi_change)
    if covered:
        return Diagnosis(
            "unclear",
            f"The KPI moved {100 * kpi_change:+.1f} points, and {gold.comparison.n} gold traces cannot rule out that "
            "the judge did. Enlarge the gold set.",
        )
    word = "worse" if kpi_change < 0 else "better"
    return Diagnosis(
        "agent",
        f"The agent got {word}: the KPI moved {100 * kpi_change:+.1f} points, and on {gold.comparison.n} unchanged "
        "gold traces the judge did not.",
    )
