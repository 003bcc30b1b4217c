"""What assessments say: the judge's verdict a unit, and the people's labels beside it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlflow_assay import semconv
from mlflow_assay.contracts import (
    BooleanValue,
    CategoricalValue,
    JudgeContract,
    NumericValue,
    Outcome,
    Unscored,
    UnscoredError,
)
from mlflow_assay.labels.rows import Mark, Row

__all__ = [
    "NO_RULE",
    "JudgeVerdicts",
    "Reading",
    "Verdict",
    "carries_session",
    "collect",
    "human_marks",
    "is_verdict",
    "overridden",
    "read_label",
    "read_plain",
    "read_verdict",
    "scale_value",
]

RuleSource = Literal["recorded", "catalogue", "assumed", "none"]

NO_RULE = "no_pass_rule"  # the verdict's value has no known pass rule; listed among the unscored reasons

_GOOD = ("true", "yes", "pass", "passed")
_BAD = ("false", "no", "fail", "failed")
_SESSION = "mlflow.trace.session"
_SCORER_VERSION = "mlflow.assessment.scorerVersion"  # MLflow's own keys, as of 3.17
_SCORER_DIGEST = "mlflow.assessment.scorerDigest"


@dataclass(frozen=True)
class Reading:
    """A verdict's meaning: `passed` None is unscored, with the reason; `rule` says how it was read."""

    passed: bool | None
    reason: str | None
    rule: RuleSource


@dataclass(frozen=True)
class Verdict:
    """The verdict of one judge on one unit.

    Attributes:
        row: the trace it is logged on.
        unit: trace id, or session for a judge of sessions.
        mark: the assessment.
        reading: what it means.
        overridden: whether a person replaced it.
    """

    row: Row
    unit: str
    mark: Mark
    reading: Reading
    overridden: bool = False

    @property
    def trained_on(self) -> bool:
        """Whether the judge learnt from this very unit's label, so that its verdict here is no evidence."""
        return self.mark.metadata.get(semconv.TRAINED_ON) == "true"

    @property
    def version(self) -> str | None:
        """What tells this judge from its other versions: digest, else version; None where neither was recorded."""
        kept = (semconv.JUDGE_DIGEST, _SCORER_DIGEST, semconv.JUDGE_VERSION, _SCORER_VERSION)
        return next((self.mark.metadata[key] for key in kept if self.mark.metadata.get(key)), None)


@dataclass(frozen=True)
class JudgeVerdicts:
    """All that one judge said: the latest verdict of each unit, by unit.

    Attributes:
        name: the assessment name.
        scope: what a unit is.
        verdicts: unit to its verdict.
        superseded: older verdicts replaced by newer ones.
    """

    name: str
    scope: Literal["trace", "session"]
    verdicts: Mapping[str, Verdict]
    superseded: int


