"""τ²-bench (Sierra Research): recorded simulations, and conversations judged by recorded LLM judges.

Both parties are models: the "customer" is simulated, and the ground truth is the environment's check of the final
state, not a person's. Tags and assessments say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import Outcome, UnscoredError
from mlflow_assay.errors import InputError
from mlflow_assay.sources import tau2_verdicts
from mlflow_assay.sources.dialogue import Call, Dialogue, Result, Said, spans
from mlflow_assay.sources.recorded import RecordedAssessment, RecordedJudge, RecordedRun, digest
from mlflow_assay.sources.tau2_files import (
    Info,
    JudgeEntry,
    Message,
    Simulation,
    SimulationFile,
    Task,
    load,
)
from mlflow_assay.sources.tau2_transcript import JudgePrompt, TranscriptError, events, split

__all__ = ["ENVIRONMENT", "Tau2Importer"]

ENVIRONMENT = "tau2-bench environment"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_BROKEN_OFF = ("too_many_errors", "agent_error", "user_error", "unexpected_error", "infrastructure_error")
_DOMAIN = re.compile(r"\ADomain: (\S+)")
_VERSION = re.compile(r"_v(\d[\w.]*)\Z")


class Tau2Importer:
    """Reads both kinds of τ²-bench file; a run judged in several files is the same run in each."""

    format: ClassVar[str] = "tau2"

    def runs(self, path: Path) -> Iterator[RecordedRun]:
        """The recorded runs of one file, gzip or plain JSON.

        Raises:
            InputError: the file is not such a file, or a judged conversation cannot be read back into turns.
        """
        file = load(path)
        if isinstance(file, SimulationFile):
            tasks = {task.id: task for task in file.tasks}
            for simulation in file.simulations:
                yield _simulated(simulation, file.info, tasks.get(simulation.task_id))
            return
        for number, entry in enumerate(file.entries):
            try:
                yield _judged(entry)
            except TranscriptError as error:
                raise InputError(
                    f"{path}: entries.{number}.judge_prompt (run {entry.simulation_id!r}) is not a "
                    f"conversation with numbered turns: {error}."
                ) from error


# --- simulations ---------------------------------------------------------------------------------------


def _simulated(run: Simulation, info: Info, task: Task | None) -> RecordedRun:
    domain = info.environment_info.domain_name
    broken = run.termination_reason in _BROKEN_OFF
    talk = Dialogue(
        id=run.id,
        name=f"{domain or 'tau2'} agent",
        events=tuple(_events(run.messages)),
        model=info.agent_info.llm,
        policy=info.environment_info.policy,
        customer=info.user_info.llm,
        error=f"the run broke off: {run.termination_reason}" if broken else None,
    )
    tags = {
        semconv.TAG_DOMAIN: domain,
        semconv.TAG_MODEL: info.agent_info.llm,
        semconv.TAG_AGENT: info.agent_info.implementation,
        semconv.TAG_TERMINATION: run.termination_reason,
        "trial": str(run.trial) if run.trial is not None else None,
        semconv.SOURCE_TIMES: _times_tag(talk, run.messages),
    }
    return _run(talk, run.task_id, tags, [*_expected(run.id, task), *_checked(run)])


def _run(talk: Dialogue, task: str, tags: dict[str, str | None], found: Sequence[RecordedAssessment]) -> RecordedRun:
    known = {semconv.TAG_TASK: task, semconv.TAG_CUSTOMER: "simulated", **tags}
    return RecordedRun(
        format=Tau2Importer.format,
        id=talk.id,
        spans=spans(talk),
        assessments=tuple(found),
        tags={key: value for key, value in known.items() if value is not None},
        session_id=talk.id,
    )


def _times_tag(talk: Dialogue, messages: Sequence[Message]) -> str:
    if not talk.timed:
        return "not recorded: the n-th event is placed n ms after 2025-01-01T00:00:00Z"
    zoned = all(_moment(m.timestamp or "").tzinfo for m in messages)
    return "recorded" if zoned else "recorded without a time zone, read as UTC"


def _events(messages: Sequence[Message]) -> Iterator[Said | Result]:
    calls: dict[tuple[str, str], Call] = {}
    for index, message in enumerate(m for m in messages if m.role != "system"):
        if message.role == "tool":
            actor = "customer" if message.requestor == "user" else "agent"
            yield Result(
                who="customer" if actor == "customer" else "agent",
                id=message.id or "",
                call=calls.get((actor, message.id or "")),
                content=message.content or "",
                failed=bool(message.error),
                at_ns=_nanoseconds(message.timestamp),
            )
            continue
        said = _said(message, first=index == 0)
        calls.update(((said.who, call.id), call) for call in said.calls)
        yield said


def _said(message: Message, first: bool) -> Said:
    usage = message.usage or {}
    raw = message.raw_data or {}
    # The benchmark writes cost 0 where it knows no price for the model (a fine-tuned one, for example).
    return Said(
        who="agent" if message.role == "assistant" else "customer",
        text=message.content or None,
        calls=tuple(Call(c.id, c.name, c.arguments) for c in message.tool_calls or ()),
        at_ns=_nanoseconds(message.timestamp),
        canned=first and message.role == "assistant" and message.usage is None,
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        cost_usd=message.cost or None,
        finish_reason=raw.get("finish_reason"),
        attributes={"tau2.errors": message.errors} if message.errors else {},
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _nanoseconds(text: str | None) -> int | None:
    try:
        moment = _moment(text) if text else None
    except ValueError:
        return None
    if moment is None:
        return None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


# --- ground truth --------------------------------------------------------------------------------------


def _expected(run_id: str, task: Task | None) -> Iterator[RecordedAssessment]:
    criteria = task.evaluation_criteria if task else None
    if criteria is None:
        return
    actions = [
        {"by": a.get("requestor"), "name": a.get("name"), "arguments": a.get("arguments")}
        for a in criteria.actions or []
    ]
    checks = [_assertion(a) for a in criteria.env_assertions or []]
    for name, value in (("expected_actions", actions), ("expected_final_state", checks)):
        if value:
            yield RecordedAssessment(
                kind="expectation",
                id=digest([run_id, name, value]),
                name=name,
                value=value,
                source_type="CODE",
                source_id=ENVIRONMENT,
            )


def _assertion(check: dict[str, Any]) -> str:
    arguments = ", ".join(f"{k}={v!r}" for k, v in (check.get("arguments") or {}).items())
    negated = "" if check.get("assert_value", True) else "not "
    return f"{negated}{check.get('func_name')}({arguments})"


def _checked(run: Simulation) -> Iterator[RecordedAssessment]:
    reward = run.reward_info
    if reward is None:
        return
    findings = [
        f"{_assertion(a.get('env_assertion') or {})}: {'met' if a.get('met') else 'not met'}"
        for a in reward.env_assertions or []
    ]
    actions = reward.action_checks or []
    if actions:
        matched = sum(bool(a.get("action_match")) for a in actions)
        findings.append(f"expected actions matched: {matched} of {len(actions)}")
    yield _success(run.id, reward.reward >= 1.0, reward.reward, findings, ", ".join(reward.reward_basis or []))


def _success(run_id: str, solved: bool, reward: float, findings: list[str], basis: str) -> RecordedAssessment:
    said = f"The environment checked the final state, no person did: reward {reward:g}."
    metadata = {"tau2.reward": f"{reward:g}", "tau2.reward_basis": basis}
    return RecordedAssessment(
        kind="feedback",
        id=digest([run_id, "task_success", solved]),
        name="task_success",
        value=solved,
        source_type="CODE",
        source_id=ENVIRONMENT,
        rationale="\n".join([said, *(f"- {finding}" for finding in findings)]),
        metadata={key: value for key, value in metadata.items() if value},
    )


# --- judged conversations ------------------------------------------------------------------------------


def _judged(entry: JudgeEntry) -> RecordedRun:
    prompt = split(entry.judge_prompt)
    domain = _DOMAIN.match(prompt.opening)
    name = domain[1] if domain else None
    talk = Dialogue(id=entry.simulation_id, name=f"{name or 'tau2'} agent", events=events(prompt.transcript))
    if not talk.events:
        raise TranscriptError("the transcript is empty")
    tags = {
        semconv.TAG_DOMAIN: name,
        semconv.TAG_MODEL: "not recorded",
        semconv.SOURCE_LABEL: entry.label,
        semconv.SOURCE_TIMES: _times_tag(talk, ()),
    }
    return _run(talk, entry.task_id, tags, [*_truth(entry), _verdict(entry, prompt)])


def _truth(entry: JudgeEntry) -> Iterator[RecordedAssessment]:
    solved = entry.tau2_success if entry.tau2_success is not None else None
    if solved is None and entry.tau2_reward is not None:
        solved = entry.tau2_reward >= 1.0
    if solved is not None:
        reward = entry.tau2_reward if entry.tau2_reward is not None else float(solved)
        yield _success(entry.simulation_id, solved, reward, [], "")


def _verdict(entry: JudgeEntry, prompt: JudgePrompt) -> RecordedAssessment:
    judge = _judge(entry, prompt)
    said = [entry.judge_verdict, entry.judge_justification, entry.judge_issues]
    value, unscored, read_as, metadata = _reading(entry)
    return RecordedAssessment(
        kind="verdict",
        id=digest([entry.simulation_id, judge.name, judge.digest, said]),
        name=judge.name,
        value=value,
        source_type="LLM_JUDGE",
        source_id=entry.judge_model,
        rationale=_rationale(entry),
        metadata={
            semconv.JUDGE_NAME: judge.name,
            semconv.JUDGE_VERSION: judge.version,
            semconv.JUDGE_DIGEST: judge.digest,
            semconv.JUDGE_KIND: "instructions",
            semconv.JUDGE_MODEL: judge.model_uri,
            **metadata,
            **_spent(entry),
        },
        unscored=unscored,
        raw=str(entry.judge_verdict),
        read_as=read_as,
        judge=judge,
    )


def _reading(entry: JudgeEntry) -> tuple[bool | None, Any, str, dict[str, str]]:
    """Value, reason when unscored, how it was read, and the metadata that says so."""
    raw = {semconv.RAW_VALUE: str(entry.judge_verdict)}
    try:
        passed, read_as = tau2_verdicts.read(entry.judge_verdict)
    except UnscoredError as error:
        why = {semconv.OUTCOME: Outcome.UNSCORED.value, semconv.UNSCORED_REASON: error.reason.value}
        return None, (error.reason, error.detail), f"unscored: {error.reason.value}", {**raw, **why}
    outcome = Outcome.PASS if passed else Outcome.FAIL
    return passed, None, read_as, {**raw, semconv.OUTCOME: outcome.value}


def _rationale(entry: JudgeEntry) -> str | None:
    lines = [entry.judge_justification or ""]
    for issue in entry.judge_issues or []:
        text = " — ".join(str(v) for v in issue.values()) if isinstance(issue, dict) else str(issue)
        lines.append(f"- {text}")
    return "\n".join(line for line in lines if line) or None


def _spent(entry: JudgeEntry) -> dict[str, str]:
    spent = {
        "mlflow.assessment.judgeCost": entry.judge_cost_usd,
        "mlflow.assessment.judgeInputTokens": entry.judge_prompt_tokens,
        "mlflow.assessment.judgeOutputTokens": entry.judge_completion_tokens,
    }
    return {key: str(value) for key, value in spent.items() if value is not None}


def _judge(entry: JudgeEntry, prompt: JudgePrompt) -> RecordedJudge:
    version = _VERSION.search(entry.judge_prompt_name)
    temperature = entry.judge_temperature
    return RecordedJudge(
        name=entry.judge_prompt_name,
        version=version[1] if version else "1",
        model=entry.judge_model,
        model_uri=entry.judge_model.replace("/", ":/", 1),
        parameters={} if temperature is None else {"temperature": temperature},
        system_prompt=entry.judge_system_prompt,
        opening=prompt.opening,
        instructions=prompt.instructions,
    )
