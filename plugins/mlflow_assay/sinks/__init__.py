"""Sinks: Feedback to where it is kept or seen."""
