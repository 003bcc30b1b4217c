"""The demo's simulated expert: thumbs, rationales and expected routes on a sample of traces.

The expert is code that knows where each request should have gone, and errs like a person now and then:
with probability `ERROR_RATE` a label is wrong, and on a request that two desks could take and that went to the
second, the expert insists on the first with probability `INSIST_RATE`. Labels say that they are simulated: the source
id begins with "simulated", the metadata carry `assay.simulated`. No model is called.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlflow_assay import semconv
from mlflow_assay.contracts import Label
from mlflow_assay.demo.prompt import DESKS
from mlflow_assay.demo.runner import DemoRun, Turn
from mlflow_assay.demo.writer import Progress, simulated
from mlflow_assay.errors import ConfigError, IncompleteError, StoreError

if TYPE_CHECKING:
    from mlflow.entities import Assessment

__all__ = ["ERROR_RATE", "EXPECTED_ROUTE", "EXPERT", "INSIST_RATE", "JUDGEMENT", "Opinion", "label", "opinion"]

ERROR_RATE: Final = 0.03  # of labels: the thumb is the wrong way round
INSIST_RATE: Final = 0.25  # on requests with two acceptable desks that went to the second one
JUDGEMENT: Final = "routing_accuracy"
EXPECTED_ROUTE: Final = "expected_route"
EXPERT: Final = "simulated-expert"

_TASKS = {
    "account": ("names, logins, SIM cards and contracts", "the customer's data", "who holds the contract"),
    "product": ("devices and plans", "choosing a phone or a plan", "what we sell and what it can do"),
    "billing": ("invoices and payments", "money that was charged", "what appears on the bill"),
    "technical_support": ("faults and settings", "service that does not work", "the line and the network"),
}
_GOOD = (
    "This is about {task}, so {route} is right.",
    "Correct, {route} deals with {task}.",
    "Right desk. The customer asks about {task}.",
    "{route} it is: {task}.",
    "I would have sent this to {route} as well.",
    "Fine. Nobody but {route} can answer a question on {task}.",
)
_BAD = (
    "Should have gone to {expected}: the question is about {task}. {route} can only pass it on.",
    "Wrong desk: {task} belongs to {expected}, not to {route}.",
    "The customer asks about {task}; {route} has neither the tools nor the knowledge for that. Ask {expected}.",
    "Misrouted, this is one for {expected} ({task}).",
    "Why {route}? Nothing here is for them. It concerns {task}, so {expected}.",
    "{expected} would have solved it at once, with {route} the customer has to wait.",
)
_BOTH = (
    "Two things at once. {route} is acceptable, though {expected} was my first thought.",
    "Could go either way, {route} can handle it.",
)


@dataclass(frozen=True)
class Opinion:
    """What the expert says about one trace.

    Attributes:
        correct: thumb up or down for the route.
        expected: the desk the expert names.
        rationale: why.
        mistaken: whether the planted error rate struck. Truth for tests; written nowhere.
    """

    correct: bool
    expected: str
    rationale: str
    mistaken: bool


def opinion(turn: Turn, *, seed: int = 7, expert: str = EXPERT) -> Opinion:
    """The expert's opinion of one trace; equal arguments give an equal one.

    Args:
        turn: the trace with its truth.
        seed: with `expert` and the request decides error, stubbornness and wording.
        expert: whose opinion; another name is another expert with errors of their own.
    """
    draw = random.Random(f"{seed} {expert} {turn.request.id} {turn.request.text}")  # noqa: S311 - a demo
    mistaken, stubborn = draw.random() < ERROR_RATE, draw.random() < INSIST_RATE
    route, first = turn.reply.route, turn.request.desk
    correct = route == first or (not turn.misrouted and not stubborn)
    if mistaken:
        correct = not correct
    expected = _expected(correct, route, first, draw)
    words = _BOTH if correct and route != first and not mistaken else _GOOD if correct else _BAD
    named = first if words is _BOTH else expected
    rationale = draw.choice(words).format(route=_name(route), expected=_name(named), task=draw.choice(_TASKS[expected]))
    return Opinion(correct, expected, rationale[0].upper() + rationale[1:], mistaken)


def _expected(correct: bool, route: str, first: str, draw: random.Random) -> str:
    if correct:
        return route
    return first if first != route else draw.choice([desk for desk in DESKS if desk != route])


def _name(desk: str) -> str:
    return desk.replace("_", " ")


def label(
    run: DemoRun,
    *,
    sample: int = 120,
    seed: int = 7,
    expert: str = EXPERT,
    progress: Progress | None = None,
) -> list[Label]:
    """Let the simulated expert label a simple random sample of a run's traces in MLflow.

    Each labelled trace gets a HUMAN feedback `routing_accuracy` (bool, with rationale) and an expectation
    `expected_route`. Every trace is equally likely to be drawn, `sample / len(run.turns)`, so a share among the labels
    estimates the share among all traces. A trace that this expert has labelled already is not labelled again.

    Args:
        run: what `runner.run` returned.
        sample: how many traces; all of them if there are fewer.
        seed: decides which traces, and the expert's errors.
        expert: source id of the labels; begins with "simulated". Another one is a second expert, on the same
            traces if the seed is the same.
        progress: called with (traces labelled, traces to label).

    Returns:
        The thumbs, in order of time; the expected routes are in MLflow only.

    Raises:
        ConfigError: `sample` below 1, or an expert's name that hides the simulation.
        StoreError: MLflow refused a label.
        IncompleteError: labels are missing from MLflow afterwards.
    """
    if sample < 1 or not expert.startswith("simulated"):
        raise ConfigError(
            "The demo's expert needs traces to label and a name that begins with 'simulated'.",
            found=f"sample {sample}, expert {expert!r}",
        )
    chosen = _sample(run, sample, seed)
    opinions = {turn.trace_id: opinion(turn, seed=seed, expert=expert) for turn in chosen}
    present = _labelled(run.experiment_id, expert)
    for number, (trace_id, said) in enumerate(opinions.items(), start=1):
        _log(trace_id, said, expert, present.get(trace_id, set()))
        if progress:
            progress(number, len(opinions))
    _check(run, opinions, expert)
    return [Label(trace, JUDGEMENT, said.correct, expert, said.rationale) for trace, said in opinions.items()]


def _sample(run: DemoRun, size: int, seed: int) -> list[Turn]:
    draw = random.Random(f"sample {seed}")  # noqa: S311 - a demo, not a secret
    places = draw.sample(range(len(run.turns)), k=min(size, len(run.turns)))
    return [run.turns[place] for place in sorted(places)]


def _log(trace_id: str, said: Opinion, expert: str, present: set[str]) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource
    from mlflow.exceptions import MlflowException

    common: dict[str, Any] = {
        "trace_id": trace_id,
        "source": AssessmentSource(source_type="HUMAN", source_id=expert),
        "metadata": {semconv.SIMULATED: "true"},
    }
    try:
        if JUDGEMENT not in present:
            mlflow.log_feedback(name=JUDGEMENT, value=said.correct, rationale=said.rationale, **common)
        if EXPECTED_ROUTE not in present:
            mlflow.log_expectation(name=EXPECTED_ROUTE, value=said.expected, **common)
    except MlflowException as error:
        raise StoreError(f"MLflow refused a label on {trace_id}: {error.message}") from error


def _check(run: DemoRun, opinions: dict[str, Opinion], expert: str) -> None:
    stored = _labelled(run.experiment_id, expert)
    missing = [trace for trace in opinions if not {JUDGEMENT, EXPECTED_ROUTE} <= stored.get(trace, set())]
    if missing:
        raise IncompleteError(
            f"{len(missing)} of {len(opinions)} labelled traces lack a label in MLflow.", found=", ".join(missing[:5])
        )


def _labelled(experiment_id: str, expert: str) -> dict[str, set[str]]:
    """Trace id -> names of this expert's assessments."""
    found: dict[str, set[str]] = {}
    for trace_id, assessment in _assessments(experiment_id):
        if assessment.source.source_id == expert:
            found.setdefault(trace_id, set()).add(assessment.name)
    return found


def _assessments(experiment_id: str) -> Iterator[tuple[str, Assessment]]:
    for trace in simulated(experiment_id, spans=False):
        for assessment in trace.info.assessments:
            yield trace.info.trace_id, assessment
