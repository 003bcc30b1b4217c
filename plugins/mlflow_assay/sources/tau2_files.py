"""The two kinds of τ²-bench file, as far as they are read: simulations, and judged conversations.

Keys not named here are ignored: the benchmark adds some with every version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_assay.errors import InputError
from mlflow_assay.sources.files import keys_of, read_json

__all__ = ["JudgeEntry", "JudgeFile", "Message", "Simulation", "SimulationFile", "load"]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ToolCall(_Lenient):
    """A tool call inside a message."""

    id: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Message(_Lenient):
    """One message of a simulation; `cost` is in US dollars, `timestamp` ISO 8601, usually without a zone."""

    role: Literal["assistant", "user", "tool", "system"]
    id: str | None = None
    content: str | None = None
    tool_calls: list[ToolCall] | None = None
    requestor: Literal["assistant", "user"] | None = None
    error: bool | None = None
    errors: list[str] | None = None
    timestamp: str | None = None
    cost: float | None = None
    usage: dict[str, Any] | None = None
    raw_data: dict[str, Any] | None = None


class RewardInfo(_Lenient):
    """What the environment's check of the final state found."""

    reward: float
    reward_basis: list[str] | None = None
    env_assertions: list[dict[str, Any]] | None = None
    action_checks: list[dict[str, Any]] | None = None


class Simulation(_Lenient):
    """One recorded run."""

    id: str
    task_id: str
    messages: list[Message] = Field(min_length=1)
    reward_info: RewardInfo | None = None
    termination_reason: str | None = None
    trial: int | None = None


class _Party(_Lenient):
    implementation: str | None = None
    llm: str | None = None


class _Environment(_Lenient):
    domain_name: str | None = None
    policy: str | None = None


class Info(_Lenient):
    """How the runs of a file were made."""

    agent_info: _Party = _Party()
    user_info: _Party = _Party()
    environment_info: _Environment = _Environment()


class _Criteria(_Lenient):
    actions: list[dict[str, Any]] | None = None
    env_assertions: list[dict[str, Any]] | None = None


class Task(_Lenient):
    """What the agent had to achieve."""

    id: str
    evaluation_criteria: _Criteria | None = None


class SimulationFile(_Lenient):
    """A file of recorded runs with their tasks."""

    info: Info = Info()
    tasks: list[Task] = Field(default_factory=list)
    simulations: list[Simulation]


class JudgeEntry(_Lenient):
    """One run judged by one prompt; the run itself stands inside `judge_prompt`."""

    simulation_id: str
    task_id: str
    label: str | None = None
    tau2_reward: float | None = None
    tau2_success: bool | None = None
    judge_prompt: str
    judge_prompt_name: str
    judge_system_prompt: str = ""
    judge_model: str
    judge_temperature: float | None = None
    judge_verdict: Any = None
    judge_justification: str | None = None
    judge_issues: list[Any] | None = None
    judge_prompt_tokens: int | None = None
    judge_completion_tokens: int | None = None
    judge_cost_usd: float | None = None


class JudgeFile(_Lenient):
    """A file of judged runs."""

    entries: list[JudgeEntry]


_File = TypeVar("_File", SimulationFile, JudgeFile)


def load(path: Path) -> SimulationFile | JudgeFile:
    """Read a τ²-bench file of either kind.

    Raises:
        InputError: it is neither, or a part of it has the wrong shape; names file and place.
    """
    document = read_json(path)
    if isinstance(document, dict) and "simulations" in document:
        return _validated(SimulationFile, document, path)
    if isinstance(document, dict) and "entries" in document:
        return _validated(JudgeFile, document, path)
    raise InputError(
        f"{path} is not a tau2 file.",
        found=keys_of(document),
        valid="an object with `simulations` (recorded runs) or `entries` (judged runs)",
        fix=_other_format(document),
    )


def _other_format(document: Any) -> str | None:
    if isinstance(document, dict) and {"resourceSpans", "resource_spans"} & set(document):
        return "It looks like OTLP: use --format otlp-json."
    return None


def _validated(model: type[_File], document: dict[str, Any], path: Path) -> _File:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        first = problems[0]
        place = ".".join(str(part) for part in first["loc"])
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{path}: {place}: {first['msg']}{more}.") from error
