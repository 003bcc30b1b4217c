"""The questions panels ask, each in one line: a metric, the labels that tell its series apart, and their legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mlflow_assay.dashboards import promql
from mlflow_assay.dashboards.promql import Match, by, increase, series
from mlflow_assay.semconv import prometheus_label

__all__ = [
    "EACH_STEP",
    "WHOLE_RANGE",
    "Query",
    "grown",
    "highest",
    "legend_of",
    "lowest",
    "most",
    "per_second",
    "quantiles",
    "share_of",
]

WHOLE_RANGE: Final = "$__range"
EACH_STEP: Final = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL (or TraceQL metrics where `tempo`).
        legend: as Grafana templates it, for example `{{gen_ai_agent_name}}`.
        instant: the value now instead of a series over time.
        exemplars: whether points that lead to traces are drawn.
        tempo: a TraceQL metrics query, asked of Tempo.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    exemplars: bool = False
    tempo: bool = False


def legend_of(labels: Sequence[str], pattern: str | None = None) -> str:
    """A legend in which labels stand for themselves.

    Args:
        labels: attribute names.
        pattern: words with a place for each label, by number where the order is another (`"{1}: {0}"`); None puts a
            space between them.
    """
    places = [f"{{{{{prometheus_label(label)}}}}}" for label in labels]
    return " ".join(places) if pattern is None else pattern.format(*places)


def highest(name: str, *labels: str, match: Match | None = None, legend: str | None = None) -> Query:
    """The highest value of a gauge for each label set; what several workers report of one thing becomes one series.

    Args:
        name, match: as `promql.series` takes them.
        labels: attributes whose values stay apart.
        legend: pattern over these labels, see `legend_of`.
    """
    return Query(by(series(name, match), *labels, function="max"), legend_of(labels, legend))


def lowest(name: str, *labels: str, match: Match | None = None, legend: str | None = None) -> Query:
    """The same with the lowest value: lower ends of intervals, and what is bad when small."""
    return Query(by(series(name, match), *labels, function="min"), legend_of(labels, legend))


def per_second(name: str, *labels: str, match: Match | None = None, legend: str | None = None) -> Query:
    """How fast a counter grows."""
    return Query(by(promql.rate(name, match), *labels), legend_of(labels, legend))


def grown(
    name: str,
    *labels: str,
    match: Match | None = None,
    legend: str | None = None,
    over: str = WHOLE_RANGE,
    exemplars: bool = False,
) -> Query:
    """How much a counter grew: over the board's whole time range as one number, or in each step of a series.

    Args:
        over: `WHOLE_RANGE` or `EACH_STEP`.
        exemplars: whether points that lead to traces are drawn.
    """
    return Query(by(increase(name, match, over=over), *labels), legend_of(labels, legend), exemplars=exemplars)


def most(count: int, query: Query, function: str = "topk") -> Query:
    """Of a query's series only the largest, or with `bottomk` the smallest."""
    return replace(query, expr=f"{function}({count}, {query.expr})")


def quantiles(
    name: str, *labels: str, of: Sequence[float] = (0.5, 0.95), match: Match | None = None, exemplars: bool = False
) -> list[Query]:
    """Quantiles of a histogram, named by their percentages where there are several.

    Args:
        of: each in (0, 1).
        exemplars: whether points that lead to traces are drawn, on the first.
    """
    several = len(of) > 1
    return [
        Query(
            promql.histogram_quantile(q, name, *labels, match=match),
            f"{legend_of(labels)} {100 * q:g} %" if several else legend_of(labels),
            exemplars=exemplars and i == 0,
        )
        for i, q in enumerate(of)
    ]


def share_of(part: str, whole: str) -> str:
    """PromQL of one sum over another: 0 where the part has no series, nothing where the whole is nothing."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"
