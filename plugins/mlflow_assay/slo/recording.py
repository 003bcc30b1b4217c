"""Recording rules: objective, budget left and burn rates with their intervals, as `names.RECORDED` lists them."""

from __future__ import annotations

from typing import Any, Final

from mlflow_assay import semconv as s
from mlflow_assay.semconv import prometheus_label, prometheus_name
from mlflow_assay.slo import names
from mlflow_assay.slo.burn import WINDOWS, Z
from mlflow_assay.slo.spec import Objective, SloFile

__all__ = ["KPI_WINDOW", "Rule", "recording_rules", "windows"]

Rule = dict[str, Any]
KPI_WINDOW: Final = "28d"  # what the budget is counted over, and where the correction is taken from
_JUDGE, _AGENT, _EXPERIMENT, _WINDOW = (
    prometheus_label(label) for label in (s.EVALUATION_NAME, s.GEN_AI_AGENT, s.EXPERIMENT_ID, s.WINDOW)
)
# Both of one histogram: a counter beside it begins at another time, and what lies between would count as slow.
_COUNT, _BUCKET = (f"traces_span_metrics_duration_seconds_{part}" for part in ("count", "bucket"))


def windows() -> tuple[str, ...]:
    """Every window a burn rate is recorded for, shortest use first."""
    return tuple(dict.fromkeys(length for pair in WINDOWS for length in (pair.short, pair.long)))


def recording_rules(file: SloFile) -> list[Rule]:
    """First what is counted for each objective, then, once for all, what follows from it.

    A cost objective has no share: its alert reads the gauge as it is.
    """
    counted = [rule for objective in file.objectives if objective.objective is not None for rule in _counted(objective)]
    return counted + (_derived() if counted else [])


def _counted(objective: Objective) -> list[Rule]:
    made = [_rule(names.S_OBJECTIVE, objective, f"vector({objective.objective:g})")]
    shift, variance = correction(objective)
    made += [_rule(names.S_SHIFT, objective, shift), _rule(names.S_SHIFT_VARIANCE, objective, variance)]
    if objective.kind == "quality":
        for record, metric in (
            (names.S_BUDGET, s.M_KPI_RATE),
            (names.S_BUDGET_LOW, s.M_KPI_LOW),
            (names.S_BUDGET_HIGH, s.M_KPI_HIGH),
        ):
            made.append(_rule(record, objective, f"1 - (1 - {kpi(objective, metric)}) / {objective.allowed:g}"))
    for window in windows():
        bad, total = events(objective, window)
        made.append(_rule(names.S_SAMPLE, objective, total, {_WINDOW: window}))
        made.append(_rule(names.S_BAD, objective, f"{bad} or 0 * {total}", {_WINDOW: window}))
    return made


def _derived() -> list[Rule]:
    """Burn rates of every objective and window; see `burn` for the formulas."""
    allowed, shift = f"(1 - {names.S_OBJECTIVE})", names.S_SHIFT
    on = f"on ({names.SLO}) group_left ()"
    n = f"({names.S_SAMPLE} + {Z**2:g})"
    p = f"(({names.S_BAD} + {Z**2 / 2:g}) / {n})"
    share = f"{names.S_BAD} / ({names.S_SAMPLE} > 0) + {on} {shift}"
    spread = f"sqrt({p} * (1 - {p}) / {n} + {on} {names.S_SHIFT_VARIANCE})"
    low = f"{p} + {on} {shift} - {Z:g} * {spread}"
    return [
        {"record": names.S_BURN, "expr": f"clamp_min({share}, 0) / {on} {allowed}"},
        {"record": names.S_BURN_LOW, "expr": f"clamp_min({low}, 0) / {on} {allowed} and {names.S_SAMPLE} > 0"},
    ]


def _rule(record: str, objective: Objective, expression: str, more: dict[str, str] | None = None) -> Rule:
    labels = {names.SLO: objective.name, _AGENT: objective.agent}
    labels |= {_JUDGE: objective.judge} if objective.judge else {}
    labels |= {_EXPERIMENT: objective.experiment} if objective.experiment else {}
    return {"record": record, "expr": expression, "labels": labels | (more or {})}


def kpi(objective: Objective, metric: str, window: str = KPI_WINDOW) -> str:
    """A KPI gauge of the objective's judge as one value without labels."""
    inside = _matchers(objective, {_JUDGE: objective.judge or "", _AGENT: objective.agent, _WINDOW: window})
    return f'max({prometheus_name(metric)}{{{inside}, {prometheus_label(s.SLICE)}=""}})'


def events(objective: Objective, window: str) -> tuple[str, str]:
    """PromQL for the bad and for all scored events of a window."""
    if objective.latency is not None:
        return _slow(objective, window)
    outcome, change = prometheus_label(s.OUTCOME), prometheus_label(s.CHANGE)
    base = {_JUDGE: objective.judge or "", change: "created"} | _agent(objective)
    inside = _matchers(objective, base)
    name = prometheus_name(s.M_VERDICTS)
    source = f', {prometheus_label(s.SOURCE_TYPE)}!="human"'

    def counted(wanted: str, more: str = "") -> str:
        return f"sum(increase({name}{{{inside}, {outcome}{wanted}{more}}}[{window}]))"

    # Of judges alone where there are any: people label what was drawn for them, which is no sample of the traffic.
    bad, total = '="fail"', '=~"pass|fail"'
    judged = counted(total, source)
    return (
        f"({counted(bad, source)} or 0 * {judged} or {counted(bad)})",
        f"({judged} or {counted(total)})",
    )


def _slow(objective: Objective, window: str) -> tuple[str, str]:
    if objective.latency is None:
        raise ValueError("no latency objective")
    inside = _matchers(objective, {prometheus_label(s.GEN_AI_OPERATION): "invoke_agent"} | _agent(objective), own=False)
    total = f"sum(increase({_COUNT}{{{inside}}}[{window}]))"
    fast = f'sum(increase({_BUCKET}{{{inside}, le="{objective.latency.under_s:g}"}}[{window}]))'
    return f"clamp_min({total} - ({fast} or 0 * {total}), 0)", total


def _agent(objective: Objective) -> dict[str, str]:
    return {} if objective.agent == s.ALL_AGENTS else {_AGENT: objective.agent}


def _matchers(objective: Objective, labels: dict[str, str], *, own: bool = True) -> str:
    labels |= {_EXPERIMENT: objective.experiment} if own and objective.experiment else {}
    return ", ".join(f'{label}="{value}"' for label, value in sorted(labels.items()))


def correction(objective: Objective) -> tuple[str, str]:
    """What the KPI's correction adds to the share of bad events, and its variance; 0 where there is no KPI.

    The interval of the corrected rate holds the sampling error of its long window too, which makes the alert's
    interval a little wider than need be: it errs towards silence.
    """
    if objective.kind != "quality":
        return "0", "0"
    raw, rate = kpi(objective, s.M_KPI_RAW), kpi(objective, s.M_KPI_RATE)
    low, high = kpi(objective, s.M_KPI_LOW), kpi(objective, s.M_KPI_HIGH)
    inside = _matchers(objective, {_JUDGE: objective.judge or "", _AGENT: objective.agent, _WINDOW: KPI_WINDOW})
    inside += f', {prometheus_label(s.SLICE)}="", {prometheus_label(s.METHOD)}="corrected"'
    corrected = f"(count({prometheus_name(s.M_KPI_RATE)}{{{inside}}}) > bool 0)"
    return f"({raw} - {rate}) or vector(0)", f"(({high} - {low}) / {2 * Z:g}) ^ 2 * {corrected} or vector(0)"
