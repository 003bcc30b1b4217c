"""The stakeholder's report: verdicts stored in MLflow, read into plain data, rendered as one HTML page."""
