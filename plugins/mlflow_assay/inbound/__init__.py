"""The inbound direction: evaluations of other tools that arrive over OTLP become assessments in MLflow.

OTLP/HTTP request ──reading──▶ Evaluation ──inbox (SQLite, then the answer)──▶ writer ──▶ MLflow
"""

from __future__ import annotations
