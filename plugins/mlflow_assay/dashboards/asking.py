"""A board's queries put to Prometheus and Tempo as Grafana would put them: variables and intervals filled in.

For the preview and for the tests; Grafana itself is not needed. Macros as Grafana documents them: `$__range` is the
time range, `$__rate_interval` the larger of four scrape intervals and step plus one scrape interval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlflow_assay.dashboards.files import BoardFile
from mlflow_assay.errors import StoreError

__all__ = ["Asker", "Frame", "Range", "Span", "fill"]

_LABEL_VALUES = re.compile(r"label_values\((.*), *([a-zA-Z_][a-zA-Z0-9_]*)\)$")
_MACRO = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")
_LABELS: Final = "${__field.labels}"
_TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Range:
    """A time range.

    Attributes:
        start, end: Unix seconds.
        step: seconds between points.
        scrape: seconds between scrapes, as the data source is set.
    """

    start: float
    end: float
    step: float
    scrape: float = 15.0

    @property
    def macros(self) -> dict[str, str]:
        """Grafana's own variables."""
        rate = max(4 * self.scrape, self.step + self.scrape)
        return {
            "__rate_interval": f"{math.ceil(rate)}s",
            "__interval": f"{math.ceil(self.step)}s",
            "__range": f"{math.ceil(self.end - self.start)}s",
        }


@dataclass(frozen=True)
class Frame:
    """One series, or one row of an instant answer.

    Attributes:
        labels: as the server gave them.
        points: (Unix seconds, value); one for an instant query.
        legend: the series' name as the panel asks for it.
        ref: the query's refId.
    """

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    legend: str
    ref: str

    @property
    def last(self) -> float:
        """The last value that is one; NaN without any."""
        return next((value for _, value in reversed(self.points) if not math.isnan(value)), math.nan)


