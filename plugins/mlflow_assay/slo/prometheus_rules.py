"""The rule file for Prometheus (and anything that reads its format: Mimir, Thanos, VictoriaMetrics)."""

from __future__ import annotations

from typing import Any

import yaml

from mlflow_assay.slo.alerts import Alert, alerts
from mlflow_assay.slo.recording import recording_rules
from mlflow_assay.slo.spec import SloFile

__all__ = ["rule_file", "rule_groups"]


def rule_groups(file: SloFile) -> dict[str, Any]:
    """Two groups: what is recorded, and the alerts that read it."""
    return {
        "groups": [
            {"name": "assay-slo", "interval": "1m", "rules": recording_rules(file)},
            {"name": "assay-alerts", "interval": "1m", "rules": [_rule(alert, file.runbook) for alert in alerts(file)]},
        ]
    }


def rule_file(file: SloFile) -> str:
    """The file's text; equal for an equal `slo.yaml`."""
    header = "# Made by `assay slo build`; change slo.yaml instead.\n"
    return header + yaml.safe_dump(rule_groups(file), sort_keys=False, allow_unicode=True, width=110)


def _rule(alert: Alert, runbook: str) -> dict[str, Any]:
    annotations = {"summary": alert.summary, "description": alert.description}
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.hold,
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {**annotations, "runbook_url": f"{runbook}#{alert.section}"},
    }
