"""Series that the recording rules of `assay slo build` make; the boards and the alerts read them.

A table apart from `semconv.METRICS`: those are OpenTelemetry's names, which emitters send and the collector translates;
these exist in Prometheus alone, are nobody's to send, and keep their colons.
"""

from __future__ import annotations

from typing import Final

from mlflow_assay.semconv import EVALUATION_NAME, EXPERIMENT_ID, GEN_AI_AGENT, WINDOW, Metric

__all__ = [
    "RECORDED",
    "SLO",
    "S_BAD",
    "S_BUDGET",
    "S_BUDGET_HIGH",
    "S_BUDGET_LOW",
    "S_BURN",
    "S_BURN_LOW",
    "S_OBJECTIVE",
    "S_SAMPLE",
    "S_SHIFT",
    "S_SHIFT_VARIANCE",
]

SLO: Final = "slo"  # label: the objective's name

S_OBJECTIVE: Final = "assay:slo:objective"
S_BUDGET: Final = "assay:slo:budget_remaining"
S_BUDGET_LOW: Final = "assay:slo:budget_remaining_low"
S_BUDGET_HIGH: Final = "assay:slo:budget_remaining_high"
S_BURN: Final = "assay:slo:burn_rate"
S_BURN_LOW: Final = "assay:slo:burn_rate_low"
S_SAMPLE: Final = "assay:slo:sample"
S_BAD: Final = "assay:slo:bad"
S_SHIFT: Final = "assay:slo:shift"
S_SHIFT_VARIANCE: Final = "assay:slo:shift_variance"

_LABELS: Final = (SLO, EVALUATION_NAME, GEN_AI_AGENT, EXPERIMENT_ID)
_WINDOWED: Final = (*_LABELS, WINDOW)

RECORDED: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(S_OBJECTIVE, "gauge", "{share}", _LABELS, "The share that is to pass."),
        Metric(S_BUDGET, "gauge", "{share}", _LABELS, "Share of the error budget left; below 0 it is overspent."),
        Metric(S_BUDGET_LOW, "gauge", "{share}", _LABELS, "The same at the lower end of the KPI's interval."),
        Metric(S_BUDGET_HIGH, "gauge", "{share}", _LABELS, "The same at the upper end of the KPI's interval."),
        Metric(S_BURN, "gauge", "1", _WINDOWED, "How many times faster than sustainable the budget is spent."),
        Metric(S_BURN_LOW, "gauge", "1", _WINDOWED, "The least burn rate the interval allows: what alerts look at."),
        Metric(S_SAMPLE, "gauge", "{trace}", _WINDOWED, "Events the burn rate rests on: scored verdicts, or runs."),
        Metric(S_BAD, "gauge", "{trace}", _WINDOWED, "Of these, the bad ones, by the judge's own word."),
        Metric(S_SHIFT, "gauge", "{share}", _LABELS, "What the KPI's correction adds to the share of bad ones."),
        Metric(S_SHIFT_VARIANCE, "gauge", "{share}", _LABELS, "Variance of that shift."),
    )
}
