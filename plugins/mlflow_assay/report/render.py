"""`ReportData` to one self-contained HTML page: no script, no font, no image from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlflow_assay.report import charts, words
from mlflow_assay.report.breakdown import FEW, OTHERS
from mlflow_assay.report.model import JudgeReport, ReportData

__all__ = ["render"]


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Templates of this package. Everything is escaped: traces hold whatever users and models wrote."""
    found = Environment(
        loader=PackageLoader("mlflow_assay.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update({name: getattr(words, name) for name in words.__all__ if callable(getattr(words, name))})
    found.globals.update(
        {
            "composition": charts.composition,
            "trend_chart": charts.trend_chart,
            "plural": words.plural,
            "stretch": words.stretch,
            "few": FEW,
            "others": OTHERS,
        }
    )
    return found


def render(data: ReportData) -> str:
    """The page as text; write it with UTF-8.

    Args:
        data: see `data.build`.
    """
    rated = sorted((j for j in data.judges if _value(j) is not None), key=lambda j: _value(j) or 0.0)
    order = [j.name for j in rated]
    view: dict[str, Any] = {
        "data": data,
        "rated": rated,
        "unrated": [j for j in data.judges if j not in rated],
        "breakdowns": [(b, sorted(b.judges, key=lambda j: order.index(j.judge))) for b in data.breakdowns],
        "weakest": _weakest(rated),
        "trends": [j for j in rated if j.trend is not None and len(j.trend.bins) > 1],
        "labelled": [j for j in data.judges if j.labels is not None],
        "reasons": [j for j in data.judges if j.counts.unscored],
    }
    return _environment().get_template("report.html.j2").render(view)


def _value(judge: JudgeReport) -> float | None:
    return judge.estimate.value if judge.estimate is not None else None


def _weakest(judges: list[JudgeReport]) -> JudgeReport | None:
    """The judge with the lowest rate, of those (lowest first) with enough verdicts; None when the next reads alike."""
    known = [j for j in judges if j.estimate is not None and j.estimate.n_judged >= FEW]
    shown = [words.rate(j.estimate) for j in known if j.estimate is not None]
    return known[0] if len(known) > 1 and shown[0] != shown[1] else None
