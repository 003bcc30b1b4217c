"""What a report holds: plain, frozen, JSON-ready. No MLflow type is in here; shares are in [0, 1].

    ReportData
    ├── JudgeReport          one per judge: counts, estimate, label agreement, cost, versions, trend
    ├── HumanFeedback        feedback by people under a name no judge uses
    ├── Breakdown            one per `--by`: each judge's estimate within each group
    ├── SessionReport        the sessions with most failed verdicts, with the rationales
    └── Section              places for what later steps add: dataset, prompt_fix, comparison

A *unit* is what one verdict is about: a trace, or a session for a judge of whole sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Literal

from mlflow_assay.labels.people import Labels
from mlflow_assay.trust.agreement import Agreement
from mlflow_assay.trust.estimate import Estimate

__all__ = [
    "AgentFacts",
    "Breakdown",
    "Cost",
    "Counts",
    "FailedTrace",
    "FailedVerdict",
    "Group",
    "HumanFeedback",
    "JudgeBreakdown",
    "JudgeReport",
    "JudgeVersion",
    "Labels",
    "Latency",
    "ReportData",
    "Section",
    "SessionReport",
    "Trend",
    "TrendBin",
    "to_json",
]

SectionKey = Literal["dataset", "prompt_fix", "comparison"]


@dataclass(frozen=True)
class Counts:
    """How the units of one judge fall out; passed + failed + unscored + not_judged is all of them.

    Attributes:
        passed, failed: units with that verdict.
        reasons: unscored units by reason, most frequent first; a `contracts.Unscored` value, the error code of
            another library's judge, or `no_pass_rule`.
        not_judged: units without an assessment of this name.
    """

    passed: int
    failed: int
    reasons: tuple[tuple[str, int], ...]
    not_judged: int

    @property
    def judged(self) -> int:
        """Units with a verdict."""
        return self.passed + self.failed

    @property
    def unscored(self) -> int:
        """Units the judge was asked about and reached no verdict on."""
        return sum(n for _, n in self.reasons)

    @property
    def total(self) -> int:
        """All units of the report."""
        return self.judged + self.unscored + self.not_judged


@dataclass(frozen=True)
class Cost:
    """What the verdicts shown here cost, as far as it was recorded.

    Attributes:
        usd: sum in US dollars over `usd_known` verdicts; None when none recorded it.
        usd_known: verdicts that recorded a cost.
        input_tokens, output_tokens: sums over `tokens_known` verdicts; None when none recorded them.
        tokens_known: verdicts that recorded tokens.
        cache_hits: verdicts taken from a cache, without a call.
    """

    usd: float | None = None
    usd_known: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_known: int = 0
    cache_hits: int = 0


@dataclass(frozen=True)
class Latency:
    """Wall time of something in milliseconds: median, 95th percentile, and over how many."""

    median_ms: float
    p95_ms: float
    n: int


@dataclass(frozen=True)
class JudgeVersion:
    """One version of a judge that gave verdicts in this report.

    Attributes:
        version, digest, model, kind: as recorded with the verdicts; None where nothing was recorded.
        source: the assessment's source id.
        n: verdicts by it, unscored ones included.
        first_ms, last_ms: when it judged (not when the traces happened), epoch milliseconds.
    """

    version: str | None
    digest: str | None
    model: str | None
    kind: str | None
    source: str | None
    n: int
    first_ms: int | None
    last_ms: int | None


@dataclass(frozen=True)
class TrendBin:
    """One stretch of time; `judge_changed` when another version of the judge gave most of its verdicts."""

    start_ms: int
    estimate: Estimate
    judge_changed: bool = False


@dataclass(frozen=True)
class Trend:
    """The judge's own (uncorrected) pass rate by the time the traces happened; empty bins are left out."""

    unit: Literal["hour", "day", "week"]
    bins: tuple[TrendBin, ...]


