"""TraceQL for verdict spans: one verdict is one span that carries all it is about, so no joins are needed."""

from __future__ import annotations

from mlflow_assay import semconv

__all__ = ["agent_spans", "verdicts"]


def verdicts(*conditions: str, select: tuple[str, ...] = ()) -> str:
    """Verdict spans of the chosen judges and experiments.

    Args:
        conditions: further ones, ANDed.
        select: attributes to show beside the span.
    """
    wanted = [
        f'span.{semconv.GEN_AI_OPERATION} = "{semconv.OPERATION_EVALUATION}"',
        f'span.{semconv.EVALUATION_NAME} =~ "$judge"',
        f'span.{semconv.EXPERIMENT_ID} =~ "$experiment"',
        *conditions,
    ]
    return _query(wanted, select)


def agent_spans(*conditions: str, select: tuple[str, ...] = ()) -> str:
    """Spans of the agents' own work."""
    return _query([f'span.{semconv.GEN_AI_OPERATION} != "{semconv.OPERATION_EVALUATION}"', *conditions], select)


def _query(conditions: list[str], select: tuple[str, ...]) -> str:
    shown = f" | select({', '.join(f'span.{name}' for name in select)})" if select else ""
    return f"{{ {' && '.join(conditions)} }}{shown}"
