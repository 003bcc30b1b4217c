"""PromQL written from the metric table: which selectors a series takes follows from the labels it carries.

Every board has the variables of `SELECTORS`; a series is filtered by those whose label it has, so that no selector
is pasted into a query and none is forgotten. A `match` given by hand wins over the board's variable.
"""

from __future__ import annotations

from typing import Final, Literal

from mlflow_assay import semconv
from mlflow_assay.dashboards.foreign import FOREIGN
from mlflow_assay.semconv import prometheus_label, prometheus_name
from mlflow_assay.slo.names import RECORDED

__all__ = ["ANY", "SELECTORS", "Match", "by", "histogram_quantile", "increase", "rate", "series", "where"]

Match = dict[str, "str | None"]
Part = Literal["", "bucket", "sum", "count"]

# Label (as an OpenTelemetry attribute) to matcher. "All" is `.*`, which also holds where the label is absent.
SELECTORS: Final = {
    semconv.EXPERIMENT_ID: '=~"$experiment"',
    semconv.GEN_AI_AGENT: '=~"$agent"',
    semconv.EVALUATION_NAME: '=~"$judge"',
    semconv.ENVIRONMENT: '=~"$environment"',
    semconv.WINDOW: '="$window"',
    semconv.SLICE: '=""',
}
ANY: Final = None  # match(…, {label: ANY}): no filter on this label


def series(name: str, match: Match | None = None, part: Part = "") -> str:
    """One metric with the board's selectors.

    Args:
        name: of `semconv.METRICS`, or of `foreign.FOREIGN` or `slo.names.RECORDED`, as Prometheus names it.
        match: matchers by attribute name, operator included (`'="fail"'`); ANY leaves a label unfiltered.
        part: which series of a histogram.

    Raises:
        KeyError: the metric, or one of the labels, is in no table.
    """
    as_is = FOREIGN | RECORDED
    metric = as_is.get(name) or semconv.METRICS[name]
    wanted: dict[str, str | None] = {label: m for label, m in SELECTORS.items() if label in metric.labels}
    for label, matcher in (match or {}).items():
        if label not in metric.labels:
            raise KeyError(f"{name} has no label {label}; it has {', '.join(metric.labels)}.")
        wanted[label] = matcher
    shown = ", ".join(f"{prometheus_label(label)}{m}" for label, m in sorted(wanted.items()) if m is not None)
    bare = "_".join([name, *([part] if part else [])]) if name in as_is else prometheus_name(name, part)
    return f"{bare}{{{shown}}}" if shown else bare


def where(label: str, value: str) -> Match:
    """Equality on one label, for `match`."""
    return {label: f'="{value}"'}


def by(expression: str, *labels: str, function: str = "sum") -> str:
    """`function by (labels) (expression)`; labels by attribute name."""
    grouped = ", ".join(prometheus_label(label) for label in labels)
    return f"{function} by ({grouped}) ({expression})" if labels else f"{function}({expression})"


def rate(name: str, match: Match | None = None, part: Part = "") -> str:
    """Per-second rate over Grafana's own interval for the panel."""
    return f"rate({series(name, match, part)}[$__rate_interval])"


def increase(name: str, match: Match | None = None, part: Part = "", over: str = "$__range") -> str:
    """How much a counter grew over a span of time, resets allowed for."""
    return f"increase({series(name, match, part)}[{over}])"


def histogram_quantile(q: float, name: str, *labels: str, match: Match | None = None) -> str:
    """A quantile of a histogram, by the labels."""
    inner = by(rate(name, match, "bucket"), "le", *labels)
    return f"histogram_quantile({q}, {inner})"
