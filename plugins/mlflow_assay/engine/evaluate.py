"""`mlflow.genai.evaluate` on this engine: the same data in, the same assessments, metrics and result out.

A judge of the catalogue keeps its contract: one verdict a row, pass, fail or unscored. Any other MLflow scorer
keeps MLflow's meaning: its values as they are, several or none where it gives several or none, and pass or fail
only where it has a pass rule, a bool or yes/no. `make_judge` judges on OpenAI-compatible endpoints take the fast
path and the cache; every other scorer runs in a bounded thread pool.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from mlflow_assay import semconv
from mlflow_assay.contracts import AnyValue, BoundJudge, JudgeContract, ModelSettings, Outcome, Unscored, ValueSpec
from mlflow_assay.engine import judging, mlflow_rows
from mlflow_assay.engine.chat import check_credentials
from mlflow_assay.engine.plan import Due, Plan
from mlflow_assay.engine.run import LocalEngine, Options, _in_pool, _Job
from mlflow_assay.errors import ConfigError
from mlflow_assay.sinks.mlflow_assessments import MlflowSink, assessment_id

if TYPE_CHECKING:
    import aiohttp
    from mlflow.entities import Feedback, Trace
    from mlflow.genai.evaluation.entities import EvalItem, EvaluationResult
    from mlflow.genai.scorers import Scorer

__all__ = ["as_judge", "bind", "evaluate"]

PLAIN = "scorer"  # the contract kind of a scorer that declares none
_PATHS = {"inputs", "outputs", "expectations", "conversation"}


def evaluate(
    data: Any,
    judges: Sequence[BoundJudge],
    predict_fn: Callable[..., Any] | None,
    model_id: str | None,
    options: Options,
    check: Callable[[Sequence[tuple[str, str]]], None],
) -> EvaluationResult:
    """See `pipeline.evaluate`.

    Args:
        judges: catalogue judges, and scorers bound by `bind`.
        check: raises where one of these (trace id, assessment id) is not in the store.
    """
    mlflow_rows.check_version()
    scorers = [judge.scorer for judge in judges]
    given = mlflow_rows.read_data(data, scorers, predict_fn)
    since_ms = int(time.time() * 1000)
    with mlflow_rows.open_run(given, scorers, predict_fn, model_id) as run:
        run_id = run.info.run_id
        items = mlflow_rows.trace_items(given.frame, predict_fn, run.info.experiment_id, options.threads)
        engine = _RowEngine(items, judges, replace(options, run_id=run_id))
        engine.run()
        expected = [mlflow_rows.expectations_of(item, run_id) for item in items]
        engine.store_expectations(expected)
        check(engine.stored)
        found = [[*engine.found[row], *expected[row]] for row in range(len(items))]
        return mlflow_rows.summarise(run, given, items, found, scorers, since_ms)


def bind(scorer: Scorer) -> BoundJudge:
    """An MLflow scorer that declares no contract, with MLflow's own meaning of its values.

    Raises:
        ConfigError: it asks a model whose key is not set.
    """
    from mlflow.genai.judges.instructions_judge import InstructionsJudge

    contract = JudgeContract(
        name=scorer.name,
        purpose=scorer.description or "",
        value=cast(ValueSpec, AnyValue(scorer.pass_if)),
        scope="session" if scorer.is_session_level_scorer else "trace",
        kind=PLAIN,
        calls_llm=isinstance(scorer, InstructionsJudge),
    )
    if not isinstance(scorer, InstructionsJudge) or not set(scorer.template_variables) <= _PATHS:
        return BoundJudge(contract, scorer, _digest(scorer.name))
    judge: Any = scorer
    model = ModelSettings(
        judge.model, judge._base_url, dict(judge._inference_params or {}), dict(judge._extra_headers or {})
    )
    check_credentials(model)
    facts = (judge.instructions, str(judge._feedback_value_type), judge._generate_rationale_first)
    digest = _digest("make_judge", _mlflow_version(), model.uri, dict(model.params), *facts)
    unusual = judge._include_timing_in_conversation or judge._include_tool_calls_in_conversation
    return BoundJudge(contract, scorer, digest, None if unusual else model)


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _mlflow_version() -> str:
    import mlflow

    return str(mlflow.__version__)


@dataclass(frozen=True)
class _RowDue(Due):
    """A verdict owed to a row; for a session-level judge, to its session's first row."""

    row: int = 0
    session_name: str | None = None


