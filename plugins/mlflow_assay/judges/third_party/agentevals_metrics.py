"""AgentEvals' evaluators of trajectories as judges: `agentevals/trajectory_match` and so on.

Straight to the library: MLflow has no wrapper for it. The model is given as OpenAI's client, which it takes; LangSmith
tracing is off for these calls. Messages are made of a run's request, tool calls and answer; the graph of a run is the
names of the steps below its root span, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BooleanValue, NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.helpers import check_params, expected_messages, on_scale, openai_messages
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["AgentEvalsMetrics"]

_TRUE = BooleanValue()
_STEPS = "expectations.expected_steps: the names of the spans below the root, in order."
_PARAMS = {
    "trajectory_match": ("trajectory_match_mode", "tool_args_match_mode"),
    "graph_trajectory_strict_match": (),
}
_JUDGE_PARAMS = ("few_shot_examples", "choices")

_METRICS = (
    Metric("trajectory_match", "Were the expected tools called?", ("spans", "input", "expected_tools"), "0", _TRUE,
           notes="Parameters: trajectory_match_mode (strict, unordered, subset, superset), tool_args_match_mode "
           "(exact, ignore, subset, superset)."),
    Metric("trajectory_llm_as_judge", "Does the agent's path make sense?", ("input", "output"), value=_TRUE),
    Metric("trajectory_llm_as_judge_with_reference", "Does the agent's path match the reference path in meaning?",
           ("input", "output", "expectations.expected_trajectory"), value=_TRUE,
           notes="expectations.expected_trajectory: a list of OpenAI messages."),
    Metric("session.trajectory_llm_as_judge", "Does the agent's path through the session make sense?", ("turns",),
           value=_TRUE, scope="session", notes="trajectory_llm_as_judge over the turns of a session."),
    Metric("graph_trajectory_strict_match", "Did the run take exactly the expected steps?",
           ("spans", "expectations.expected_steps"), "0", _TRUE, notes=_STEPS),
    Metric("graph_trajectory_llm_as_judge", "Do the run's steps make sense?", ("spans", "input", "output"),
           value=_TRUE, notes="Shown expectations.expected_steps as an example where there are any."),
)  # fmt: skip


class AgentEvalsMetrics(MetricLibrary):
    """The `contracts.JudgeLibrary` over AgentEvals."""

    name = "agentevals"
    package = "agentevals"
    module = "agentevals.trajectory"
    extra = "agentevals"
    metrics = {m.name: m for m in _METRICS}  # noqa: RUF012 - never changed
    unsupported = {}  # noqa: RUF012

    def exported(self) -> set[str]:
        """Evaluators of `agentevals.trajectory` and `agentevals.graph_trajectory`, and our forms of the judge."""
        import agentevals.trajectory
        from agentevals.graph_trajectory import llm, strict

        modules = (agentevals.trajectory, llm, strict)
        made = {n for m in modules for n in vars(m) if n.startswith("create_") and "async" not in n}
        plain = {n for n in vars(strict) if n.endswith("_match")}
        ours = {n for n in self.metrics if n.startswith("session.") or n.endswith("_with_reference")}
        return {n.removeprefix("create_").removesuffix("_evaluator") for n in made} | plain | ours

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        given = dict(params)
        check_params(f"agentevals/{metric.name}", given, _PARAMS.get(metric.name, _JUDGE_PARAMS))
        if metric.name == "trajectory_match":
            _match(given)

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            import langsmith

            with langsmith.tracing_context(enabled=False):
                found = _evaluate(metric, given, sample, client, value)
            score = found["score"]
            number = on_scale(float(score), value) if isinstance(value, NumericValue) else score
            return Measured(number, reason=found.get("comment"))

        return measured


def _match(params: Mapping[str, Any]) -> Any:
    from agentevals.trajectory import create_trajectory_match_evaluator

    try:
        return create_trajectory_match_evaluator(**params)
    except ValueError as error:
        raise ConfigError(f"AgentEvals refuses trajectory_match with {dict(params)}: {error}") from error


def _evaluate(
    metric: Metric, params: Mapping[str, Any], sample: Sample, client: JudgeClient | None, value: ValueSpec
) -> Any:
    """One evaluation by a fresh evaluator: its `score` and `comment`."""
    if metric.name == "trajectory_match":
        made, wanted = (expected_messages(sample, expected=e) for e in (False, True))
        return _match(params)(outputs=made, reference_outputs=wanted)
    if metric.name == "graph_trajectory_strict_match":
        from agentevals.graph_trajectory.strict import graph_trajectory_strict_match

        return graph_trajectory_strict_match(outputs=_graph(sample, None), reference_outputs=_expected(sample))
    assert client is not None  # noqa: S101 - the others call a model, so `build` asked for one
    continuous = isinstance(value, NumericValue) and not params.get("choices")
    options: dict[str, Any] = {"judge": client.openai(), "model": client.model, "continuous": continuous, **params}
    if metric.name == "graph_trajectory_llm_as_judge":
        from agentevals.graph_trajectory.llm import create_graph_trajectory_llm_as_judge

        graph, reference = _graph(sample, None), _expected(sample)
        judge = create_graph_trajectory_llm_as_judge(**options)
        return judge(inputs=[sample.input], outputs=graph, reference_outputs=reference)
    from agentevals.trajectory import llm

    if metric.name.endswith("_with_reference"):
        judge = llm.create_trajectory_llm_as_judge(**options)
        wanted = sample.expectations["expected_trajectory"]
        return judge(outputs=openai_messages(sample), reference_outputs=wanted)
    judge = llm.create_trajectory_llm_as_judge(prompt=llm.TRAJECTORY_ACCURACY_PROMPT, **options)
    return judge(outputs=openai_messages(sample))


def _graph(sample: Sample, steps: list[str] | None) -> dict[str, Any]:
    """A run as AgentEvals writes graphs: what went in, what came out, the steps between.

    Raises:
        UnscoredError: MISSING_FIELD, when the run has no steps below its root.
    """
    if steps is None:
        spans = sample.trace.data.spans if sample.trace is not None and sample.trace.data else []
        ordered = sorted((s for s in spans if s.parent_id is not None), key=lambda s: s.start_time_ns or 0)
        steps = [str(s.name) for s in ordered]
        if not steps:
            raise UnscoredError(Unscored.MISSING_FIELD, "needs spans below the root (found: none)")
    return {"inputs": [sample.input], "results": [sample.output], "steps": [steps]}


def _expected(sample: Sample) -> dict[str, Any] | None:
    steps = sample.expectations.get("expected_steps")
    return None if steps is None else _graph(sample, [str(step) for step in steps])
