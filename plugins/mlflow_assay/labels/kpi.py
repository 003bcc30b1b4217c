"""The corrected rate of one judge in one window, and its agreement with the labels: one object for every reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_assay.labels.pairs import Paired, trained_note
from mlflow_assay.trust.agreement import Agreement, agreement
from mlflow_assay.trust.estimate import ErrorRates, Estimate, corrected_kpi, share

__all__ = ["Kpi", "agreement_of", "corrected", "kpi_of", "uncorrected"]


def corrected(
    paired: Paired, *, name: str | None = None, external: ErrorRates | None = None, confidence: float = 0.95
) -> Estimate:
    """The judge's pass rate corrected for its errors, or marked uncorrected with the reason.

    Labels of these very traces only are used, and only where they speak for every version of the judge that gave
    a notable share of the verdicts. Traces the judge was trained on are left out, as judged and as labelled.

    Args:
        paired: verdicts and labels of the window.
        name: the KPI's name; None takes the judge's.
        external: error rates measured elsewhere, used only where labels do not suffice.
        confidence: level in (0, 1).
    """
    bare, sampled = paired.unlabelled_version(), paired.sampled
    estimate = corrected_kpi(
        paired.passed,
        sampled.labels,
        kind="share",
        clusters=paired.clusters,
        label_probabilities=sampled.probabilities,
        same_window=bare is None,
        external=external,
        name=name or paired.judge,
        confidence=confidence,
    )
    notes = [trained_note(paired), *sampled.notes]
    if bare is not None:
        version, n = bare
        notes.append(
            f"{n} of the verdicts were given by {f'version {version}' if version else 'an unnamed version'} of the "
            "judge, and none of these traces is labelled: judge all traces with one version, or label some of those."
        )
    return estimate.with_assumptions(*(note for note in notes if note))


def uncorrected(paired: Paired, *, name: str | None = None, confidence: float = 0.95) -> Estimate:
    """The judge's own rate, with sessions as clusters; traces it was trained on are left out."""
    return share(paired.passed, clusters=paired.clusters, name=name or paired.judge, confidence=confidence)


def agreement_of(
    paired: Paired, *, name: str | None = None, confidence: float = 0.95, target: float = 0.2
) -> Agreement:
    """How far the judge's pass and fail agree with the labels; traces it was trained on are left out.

    Labels drawn by `assay labels pick` are weighted by their probabilities, and others then left out.
    """
    sampled = paired.sampled
    return agreement(
        paired.passed,
        sampled.labels,
        name=name or paired.judge,
        categories=(False, True),
        clusters=paired.clusters,
        label_probabilities=sampled.probabilities,
        confidence=confidence,
        target=target,
    )


@dataclass(frozen=True)
class Kpi:
    """One judge's rate over a window.

    Attributes:
        judge, scope: of the judge.
        estimate: the number to show; says itself whether and how it is corrected.
        uncorrected: the judge's own rate with its interval.
        reasons: unscored units by reason.
        units: traces (or sessions) in the window, judged or not.
        n_trained: units left out because the judge was trained on them.
        slices: the same within each value of a breakdown, corrected only by labels of that slice.
    """

    judge: str
    scope: str
    estimate: Estimate
    uncorrected: Estimate
    reasons: Mapping[str, int]
    units: int
    n_trained: int
    slices: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "judge": self.judge,
            "scope": self.scope,
            "estimate": self.estimate.to_dict(),
            "uncorrected": self.uncorrected.to_dict(),
            "unscored_reasons": dict(self.reasons),
            "units": self.units,
            "n_trained": self.n_trained,
            "slices": {value: found.to_dict() for value, found in self.slices.items()},
        }


def kpi_of(
    paired: Paired,
    units: int,
    *,
    by: str | None = None,
    external: ErrorRates | None = None,
    confidence: float = 0.95,
) -> Kpi:
    """One judge's rate over a window.

    Args:
        paired: its verdicts and labels there.
        units: traces (or sessions) in the window.
        by: a breakdown the rows were read with; None for no slices.
        external: error rates measured elsewhere, used only where labels do not suffice.
        confidence: level of the intervals, in (0, 1).
    """
    unscored = (v.reading.reason or "" for v in paired.verdicts if v.reading.passed is None)
    return Kpi(
        judge=paired.judge,
        scope=paired.scope,
        estimate=corrected(paired, external=external, confidence=confidence),
        uncorrected=uncorrected(paired, confidence=confidence),
        reasons=dict(Counter(unscored).most_common()),
        units=units,
        n_trained=paired.n_trained,
        slices={} if by is None else _slices(paired, by, external, confidence),
    )


def _slices(paired: Paired, by: str, external: ErrorRates | None, confidence: float) -> dict[str, Estimate]:
    members: dict[str, list[int]] = {}
    for position, value in enumerate(paired.slices(by)):
        members.setdefault("(none)" if value is None else value, []).append(position)
    ordered = sorted(members.items(), key=lambda item: -len(item[1]))
    return {
        value: corrected(paired.at(at), name=f"{paired.judge}, {value}", external=external, confidence=confidence)
        for value, at in ordered
    }