class _RowEngine(LocalEngine):
    """The local engine over rows instead of a store's traces; keeps what each row got."""

    def __init__(self, items: Sequence[EvalItem], judges: Sequence[BoundJudge], options: Options) -> None:
        self._items = items
        self._traces: dict[str, Trace] = {str(i.trace.info.trace_id): i.trace for i in items if i.trace is not None}
        self.found: list[list[Feedback]] = [[] for _ in items]
        self._given: Counter[tuple[int, str]] = Counter()
        plan = _plan(items, judges)
        super().__init__(plan, lambda ids: [self._traces[i] for i in ids], MlflowSink(), options)

    def store_expectations(self, expected: Sequence[Sequence[Any]]) -> None:
        """Write the rows' expectations and count them among what must be there."""
        fresh = [one for row in expected for one in row]
        for one in fresh:
            one.assessment_id = assessment_id(one.trace_id, one.name, f"expectation {self._options.run_id}", 0)
        if fresh:
            self._sink.write(fresh)
            self.stored.extend((one.trace_id, one.assessment_id) for one in fresh)

    def _subject(self, bound: BoundJudge, due: Due, traces: dict[str, Trace]) -> judging.Subject:
        """What the row says comes before what its trace says."""
        item = self._item(due)
        subject = super()._subject(bound, due, traces)
        given = {k: getattr(item, k) for k in ("inputs", "outputs") if k not in bound.fields}
        given = {name: value for name, value in given.items() if value is not None}
        return replace(subject, **given, expectations={**subject.expectations, **(item.expectations or {})})

    def _item(self, due: Due) -> EvalItem:
        return self._items[cast(_RowDue, due).row]

    async def _verdicts(self, job: _Job, http: aiohttp.ClientSession, pool: ThreadPoolExecutor) -> list[Feedback]:
        if job.bound.contract.kind != PLAIN or (job.chat is not None and _is_shown(job)):
            return await super()._verdicts(job, http, pool)
        return await _in_pool(pool, self._plain, job)

    def _plain(self, job: _Job) -> list[Feedback]:
        """A scorer called as `mlflow.genai.evaluate` calls it."""
        item, started = self._item(job.due), time.perf_counter()
        if job.due.session:
            shown: dict[str, Any] = {"session": list(job.subject.session)}
        else:
            shown = {k: getattr(item, k) for k in ("inputs", "outputs", "expectations", "trace")}
        made = mlflow_rows.value_feedbacks(job.bound.scorer, shown)
        elapsed = (time.perf_counter() - started) * 1000
        for feedback in made:
            feedback.metadata = {**(feedback.metadata or {}), **_facts(job, feedback, elapsed)}
        return made

    def _stamp(self, job: _Job, feedback: Feedback) -> Feedback:
        row = cast(_RowDue, job.due).row
        feedback = super()._stamp(job, feedback)
        feedback.trace_id, feedback.overrides = job.due.trace_id, None
        if job.bound.contract.kind == PLAIN:
            # Without a digest it is not taken for a standing verdict of `score`.
            feedback.metadata = {k: v for k, v in (feedback.metadata or {}).items() if k != semconv.JUDGE_DIGEST}
        mlflow_rows.mark(job.bound.scorer, feedback)
        basis = f"{self._options.run_id} {row} {job.due.judge}"
        revision = self._given[(row, feedback.name)]
        self._given[(row, feedback.name)] += 1
        feedback.span_id = feedback.span_id or mlflow_rows.root_span_id(self._traces[job.due.trace_id])
        feedback.assessment_id = assessment_id(job.due.trace_id, feedback.name, basis, revision)
        self.found[row].append(feedback)
        return feedback


def _plan(items: Sequence[EvalItem], judges: Sequence[BoundJudge]) -> Plan:
    """Every row (or session) owes every judge a verdict, whatever stands already: each evaluation is a new one."""
    plan = Plan(judges, traces=len(items))
    sessions = mlflow_rows.sessions_of(items) if any(j.contract.scope == "session" for j in judges) else {}
    for index, judge in enumerate(judges):
        if judge.contract.scope == "session":
            for name, rows in sessions.items():
                plan.due[f"session {name}"].append(_session_due(index, judge, name, items, rows))
            plan.no_session[index] = len(items) - sum(len(rows) for rows in sessions.values())
            continue
        for row, item in enumerate(items):
            plan.due[f"row {row}"].append(_RowDue(index, _id(item), row=row))
    return plan


def _session_due(index: int, judge: BoundJudge, name: str, items: Sequence[EvalItem], rows: list[int]) -> _RowDue:
    """A session's verdict, logged on its first trace. A plain scorer is shown the rows in their order, as by MLflow."""
    by_time = sorted(rows, key=lambda row: items[row].trace.info.request_time)
    shown = rows if judge.contract.kind == PLAIN else by_time
    ids = tuple(_id(items[row]) for row in shown)
    return _RowDue(index, _id(items[by_time[0]]), session=ids, row=by_time[0], session_name=name)


def _id(item: EvalItem) -> str:
    return str(item.trace.info.trace_id)


def _is_shown(job: _Job) -> bool:
    """Whether all that a judge's instructions name is there; where not, MLflow looks for it in other ways."""
    named = set(cast(Any, job.bound.scorer).template_variables)
    there = {k for k in ("inputs", "outputs") if getattr(job.subject, k) is not None}
    there |= {"expectations"} if job.subject.expectations and not job.due.session else set()
    return named <= there | ({"conversation"} if job.due.session else set())


def _facts(job: _Job, feedback: Feedback, elapsed_ms: float) -> dict[str, str]:
    """Outcome, reason and latency of a plain scorer's value, so that it is counted; none that MLflow reads."""
    from mlflow.tracing.constant import TraceMetadataKey

    facts = {semconv.JUDGE_NAME: job.bound.name, semconv.LATENCY_MS: f"{elapsed_ms:.1f}"}
    if job.due.session:
        facts[TraceMetadataKey.TRACE_SESSION] = str(cast(_RowDue, job.due).session_name)
    if feedback.error is not None:
        return {**facts, semconv.OUTCOME: Outcome.UNSCORED.value, semconv.UNSCORED_REASON: Unscored.JUDGE_ERROR.value}
    passed = cast(AnyValue, job.bound.contract.value).passes(feedback.value)
    if passed is None:
        return facts
    return {**facts, semconv.OUTCOME: (Outcome.PASS if passed else Outcome.FAIL).value}


def as_judge(scorer: Any) -> BoundJudge:
    """A BoundJudge as it is, an MLflow scorer bound.

    Raises:
        ConfigError: it is neither.
    """
    from mlflow.genai.scorers import Scorer

    if isinstance(scorer, BoundJudge):
        return scorer
    if isinstance(scorer, Scorer):
        return bind(scorer)
    raise ConfigError(
        f"{scorer!r} is not a scorer.", valid="an MLflow Scorer, a judge from build_judges, or a catalogue name"
    )
