"""Rules a board keeps, checked on its JSON: what `assay dashboards check` says, for our boards and a user's own.

The rules are those good public collections check (Grafana's dashboard-linter, kubernetes-mixin), written anew for
Prometheus and Tempo panels, with one of our own: every metric and label is one that something really emits.
An exception is named by rule, board and panel in `EXCEPTIONS`, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from mlflow_assay import semconv
from mlflow_assay.dashboards.files import BoardFile
from mlflow_assay.dashboards.foreign import FOREIGN
from mlflow_assay.semconv import Metric, prometheus_label, prometheus_name
from mlflow_assay.slo.names import RECORDED

__all__ = ["EXCEPTIONS", "RULES", "Finding", "check", "metrics_by_series"]

COLUMNS: Final = 24
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^{}]*)\}")
_MATCHER = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*$|([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_RANGED = re.compile(r"\b(rate|irate|increase)\s*\(\s*[^\[\]]*\[([^\[\]]+)\]")
_VARIABLES = {"prometheus", "tempo", "experiment", "agent", "judge", "environment"}
_INTERVALS = {"rate": {"$__rate_interval"}, "irate": {"$__rate_interval"}, "increase": {"$__rate_interval", "$__range"}}

# (rule, uid, panel title) -> reason.
EXCEPTIONS: Final[dict[tuple[str, str, str], str]] = {}


@dataclass(frozen=True)
class Finding:
    """A rule broken.

    Attributes:
        rule: its name.
        uid: the board's.
        panel: title of the panel; "" for the board itself.
        message: what is wrong and what would be right.
    """

    rule: str
    uid: str
    panel: str
    message: str

    def __str__(self) -> str:
        where = f"{self.uid}, panel {self.panel!r}" if self.panel else self.uid
        return f"{where}: {self.message} [{self.rule}]"


def check(boards: Iterable[BoardFile]) -> list[Finding]:
    """Every finding on these boards, exceptions left out."""
    boards = list(boards)
    found = [finding for board in boards for finding in _check_board(board)]
    found += _unique_uids(boards)
    return [f for f in found if (f.rule, f.uid, f.panel) not in EXCEPTIONS]


def metrics_by_series() -> dict[str, Metric]:
    """Every known metric by the name its series have in Prometheus, a histogram's parts apart."""
    known: dict[str, Metric] = dict(RECORDED)
    for name, metric in FOREIGN.items():
        for part in _parts(metric):
            known[f"{name}_{part}" if part else name] = metric
    for name, metric in semconv.METRICS.items():
        for part in _parts(metric):
            known[prometheus_name(name, part)] = metric
    return known


def _parts(metric: Metric) -> tuple[Any, ...]:
    return ("bucket", "sum", "count") if metric.kind == "histogram" else ("",)


def _check_board(board: BoardFile) -> Iterator[Finding]:
    for rule, wrong in RULES.items():
        for panel, message in wrong(board):
            yield Finding(rule, board.uid, panel, message)


Wrong = Iterator[tuple[str, str]]


def _identity(board: BoardFile) -> Wrong:
    if not board.model.get("description"):
        yield "", "has no description"
    if board.model.get("editable"):
        yield "", "is editable: changes made in Grafana would be lost at the next import"
    if not board.model.get("refresh"):
        yield "", "never refreshes"
    if not any(link.get("keepTime") and link.get("includeVars") for link in board.model.get("links", [])):
        yield "", "has no link to its sister boards that keeps the time range and the variables"


def _variables(board: BoardFile) -> Wrong:
    have = {v["name"]: v for v in board.model.get("templating", {}).get("list", [])}
    for name in sorted(_VARIABLES - set(have)):
        yield "", f"has no variable ${name}"
    for name, variable in have.items():
        if not variable.get("label") or not variable.get("description"):
            yield "", f"the variable ${name} has no label or no description"


def _words(board: BoardFile) -> Wrong:
    titles: set[str] = set()
    for panel in board.panels:
        title = panel.get("title") or f"#{panel.get('id')}"
        if title in titles:
            yield title, "the title stands twice"
        titles.add(title)
        if not panel.get("title") or not panel.get("description"):
            yield title, "has no title or no description"
        if panel["type"] in ("text", "heatmap"):
            continue
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if not defaults.get("unit"):
            yield title, "has no unit"
        if not defaults.get("noValue"):
            yield title, "does not say what an empty panel means (noValue)"


