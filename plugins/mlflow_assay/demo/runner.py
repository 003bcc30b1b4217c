"""Plays the demo's traffic: every request through the agent, every trace into MLflow.

Customers, agent and times are simulated by code; no model is called. `expert.label` adds the simulated
expert's labels. Later issues join here: a dataset of failures, a better prompt, a paired comparison; both
prompts can be run over the same requests by giving `run` another `prompt_uri`.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Final

from mlflow_assay import semconv
from mlflow_assay.demo import prompt as prompts
from mlflow_assay.demo.agent import Agent, Reply
from mlflow_assay.demo.recorder import MODEL
from mlflow_assay.demo.requests import Request, generate
from mlflow_assay.demo.writer import Progress, TraceRecord, write
from mlflow_assay.errors import ConfigError, StoreError

__all__ = ["DemoRun", "Turn", "play", "run"]

SOURCE_FORMAT: Final = "demo"


@dataclass(frozen=True)
class Turn:
    """One request and what became of it: the truth about a trace, known because it is simulated.

    Attributes:
        trace_id: `tr-<32 hex>`.
        session_id: the MLflow session.
        request: the request, with the desk an expert expects.
        reply: what the agent did.
        started: when the request arrived (UTC).
    """

    trace_id: str
    session_id: str
    request: Request
    reply: Reply
    started: datetime

    @property
    def misrouted(self) -> bool:
        """Whether the request went to a desk that no expert would accept."""
        return self.reply.route not in self.request.acceptable


@dataclass(frozen=True)
class DemoRun:
    """What `run` did.

    Attributes:
        experiment: name of the experiment.
        experiment_id: its id.
        prompt_uri: the prompt version used, for example `prompts:/telecom_router/1`.
        turns: one a trace, oldest first.
        seconds: wall time of writing and checking.
    """

    experiment: str
    experiment_id: str
    prompt_uri: str
    turns: tuple[Turn, ...]
    seconds: float

    @property
    def trace_ids(self) -> list[str]:
        """All trace ids, oldest first."""
        return [turn.trace_id for turn in self.turns]

    @property
    def session_ids(self) -> list[str]:
        """All sessions, in order of their first trace."""
        return list(dict.fromkeys(turn.session_id for turn in self.turns))

    @property
    def spans(self) -> int:
        """Number of spans written."""
        return sum(len(turn.reply.spans) for turn in self.turns)

    @property
    def prevalence(self) -> float:
        """True share of misrouted requests in [0, 1]. No judge sees it."""
        return sum(turn.misrouted for turn in self.turns) / len(self.turns)

    def by_day(self) -> dict[date, tuple[int, int]]:
        """Day (UTC) -> (traces, misrouted among them), in order of time."""
        days: dict[date, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for turn in self.turns:
            total, bad = days[turn.started.date()]
            days[turn.started.date()] = (total + 1, bad + turn.misrouted)
        return dict(days)


def play(agent: Agent, requests: Sequence[Request], *, now: datetime, salt: str = "") -> tuple[Turn, ...]:
    """Send every request through the agent, in order, without MLflow.

    Args:
        agent: the agent.
        requests: oldest first, as `requests.generate` gives them.
        now: the moment that ages are relative to; aware.
        salt: makes trace and session ids differ between runs; equal input gives equal ids.
    """
    history: dict[str, list[tuple[str, str]]] = defaultdict(list)
    turns: list[Turn] = []
    for request in requests:
        started = now - timedelta(seconds=request.age_s)
        reply = agent.respond(
            request.text,
            customer=request.customer,
            history=tuple(history[request.session]),
            key=request.id,
            start_ns=int(started.timestamp() * 1000) * 1_000_000,
        )
        history[request.session].append((request.text, reply.answer or "(no answer)"))
        trace_id = f"tr-{_digest(salt, 'trace', request.id, request.text)[:32]}"
        session_id = f"demo-{_digest(salt, 'run')[:6]}-{request.session}"
        turns.append(Turn(trace_id, session_id, request, reply, started))
    return tuple(turns)


def run(
    experiment: str,
    *,
    requests: int = 400,
    seed: int = 7,
    days: float = 14.0,
    now: datetime | None = None,
    prompt_uri: str | None = None,
    progress: Progress | None = None,
) -> DemoRun:
    """Run the simulated agent over simulated traffic and write its traces to MLflow.

    Equal arguments (with an explicit `now`) give equal traces, ids included, and replace one another; without
    `now` each run adds new traffic.

    Args:
        experiment: name of the MLflow experiment; created if there is none.
        requests: how many requests, one trace each.
        seed: decides texts, sessions, times, latencies and planted faults.
        days: length of the period, which ends now.
        now: the end of the period, aware; None for the present.
        prompt_uri: the router prompt to use, for example `prompts:/telecom_router@production`; None registers
            the first version, the one with the fault, unless it is registered already.
        progress: called with (traces written, traces in all).

    Raises:
        ConfigError: the prompt cannot be used, `now` is naive, or there is nothing to run.
        StoreError: MLflow cannot be reached or its store cannot hold spans.
        IncompleteError: traces or spans are missing from MLflow afterwards.
    """
    moment = now or datetime.now(timezone.utc)
    if moment.tzinfo is None:
        raise ConfigError("`now` needs a time zone.", found=repr(moment))
    traffic = generate(requests, seed=seed, days=days)
    experiment_id, prompt = _experiment(experiment), _prompt(prompt_uri)
    version = prompt.version
    uri = f"prompts:/{version.name}/{version.version}" if version else ""
    salt = _digest(experiment_id, uri, str(seed), str(requests), str(days), moment.isoformat())
    turns = play(Agent(prompt, seed=seed), traffic, now=moment, salt=salt)
    began = time.perf_counter()
    write(experiment_id, [_record(turn, seed) for turn in turns], prompt=version, progress=progress)
    return DemoRun(experiment, experiment_id, uri, turns, time.perf_counter() - began)


def _prompt(uri: str | None) -> prompts.RouterPrompt:
    from mlflow.exceptions import MlflowException

    try:
        if uri is None:
            version = prompts.register()
            uri = f"prompts:/{version.name}/{version.version}"
        return prompts.load(uri)
    except MlflowException as error:
        raise StoreError(f"The router's prompt {uri or prompts.PROMPT_NAME!r} could not be used: {error}") from error


def _experiment(name: str) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))
    except MlflowException as error:
        raise StoreError(f"The experiment {name!r} could not be used: {error.message}") from error


def _record(turn: Turn, seed: int) -> TraceRecord:
    return TraceRecord(
        trace_id=turn.trace_id,
        spans=turn.reply.spans,
        session=turn.session_id,
        user=turn.request.customer,
        tags={
            semconv.SIMULATED: "true",
            semconv.SOURCE_FORMAT: SOURCE_FORMAT,
            semconv.SOURCE_ID: f"{SOURCE_FORMAT}-{seed}-{turn.request.id}",
            semconv.TAG_AGENT: turn.reply.route,
            semconv.TAG_DOMAIN: "telecom",
            semconv.TAG_MODEL: MODEL,
        },
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