def read_plain(value: Any) -> bool | None:
    """True, yes, pass, 1 and their opposites as pass or fail; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    word = value.strip().lower() if isinstance(value, str) else None
    return True if word in _GOOD else False if word in _BAD else None


def _by_contract(value: Any, contract: JudgeContract) -> Reading:
    try:
        passed = contract.value.passes(contract.value.read(value))  # type: ignore[arg-type]
    except UnscoredError as error:
        return Reading(None, error.reason.value, "catalogue")
    return Reading(passed, None, "catalogue")


def read_verdict(mark: Mark, contract: JudgeContract | None) -> Reading:
    """What one assessment of a judge means.

    The outcome recorded with the verdict decides; else the judge's contract, applied to the value; else a bare
    true/false or yes/no is taken as it stands. Any other value has no pass rule and is unscored.
    """
    recorded = mark.metadata.get(semconv.OUTCOME)
    reason = mark.metadata.get(semconv.UNSCORED_REASON) or (mark.error or "").lower() or None
    if recorded in (Outcome.PASS.value, Outcome.FAIL.value):
        return Reading(recorded == Outcome.PASS.value, None, "recorded")
    if recorded == Outcome.UNSCORED.value or mark.error is not None:
        return Reading(None, reason or Unscored.JUDGE_ERROR.value, "recorded")
    if mark.value is None:
        return Reading(None, Unscored.EMPTY_REPLY.value, "recorded")
    if contract is not None:
        return _by_contract(mark.value, contract)
    # A bare 0 or 1 may be a score on any scale; only words and booleans speak for themselves.
    number = isinstance(mark.value, int | float) and not isinstance(mark.value, bool)
    plain = None if number else read_plain(mark.value)
    return Reading(plain, None, "assumed") if plain is not None else Reading(None, NO_RULE, "none")


def read_label(value: Any, contract: JudgeContract | None) -> bool | None:
    """A person's (or ground truth's) label as good or bad; None when it says neither.

    A number on a numeric judge's scale is read by its threshold; otherwise 1 and 0 are good and bad.
    """
    if contract is not None and not (isinstance(value, bool) and isinstance(contract.value, NumericValue)):
        reading = _by_contract(value, contract)
        numeric = isinstance(contract.value, NumericValue) and not isinstance(value, str)
        if reading.passed is not None or numeric:
            return reading.passed
    return read_plain(value)


def scale_value(value: Any, contract: JudgeContract | None) -> float | str | None:
    """A value on the judge's own scale, where that has more than two values: a number, or one of its words.

    Returns:
        None for pass/fail judges, and for a value that is not on the scale. Without a contract, any number that is
        no bool.
    """
    if contract is None:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if number else None
    spec = contract.value
    if isinstance(spec, BooleanValue) or (isinstance(spec, CategoricalValue) and len(spec.options) < 3):
        return None
    try:
        return spec.read(value)
    except UnscoredError:
        return None


def carries_session(mark: Mark) -> bool:
    """Whether the assessment names the session it is about."""
    return _SESSION in mark.metadata


def overridden(row: Row) -> set[str]:
    """Ids of the assessments of a trace that a person overrode."""
    return {m.overrides for m in row.marks if m.human and m.overrides and m.valid}


def is_verdict(mark: Mark, by_person: Collection[str]) -> bool:
    """Whether the assessment is a judge's verdict that counts: valid, or one that a person overrode.

    Args:
        by_person: `overridden` of its trace.
    """
    return not mark.expectation and not mark.human and (mark.valid or mark.id in by_person)


def collect(
    rows: Sequence[Row], contracts: Mapping[str, JudgeContract], sessions: Mapping[str, bool] | None = None
) -> list[JudgeVerdicts]:
    """The verdicts of every judge found in the rows, by name.

    Args:
        rows: the traces.
        contracts: what is known of the judges.
        sessions: for judges without a contract, whether they judge sessions; None finds out from the rows.

    Only valid assessments count, and only the latest of each unit. A verdict that a *person* overrode counts
    too, as what the judge said: people override what looks wrong, so leaving those out would flatter the judge.
    """
    found: dict[str, list[Verdict]] = {}
    for row in rows:
        by_person = overridden(row)
        for mark in row.marks:
            if is_verdict(mark, by_person):
                reading = read_verdict(mark, contracts.get(mark.name))
                verdict = Verdict(row, row.trace_id, mark, reading, mark.id in by_person)
                found.setdefault(mark.name, []).append(verdict)
    return [_judge(n, verdicts, contracts.get(n), (sessions or {}).get(n)) for n, verdicts in sorted(found.items())]


def _judge(
    name: str, verdicts: list[Verdict], contract: JudgeContract | None, known: bool | None = None
) -> JudgeVerdicts:
    # A verdict about a session says so: its contract does, or it carries the session's id.
    told = known if known is not None else all(carries_session(v.mark) for v in verdicts)
    sessions = contract.scope == "session" if contract else told
    latest: dict[str, Verdict] = {}
    for verdict in sorted(verdicts, key=lambda v: v.mark.time_ms):
        unit = verdict.row.unit if sessions else verdict.row.trace_id
        latest[unit] = Verdict(verdict.row, unit, verdict.mark, verdict.reading, verdict.overridden)
    scope: Literal["trace", "session"] = "session" if sessions else "trace"
    return JudgeVerdicts(name, scope, latest, len(verdicts) - len(latest))


def human_marks(rows: Iterable[Row], names: Sequence[str]) -> list[tuple[Row, Mark]]:
    """Valid feedback by people under these names, with the row it stands on."""
    return [
        (row, mark)
        for row in rows
        for mark in row.marks
        if mark.human and mark.valid and not mark.expectation and mark.name in names
    ]
