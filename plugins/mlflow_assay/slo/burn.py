"""How fast an error budget is spent, with the interval: one definition for PromQL, for the tests and simulations.

A window's burn rate is the share of bad events over the share allowed. With few events it says little, so alerts look
at the lower end of its 95 % interval: Agresti and Coull's ("add two successes and two failures", The American
Statistician 52:119, 1998), widened by what is not known of the judge's error. That error is the KPI's: the corrected
rate less the judge's own over the long window, taken to hold in the short one too; where the KPI is uncorrected it is
0 and the alert says so. Multi-window burn alerts: Beyer et al., The Site Reliability Workbook, 2018, chapter 5; their
factors suppose objectives near 1 (14.4 times a 10 % budget would be more failures than requests), so each is capped at
a share of the largest possible burn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["WINDOWS", "BurnWindow", "Z", "burn", "burn_low", "factor"]

Z: Final = 1.96


@dataclass(frozen=True)
class BurnWindow:
    """One pair of windows of a multi-window alert.

    Attributes:
        long, short: as Prometheus writes durations; the short one ends the alert soon after the incident.
        factor: burn rate at which the alert fires.
        cap: share of the largest possible burn rate that `factor` may not exceed.
        severity: `page` or `ticket`.
    """

    long: str
    short: str
    factor: float
    cap: float
    severity: str


WINDOWS: Final = (
    BurnWindow("1h", "10m", 14.4, 0.4, "page"),
    BurnWindow("6h", "1h", 6.0, 0.25, "page"),
    BurnWindow("1d", "4h", 3.0, 0.18, "ticket"),
    BurnWindow("3d", "12h", 1.0, 0.16, "ticket"),
)


def factor(window: BurnWindow, allowed: float) -> float:
    """The burn rate at which the window's alert fires, for a budget that allows this share of bad events."""
    return max(1.0, min(window.factor, window.cap / allowed))


def burn(bad: float, total: float, allowed: float, shift: float = 0.0) -> float:
    """Burn rate; NaN without events.

    Args:
        bad, total: events in the window.
        allowed: share that may be bad, in (0, 1).
        shift: what the KPI's correction adds to the share of bad events.
    """
    return math.nan if total <= 0 else max(0.0, bad / total + shift) / allowed


def burn_low(bad: float, total: float, allowed: float, shift: float = 0.0, shift_se: float = 0.0) -> float:
    """Lower end of the burn rate's 95 % interval; NaN without events.

    Args:
        shift_se: standard error of `shift`.
    """
    if total <= 0:
        return math.nan
    n = total + Z**2
    p = (bad + Z**2 / 2) / n
    return max(0.0, p + shift - Z * math.sqrt(p * (1 - p) / n + shift_se**2)) / allowed
