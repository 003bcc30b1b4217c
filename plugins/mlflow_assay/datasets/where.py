"""Which traces become rows: conditions on what judges and people said of them.

    judge NAME failed | passed | unscored     what the judge said last; of a session: all its traces
    judge NAME wrong | right                  against the people's label of the same trace or session
    label NAME good | bad                     what people said (the majority)
    label NAME contested                      people disagree
    label NAME any                            somebody labelled it
    tag KEY = VALUE,  tag KEY != VALUE        a trace tag
    trace failed | ok                         whether the trace itself ended in an error

Conditions are joined by "and": several of them, or one text with ` and ` in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mlflow_assay.contracts import JudgeContract
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.people import FoundLabels, labels_of
from mlflow_assay.labels.rows import Mark, Row
from mlflow_assay.labels.verdicts import JudgeVerdicts, collect, read_label
from mlflow_assay.labels.window import LabelChoice, Window

__all__ = ["Condition", "check", "parse", "select", "window_of"]

_WORDS = {
    "judge": ("failed", "passed", "unscored", "wrong", "right"),
    "label": ("good", "bad", "contested", "any"),
    "trace": ("failed", "ok"),
}
_TAG = re.compile(r"tag\s+(?P<name>\S+?)\s*(?P<what>!?=)\s*(?P<value>.+)")
_NAMED = re.compile(r"(?P<kind>judge|label)\s+(?P<name>\S+)\s+(?P<what>\w+)")
_TRACE = re.compile(r"trace\s+(?P<what>\w+)")
_VALID = (
    "judge NAME failed|passed|unscored|wrong|right; label NAME good|bad|contested|any; tag KEY = VALUE; trace failed|ok"
)


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        kind: `judge`, `label`, `tag` or `trace`.
        name: of the judge, label or tag; empty for `trace`.
        what: the word or sign behind the name.
        value: of a tag.
    """

    kind: str
    name: str
    what: str
    value: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.name, self.what, self.value) if part)


def parse(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions from their texts.

    Raises:
        ConfigError: one is of none of the forms above.
    """
    return tuple(_parse(part) for text in texts for part in re.split(r"\s+and\s+", text.strip()))


def _parse(text: str) -> Condition:
    if tag := _TAG.fullmatch(text.strip()):
        return Condition("tag", tag["name"], tag["what"], tag["value"].strip().strip("'\""))
    named = _NAMED.fullmatch(text.strip())
    found = named or _TRACE.fullmatch(text.strip())
    if found:
        kind = named["kind"] if named else "trace"
        if found["what"] in _WORDS[kind]:
            return Condition(kind, named["name"] if named else "", found["what"])
    raise ConfigError(f"The condition {text!r} cannot be read.", valid=_VALID)


def window_of(
    rows: Sequence[Row],
    contracts: Mapping[str, JudgeContract],
    choice: LabelChoice,
    sessions: Mapping[str, bool] | None = None,
) -> Window:
    """The window over rows read already; `sessions` as in `labels.verdicts.collect`."""
    return Window(tuple(rows), {f.name: f for f in collect(rows, contracts, sessions)}, contracts, choice)


def check(conditions: Sequence[Condition], judges: Collection[str], labels: Collection[str]) -> None:
    """See that every condition speaks of something that is there.

    Args:
        conditions: what is asked.
        judges: names of the judges that gave verdicts on these traces.
        labels: names of people's feedback and expectations on them.

    Raises:
        ConfigError: a judge or label named has said nothing on any of these traces.
    """
    for condition in conditions:
        if condition.kind == "judge" and condition.name not in judges:
            raise ConfigError(
                f"No judge {condition.name!r} gave verdicts on these traces.",
                valid=sorted(judges) or "(none)",
                fix="Judge them first (assay score), or look at other traces (--since, --filter).",
            )
        if condition.kind == "label" and condition.name not in labels:
            raise ConfigError(f"Nobody labelled these traces with {condition.name!r}.", valid=sorted(labels))


def select(window: Window, tags: Mapping[str, Mapping[str, str]], conditions: Sequence[Condition]) -> list[Row]:
    """The rows that meet every condition, in their order.

    Args:
        window: rows and verdicts.
        tags: trace id to its tags.
        conditions: none selects all.
    """
    kept = {row.trace_id for row in window.rows}
    for condition in conditions:
        kept &= _meeting(window, tags, condition)
    return [row for row in window.rows if row.trace_id in kept]


def _meeting(window: Window, tags: Mapping[str, Mapping[str, str]], condition: Condition) -> set[str]:
    if condition.kind == "judge":
        return _by_judge(window, condition)
    if condition.kind == "label":
        return _by_label(window, condition)
    if condition.kind == "trace":
        return {row.trace_id for row in window.rows if row.failed == (condition.what == "failed")}
    equal = condition.what == "="
    return {
        row.trace_id
        for row in window.rows
        if (tags.get(row.trace_id, {}).get(condition.name) == condition.value) == equal
    }


def _by_judge(window: Window, condition: Condition) -> set[str]:
    if condition.name not in window.found:
        return set()
    found = window.found[condition.name]
    passed = {unit: verdict.reading.passed for unit, verdict in found.verdicts.items()}
    if condition.what in ("wrong", "right"):
        agreed = _labels(window, found).agreed
        units = {u for u, p in passed.items() if p is not None and u in agreed}
        units = {u for u in units if (passed[u] == agreed[u]) == (condition.what == "right")}
    else:
        wanted = {"failed": False, "passed": True, "unscored": None}[condition.what]
        units = {u for u, p in passed.items() if p is wanted}
    return _traces(window, found, units)


def _labels(window: Window, found: JudgeVerdicts) -> FoundLabels:
    return labels_of(found, window.rows, window.choice.of(found.name), window.contracts.get(found.name))


def _traces(window: Window, found: JudgeVerdicts, units: set[str]) -> set[str]:
    if found.scope == "session":
        return {row.trace_id for row in window.rows if row.unit in units}
    return units


def _by_label(window: Window, condition: Condition) -> set[str]:
    contract = window.contracts.get(condition.name)
    said: dict[str, list[bool]] = {}
    for row in window.rows:
        latest = {m.source: m for m in sorted(row.marks, key=lambda m: m.time_ms) if _is_label(m, condition.name)}
        votes = [read_label(m.value, contract) for m in latest.values()]
        if latest:
            said[row.trace_id] = [v for v in votes if v is not None]
    return {trace for trace, votes in said.items() if _votes_are(condition.what, votes)}


def _votes_are(what: str, votes: Sequence[bool]) -> bool:
    if what == "contested":
        return len(set(votes)) > 1
    if what == "any":
        return True
    return sum(votes) * 2 > len(votes) if what == "good" else sum(votes) * 2 < len(votes)


def _is_label(mark: Mark, name: str) -> bool:
    return mark.name == name and mark.human and mark.valid and mark.error is None
