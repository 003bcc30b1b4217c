"""Running the cases beside a definition: does the judge give the verdict each of them must get?

Against a judge model this tests the judge. Offline a scripted server answers with the very verdict the case
expects, so it tests reading the trace, rendering, the HTTP call, parsing and the pass rule, and says *nothing*
about whether a model would judge that way.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlflow_assay.contracts import BoundJudge, Unscored
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry
from mlflow_assay.judges.definition import Case, JudgeDefinition

if TYPE_CHECKING:
    from mlflow.entities import Feedback

    from mlflow_assay.testing import FakeJudgeServer

__all__ = ["OFFLINE_NOTE", "CaseResult", "example_texts", "run_cases", "run_offline"]

OFFLINE_NOTE = (
    "Offline: a scripted server gave every verdict the case expects. This tests the definitions and the plumbing "
    "(fields, rendering, HTTP, parsing, pass rule), not how well any model judges. Use --model for that."
)

# What an unscorable case shows without a script: the judge sees what is missing, or says it cannot tell.
_UNSCRIPTED = {Unscored.MISSING_FIELD, Unscored.UNREADABLE_TRACE, Unscored.UNDECIDED, Unscored.LOW_CONFIDENCE}
_AT_ONCE = 4  # cases judged side by side


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        judge, case: their names.
        kind: good, bad or unscorable.
        status: `skipped` when the case's reply is scripted and a real model answers.
        expected: the value it must get, or `unscored: <reason>`.
        got: what it got, in the same words; empty when skipped.
        detail: the judge's rationale, or why it is unscored or skipped.
        seconds: wall time.
    """

    judge: str
    case: str
    kind: Literal["good", "bad", "unscorable"]
    status: Literal["passed", "failed", "skipped"]
    expected: str
    got: str = ""
    detail: str = ""
    seconds: float = 0.0


def example_texts(definition: JudgeDefinition) -> dict[str, str]:
    """The texts the cases are written for: each variable's `example`, where it has one."""
    return {name: v.example for name, v in definition.variables.items() if v.example is not None}


def run_cases(bound: BoundJudge, definition: JudgeDefinition) -> list[CaseResult]:
    """Judge every case with the judge as it is bound: with its real model, or none.

    Args:
        bound: built from the definition, with the texts the cases are written for (`example_texts`).
        definition: the definition with the cases.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool, mlflow_endpoint.route(bound.model):
        return list(
            pool.map(lambda case: _skipped(bound, case) if _is_scripted(case) else _run(bound, case), definition.cases)
        )


def run_offline(catalogue: Catalogue, entry: JudgeEntry) -> list[CaseResult]:
    """Judge every case against a scripted server on loopback; see the module's text for what that tests.

    Raises:
        ConfigError: the judge has no definition, hence no cases.
    """
    from mlflow_assay.testing import FakeJudgeServer

    if entry.definition is None:
        raise ConfigError(f"The judge {entry.name!r} has no cases.", fix="Cases stand in a YAML definition.")
    script = {"reply": ""}
    with FakeJudgeServer(reply=lambda _: script["reply"]) as server, mlflow_endpoint.route(server.model):
        bound = catalogue.build(entry.name, server.model, example_texts(entry.definition))
        return [_run_scripted(bound, entry.definition, case, server, script) for case in entry.definition.cases]


def _run_scripted(
    bound: BoundJudge, definition: JudgeDefinition, case: Case, server: FakeJudgeServer, script: dict[str, str]
) -> CaseResult:
    """One case offline; a case that lacks a field must not have called the model at all."""
    script["reply"] = _reply(definition, case)
    before = len(server.requests)
    result = _run(bound, case)
    called = len(server.requests) > before
    wanted = bound.contract.calls_llm and case.unscored != Unscored.MISSING_FIELD
    if called == wanted:
        return result
    problem = "the judge model was called" if called else "the judge model was not called"
    return CaseResult(result.judge, case.name, case.kind, "failed", result.expected, result.got, problem)


def _reply(definition: JudgeDefinition, case: Case) -> str:
    """The case's own reply, or a well-formed one with the value the case expects."""
    from mlflow_assay.testing import answer

    if case.reply is not None:
        return case.reply
    undecided = getattr(definition.value, "undecided", None) or [None]
    return answer(case.expect if case.expect is not None else undecided[0], f"as the case {case.name!r} expects")


def _run(bound: BoundJudge, case: Case) -> CaseResult:
    from mlflow_assay.engine.judging import judge, subject_of
    from mlflow_assay.judges.case_traces import session_of, trace_of

    started = time.perf_counter()
    name = f"{bound.name}/{case.name}"
    feedback = judge(bound, subject_of(bound, trace_of(case, name), session_of(case, name)))
    seconds = time.perf_counter() - started
    expected, got = _expected(bound, case), _verdict_words(feedback)
    status: Literal["passed", "failed"] = "passed" if got == expected else "failed"
    return CaseResult(bound.name, case.name, case.kind, status, expected, got, _detail(feedback), seconds)


def _skipped(bound: BoundJudge, case: Case) -> CaseResult:
    return CaseResult(
        bound.name,
        case.name,
        case.kind,
        "skipped",
        _expected(bound, case),
        detail="its reply is scripted; use --offline",
    )


def _is_scripted(case: Case) -> bool:
    return case.unscored is not None and case.unscored not in _UNSCRIPTED


def _expected(bound: BoundJudge, case: Case) -> str:
    if case.unscored is not None:
        return f"unscored: {case.unscored.value}"
    return str(bound.contract.value.read(case.expect))


def _verdict_words(feedback: Feedback) -> str:
    from mlflow_assay.engine.judging import reason_of

    reason = reason_of(feedback)
    return f"unscored: {reason.value}" if reason else str(feedback.value)


def _detail(feedback: Feedback) -> str:
    return (feedback.error.error_message if feedback.error else feedback.rationale) or ""
