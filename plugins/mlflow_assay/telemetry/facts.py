"""What MLflow knows of a running trace and leaves out of its export, as attributes."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay import semconv
from mlflow_assay.engine.prices import cost, price_of
from mlflow_assay.sampling import chosen

if TYPE_CHECKING:
    from mlflow_assay.telemetry.settings import Settings

__all__ = ["Facts", "call_cost", "facts_of", "user_hash"]

_SESSION, _USER = "mlflow.trace.session", "mlflow.trace.user"
_PROMPTS = "mlflow.linkedPrompts"


@dataclass(frozen=True)
class Facts:
    """What is added to a trace's spans.

    Attributes:
        everywhere: to every span.
        root: to the root span alone.
        agents: the agent of each span known, by span id: the nearest agent above it, else the trace's tag.
        agent: for spans not in `agents`; None where nothing says it.
    """

    everywhere: Mapping[str, Any] = field(default_factory=dict)
    root: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    agent: str | None = None


def user_hash(user: str, key: str) -> str:
    """16 hex digits by which a user is told from others, and which cannot be guessed back without the key."""
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()[:16]


def facts_of(trace: Any, settings: Settings) -> Facts:
    """The facts of a trace as MLflow's trace manager holds it now; call with the manager's lock held."""
    info, spans = trace.info, trace.span_dict
    agent = info.tags.get(semconv.TAG_AGENT)
    return Facts(
        everywhere=dict(_everywhere(info, settings)),
        root=dict(_root(spans)),
        agents=_agents(spans, agent),
        agent=agent,
    )


def _everywhere(info: Any, settings: Settings) -> Iterator[tuple[str, Any]]:
    # On every span, since the root is the last to arrive: a tail sampler may have decided by then.
    if settings.judge_sample and chosen(info.trace_id, settings.judge_sample):
        yield semconv.SAMPLING_KEEP, True
    if session := info.trace_metadata.get(_SESSION):
        yield semconv.GEN_AI_CONVERSATION, session
    if (user := info.trace_metadata.get(_USER)) and settings.user_key:
        yield semconv.USER_HASH, user_hash(user, settings.user_key)
    if info.experiment_id:
        yield semconv.EXPERIMENT_ID, info.experiment_id
    if prompts := _prompts(info.tags.get(_PROMPTS)):
        yield semconv.PROMPT_VERSION, prompts
    for name, value in info.tags.items():
        if not name.startswith("mlflow.") and (settings.tags is None or name in settings.tags):
            yield f"{semconv.SLICE}.{name}", value


def _prompts(tag: str | None) -> str | None:
    """`<name>/<version>`, several joined by commas."""
    try:
        return ",".join(f"{prompt['name']}/{prompt['version']}" for prompt in json.loads(tag or "[]")) or None
    except (ValueError, TypeError, KeyError):
        return None


def _root(spans: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    costs = [paid for span in spans.values() if (paid := call_cost(span.get_attribute)) is not None]
    if costs:
        yield semconv.TRACE_COST, sum(costs)


def call_cost(read: Any) -> float | None:
    """What a span's model call cost in US dollars: as recorded, else by MLflow's catalogue; None where unknown."""
    said = read("mlflow.llm.cost")
    if isinstance(said, Mapping) and isinstance(total := said.get("total_cost"), (int, float)):
        return float(total)
    model, provider, usage = read("mlflow.llm.model"), read("mlflow.llm.provider"), read("mlflow.chat.tokenUsage")
    if not isinstance(model, str) or not isinstance(usage, Mapping):
        return None
    provider, model = (provider, model) if provider else model.split("/", 1) if "/" in model else (None, model)
    price = price_of(f"{str(provider).lower()}:/{model}") if provider else None
    return None if price is None else cost(price, usage.get("input_tokens") or 0, usage.get("output_tokens") or 0)


def _agents(spans: Mapping[str, Any], fallback: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for span_id in spans:
        at, seen = spans.get(span_id), set()
        while at is not None and at.span_id not in seen:
            seen.add(at.span_id)
            if at.span_type == "AGENT":
                found[span_id] = str(at.get_attribute(semconv.GEN_AI_AGENT) or at.name)
                break
            at = spans.get(at.parent_id) if at.parent_id else None
        else:
            if fallback:
                found[span_id] = fallback
    return found
