"""Every alert of `assay slo build`, run by promtool: it fires when it should and is silent when it should be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mlflow_assay.dashboards.lint import metrics_by_series, names_in
from mlflow_assay.errors import ConfigError
from mlflow_assay.slo.alerts import alerts
from mlflow_assay.slo.burn import WINDOWS, burn, burn_low, factor
from mlflow_assay.slo.grafana_rules import grafana_rules, provisioning
from mlflow_assay.slo.prometheus_rules import rule_file, rule_groups
from mlflow_assay.slo.spec import SloFile, load

ROOT = Path(__file__).parents[2]
SPEC = load(ROOT / "dashboards" / "slo.yaml")
ALERTS = alerts(SPEC)
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")

JUDGE, AGENT = "gen_ai_evaluation_name", "gen_ai_agent_name"


def verdicts(outcome: str, values: str, judge: str = "request_resolved") -> dict:
    labels = f'{JUDGE}="{judge}", {AGENT}="support", assay_outcome="{outcome}", assay_change="created"'
    return {"series": f"gen_ai_evaluation_verdicts_total{{{labels}}}", "values": values}


def labels(outcome: str, values: str) -> dict:
    found = verdicts(outcome, values)
    return found | {"series": found["series"].replace("}", ', assay_source_type="human"}')}


def kpi(name: str, value: float, judge: str = "request_resolved", method: str = "", window: str = "28d") -> dict:
    more = f', assay_kpi_method="{method}"' if method else ""
    labels = f'{JUDGE}="{judge}", {AGENT}="all", assay_window="{window}"{more}'
    return {"series": f"assay_kpi_{name}{{{labels}}}", "values": f"{value}x6000"}


def gauge(series: str, value: float) -> dict:
    return {"series": series, "values": f"{value}x6000"}


def corrected(raw: float, rate: float, half: float) -> list[dict]:
    return [kpi("raw", raw), kpi("rate", rate, method="corrected"), kpi("low", rate - half), kpi("high", rate + half)]


def runs(fast: str, every: str) -> list[dict]:
    labels = 'gen_ai_operation_name="invoke_agent"'
    return [
        {"series": f"traces_span_metrics_duration_seconds_count{{{labels}}}", "values": every},
        {"series": f'traces_span_metrics_duration_seconds_bucket{{{labels}, le="20"}}', "values": fast},
    ]


# Alert name -> (series that make it fire, series that must not, when to look).
CASES: dict[str, tuple[list[dict], list[list[dict]], str]] = {
    "AssayBudgetBurning": (
        [verdicts("pass", "0+1x300"), verdicts("fail", "0+4x300")],
        [
            [verdicts("pass", "0+4x300"), verdicts("fail", "0+0.4x300")],  # within the objective
            [verdicts("pass", "0x300"), verdicts("fail", "0+0.1x300")],  # all fail, but six in an hour
            [verdicts("pass", "0+0.265x300"), verdicts("fail", "0+0.075x300")],  # 22 % of 61: the interval says no
            [verdicts("pass", "0+1x300"), verdicts("fail", "0+4x300"), *corrected(0.2, 0.92, 0.02)],  # a harsh judge
            [verdicts("unscored", "0+9x300"), verdicts("pass", "0+2x300")],  # unscored is not failed
            [verdicts("pass", "0+2x300"), labels("fail", "0+9x300")],  # people label what was drawn for its faults
        ],
        "3h",
    ),
    "AssayBudgetSpent": (
        [*corrected(0.8, 0.7, 0.05), kpi("judged", 500)],
        [
            [*corrected(0.8, 0.82, 0.05), kpi("judged", 500)],  # below, but the interval reaches the objective
            [*corrected(0.8, 0.7, 0.05), kpi("judged", 10)],  # too few
        ],
        "1h",
    ),
    "AssayCostAboveObjective": (
        [gauge(f'assay_agent_cost_usd_per_trace{{{AGENT}="all", assay_window="{w}"}}', 0.09) for w in ("24h", "7d")],
        [[gauge(f'assay_agent_cost_usd_per_trace{{{AGENT}="all", assay_window="24h"}}', 0.09)]],
        "1h",
    ),
    "AssayJudgeUnscored": (
        [verdicts("pass", "0+1x400"), verdicts("unscored", "0+1x400")],
        [
            [verdicts("pass", "0+1x400"), verdicts("unscored", "0+0.05x400")],
            [verdicts("pass", "0+0.02x400"), verdicts("unscored", "0+0.02x400")],  # half, but of fourteen
        ],
        "6h20m",
    ),
    "AssayJudgeAgreementLow": (
        [gauge(f'assay_agreement_kappa_high{{{JUDGE}="tone", assay_window="28d"}}', 0.5)],
        [[gauge(f'assay_agreement_kappa_high{{{JUDGE}="tone", assay_window="28d"}}', 0.7)]],
        "2h",
    ),
    "AssayGoldSetDrift": (
        [gauge(f'assay_gold_agreement_change{{{JUDGE}="tone"}}', -0.1)],
        [[gauge(f'assay_gold_agreement_change{{{JUDGE}="tone"}}', -0.02)]],
        "1h",
    ),
    "AssayPassRateFell": (
        [gauge(f'assay_kpi_e_value{{{JUDGE}="tone", {AGENT}="all", assay_window="28d"}}', 150)],
        [[gauge(f'assay_kpi_e_value{{{JUDGE}="tone", {AGENT}="all", assay_window="28d"}}', 20)]],
        "1h",
    ),
    "AssayLabelBacklog": (
        [gauge(f'assay_labels_backlog{{{JUDGE}="tone"}}', 300)],
        [[gauge(f'assay_labels_backlog{{{JUDGE}="tone"}}', 3)]],
        "2h",
    ),
    "AssayBridgeLag": (
        [gauge('assay_bridge_lag_seconds{assay_sink="otlp-span"}', 1200)],
        [[gauge('assay_bridge_lag_seconds{assay_sink="otlp-span"}', 30)]],
        "1h",
    ),
    "AssayBridgeDeadLetters": (
        [gauge('assay_bridge_backlog{assay_sink="datadog", assay_state="dead"}', 2)],
        [[gauge('assay_bridge_backlog{assay_sink="datadog", assay_state="pending"}', 2)]],
        "1h",
    ),
    "AssayBridgeSilent": (
        [],
        [[gauge('assay_bridge_watermark_age_seconds{mlflow_experiment_id="1"}', 5)]],
        "1h",
    ),
    "AssayJudgingBudgetSpent": (
        [gauge("assay_watch_budget_spent_ratio", 0.95)],
        [[gauge("assay_watch_budget_spent_ratio", 0.5)]],
        "1h",
    ),
}
QUIET = [(name, number) for name, case in CASES.items() for number in range(len(case[1]))]


@pytest.fixture(scope="module")
def firing(tmp_path_factory):
    """Asks promtool which alerts of a name fire on these series: the sorted `slo` labels and windows."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "assay.rules.yaml").write_text(rule_file(SPEC), encoding="utf-8")

    def fires(name: str, series: list[dict], at: str, expected: list[dict]) -> subprocess.CompletedProcess:
        test = {
            "rule_files": ["assay.rules.yaml"],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": series or [{"series": "nothing", "values": "0x400"}],
                    "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": expected}],
                }
            ],
        }
        path = folder / f"{name}-{abs(hash(str(series)))}.yaml"
        path.write_text(yaml.safe_dump(test), encoding="utf-8")
        return subprocess.run([PROMTOOL, "test", "rules", str(path)], capture_output=True, text=True, timeout=120)

    return fires


