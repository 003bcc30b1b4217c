"""KPI gauges: what holds in MLflow now, recomputed for fixed windows, never summed up from counters."""