@dataclass(frozen=True)
class Span:
    """A row of a TraceQL search."""

    trace_id: str
    span_id: str
    name: str
    started: float
    duration_s: float
    attributes: Mapping[str, Any] = field(default_factory=dict)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Variables and macros replaced; unknown ones are left as they are."""
    return _MACRO.sub(lambda found: values.get(found.group(1) or found.group(2), found.group(0)), text)


class Asker:
    """Puts queries to the two servers.

    Args:
        prometheus, tempo: addresses; None leaves those panels without data.
        headers: sent with each request (a tenant, an authorization); never logged.
    """

    def __init__(self, prometheus: str | None, tempo: str | None, headers: Mapping[str, str] | None = None) -> None:
        self._prometheus, self._tempo, self._headers = prometheus, tempo, dict(headers or {})

    def variables(self, board: BoardFile, chosen: Mapping[str, str], span: Range) -> dict[str, str]:
        """A value for each variable: the chosen one, the board's default, or the first there is.

        Raises:
            StoreError: Prometheus cannot be asked.
        """
        values = dict(span.macros)
        for variable in board.model["templating"]["list"]:
            name = variable["name"]
            values[name] = chosen.get(name) or self._default(variable, values, span)
        return values

    def _default(self, variable: Mapping[str, Any], values: Mapping[str, str], span: Range) -> str:
        if variable.get("includeAll"):
            return str(variable.get("allValue") or ".*")
        current = variable.get("current", {}).get("value")
        if variable["type"] == "query":
            options = self.options(variable, values, span)
            return str(current) if current in options else (options or [""])[0]
        return str(current or variable.get("query") or "").split(",")[0]

    def options(self, variable: Mapping[str, Any], values: Mapping[str, str], span: Range) -> list[str]:
        """What a `label_values` variable offers."""
        query = variable["query"]
        found = _LABEL_VALUES.match(query if isinstance(query, str) else query["query"])
        if found is None or self._prometheus is None:
            return []
        selector, label = found.groups()
        asked = {"match[]": fill(selector, values), "start": span.start, "end": span.end}
        return sorted(self._get(f"{self._prometheus}/api/v1/label/{label}/values", asked)["data"])

    def frames(self, panel: Mapping[str, Any], values: Mapping[str, str], span: Range) -> list[Frame]:
        """Answers to a panel's PromQL and TraceQL-metrics queries.

        Raises:
            StoreError: a server cannot be asked, or refuses a query; quotes it.
        """
        found: list[Frame] = []
        for target in panel.get("targets", []):
            if target["datasource"]["type"] == "prometheus":
                found += self._ask_prometheus(target, values, span)
            else:
                found += self._ask_tempo(target, values, span, _display_name(panel, target["refId"]))
        return found

    def spans(self, panel: Mapping[str, Any], values: Mapping[str, str], span: Range) -> list[Span]:
        """Answers to a panel's TraceQL search, newest first."""
        if self._tempo is None:
            return []
        target = panel["targets"][0]
        asked = {
            "q": fill(target["query"], values),
            "start": int(span.start),
            "end": math.ceil(span.end) + 1,
            "limit": target.get("limit", 20),
            "spss": 20,
        }
        traces = self._get(f"{self._tempo}/api/search", asked).get("traces") or []
        return sorted((s for trace in traces for s in _spans(trace)), key=lambda s: -s.started)

    def _ask_prometheus(self, target: Mapping[str, Any], values: Mapping[str, str], span: Range) -> list[Frame]:
        if self._prometheus is None:
            return []
        asked: dict[str, Any] = {"query": fill(target["expr"], values)}
        if target.get("instant"):
            answer = self._get(f"{self._prometheus}/api/v1/query", asked | {"time": span.end})
        else:
            more = {"start": span.start, "end": span.end, "step": span.step}
            answer = self._get(f"{self._prometheus}/api/v1/query_range", asked | more)
        return [
            Frame(
                series["metric"],
                tuple((float(t), float(v)) for t, v in series.get("values") or [series["value"]]),
                _legend(target.get("legendFormat", ""), series["metric"]),
                target["refId"],
            )
            for series in answer["data"]["result"]
        ]

    def _ask_tempo(self, target: Mapping[str, Any], values: Mapping[str, str], span: Range, name: str) -> list[Frame]:
        if self._tempo is None:
            return []
        asked = {
            "q": fill(target["query"], values),
            "start": int(span.start),
            "end": math.ceil(span.end),
            "step": f"{math.ceil(span.step)}s",
        }
        answer = self._get(f"{self._tempo}/api/metrics/query_range", asked)
        return [
            Frame(
                labels,
                tuple((int(p["timestampMs"]) / 1000, float(p.get("value", 0))) for p in series["samples"]),
                name.replace(_LABELS, ", ".join(labels.values())),
                target["refId"],
            )
            for series in answer.get("series") or []
            for labels in [{label["key"]: str(_plain(label["value"])) for label in series.get("labels", [])}]
        ]

    def _get(self, url: str, params: Mapping[str, Any]) -> dict[str, Any]:
        import requests

        try:
            answer = requests.get(url, params=dict(params), headers=self._headers, timeout=_TIMEOUT_S)
        except requests.RequestException as error:
            raise StoreError(
                f"{url} cannot be reached: {type(error).__name__}.", fix="Is the address right?"
            ) from error
        if answer.status_code != 200:
            asked = params.get("query") or params.get("q") or params
            raise StoreError(f"{url} refused with {answer.status_code}: {answer.text[:300]}", found=str(asked))
        parsed: dict[str, Any] = answer.json()
        return parsed


def _display_name(panel: Mapping[str, Any], ref: str) -> str:
    """What a query's series are called by an override; else their labels."""
    for override in panel["fieldConfig"].get("overrides", []):
        if override["matcher"] == {"id": "byFrameRefID", "options": ref}:
            for prop in override["properties"]:
                if prop["id"] == "displayName":
                    return str(prop["value"])
    return _LABELS


def _legend(template: str, labels: Mapping[str, str]) -> str:
    if not template or template == "__auto":
        return ", ".join(f"{k}={v}" for k, v in labels.items() if k != "__name__") or labels.get("__name__", "value")
    return re.sub(r"\{\{\s*([\w.]+)\s*\}\}", lambda found: labels.get(found.group(1), ""), template).strip()


def _spans(trace: Mapping[str, Any]) -> list[Span]:
    sets = trace.get("spanSets") or ([trace["spanSet"]] if trace.get("spanSet") else [])
    return [
        Span(
            trace["traceID"].zfill(32),
            span["spanID"],
            span.get("name", ""),
            int(span["startTimeUnixNano"]) / 1e9,
            int(span.get("durationNanos", 0)) / 1e9,
            {a["key"]: _plain(a["value"]) for a in span.get("attributes", [])},
        )
        for spanset in sets
        for span in spanset["spans"]
    ]


def _plain(value: Mapping[str, Any]) -> Any:
    return next(iter(value.values()), None)
