"""Trust: numbers with intervals, judges that are checked, changes that are proven. NumPy and SciPy only.

`estimate` corrects a KPI for judge error, `agreement` checks a judge against experts, `compare` tests a change on
the same inputs, `recalibrate` moves a judge's threshold, `drift` watches over time, `sampling` and `planning` say
which and how many traces to label. The functions `agreement`, `compare` and `recalibrate` bear their modules'
names and are imported from there.
"""

from __future__ import annotations

from mlflow_assay.trust.agreement import (
    Agreement,
    AltTest,
    Ceiling,
    Measure,
    Ratings,
    agreement_by,
    alt_test,
    cohen_kappa,
    human_ceiling,
    kappa_gain,
    krippendorff_alpha,
)
from mlflow_assay.trust.compare import Comparison, compare_pass_k, corrected_difference, holm_adjust
from mlflow_assay.trust.drift import (
    Diagnosis,
    GoldCheck,
    PassRateAlarm,
    check_gold,
    confidence_sequence,
    diagnose,
)
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
from mlflow_assay.trust.planning import detectable_difference, labels_needed, rows_needed
from mlflow_assay.trust.recalibrate import Recalibration
from mlflow_assay.trust.sampling import Selection, neyman_allocation, stratified_sample
from mlflow_assay.trust.trials import pass_k

__all__ = [
    "Agreement",
    "AltTest",
    "Ceiling",
    "Comparison",
    "Diagnosis",
    "ErrorRates",
    "Estimate",
    "GoldCheck",
    "Measure",
    "PassRateAlarm",
    "Ratings",
    "Recalibration",
    "Selection",
    "VerdictCounts",
    "agreement_by",
    "alt_test",
    "check_gold",
    "cohen_kappa",
    "compare_pass_k",
    "confidence_sequence",
    "corrected_difference",
    "corrected_kpi",
    "detectable_difference",
    "diagnose",
    "holm_adjust",
    "human_ceiling",
    "jps",
    "jps_share",
    "kappa_gain",
    "krippendorff_alpha",
    "labels_needed",
    "mean",
    "neyman_allocation",
    "pass_k",
    "ppi_mean",
    "proportion",
    "rogan_gladen",
    "rows_needed",
    "share",
    "stratified_sample",
]
