"""Trust: numbers with intervals, judges that are checked, changes that are proven. NumPy and SciPy only."""

from __future__ import annotations

from mlflow_assay.trust.estimate import (
    ErrorRates,
    Estimate,
    VerdictCounts,
    corrected_kpi,
    jps,
    jps_share,
    mean,
    ppi_mean,
    proportion,
    rogan_gladen,
    share,
)

__all__ = [
    "ErrorRates",
    "Estimate",
    "VerdictCounts",
    "corrected_kpi",
    "jps",
    "jps_share",
    "mean",
    "ppi_mean",
    "proportion",
    "rogan_gladen",
    "share",
]