@dataclass(frozen=True)
class JudgeReport:
    """One judge.

    Attributes:
        name: the assessment name.
        purpose: the question it answers, None when it is in no catalogue.
        scope: what one verdict is about.
        pass_rule: in words, what passes; None when unknown.
        rule_source: `recorded` with each verdict, from the `catalogue`, `assumed` (true, yes and pass are good)
            or `none`.
        counts: see `Counts`; they add up to `units`.
        units: traces (or sessions) in the report.
        estimate: the number to show, corrected by labels where they allow it; None without a pass rule.
        uncorrected: the judge's own rate with its interval; None likewise.
        bounds: the judge's own rate if every unscored unit had failed, and if every one had passed.
        values: for a judge without a pass rule, its values with counts, most frequent first, at most eight.
        value_range: for such a judge, smallest, median and largest value where all are numbers; else None.
        labels, agreement: None when there are no labels.
        cost, latency: of judging; latency None when not recorded.
        versions: most verdicts first.
        trend: None when there are no verdicts.
        overridden: verdicts a person later replaced; the judge's own still counts as what the judge said.
        superseded: older verdicts on the same units that newer ones replace.
        simulated: verdicts marked as simulated.
        trained_on: units whose labels the judge was trained on; they are in `counts`, and left out of `estimate`,
            `uncorrected` and `agreement`.
    """

    name: str
    purpose: str | None
    scope: Literal["trace", "session"]
    pass_rule: str | None
    rule_source: Literal["recorded", "catalogue", "assumed", "none"]
    counts: Counts
    units: int
    estimate: Estimate | None
    uncorrected: Estimate | None
    bounds: tuple[float, float] | None
    values: tuple[tuple[str, int], ...]
    value_range: tuple[float, float, float] | None
    labels: Labels | None
    agreement: Agreement | None
    cost: Cost
    latency: Latency | None
    versions: tuple[JudgeVersion, ...]
    trend: Trend | None
    overridden: int = 0
    superseded: int = 0
    simulated: int = 0
    trained_on: int = 0

    @property
    def mixed(self) -> bool:
        """Whether verdicts of different versions of the judge are counted together."""
        return len({v.digest or v.version for v in self.versions}) > 1


@dataclass(frozen=True)
class HumanFeedback:
    """Feedback by people under a name that no judge uses, for example a thumbs button.

    Attributes:
        name: the assessment name.
        n: traces with it.
        people: distinct sources.
        estimate: share of good ones; None when its values are neither pass nor fail.
        values: otherwise the values with counts, most frequent first, at most eight.
    """

    name: str
    n: int
    people: int
    estimate: Estimate | None
    values: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Group:
    """One value of what the breakdown is by (None collects traces without one), and how many were asked about."""

    value: str | None
    n_asked: int
    estimate: Estimate


@dataclass(frozen=True)
class JudgeBreakdown:
    """One judge within each group, lowest pass rate first, groups with few verdicts last."""

    judge: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Breakdown:
    """Pass rates within groups of traces.

    Attributes:
        by: as given to `--by`.
        title: the same in words.
        chosen: False when the report picked it by itself.
        judges: one per judge with a pass rule.
        merged: how many rare values were put together as "all other values".
    """

    by: str
    title: str
    chosen: bool
    judges: tuple[JudgeBreakdown, ...]
    merged: int = 0


@dataclass(frozen=True)
class FailedVerdict:
    """One failed verdict and what the judge wrote; None where it gave no reason. Truncated, not escaped."""

    judge: str
    rationale: str | None


@dataclass(frozen=True)
class FailedTrace:
    """One trace with its failed verdicts, in order of the judges' names.

    Attributes:
        trace_id, url: the trace, and a link to it in MLflow's UI or None.
        time_ms: when it happened; None where times were not recorded.
        request: what was asked, truncated, None where not recorded.
        verdicts: every failed verdict on it.
    """

    trace_id: str
    url: str | None
    time_ms: int | None
    request: str | None
    verdicts: tuple[FailedVerdict, ...]


