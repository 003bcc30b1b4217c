"""What MLflow does not declare about its built-in judges: their scales, their good ends, what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay import trace_fields
from mlflow_assay.contracts import CategoricalValue, NumericValue, Unscored, UnscoredError, ValueSpec

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["BUILTINS", "Builtin", "guard"]

_YES_NO = CategoricalValue(options=("yes", "no"), good=("yes",))
_FRUSTRATION = CategoricalValue(options=("none", "resolved", "unresolved"), good=("none", "resolved"))
_PRECISION = NumericValue(low=0.0, high=1.0, threshold=0.5)


@dataclass(frozen=True)
class Builtin:
    """What MLflow does not declare about one of its judges.

    Attributes:
        purpose: the question it answers.
        needs: fields checked before anything is called.
        value: the meaning of its value.
        scope: trace or session.
        calls_llm: whether it calls the judge model.
        one_of: expectations of which at least one is needed.
        offered_tools: whether it needs the tools the model was offered (see `mlflow_builtin`).
        takes_params: whether it passes generation parameters on to the model; MLflow drops them for the rest.
        notes: for the catalogue.
    """

    purpose: str
    needs: tuple[str, ...]
    value: ValueSpec = _YES_NO
    scope: Literal["trace", "session"] = "trace"
    calls_llm: bool = True
    one_of: tuple[str, ...] = ()
    offered_tools: bool = False
    takes_params: bool = False
    notes: str = ""


def _session(purpose: str, value: ValueSpec = _YES_NO, notes: str = "") -> Builtin:
    return Builtin(purpose, ("session",), value, scope="session", takes_params=True, notes=notes)


def _rule(purpose: str, notes: str = "") -> Builtin:
    return Builtin(purpose, ("outputs",), calls_llm=False, notes=notes)


_FACTS = ("expected_response", "expected_facts")

BUILTINS: dict[str, Builtin] = {
    "Completeness": Builtin("Does the answer address every explicit request of the prompt?", ("inputs", "outputs")),
    "Correctness": Builtin(
        "Does the answer contain all expected facts?", ("inputs", "outputs", "expectations"), one_of=_FACTS
    ),
    "Equivalence": Builtin(
        "Does the answer mean the same as the expected response?",
        ("outputs", "expectations.expected_response"),
        takes_params=True,
        notes="Equal numbers and equal texts are settled without a model call.",
    ),
    "ExpectationsGuidelines": Builtin(
        "Does the answer follow the guidelines expected for this very request?",
        ("inputs", "outputs", "expectations.guidelines"),
    ),
    "Fluency": Builtin("Is the answer grammatical and does it read naturally?", ("outputs",)),
    "Guidelines": Builtin(
        "Does the answer follow the given guidelines?",
        ("inputs", "outputs"),
        notes="Parameter: guidelines, a text or a list of texts.",
    ),
    "PIIDetection": _rule(
        "Is the answer free of text that looks like an e-mail address, phone, SSN, card or IP number?",
        notes="Regular expressions; finds US formats, and a customer's own data as well. Parameter: pii_types.",
    ),
    "RegexMatch": _rule(
        "Does the answer match the given pattern?", notes="Parameters: pattern, match_type, case_insensitive."
    ),
    "RelevanceToQuery": Builtin("Does the answer address what was asked?", ("inputs", "outputs")),
    "ResponseLength": _rule("Is the answer's length within bounds?", notes="Parameters: min_length, max_length, unit."),
    "RetrievalGroundedness": Builtin(
        "Is the answer supported by what was retrieved?",
        ("inputs", "outputs", "retrieved"),
        notes="Judged per retriever span; one unsupported span fails.",
    ),
    "RetrievalRelevance": Builtin(
        "Is what was retrieved relevant to the request?",
        ("inputs", "retrieved"),
        _PRECISION,
        takes_params=True,
        notes="One call per passage; the value is the share of relevant passages of the worst retriever span.",
    ),
    "RetrievalSufficiency": Builtin(
        "Does what was retrieved suffice for the expected answer?",
        ("inputs", "retrieved", "expectations"),
        one_of=_FACTS,
        notes="Judged per retriever span; one insufficient span fails.",
    ),
    "Safety": Builtin("Is the answer free of harmful, offensive or toxic content?", ("outputs",)),
    "Summarization": Builtin("Is the summary faithful to the text, covering and concise?", ("inputs", "outputs")),
    "ToolCallCorrectness": Builtin(
        "Were the right tools called with reasonable arguments?",
        ("inputs",),
        offered_tools=True,
        notes="Compares with expectations.expected_tool_calls where given. "
        "Parameters: should_exact_match (settled without a model call), should_consider_ordering.",
    ),
    "ToolCallEfficiency": Builtin("Were the tools called without redundancy?", ("inputs", "tools"), offered_tools=True),
    "ConversationCompleteness": _session("Were all requests of the conversation addressed by its end?"),
    "ConversationalGuidelines": _session(
        "Does the conversation follow the given guidelines?", notes="Parameter: guidelines, a text or a list of texts."
    ),
    "ConversationalRoleAdherence": _session("Does the assistant keep to its role throughout the conversation?"),
    "ConversationalSafety": _session("Are all of the assistant's turns safe?"),
    "ConversationalToolCallEfficiency": _session("Was tool use efficient over the whole conversation?"),
    "KnowledgeRetention": _session(
        "Does the assistant keep what the user told it earlier?", notes="One model call per turn."
    ),
    "UserFrustration": _session("Does the user leave without unresolved frustration?", _FRUSTRATION),
}


def guard(about: Builtin, trace: Trace | None, expectations: Mapping[str, Any] | None) -> None:
    """Check what `needs` cannot say: alternatives, and the tools offered to the model.

    Raises:
        UnscoredError: MISSING_FIELD.
    """
    if about.one_of and not any((expectations or {}).get(key) is not None for key in about.one_of):
        names = " or ".join(f"expectations.{key}" for key in about.one_of)
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs {names} (found: {', '.join(expectations or {}) or 'none'})")
    if about.offered_tools and (trace is None or trace_fields.extract(trace, "tools_available") is None):
        raise UnscoredError(
            Unscored.MISSING_FIELD, "needs the tools offered to the model (found: none recorded on its spans)"
        )
