"""Trusted agent-quality measurement on top of MLflow."""
