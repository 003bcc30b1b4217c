"""Sends an agent's traces to an OpenTelemetry endpoint and to MLflow, complete and redacted, with one call.

    from mlflow_assay import telemetry

    telemetry.configure("http://127.0.0.1:4318", service="support-agent", judge_sample=0.1)

See `configure` for what it does beyond MLflow's own export and which of MLflow's faults it works around.
"""

from __future__ import annotations

from mlflow_assay.telemetry.settings import Settings
from mlflow_assay.telemetry.setup import Telemetry, configure

__all__ = ["Settings", "Telemetry", "configure"]