def _grid(board: BoardFile) -> Wrong:
    taken: dict[tuple[int, int], str] = {}
    ids: set[int] = set()
    for panel in board.model["panels"]:
        at, title = panel["gridPos"], str(panel.get("title"))
        if at["x"] < 0 or at["x"] + at["w"] > COLUMNS:
            yield title, f"reaches column {at['x'] + at['w']} of {COLUMNS}"
        cells = [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
        if over := {taken[cell] for cell in cells if cell in taken}:
            yield title, f"overlaps {', '.join(sorted(over))}"
        taken.update(dict.fromkeys(cells, title))
        if panel["id"] in ids:
            yield title, f"the id {panel['id']} stands twice"
        ids.add(panel["id"])


def _sources(board: BoardFile) -> Wrong:
    for panel in board.panels:
        for target in panel.get("targets", []):
            uid = target.get("datasource", {}).get("uid", "")
            if uid not in ("${prometheus}", "${tempo}"):
                yield panel["title"], f"asks the fixed data source {uid!r}; take the variable"
        refs = [target["refId"] for target in panel.get("targets", [])]
        if len(refs) != len(set(refs)):
            yield panel["title"], "two queries have one refId"


def promql_of(panel: dict[str, Any]) -> list[str]:
    """The panel's PromQL expressions."""
    return [t["expr"] for t in panel.get("targets", []) if t.get("datasource", {}).get("type") == "prometheus"]


def _metrics(board: BoardFile) -> Wrong:
    known = metrics_by_series()
    for panel in board.panels:
        for expression in promql_of(panel):
            names, labels = names_in(expression)
            for name in sorted(names - set(known)):
                yield panel["title"], f"asks for {name}, which nothing emits"
            allowed = {"le"} | {prometheus_label(x) for n in names & set(known) for x in known[n].labels}
            for label in sorted(labels - allowed):
                yield panel["title"], f"uses the label {label}, which {', '.join(sorted(names))} do not carry"


def _selectors(board: BoardFile) -> Wrong:
    """A series is narrowed by every variable whose label it carries, unless it says otherwise on that label."""
    known, labels = metrics_by_series(), {"experiment": semconv.EXPERIMENT_ID, "environment": semconv.ENVIRONMENT}
    for panel in board.panels:
        for expression in promql_of(panel):
            for name, inside in _SELECTOR.findall(expression):
                for variable, label in labels.items():
                    carried = name in known and label in known[name].labels
                    if carried and f"${variable}" not in inside:
                        yield panel["title"], f"{name} is not narrowed by ${variable}"


def _rates(board: BoardFile) -> Wrong:
    known = metrics_by_series()
    for panel in board.panels:
        for expression in promql_of(panel):
            for function, over in _RANGED.findall(expression):
                if over not in _INTERVALS[function]:
                    valid = " or ".join(sorted(_INTERVALS[function]))
                    yield panel["title"], f"{function} over [{over}]; take {valid}"
            ranged = _ranged_names(expression)
            for name in names_in(expression)[0]:
                cumulative = name in known and known[name].kind in ("counter", "histogram")
                if cumulative and name not in ranged:
                    yield panel["title"], f"{name} is a running total; show its rate or increase"


def _ranged_names(expression: str) -> set[str]:
    return {name for name, _ in re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^{}]*\})?\[", expression)}


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """Series names and labels of a PromQL expression written in our form (a name, then its selector or range)."""
    bare = _STRINGS.sub('""', expression)
    labels = {found[0] or found[2] for _, inside in _SELECTOR.findall(bare) for found in _MATCHER.findall(inside)}
    for grouped in _GROUPED.findall(bare):
        labels |= {label.strip() for label in grouped.split(",") if label.strip()}
    rest = _GROUPED.sub(" ", bare)
    names = set(re.findall(r"(?<![$\w:])([a-zA-Z_:][a-zA-Z0-9_:]*)(?=\s*[\{\[])", rest))
    plain = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", " ", rest)
    words = set(re.findall(r"(?<![$\w:.])([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()", plain))
    return names | (words - _WORDS), labels


_WORDS = {"bool", "or", "and", "unless", "offset", "by", "without", "on", "ignoring", "inf", "nan", "atan2"}


def _unique_uids(boards: list[BoardFile]) -> list[Finding]:
    seen: dict[str, str] = {}
    found = []
    for board in boards:
        if board.uid in seen:
            found.append(Finding("uid", board.uid, "", f"has the uid of {seen[board.uid]}"))
        seen[board.uid] = board.origin
        if board.origin.endswith(".json") and board.origin != f"{board.uid}.json":
            found.append(Finding("uid", board.uid, "", f"lies in {board.origin}; name the file {board.uid}.json"))
    return found


RULES: Final = {
    "identity": _identity,
    "variables": _variables,
    "words": _words,
    "grid": _grid,
    "data-source": _sources,
    "known-metrics": _metrics,
    "selectors": _selectors,
    "rates": _rates,
}
