"""One evaluation as another tool reports it, and what may be wrong with it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.contracts import Outcome, Unscored

if TYPE_CHECKING:
    from mlflow.entities import Feedback

__all__ = ["Evaluation", "RefusedError", "evaluation"]

_LONGEST_NAME = 250  # MLflow's column
_LONGEST_TEXT = 32_000
_LONGEST_FACT = 500
_MOST_FACTS = 32
_SOURCES = {
    "llm_judge": "LLM_JUDGE",
    "llm": "LLM_JUDGE",
    "model": "LLM_JUDGE",
    "code": "CODE",
    "heuristic": "CODE",
    "deterministic": "CODE",
    "human": "HUMAN",
}
_WORDS = {"pass": Outcome.PASS, "passed": Outcome.PASS, "fail": Outcome.FAIL, "failed": Outcome.FAIL}
_READ = frozenset(
    {
        semconv.EVALUATION_NAME,
        semconv.EVALUATION_SCORE,
        semconv.EVALUATION_LABEL,
        semconv.EVALUATION_EXPLANATION,
        semconv.EVALUATOR_ID,
        semconv.EVALUATOR_VERSION,
        semconv.EVALUATOR_TYPE,
        semconv.ERROR_TYPE,
        semconv.GEN_AI_OPERATION,
        "event.name",
    }
)


class RefusedError(ValueError):
    """An evaluation that cannot become an assessment; the message is for its sender and quotes none of its content."""


@dataclass(frozen=True)
class Evaluation:
    """What arrived, checked.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits of the evaluated span; None where the sender names none.
        name: of the metric; becomes the assessment's.
        score: finite, or None.
        label: or None. A verdict has a score, a label, or an error.
        explanation: or None.
        error: the error's type where the evaluation failed: it is then unscored.
        source_type: MLflow's `LLM_JUDGE`, `CODE` or `HUMAN`.
        source_id: the evaluator's id, else the instrumentation scope's or service's name.
        version: of the evaluator, or None.
        time_ns: when it was made, Unix time by the sender's clock; 0 where it does not say.
        facts: further attributes, short ones, as text.
    """

    trace_id: str
    name: str
    source_type: str
    source_id: str
    span_id: str | None = None
    score: float | None = None
    label: str | None = None
    explanation: str | None = None
    error: str | None = None
    version: str | None = None
    time_ns: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The assessment's id: the same for the same evaluation however often and whichever way it comes."""
        said = {key: value for key, value in asdict(self).items() if key != "facts"}
        return "a-" + hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """For the inbox."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """From the inbox."""
        return cls(**json.loads(text))

    @property
    def outcome(self) -> Outcome | None:
        """Pass or fail where the label is one of these words, unscored where it failed, else None: nobody said."""
        if self.error:
            return Outcome.UNSCORED
        return _WORDS.get((self.label or "").strip().lower())

    def feedback(self) -> Feedback:
        """The assessment: the score is the value where there is one, else the label; unscored where it failed."""
        from mlflow.entities import AssessmentSource, Feedback
        from mlflow.entities.assessment_error import AssessmentError

        error = AssessmentError(self.error, (self.explanation or "")[:2000] or None) if self.error else None
        value = self.score if self.score is not None else self.label
        made = Feedback(
            name=self.name,
            value=None if error else value,
            error=error,
            rationale=None if error else self.explanation,
            source=AssessmentSource(source_type=self.source_type, source_id=self.source_id),
            metadata=self._metadata(),
            span_id=self.span_id,
            trace_id=f"tr-{self.trace_id}",
        )
        made.assessment_id = self.id
        return made

    def _metadata(self) -> dict[str, str]:
        reasons = {reason.value for reason in Unscored}
        time = datetime.fromtimestamp(self.time_ns / 1e9, timezone.utc).isoformat() if self.time_ns else None
        reason = (self.error if self.error in reasons else Unscored.JUDGE_ERROR.value) if self.error else None
        own = {
            semconv.SOURCE_FORMAT: "otlp",
            semconv.SOURCE_TIME: time,
            semconv.JUDGE_VERSION: self.version,
            semconv.EVALUATION_LABEL: self.label,
            semconv.OUTCOME: self.outcome.value if self.outcome else None,
            semconv.UNSCORED_REASON: reason,
        }
        return {**self.facts, **{key: value for key, value in own.items() if value is not None}}


def evaluation(
    attributes: Mapping[str, Any],
    *,
    trace_id: str,
    span_id: str,
    time_ns: int,
    scope: str = "",
    service: str = "",
    default_source: str = "LLM_JUDGE",
    accept_human: bool = False,
) -> Evaluation:
    """Check and read one evaluation's attributes.

    Args:
        trace_id, span_id: hex, empty where absent.
        default_source: for evaluators that do not say what they are.
        accept_human: whether a sender may speak for people: their labels correct KPIs.

    Raises:
        RefusedError: it cannot become an assessment; says why.
    """
    if not trace_id.strip("0"):
        raise RefusedError("it has no trace context (gen_ai.response.id alone is not looked up)")
    name = attributes.get(semconv.EVALUATION_NAME)
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME:
        raise RefusedError(f"{semconv.EVALUATION_NAME} is not a text of 1 to {_LONGEST_NAME} characters")
    score, label, error = _score(attributes), _text(attributes, semconv.EVALUATION_LABEL), attributes.get("error.type")
    if score is None and label is None and not error:
        raise RefusedError("it has neither score, label nor error.type")
    source = _source(attributes, default_source)
    if source == "HUMAN" and not accept_human:
        raise RefusedError("human labels are not accepted here (assay receive --accept-human)")
    version = attributes.get(semconv.EVALUATOR_VERSION)
    return Evaluation(
        trace_id=trace_id,
        span_id=span_id if span_id.strip("0") else None,
        name=_storable(name.strip()),
        score=score,
        label=label,
        explanation=_text(attributes, semconv.EVALUATION_EXPLANATION),
        error=_storable(str(error))[:_LONGEST_FACT] if error else None,
        source_type=source,
        source_id=_storable(str(attributes.get(semconv.EVALUATOR_ID) or scope or service or "otlp"))[:_LONGEST_NAME],
        version=_storable(str(version))[:_LONGEST_FACT] if version not in (None, "") else None,
        time_ns=time_ns,
        facts=_facts(attributes, scope, service),
    )


def _score(attributes: Mapping[str, Any]) -> float | None:
    value = attributes.get(semconv.EVALUATION_SCORE)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RefusedError(f"{semconv.EVALUATION_SCORE} is not a finite number")
    return float(value)


def _text(attributes: Mapping[str, Any], key: str) -> str | None:
    value = attributes.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RefusedError(f"{key} is not a text")
    return _storable(value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + " [cut]")


def _storable(text: str) -> str:
    """Without NUL, which PostgreSQL refuses."""
    return text.replace("\x00", "")


def _source(attributes: Mapping[str, Any], default: str) -> str:
    said = attributes.get(semconv.EVALUATOR_TYPE)
    if said in (None, ""):
        return default
    try:
        return _SOURCES[str(said).strip().lower()]
    except KeyError:
        raise RefusedError(f"{semconv.EVALUATOR_TYPE} is none of {', '.join(_SOURCES)}") from None


def _facts(attributes: Mapping[str, Any], scope: str, service: str) -> dict[str, str]:
    """Further attributes, but none under our own names: nobody else may say what we would."""
    rest = {"otel.scope.name": scope, semconv.SERVICE_NAME: service, **attributes}
    said = {
        _storable(key)[:_LONGEST_FACT]: _storable(str(value))[:_LONGEST_FACT]
        for key, value in rest.items()
        if key not in _READ
        and not key.startswith(("assay.", "mlflow."))
        and isinstance(value, str | int | float | bool)
    }
    return dict([(key, value) for key, value in said.items() if value != ""][:_MOST_FACTS])
