"""Which traces are chosen for judging: decided by the trace's id alone, so that everybody who asks agrees.

The agent's process marks the runs that will be judged (`semconv.SAMPLING_KEEP`), so that tail sampling keeps them,
and hours later the worker judges exactly these. A hash is used, not the id's own bits as OpenTelemetry's ratio
samplers do: a share of traces already thinned out by such a sampler is then still a share of them.
"""

from __future__ import annotations

import hashlib

from mlflow_assay.errors import ConfigError

__all__ = ["chosen"]


def chosen(trace_id: str, rate: float) -> bool:
    """Whether a trace belongs to the share `rate` of all; one chosen at a rate is chosen at every higher one.

    Args:
        trace_id: MLflow's `tr-<32 hex>` or the bare 32 hex digits; both give the same answer.
        rate: share in [0, 1].

    Raises:
        ConfigError: the rate is not in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ConfigError("A sampling rate is a share.", found=rate, valid="0 to 1")
    digest = hashlib.sha256(f"assay.judge\x1f{trace_id.removeprefix('tr-')}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64
