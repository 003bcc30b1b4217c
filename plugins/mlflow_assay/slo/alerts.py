"""Alerts: budgets burning, and judges or machinery that make the numbers worthless.

Each looks at an interval's end or at a count that is no estimate, needs a minimum sample where it is about shares, and
leads to a runbook section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mlflow_assay import semconv as s
from mlflow_assay.semconv import prometheus_label, prometheus_name
from mlflow_assay.slo import names
from mlflow_assay.slo.burn import WINDOWS, BurnWindow, Z, factor
from mlflow_assay.slo.recording import KPI_WINDOW, kpi
from mlflow_assay.slo.spec import Objective, SloFile

__all__ = ["Alert", "alerts"]

_JUDGE, _AGENT, _WINDOW, _SLICE, _SINK, _STATE, _EXPERIMENT = (
    prometheus_label(label)
    for label in (s.EVALUATION_NAME, s.GEN_AI_AGENT, s.WINDOW, s.SLICE, s.SINK, s.STATE, s.EXPERIMENT_ID)
)
_LEAST_VERDICTS: Final = 30  # of a judge in six hours, before its share of unscored ones is looked at


@dataclass(frozen=True)
class Alert:
    """One alert rule.

    Attributes:
        name: in capitals and small letters; the runbook's section is its name in small letters.
        key: tells apart the rules of one name (objective and window); "" where there is one.
        expr: PromQL; any series it returns fires.
        hold: how long it must hold, as Prometheus writes durations.
        severity: `page` or `ticket`.
        summary, description: may use `{{ $labels.x }}`.
        labels: further ones.
    """

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    hold: str = "5m"
    key: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def section(self) -> str:
        """Anchor in the runbook."""
        return self.name.lower()


def alerts(file: SloFile) -> list[Alert]:
    """All alerts of a file; limits that are None are left out."""
    made = [alert for objective in file.objectives for alert in _of_objective(objective)]
    return [*made, *_of_judges(file), *_of_machinery(file)]


def _of_objective(objective: Objective) -> Iterator[Alert]:
    if objective.cost is not None:
        yield _cost(objective, objective.cost.at_most_usd)
        return
    for window in WINDOWS:
        yield _burning(objective, window)
    if objective.kind == "quality":
        yield _spent(objective)


def _burning(objective: Objective, window: BurnWindow) -> Alert:
    def series(name: str, length: str) -> str:
        return f'{name}{{{names.SLO}="{objective.name}", {_WINDOW}="{length}"}}'

    at = factor(window, objective.allowed)
    least = objective.minimum_sample
    expr = (
        f"({series(names.S_BURN_LOW, window.long)} >= {at:g}) "
        f"and ignoring ({_WINDOW}) ({series(names.S_BURN, window.short)} >= {at:g}) "
        f"and ({series(names.S_SAMPLE, window.long)} >= {least})"
    )
    return Alert(
        name="AssayBudgetBurning",
        key=f"{objective.name}-{window.long}",
        expr=expr,
        hold="2m" if window.severity == "page" else "15m",
        severity=window.severity if objective.page else "ticket",
        summary=f"{objective.name}: the error budget burns at least {at:.2g} times too fast ({window.long})",
        description=f"{objective.description} Even at the lower end of the 95 % interval over {window.long}, failures "
        f"come {at:.2g} times faster than the objective of {objective.objective:g} allows, and they still do over "
        f"{window.short}. At least {least} events were seen.",
        labels={names.SLO: objective.name, "long_window": window.long},
    )


def _spent(objective: Objective) -> Alert:
    judged = kpi(objective, s.M_KPI_JUDGED)
    return Alert(
        name="AssayBudgetSpent",
        key=objective.name,
        expr=f'({names.S_BUDGET_HIGH}{{{names.SLO}="{objective.name}"}} < 0) '
        f"and on () ({judged} >= {objective.minimum_sample})",
        hold="30m",
        severity="ticket",
        summary=f"{objective.name}: the error budget of {KPI_WINDOW} is spent",
        description=f"{objective.description} Even at the upper end of the 95 % interval the pass rate of {KPI_WINDOW} "
        f"is below the objective of {objective.objective:g}.",
        labels={names.SLO: objective.name},
    )


def _cost(objective: Objective, at_most: float) -> Alert:
    def mean(window: str) -> str:
        matchers = {_AGENT: objective.agent, _WINDOW: window}
        matchers |= {_EXPERIMENT: objective.experiment} if objective.experiment else {}
        inside = ", ".join(f'{label}="{value}"' for label, value in sorted(matchers.items()))
        return f"(max({prometheus_name(s.M_COST_PER_UNIT)}{{{inside}}}) > {at_most:g})"

    return Alert(
        name="AssayCostAboveObjective",
        key=objective.name,
        expr=f"{mean('24h')} and {mean('7d')}",
        hold="30m",
        severity="ticket",
        summary=f"{objective.name}: a run costs more than {at_most:g} US dollars",
        description=f"{objective.description} The mean cost of a run is above its limit over 24 h and over 7 d. It is "
        "a mean without an interval, which is why both windows must agree.",
        labels={names.SLO: objective.name},
    )


def _of_judges(file: SloFile) -> Iterator[Alert]:
    limits, by = file.alerts, "{{ $labels." + _JUDGE + " }}"
    if limits.judge_unscored_at_most is not None:
        yield _unscored(limits.judge_unscored_at_most)
    if limits.kappa_at_least is not None:
        yield Alert(
            "AssayJudgeAgreementLow",
            f'max by ({_JUDGE}) ({prometheus_name(s.M_KAPPA_HIGH)}{{{_WINDOW}="{KPI_WINDOW}"}}) '
            f"< {limits.kappa_at_least:g}",
            "ticket",
            f"The judge {by} no longer agrees with people",
            f"Even the upper end of the 95 % interval of Cohen's kappa over {KPI_WINDOW} is below "
            f"{limits.kappa_at_least:g}: its verdicts say little about what people would say.",
            hold="1h",
        )
    if limits.gold_drop_at_most is not None:
        yield Alert(
            "AssayGoldSetDrift",
            f"min by ({_JUDGE}) ({prometheus_name(s.M_GOLD_DRIFT)}) < -{limits.gold_drop_at_most:g}",
            "ticket",
            f"The judge {by} judges the gold set differently than before",
            f"On the fixed gold set kappa fell by more than {limits.gold_drop_at_most:g}: the judge changed, "
            "so a fall of its pass rate is not news about the agent.",
            hold="15m",
        )
    if limits.kpi_alarm_alpha is not None:
        yield Alert(
            "AssayPassRateFell",
            f'max by ({_JUDGE}) ({prometheus_name(s.M_KPI_ALARM)}{{{_SLICE}="", {_AGENT}="{s.ALL_AGENTS}"}}) '
            f">= {1 / limits.kpi_alarm_alpha:g}",
            "ticket",
            f"The pass rate of {by} has fallen below its reference",
            f"The e-value is at least {1 / limits.kpi_alarm_alpha:g}: however often one looked, chance alone gives "
            f"that at most {limits.kpi_alarm_alpha:g} of the time. Look at the gold set first.",
        )
    if limits.label_backlog_at_most is not None and limits.label_age_days is not None:
        yield _backlog(limits.label_backlog_at_most, limits.label_age_days)


def _unscored(limit: float) -> Alert:
    def total(outcome: str = "") -> str:
        name, change, out = prometheus_name(s.M_VERDICTS), prometheus_label(s.CHANGE), prometheus_label(s.OUTCOME)
        more = f', {out}="{outcome}"' if outcome else ""
        return f'sum by ({_JUDGE}) (increase({name}{{{change}="created"{more}}}[6h]))'

    bad, every = f"({total('unscored')} or 0 * {total()})", total()
    n = f"({every} + {Z**2:g})"
    p = f"(({bad} + {Z**2 / 2:g}) / {n})"
    return Alert(
        "AssayJudgeUnscored",
        f"(({p} - {Z:g} * sqrt({p} * (1 - {p}) / {n})) > {limit:g}) and ({every} >= {_LEAST_VERDICTS})",
        "ticket",
        "The judge {{ $labels." + _JUDGE + " }} often reaches no verdict",
        f"Even at the lower end of the 95 % interval more than {limit:g} of its verdicts of the last 6 h are unscored. "
        "Pass rates then speak of the traces that could be judged only.",
        hold="15m",
    )


def _backlog(most: int, days: float) -> Alert:
    count, age = prometheus_name(s.M_LABEL_BACKLOG), prometheus_name(s.M_LABEL_AGE)
    return Alert(
        "AssayLabelBacklog",
        f"(max by ({_JUDGE}) ({count}) > {most}) or (max by ({_JUDGE}) ({age}) > {days * 86400:g})",
        "ticket",
        "Labels for {{ $labels." + _JUDGE + " }} are overdue",
        f"More than {most} traces drawn for people to label have no label, or the oldest has waited {days:g} days. "
        "Without labels the KPI becomes uncorrected.",
        hold="1h",
    )


def _of_machinery(file: SloFile) -> Iterator[Alert]:
    limits, sink = file.alerts, "{{ $labels." + _SINK + " }}"
    if limits.bridge_lag_minutes is not None:
        yield Alert(
            "AssayBridgeLag",
            f"max by ({_SINK}) ({prometheus_name(s.M_LAG)}) > {limits.bridge_lag_minutes * 60:g}",
            "page",
            f"Verdicts wait for the sink {sink}",
            f"The oldest verdict not delivered is older than {limits.bridge_lag_minutes:g} minutes. Nothing is lost; "
            "what is shown downstream is old.",
        )
        yield Alert(
            "AssayBridgeDeadLetters",
            f'max by ({_SINK}) ({prometheus_name(s.M_BACKLOG)}{{{_STATE}="dead"}}) > 0',
            "ticket",
            f"The sink {sink} refused verdicts for good",
            "`assay bridge dead` says which and why.",
        )
        yield Alert(
            "AssayBridgeSilent",
            f"absent({prometheus_name(s.M_WATERMARK_AGE)}) or max({prometheus_name(s.M_WATERMARK_AGE)}) > "
            f"{limits.bridge_lag_minutes * 60:g}",
            "page",
            "The bridge reads no assessments",
            "No worker reports, or MLflow has not been read for too long: every quality number stands still.",
            hold="10m",
        )
    if limits.budget_spent_at_most is not None:
        yield Alert(
            "AssayJudgingBudgetSpent",
            f"max({prometheus_name(s.M_BUDGET_SPENT)}) > {limits.budget_spent_at_most:g}",
            "ticket",
            "The judging budget is nearly spent",
            f"More than {limits.budget_spent_at_most:g} of the budget of `assay watch` is spent; at 1 judging stops.",
        )
