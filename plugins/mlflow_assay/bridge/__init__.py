"""The quality bridge: every assessment in MLflow, as it changes, reaches every sink through a durable outbox."""
