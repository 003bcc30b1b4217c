"""The same alerts as Grafana-managed rules, for `assay dashboards import` and for file provisioning.

They read the series that the recording rules make, so Prometheus needs the rule file all the same (its alert group may
be left out). Grafana asks the expression, which returns the series that fire, and alerts on each.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from mlflow_assay.slo.alerts import Alert, alerts
from mlflow_assay.slo.spec import SloFile

__all__ = ["FOLDER_UID", "GROUP", "grafana_rules", "provisioning"]

FOLDER_UID: Final = "mlflow-assay"
GROUP: Final = "mlflow-assay"
# What Grafana adds where a rule does not say it; said, an imported rule equals the one that was sent.
_FILLED_IN: Final = {"intervalMs": 1000, "maxDataPoints": 43200}


def grafana_rules(file: SloFile, datasource_uid: str) -> list[dict[str, Any]]:
    """Rules as Grafana's provisioning API takes them; uids are stable."""
    return [_rule(alert, file.runbook, datasource_uid) for alert in alerts(file)]


def provisioning(file: SloFile, datasource_uid: str, folder: str) -> dict[str, Any]:
    """The content of a file under `provisioning/alerting/`."""
    rules = [
        {k: v for k, v in rule.items() if k not in ("folderUID", "ruleGroup", "orgID")}
        for rule in grafana_rules(file, datasource_uid)
    ]
    return {
        "apiVersion": 1,
        "groups": [{"orgId": 1, "name": GROUP, "folder": folder, "interval": "1m", "rules": rules}],
    }


def _rule(alert: Alert, runbook: str, datasource_uid: str) -> dict[str, Any]:
    title = f"{alert.name} {alert.key}".strip()
    return {
        "uid": "assay-" + hashlib.sha256(title.encode()).hexdigest()[:20],
        "title": title,
        "folderUID": FOLDER_UID,
        "ruleGroup": GROUP,
        "orgID": 1,
        "condition": "B",
        "data": [_query(alert, datasource_uid), _threshold()],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": alert.hold,
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{runbook}#{alert.section}",
        },
        "isPaused": False,
    }


def _query(alert: Alert, datasource_uid: str) -> dict[str, Any]:
    """Any series that is returned becomes 1: what fires may well be a negative number."""
    return {
        "refId": "A",
        "queryType": "",
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": datasource_uid,
        "model": {"refId": "A", "expr": f"({alert.expr}) * 0 + 1", "instant": True, "range": False, **_FILLED_IN},
    }


def _threshold() -> dict[str, Any]:
    return {
        "refId": "B",
        "queryType": "",
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": "__expr__",
        "model": {
            "refId": "B",
            "type": "threshold",
            "expression": "A",
            "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
            **_FILLED_IN,
        },
    }
