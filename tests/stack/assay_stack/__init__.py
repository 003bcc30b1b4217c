"""The real servers behind the integration tests: collector, Tempo, Prometheus, PostgreSQL, MLflow, on loopback.

`make stack` starts them on fixed ports; tests ask for the fixture `stack` (or `fresh_stack`, for breaking things).
Binaries: Prometheus and PostgreSQL come from the system's packages; the collector and Tempo are built once from Go
modules with pinned versions into ${XDG_CACHE_HOME:-~/.cache}/mlflow-assay (`make stack-build`). On CI (environment
variable CI set) a missing binary fails the test, elsewhere it skips it with the reason.
"""

from __future__ import annotations

from assay_stack.build import MissingError
from assay_stack.services import Service
from assay_stack.stack import Stack

__all__ = ["MissingError", "Service", "Stack"]