def test_every_alert_has_a_case_and_every_case_an_alert():
    assert {alert.name for alert in ALERTS} == set(CASES)


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires(name, firing):
    """promtool, told to expect none, reports the alert it got."""
    series, _, at = CASES[name]
    done = firing(name, series, at, [])
    assert done.returncode == 1 and f'alertname="{name}"' in done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(("name", "number"), QUIET)
def test_an_alert_is_silent(name, number, firing):
    _, quiet, at = CASES[name]
    done = firing(name, quiet[number], at, [])
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_latency_objective_burns_and_only_files_a_ticket(firing):
    slow = firing("AssayBudgetBurning", runs(fast="0+1x300", every="0+5x300"), "3h", [])
    assert 'slo="answers-fast"' in slow.stdout + slow.stderr and 'severity="page"' not in slow.stdout + slow.stderr
    fast = firing("AssayBudgetBurning", runs(fast="0+5x300", every="0+5x300"), "3h", [])
    assert fast.returncode == 0, fast.stdout + fast.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("passed", "failed", "raw", "rate", "half"),
    [(60, 12, None, None, None), (60, 0, None, None, None), (5, 40, None, None, None), (60, 30, 0.7, 0.8, 0.04)],
)
def test_promql_and_python_compute_one_burn_rate(tmp_path, passed, failed, raw, rate, half):
    """The recording rules give what `slo.burn` gives, with and without the KPI's correction."""
    (tmp_path / "assay.rules.yaml").write_text(rule_file(SPEC), encoding="utf-8")
    shift = 0.0 if raw is None else raw - rate
    spread = 0.0 if half is None else half / 1.96
    at = '{slo="requests-resolved", assay_window="1h"}'
    wanted = {
        "assay:slo:burn_rate": burn(failed, passed + failed, 0.15, shift),
        "assay:slo:burn_rate_low": burn_low(failed, passed + failed, 0.15, shift, spread),
    }
    series = [verdicts("pass", f"0+{passed / 60}x200"), verdicts("fail", f"0+{failed / 60}x200")]
    test = {
        "rule_files": ["assay.rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series + ([] if raw is None else corrected(raw, rate, half)),
                "promql_expr_test": [
                    {
                        "expr": f"abs({name}{at} - {value!r}) < bool 0.0001",
                        "eval_time": "2h",
                        "exp_samples": [{"labels": labels(), "value": 1}],
                    }
                    for name, value in wanted.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")
    done = subprocess.run([PROMTOOL, "test", "rules", str(tmp_path / "test.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def labels() -> str:
    own = 'slo="requests-resolved", assay_window="1h", gen_ai_agent_name="all"'
    return f'{{{own}, gen_ai_evaluation_name="request_resolved"}}'


# --- what every alert has -------------------------------------------------------------------------------


def test_every_alert_leads_to_a_section_of_the_runbook():
    text = (ROOT / "dashboards" / "runbook.md").read_text(encoding="utf-8")
    sections = {heading.lower() for heading in re.findall(r"^## (\w+)$", text, flags=re.M)}
    assert {alert.section for alert in ALERTS} == sections


def test_rules_use_known_metrics_and_labels_only():
    known, strays = metrics_by_series(), set()
    for rule in [rule for group in rule_groups(SPEC)["groups"] for rule in group["rules"]]:
        names, labels_used = names_in(rule["expr"])
        strays |= names - set(known)
        carried = {semantic.replace(".", "_") for n in names & set(known) for semantic in known[n].labels} | {"le"}
        strays |= {f"{rule.get('record') or rule['alert']}: {label}" for label in labels_used - carried}
    assert strays == set()


@needs_promtool
def test_promtool_accepts_the_rule_file(tmp_path):
    path = tmp_path / "assay.rules.yaml"
    path.write_text(rule_file(SPEC), encoding="utf-8")
    done = subprocess.run([PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_rules_hold_the_same_alerts_under_stable_uids():
    rules = grafana_rules(SPEC, "prometheus")
    assert [rule["title"] for rule in rules] == [f"{alert.name} {alert.key}".strip() for alert in ALERTS]
    assert len({rule["uid"] for rule in rules}) == len(rules) and all(len(rule["uid"]) <= 40 for rule in rules)
    assert rules == grafana_rules(SPEC, "prometheus")
    assert {rule["condition"] for rule in rules} == {"B"}


def test_file_provisioning_names_one_group_in_one_folder():
    group = provisioning(SPEC, "prometheus", "Agent quality")["groups"][0]
    assert group["folder"] == "Agent quality" and len(group["rules"]) == len(ALERTS)
    assert not {"folderUID", "orgID"} & set(group["rules"][0])


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.long)
@pytest.mark.parametrize("allowed", [0.001, 0.01, 0.1, 0.3, 0.6])
def test_an_alert_can_fire_whatever_the_objective(window, allowed):
    """The factor never passes the largest possible burn rate, and never falls below a sustainable one."""
    assert 1 <= factor(window, allowed) <= 1 / allowed


# --- slo.yaml ---------------------------------------------------------------------------------------------

BAD = {
    "no kind": "- {name: x-y, description: d, objective: 0.9}",
    "two kinds": "- {name: x-y, description: d, judge: j, latency: {under_s: 20}, objective: 0.9}",
    "no objective": "- {name: x-y, description: d, judge: j}",
    "objective of 1": "- {name: x-y, description: d, judge: j, objective: 1}",
    "a bound that is none": "- {name: x-y, description: d, latency: {under_s: 7}, objective: 0.9}",
    "a stray key": "- {name: x-y, description: d, judge: j, objective: 0.9, window: 7d}",
    "one name twice": "- {name: x-y, description: d, judge: j, objective: 0.9}\n"
    "- {name: x-y, description: d, judge: k, objective: 0.9}",
}


@pytest.mark.parametrize("objectives", BAD.values(), ids=BAD)
def test_a_wrong_file_is_refused_with_where_and_what_is_valid(tmp_path, objectives):
    path = tmp_path / "slo.yaml"
    path.write_text("version: 1\nobjectives:\n" + objectives, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"slo\.yaml"):
        load(path)


def test_limits_of_none_switch_alerts_off():
    off = SPEC.model_dump() | {"alerts": dict.fromkeys(SPEC.alerts.model_dump())}
    names = {alert.name for alert in alerts(SloFile.model_validate(off))}
    assert names == {"AssayBudgetBurning", "AssayBudgetSpent", "AssayCostAboveObjective"}
