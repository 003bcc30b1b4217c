"""The known figures of the real telecom runs through the real path: import, agreement, kpi, compare."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import assay

BEFORE, AFTER = "gpt-4.1", "ft:gpt-4.1-2025-04-14:sierra:tau2-full-sft:BzrYdMNm"


def asked(*arguments):
    done = CliRunner().invoke(assay, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def bring_in(folder, *names):
    files = [str(folder / "tau2_telecom" / f"{name}.json.gz") for name in names]
    asked("traces", "import", "--format", "tau2", *files, "--experiment", "telecom", "--with-verdicts")


@pytest.mark.slow
def test_judges_against_ground_truth(store, shared_data):
    """Kappa .31 and .78, corrected rates at the truth of 23.7 %, and quick triage right more often (p = 1e-7)."""
    bring_in(shared_data, "telecom_judge_customer_outcome", "telecom_judge_triage")
    judges = ("customer_outcome_v1", "quick_triage_v1")
    found = asked("agreement", "-e", "telecom", *(x for j in judges for x in ("-j", j)), "--label", "task_success")
    kappas = [judge["agreement"]["kappa"]["value"] for judge in found["judges"]]
    assert kappas == [pytest.approx(0.31, abs=0.005), pytest.approx(0.78, abs=0.005)]
    duel = found["against_first"][0]["comparison"]
    assert (len(duel["wins"]), len(duel["losses"])) == (28, 1)
    assert duel["p_value"] == pytest.approx(1.1e-7, rel=0.05)

    for kpi in asked("kpi", "-e", "telecom", "--label", "task_success")["kpis"]:
        estimate = kpi["estimate"]
        assert estimate["is_corrected"]
        assert estimate["corrected"] == pytest.approx(27 / 114, abs=0.01)
        assert estimate["low"] < 27 / 114 < estimate["high"]
    alone = asked("kpi", "-e", "telecom", "-j", "customer_outcome_v1")["kpis"][0]["estimate"]
    assert (alone["is_corrected"], alone["raw"]) == (False, pytest.approx(50 / 114))


@pytest.mark.slow
def test_two_agents_on_the_same_tasks(store, shared_data):
    """18 of 40 against 30 of 40, no task lost: exact McNemar p = .0005."""
    bring_in(shared_data, "gpt41_telecom", "ftgpt41_telecom")
    sides = [f"telecom@tag:model={model}" for model in (BEFORE, AFTER)]
    found = asked("compare", *sides, "--pair-by", "tag:task", "--gate", "improved")
    (judge,) = found["judges"]
    c = judge["comparison"]
    assert (judge["judge"], c["n"], c["wins"], c["losses"]) == ("task_success", 40, 12, 0)
    assert (c["value_a"], c["value_b"]) == (0.45, 0.75)
    assert c["p_value"] == pytest.approx(2 * 0.5**12)
    assert found["gate"] == {"asked": "improved", "passed": True}
