"""Rogan-Gladen: a pass rate corrected by error rates measured elsewhere. Valid only if they still hold here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust._arrays import check_confidence
from mlflow_assay.trust._design import z_value
from mlflow_assay.trust._proportion import unscored_note
from mlflow_assay.trust._types import Estimate


@dataclass(frozen=True)
class ErrorRates:
    """A judge's error rates from a study of its own, never from the window being corrected.

    Attributes:
        hits: truly good traces the judge passed.
        good: truly good traces in the study, above 0; sensitivity is hits / good.
        rejections: truly bad traces the judge failed.
        bad: truly bad traces in the study, above 0; specificity is rejections / bad.
        source: where and when they were measured, shown to the reader.

    Raises:
        ConfigError: the counts contradict each other or the source is empty.
    """

    hits: int
    good: int
    rejections: int
    bad: int
    source: str

    def __post_init__(self) -> None:
        counts = 0 <= self.hits <= self.good and 0 <= self.rejections <= self.bad
        if not counts or min(self.good, self.bad) < 1 or not self.source.strip():
            raise ConfigError(
                "External error rates need 0 <= hits <= good, 0 <= rejections <= bad, both kinds of trace, "
                "and a source.",
                found=self,
            )

    @property
    def sensitivity(self) -> float:
        """Share of truly good traces the judge passes, in [0, 1]."""
        return self.hits / self.good

    @property
    def specificity(self) -> float:
        """Share of truly bad traces the judge fails, in [0, 1]."""
        return self.rejections / self.bad


def rogan_gladen(
    passed: float,
    total: float,
    rates: ErrorRates,
    *,
    name: str = "pass rate",
    confidence: float = 0.95,
    n_unscored: int = 0,
) -> Estimate:
    """A pass rate corrected by external sensitivity and specificity (method `rogan-gladen`).

    Measured on real runs, error rates learnt on other systems covered the truth 38-88 % of the time, so the
    assumption is stated first in the result.

    Args:
        passed: traces the judge passed, 0 <= passed <= total; may be an effective count.
        total: traces with a verdict, above 0.
        rates: the judge's error rates and where they come from.
        name: the KPI's name.
        confidence: level in (0, 1).
        n_unscored: traces without a verdict, reported beside.

    Returns:
        A corrected Estimate in [0, 1]; n_labelled is 0, since no label of this window was used.

    Raises:
        ConfigError: passed is not in [0, total], or total is 0.
        NotTrustedError: sensitivity + specificity is not above 1: the judge is no better than chance.

    Source: Rogan & Gladen 1978, Am. J. Epidemiology 107:71; interval Lang & Reiczigel 2014, Preventive
        Veterinary Medicine 113:13.
    """
    check_confidence(confidence)
    if not 0 <= passed <= total or total <= 0:
        raise ConfigError("A pass rate needs 0 <= passed <= total, total above 0.", found=f"{passed}/{total}")
    youden = rates.sensitivity + rates.specificity - 1
    if youden <= 0:
        raise NotTrustedError(
            "A judge no better than chance cannot be corrected.",
            found=f"sensitivity {rates.sensitivity:.2f}, specificity {rates.specificity:.2f}",
            valid="a sum above 1",
        )
    value = min(1.0, max(0.0, (passed / total + rates.specificity - 1) / youden))
    low, high = _lang_reiczigel(passed / total, total, rates, z_value(confidence))
    notes = (
        f"Assumes the judge errs here as it did in {rates.source}; error rates often do not carry over.",
        f"Sensitivity {rates.sensitivity:.2f} of {rates.good}, specificity {rates.specificity:.2f} of {rates.bad}.",
        *unscored_note(n_unscored),
    )
    return Estimate(
        name,
        passed / total,
        value,
        min(low, value),
        max(high, value),
        confidence,
        round(total),
        0,
        n_unscored,
        "rogan-gladen",
        notes,
    )


def _lang_reiczigel(share: float, total: float, rates: ErrorRates, z: float) -> tuple[float, float]:
    size, good, bad = total + z**2, rates.good + 2, rates.bad + 2
    p, se, sp = (total * share + z**2 / 2) / size, (rates.hits + 1) / good, (rates.rejections + 1) / bad
    youden = se + sp - 1
    if youden <= 0:
        return 0.0, 1.0
    theta = (p + sp - 1) / youden
    shift = 2 * z**2 * (theta * se * (1 - se) / good - (1 - theta) * sp * (1 - sp) / bad)
    variance = p * (1 - p) / size + theta**2 * se * (1 - se) / good + (1 - theta) ** 2 * sp * (1 - sp) / bad
    half = z * math.sqrt(variance) / youden
    return max(0.0, min(1.0, theta + shift - half)), max(0.0, min(1.0, theta + shift + half))
