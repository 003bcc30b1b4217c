"""Objectives on KPIs as data: from a small YAML to recording rules, burn-rate alerts, and the SLO board's series."""
