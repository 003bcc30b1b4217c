"""The corrected rate of one judge in one window, and its agreement with the labels: one object for every reader."""

from __future__ import annotations

from mlflow_assay.labels.pairs import Paired, trained_note
from mlflow_assay.trust.agreement import Agreement, agreement
from mlflow_assay.trust.estimate import ErrorRates, Estimate, corrected_kpi, share

__all__ = ["agreement_of", "corrected", "uncorrected"]


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
