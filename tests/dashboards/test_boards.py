"""The boards: committed JSON equals the code, keeps every rule, and each rule can be broken."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("grafana_foundation_sdk", reason="pip install 'mlflow-assay[dashboards]'")

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from mlflow_assay import semconv
from mlflow_assay.dashboards import promql
from mlflow_assay.dashboards.files import BoardFile, build, generated
from mlflow_assay.dashboards.lint import check, metrics_by_series, names_in

ROOT = Path(__file__).parents[2]
BOARDS = {board.uid: board for board in generated()}


def test_the_committed_json_is_what_the_code_makes():
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "dashboards/generated").glob("*.json")}
    assert committed == build(), "run `assay dashboards build`"


def test_building_twice_gives_the_same_bytes():
    assert build() == build()


@pytest.mark.parametrize("uid", BOARDS)
def test_each_board_keeps_every_rule(uid):
    assert [str(finding) for finding in check([BOARDS[uid]])] == []


@pytest.mark.parametrize("uid", BOARDS)
def test_each_board_survives_grafanas_published_types(uid):
    """Read into the foundation SDK's types and written again nothing is lost: no field the schema does not know."""
    model = BOARDS[uid].model
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(copy.deepcopy(model))))
    assert again == model


def test_the_six_boards_are_there_under_stable_uids():
    assert set(BOARDS) == {
        "assay-agents",
        "assay-judges",
        "assay-objectives",
        "assay-pipeline-health",
        "assay-quality-by-judge",
        "assay-stakeholder-kpis",
    }


# --- the rules bite -----------------------------------------------------------------------------------


def spoilt(change) -> set[str]:
    """Rules that a spoilt copy of a board breaks."""
    model = copy.deepcopy(BOARDS["assay-quality-by-judge"].model)
    panels = [panel for panel in model["panels"] if panel["type"] not in ("row", "heatmap")]
    change(model, panels[1])
    return {finding.rule for finding in check([BoardFile(model["uid"], model, f"{model['uid']}.json")])}


def expression(text):
    def change(model, panel):
        panel["targets"][0]["expr"] = text

    return change


SPOILERS = {
    "identity": lambda model, panel: model.update(editable=True),
    "variables": lambda model, panel: model["templating"]["list"].pop(),
    "words": lambda model, panel: panel["fieldConfig"]["defaults"].pop("noValue"),
    "grid": lambda model, panel: panel["gridPos"].update(x=20, w=8),
    "data-source": lambda model, panel: panel["targets"][0]["datasource"].update(uid="prometheus-1"),
    "known-metrics": expression("sum(gen_ai_evaluation_verdict_total[5m])"),
    "selectors": expression('assay_kpi_rate{assay_window="7d"}'),
    "rates": expression("sum(rate(gen_ai_evaluation_verdicts_total[5m]))"),
}


@pytest.mark.parametrize("rule", [rule for rule in SPOILERS if rule != "variables"])
def test_a_rule_finds_what_breaks_it(rule):
    assert rule in spoilt(SPOILERS[rule])


def test_a_missing_variable_is_found():
    def change(model, panel):
        model["templating"]["list"] = [v for v in model["templating"]["list"] if v["name"] != "tempo"]

    assert "variables" in spoilt(change)


def test_overlapping_panels_are_found():
    def change(model, panel):
        panel["gridPos"].update(x=0, y=1)

    assert "grid" in spoilt(change)


def test_a_counter_shown_without_rate_is_found():
    assert "rates" in spoilt(expression("sum(gen_ai_evaluation_verdicts_total)"))


def test_a_label_the_metric_does_not_carry_is_found():
    assert "known-metrics" in spoilt(
        expression('sum by (user_id) (assay_kpi_rate{mlflow_experiment_id=~"$experiment"})')
    )


def test_two_boards_of_one_uid_are_found():
    board = BOARDS["assay-agents"]
    assert "uid" in {f.rule for f in check([board, board])}


# --- queries ----------------------------------------------------------------------------------------------


def test_a_series_takes_the_selectors_of_the_labels_it_has():
    found = promql.series(semconv.M_LAG)
    assert found == "assay_bridge_lag_seconds"
    assert "$judge" in promql.series(semconv.M_VERDICTS)


def test_a_match_on_a_label_the_metric_lacks_is_refused():
    with pytest.raises(KeyError, match="has no label"):
        promql.series(semconv.M_LAG, promql.where(semconv.OUTCOME, "fail"))


def test_names_and_labels_are_read_from_an_expression():
    text = 'sum by (a, b) (rate(x_total{c="d{e}", f=~"g|h"}[5m])) / on (i) y > bool 3 or z{} offset $window'
    assert names_in(text) == ({"x_total", "y", "z"}, {"a", "b", "c", "f", "i"})


def test_every_series_of_the_metric_table_has_one_name():
    """No two metrics become one name in Prometheus."""
    names = [
        semconv.prometheus_name(m.name, part)
        for m in semconv.METRICS.values()
        for part in (("bucket", "sum", "count") if m.kind == "histogram" else ("",))
    ]
    assert len(names) == len(set(names)) <= len(metrics_by_series())