@dataclass(frozen=True)
class SessionReport:
    """One session (or one trace that belongs to none) with its failed verdicts.

    Attributes:
        id: session id, or the trace id where `single`.
        single: whether it is a trace without a session.
        url: link to it in MLflow's UI, None without one.
        n_traces: traces of the session in this report.
        first_ms: when it began; None where times were not recorded.
        failures: failed verdicts in all.
        by_judge: failed verdicts per judge, most first.
        traces: the traces with most failures, at most a few, oldest first.
    """

    id: str
    single: bool
    url: str | None
    n_traces: int
    first_ms: int | None
    failures: int
    by_judge: tuple[tuple[str, int], ...]
    traces: tuple[FailedTrace, ...]

    @property
    def more(self) -> int:
        """Failed verdicts on traces that are not listed."""
        return self.failures - sum(len(t.verdicts) for t in self.traces)


@dataclass(frozen=True)
class AgentFacts:
    """The agent's own running figures over the traces.

    Attributes:
        errors: traces that ended in an error.
        latency: of a trace; None when not recorded.
        usd: recorded cost in US dollars over `usd_known` traces, None when none recorded it.
        tokens: recorded tokens over `tokens_known` traces, likewise.
    """

    errors: int
    latency: Latency | None
    usd: float | None = None
    usd_known: int = 0
    tokens: int | None = None
    tokens_known: int = 0


@dataclass(frozen=True)
class Section:
    """A further section of the page, shown only when given.

    Attributes:
        key: which place it takes.
        title: heading.
        summary: one or two plain sentences.
        facts: (term, value) pairs.
        columns, rows: a table; every cell is text.
    """

    key: SectionKey
    title: str
    summary: str
    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        title: the page's heading.
        experiment, experiment_id: of MLflow.
        generated_ms: when the report was made, epoch milliseconds.
        selection: in words, which traces were asked for (filter, since); empty means all.
        first_ms, last_ms: oldest and newest trace whose time was recorded; None without one.
        n_traces, n_sessions: traces read, and sessions among them.
        n_without_session: traces that belong to no session.
        n_untimed: traces whose times were not recorded; they are in no trend and no duration.
        simulated_traces: traces marked as simulated.
        simulated_customers: other traces in which a model played the customer.
        agent: running figures.
        judges: by name.
        human: by name.
        breakdowns: as asked for.
        sessions: most failures first.
        sessions_left: further sessions with a failure that are not listed.
        ui_url: base of MLflow's UI for links; None when there is none to link to.
        sections: what later steps add.
    """

    title: str
    experiment: str
    experiment_id: str
    generated_ms: int
    selection: str
    first_ms: int | None
    last_ms: int | None
    n_traces: int
    n_sessions: int
    n_without_session: int
    n_untimed: int
    simulated_traces: int
    simulated_customers: int
    agent: AgentFacts
    judges: tuple[JudgeReport, ...]
    human: tuple[HumanFeedback, ...]
    breakdowns: tuple[Breakdown, ...]
    sessions: tuple[SessionReport, ...]
    sessions_left: int
    ui_url: str | None
    sections: tuple[Section, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether anything in the report is marked as simulated."""
        labels = any(j.simulated or (j.labels and j.labels.simulated) for j in self.judges)
        return bool(self.simulated_traces or labels)

    def section(self, key: SectionKey) -> Section | None:
        """The further section of that key, or None."""
        return next((s for s in self.sections if s.key == key), None)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping of everything."""
        found: dict[str, Any] = to_json(self)
        return found


_DERIVED = {Counts: ("judged", "unscored", "total"), JudgeReport: ("mixed",), ReportData: ("simulated",)}


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON-ready dictionaries and lists, derived counts included."""
    if isinstance(value, Estimate | Agreement):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value)] + list(_DERIVED.get(type(value), ()))
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    return value.value if isinstance(value, Enum) else value
