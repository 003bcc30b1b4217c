"""What a judge is shown of a trace, as text an example can quote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_assay import trace_fields
from mlflow_assay.engine.judging import subject_of

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from mlflow_assay.contracts import BoundJudge

__all__ = ["clipped", "parts", "request", "text"]


def request(trace: Trace) -> str:
    """What the customer asked first; empty when not recorded."""
    return trace_fields.as_text(trace_fields.extract(trace, "first_user_message"))


def parts(bound: BoundJudge, trace: Trace) -> dict[str, str]:
    """The texts the judge is shown, by the names its instructions use; absent ones are left out.

    A judge that reads the whole trace is quoted as conversation and tool calls.
    """
    subject = subject_of(bound, trace)
    scorer: Any = bound.scorer
    names = (
        [f.name for f in scorer.get_input_fields()] if hasattr(scorer, "get_input_fields") else ["inputs", "outputs"]
    )
    found: dict[str, Any] = {
        "inputs": subject.inputs,
        "outputs": subject.outputs,
        "expectations": dict(subject.expectations) or None,
    }
    if "trace" in names:
        found["conversation"] = trace_fields.extract(trace, "transcript")
        found["tool calls"] = trace_fields.extract(trace, "tool_calls")
        names = [*names, "conversation", "tool calls"]
    return {name: trace_fields.as_text(found[name]) for name in names if found.get(name) is not None}


def text(bound: BoundJudge, trace: Trace) -> str:
    """All the judge is shown, as one text to compare traces by."""
    return "\n".join(parts(bound, trace).values())


def clipped(value: str, limit: int) -> str:
    """The text on fewer characters: its first two thirds and its end, with what was left out said."""
    if len(value) <= limit:
        return value
    head = limit * 2 // 3
    return f"{value[:head]}\n[… {len(value) - limit} characters left out …]\n{value[-(limit - head) :]}"
