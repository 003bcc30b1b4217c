"""One verdict from one of MLflow's built-in scorers, however many feedbacks it returns."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import mlflow
from mlflow.entities import Feedback, Trace
from mlflow.genai.scorers import Scorer
from mlflow.tracing.constant import AssessmentMetadataKey
from pydantic import PrivateAttr

from mlflow_assay.contracts import ModelSettings, NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.judges.mlflow_facts import Builtin, guard

__all__ = ["BuiltinJudge", "combine"]

_SUMMED = (
    AssessmentMetadataKey.JUDGE_COST,
    AssessmentMetadataKey.JUDGE_INPUT_TOKENS,
    AssessmentMetadataKey.JUDGE_OUTPUT_TOKENS,
)


class BuiltinJudge(Scorer):
    """A built-in scorer of MLflow that answers with one Feedback, or is unscored.

    Args:
        wrapped: MLflow's scorer.
        about: what its values mean and what it needs.
        model: the judge model, or None for a scorer that calls none.
    """

    _wrapped: Any = PrivateAttr()
    _about: Builtin = PrivateAttr()
    _model: ModelSettings | None = PrivateAttr()

    def __init__(self, wrapped: Any, about: Builtin, model: ModelSettings | None) -> None:
        super().__init__(name=wrapped.name, description=wrapped.description)
        self._wrapped, self._about, self._model = wrapped, about, model

    @property
    def wrapped(self) -> Any:
        """MLflow's own scorer, for registering it."""
        return self._wrapped

    @property
    def fingerprint(self) -> str:
        """What the verdicts depend on besides parameters and model: MLflow's version, since it owns the prompt."""
        return f"{type(self._wrapped).__name__} of mlflow {mlflow.__version__}"

    @property
    def is_session_level_scorer(self) -> bool:
        """Whether it judges sessions."""
        return bool(self._wrapped.is_session_level_scorer)

    def __call__(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        expectations: dict[str, Any] | None = None,
        trace: Trace | None = None,
        session: list[Trace] | None = None,
    ) -> Feedback:
        """Call MLflow's scorer with what it accepts.

        Raises:
            UnscoredError: a field is missing, or a part of the verdict cannot be read.
        """
        guard(self._about, trace, expectations)
        given = {
            "inputs": inputs, "outputs": outputs, "expectations": expectations, "trace": trace, "session": session,
        }  # fmt: skip
        accepted = inspect.signature(self._wrapped.__call__).parameters
        with mlflow_endpoint.route(self._model):
            found = self._wrapped(**{name: value for name, value in given.items() if name in accepted})
        return combine(found, self._about.value) if isinstance(found, list) else found


def combine(parts: Sequence[Feedback], value: ValueSpec) -> Feedback:
    """One verdict from one feedback per retriever span: the worst of them, the others in the rationale.

    Args:
        parts: what MLflow's scorer returned. For a numeric value, one `…/precision` feedback per span and one
            feedback per passage; else one feedback per span.
        value: the verdict's scale.

    Raises:
        UnscoredError: there are no parts, or none is bad and one cannot be read.
    """
    judged = [p for p in parts if p.name.endswith("/precision")] if isinstance(value, NumericValue) else list(parts)
    if not judged:
        raise UnscoredError(Unscored.EMPTY_REPLY, "the judge returned no feedback for any retriever span")
    worst = _worst(judged, value)
    return Feedback(
        name=worst.name,
        value=worst.value,
        rationale=_told(parts),
        source=worst.source,
        metadata=_summed(parts),
        span_id=worst.span_id,
    )


def _worst(parts: Sequence[Feedback], value: ValueSpec) -> Feedback:
    """The first failing part, the lowest number, or the first part when all pass."""
    unread: UnscoredError | None = None
    read: list[tuple[Any, Feedback]] = []
    for part in parts:
        try:
            read.append((value.read(part.value), part))
        except UnscoredError as error:
            unread = error
    failed = [(v, part) for v, part in read if not value.passes(v)]
    if unread is not None and not failed:
        raise unread
    if isinstance(value, NumericValue):
        return min(failed or read, key=lambda pair: float(pair[0]))[1]
    return (failed or read)[0][1]


def _told(parts: Sequence[Feedback]) -> str | None:
    if len(parts) == 1:
        return str(parts[0].rationale) if parts[0].rationale else None
    return "\n".join(f"{n}. span {p.span_id}: {p.value}. {p.rationale or ''}".rstrip() for n, p in enumerate(parts, 1))


def _summed(parts: Sequence[Feedback]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in (part.metadata or {}).items():
            found[key] = found.get(key, 0) + float(value) if key in _SUMMED else value
    return {k: int(v) if k in _SUMMED and float(v).is_integer() else v for k, v in found.items() if k != "chunk_index"}
