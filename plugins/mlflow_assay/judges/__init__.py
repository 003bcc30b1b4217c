"""Judges, Trace to Feedback: YAML definitions, local classifiers, code, adapters for other libraries."""
