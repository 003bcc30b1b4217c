"""Numbers with intervals: the judge's own, and corrected for its errors by labels.

`corrected_kpi` is the door: it picks the method the data allow, or refuses and says why. The methods
themselves are here too, for those who know which one they want.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.trust._arrays import Floats, binary, numeric, positive, same_length
from mlflow_assay.trust._external import ErrorRates, rogan_gladen
from mlflow_assay.trust._jps import VerdictCounts, jps, jps_interval, jps_share, label_weights
from mlflow_assay.trust._ppi import labels_mean, power_tuning, ppi_interval, ppi_mean
from mlflow_assay.trust._proportion import effective_share, jeffreys, mean, proportion, share, wilson
from mlflow_assay.trust._types import Estimate

__all__ = [
    "ErrorRates",
    "Estimate",
    "VerdictCounts",
    "corrected_kpi",
    "jeffreys",
    "jps",
    "jps_interval",
    "jps_share",
    "labels_mean",
    "mean",
    "power_tuning",
    "ppi_interval",
    "ppi_mean",
    "proportion",
    "rogan_gladen",
    "share",
    "wilson",
]

MIN_LABELS = 20  # below this the corrected interval was not tried on real data
MIN_LABELS_PPI = 100  # PPI++ covered 84-91 % at 50 labels and fewer


def corrected_kpi(
    verdicts: Sequence[Any],
    labels: Sequence[Any] | None = None,
    *,
    kind: Literal["auto", "share", "mean"] = "auto",
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    label_probabilities: Sequence[float | None] | None = None,
    same_window: bool = True,
    external: ErrorRates | None = None,
    name: str = "KPI",
    confidence: float = 0.95,
    min_labels: int = MIN_LABELS,
) -> Estimate:
    """The KPI of one window, corrected for judge error if the labels allow it, else marked uncorrected.

    Rules: a pass rate with `min_labels` labels or more uses `jps_share`; a mean score uses `ppi_mean` from 100
    labels and the labels' own mean below that; labels of another window or system are never used, because error
    rates do not travel; external error rates are used for a pass rate only when given, and visibly.

    Args:
        verdicts: per trace the judge's pass/fail (True/False/1/0) or score; None or NaN is unscored, shape (n,).
        labels: per trace the expert's good/bad or score; None where there is none, shape (n,); None when there
            is no label at all.
        kind: `share` for a pass rate, `mean` for a score; `auto` takes a share when all verdicts and labels
            are true/false or 0/1. Say `mean` for scores that may happen to be 0 or 1 throughout.
        clusters: session (or task) id of each trace, None for a trace on its own, shape (n,).
        weights: inverse of the probability with which each trace entered the window, above 0, shape (n,).
        label_probabilities: probability with which each judged trace was chosen for labelling, in (0, 1].
        same_window: whether labels come from the same run or time window and the same system.
        external: error rates measured elsewhere, used where labels do not suffice.
        name: the KPI's name.
        confidence: level in (0, 1).
        min_labels: fewest labels for a correction.

    Returns:
        An Estimate; where a correction was refused, corrected is None and the reason is an assumption.

    Raises:
        ConfigError: lengths differ, a value is of the wrong kind, a weight is not above 0.

    Source: the methods' own docstrings; the thresholds are measured in the project's method notes.
    """
    if kind not in ("auto", "share", "mean"):
        raise ConfigError("Unknown kind of KPI.", found=repr(kind), valid="auto, share, mean")
    given = list(labels) if labels is not None else [None] * len(verdicts)
    same_length(verdicts=verdicts, labels=given, clusters=clusters, weights=weights)
    is_share = _is_share(verdicts, given) if kind == "auto" else kind == "share"
    common: dict[str, Any] = {
        "clusters": clusters,
        "weights": weights,
        "name": name,
        "confidence": confidence,
    }
    drawn: dict[str, Any] = {"label_probabilities": label_probabilities}
    refusal = _refusal(verdicts, given, same_window, min_labels)
    if refusal is None:
        try:
            return (
                jps_share(verdicts, given, **common, **drawn)
                if is_share
                else _score(verdicts, given, **common, **drawn)
            )
        except NotTrustedError as error:
            refusal = str(error)
    if is_share and external is not None:
        return _by_external(verdicts, external, refusal, **common)
    plain = (share if is_share else mean)(verdicts, **common)
    return _with_labels(plain.with_assumptions(refusal), verdicts, given)


def _is_share(verdicts: Sequence[Any], labels: Sequence[Any]) -> bool:
    seen = np.concatenate([numeric(verdicts, "verdicts"), numeric(labels, "labels")])
    return bool(np.isin(seen[~np.isnan(seen)], (0.0, 1.0)).all())


def _labelled(verdicts: Sequence[Any], labels: Sequence[Any]) -> int:
    known = ~np.isnan(numeric(verdicts, "verdicts")) & ~np.isnan(numeric(labels, "labels"))
    return int(known.sum())


def _refusal(verdicts: Sequence[Any], labels: Sequence[Any], same_window: bool, needed: int) -> str | None:
    found = _labelled(verdicts, labels)
    if not found:
        return "Not corrected: no judged trace of this window has a label."
    if not same_window:
        return "Not corrected: the labels come from another window or system, and a judge's errors do not travel."
    if found < needed:
        return (
            f"Not corrected: {found} labels; label {needed - found} more traces of this window ({needed} are needed)."
        )
    return None


def _score(verdicts: Sequence[Any], labels: Sequence[Any], **options: Any) -> Estimate:
    if _labelled(verdicts, labels) >= MIN_LABELS_PPI:
        return ppi_mean(verdicts, labels, **options)
    f, y = numeric(verdicts, "scores"), numeric(labels, "labels")
    w = positive(options["weights"], f.size, "weights")
    lw: Floats = label_weights(~np.isnan(f) & ~np.isnan(y), w, options["label_probabilities"])
    estimate = labels_mean(
        f,
        y,
        clusters=options["clusters"],
        label_weights=lw,
        weights=w,
        name=options["name"],
        confidence=options["confidence"],
    )
    return estimate.with_assumptions(f"From the {estimate.n_labelled} labels alone: PPI++ needs {MIN_LABELS_PPI}.")


def _by_external(verdicts: Sequence[Any], rates: ErrorRates, refusal: str, **options: Any) -> Estimate:
    plain = share(verdicts, **options)
    if plain.raw is None:
        return plain.with_assumptions(refusal)
    values = binary(verdicts, "verdicts")
    scored = ~np.isnan(values)
    clusters = options["clusters"]
    kept = None if clusters is None else [c for c, s in zip(clusters, scored, strict=True) if s]
    w = positive(options["weights"], values.size, "weights")[scored]
    raw, size = effective_share(values[scored], kept, w, options["confidence"])
    raw = min(1.0, raw)
    try:
        found = rogan_gladen(
            raw * size,
            size,
            rates,
            name=options["name"],
            confidence=options["confidence"],
            n_unscored=plain.n_unscored,
        )
    except NotTrustedError as error:
        return plain.with_assumptions(refusal, str(error))
    fields = found.to_dict() | {"n_judged": plain.n_judged}
    why = refusal.replace("Not corrected", "Not corrected by labels")
    return Estimate.from_dict(fields).with_assumptions(why)


def _with_labels(estimate: Estimate, verdicts: Sequence[Any], labels: Sequence[Any]) -> Estimate:
    fields = estimate.to_dict() | {"n_labelled": _labelled(verdicts, labels)}
    return Estimate.from_dict(fields)
