"""Asking a judge anew about traces without writing anything: what `drift` and `probe` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.contracts import BoundJudge

__all__ = ["ask", "build"]


def build(judge: str, model: Any, paths: tuple[str, ...], settings: tuple[str, ...]) -> BoundJudge:
    """The judge, ready to run.

    Raises:
        ConfigError: it is unknown, lacks a model, or judges whole sessions.
    """
    from mlflow_assay.cli.options import read_texts
    from mlflow_assay.pipeline import build_judges

    (bound,) = build_judges([judge], model=model, paths=paths, texts=read_texts(settings))
    if bound.contract.scope == "session":
        raise ConfigError(
            f"{judge!r} judges whole sessions, which cannot be asked again here.", fix="Use --stored verdicts."
        )
    return bound


def ask(bound: BoundJudge, trace_ids: Sequence[str], times: int, max_calls: int | None) -> list[dict[str, bool | None]]:
    """Ask about each trace so many times, never from the cache: for each time, trace id to pass, fail or None.

    Raises:
        StoreError: a trace cannot be read.
    """
    from mlflow_assay.alignment.verdicts import Asked, Asker
    from mlflow_assay.sources.mlflow_store import load_ids

    cases = [Asked(trace) for trace in load_ids(trace_ids)]
    asker = Asker(max_calls=max_calls)
    return [{t: v.passed for t, v in asker.ask(bound, cases).items()} for _ in range(times)]
