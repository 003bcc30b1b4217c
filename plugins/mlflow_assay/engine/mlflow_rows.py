"""What `mlflow.genai.evaluate` does around its scorers, by MLflow's own helpers: the one place that touches them.

Rows become evaluation items with a trace each, scorer values become Feedbacks, items become metrics and the result
table. The helpers are not MLflow's public API: `check_version` says which versions this has been tested with.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mlflow.entities import Expectation, Feedback, Run, Trace
    from mlflow.genai.evaluation.entities import EvalItem, EvalResult, EvaluationResult
    from mlflow.genai.scorers import Scorer

__all__ = [
    "Data",
    "check_version",
    "expectations_of",
    "mark",
    "open_run",
    "read_data",
    "sessions_of",
    "summarise",
    "trace_items",
    "value_feedbacks",
]

_logger = logging.getLogger(__name__)
_TESTED = ((3, 17),)
_LINK_BATCH = 100


@dataclass(frozen=True)
class Data:
    """The rows to evaluate.

    Attributes:
        frame: MLflow's normal form: a row each, with inputs, outputs, expectations, tags, trace where given.
        dataset: what is logged as the run's input.
        managed: whether the dataset has an identity of its own, which the metrics then carry.
    """

    frame: Any
    dataset: Any
    managed: bool


def check_version() -> None:
    """Warn where MLflow's helpers have not been tested with this module."""
    import mlflow

    version = tuple(int(part) for part in mlflow.__version__.split(".")[:2])
    if version not in _TESTED:
        names = ", ".join(".".join(map(str, v)) for v in _TESTED)
        _logger.warning("mlflow_assay.evaluate is tested with MLflow %s, not with %s.", names, mlflow.__version__)


def read_data(data: Any, scorers: Sequence[Scorer], predict_fn: Callable[..., Any] | None) -> Data:
    """The data in MLflow's normal form, refused where MLflow would refuse it.

    Raises:
        MlflowException: the data, or what a scorer needs of it, is not what `mlflow.genai.evaluate` takes.
        ConfigError: the data is a conversation simulator.
    """
    import mlflow
    from mlflow.entities.evaluation_dataset import EvaluationDataset as StoredDataset
    from mlflow.genai.datasets import EvaluationDataset
    from mlflow.genai.evaluation.lineage import get_dataset_entity_from_attrs
    from mlflow.genai.evaluation.session_utils import validate_session_level_evaluation_inputs
    from mlflow.genai.evaluation.utils import _convert_to_eval_set
    from mlflow.genai.scorers.base import flatten_scorers
    from mlflow.genai.scorers.builtin_scorers import BuiltInScorer
    from mlflow.genai.scorers.validation import valid_data_for_builtin_scorers
    from mlflow.genai.simulators import ConversationSimulator

    if isinstance(data, ConversationSimulator):
        raise ConfigError(
            "mlflow_assay.evaluate does not run a ConversationSimulator.",
            fix="Give it the traces: [t for s in simulator.simulate(predict_fn) for t in s], without predict_fn.",
        )
    validate_session_level_evaluation_inputs(list(scorers), predict_fn)
    managed = isinstance(data, EvaluationDataset | StoredDataset)
    entity = None if managed else get_dataset_entity_from_attrs(data)
    frame = _convert_to_eval_set(data)
    built_in = [s for s in flatten_scorers(list(scorers)) if isinstance(s, BuiltInScorer)]
    valid_data_for_builtin_scorers(frame, built_in, predict_fn)
    if "trace" not in frame.columns and not isinstance(frame.iloc[0]["inputs"], dict):
        raise ConfigError("The inputs of a row must be a mapping of names to values.", valid="{'question': '…'}")
    if managed:
        return Data(data.to_df(), data, True)
    dataset = entity if entity is not None else mlflow.data.from_pandas(df=frame, name="dataset")
    return Data(frame, dataset, entity is not None)


@contextmanager
def open_run(
    data: Data, scorers: Sequence[Scorer], predict_fn: Callable[..., Any] | None, model_id: str | None
) -> Iterator[Run]:
    """The active run, or a new one that ends with the block: typed, with its dataset and lineage logged."""
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import DatasetInput, LoggedModelInput
    from mlflow.genai.evaluation.lineage import log_lineage_tags
    from mlflow.models.evaluation.utils.trace import configure_autologging_for_evaluation
    from mlflow.tracking.fluent import _set_active_model
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_TYPE, MLFLOW_RUN_TYPE_GENAI_EVALUATE

    with ExitStack() as stack:
        run = mlflow.active_run() or stack.enter_context(mlflow.start_run())
        if model_id:
            stack.enter_context(_set_active_model(model_id=model_id))
        stack.enter_context(configure_autologging_for_evaluation(enable_tracing=True))
        client, run_id = MlflowClient(), run.info.run_id
        entity = data.dataset if isinstance(data.dataset, DatasetEntity) else data.dataset._to_mlflow_entity()
        models = [LoggedModelInput(model_id=model_id)] if model_id else None
        client.log_inputs(run_id=run_id, datasets=[DatasetInput(dataset=entity)], models=models)
        if run.data.tags.get(MLFLOW_RUN_TYPE) is None:
            client.set_tag(run_id, MLFLOW_RUN_TYPE, MLFLOW_RUN_TYPE_GENAI_EVALUATE)
        log_lineage_tags(run_id, list(scorers), predict_fn)
        yield run


# --- rows to items with traces ----------------------------------------------------------------------------


def trace_items(frame: Any, predict_fn: Callable[..., Any] | None, experiment_id: str, threads: int) -> list[EvalItem]:
    """An item a row, each with its trace: predicted now, the row's own, or a minimal one of its inputs and outputs.

    A trace of another experiment is copied into this one. A prediction that fails leaves its trace in state ERROR
    and the reason in the item's `error_message`.

    Args:
        predict_fn: called with the row's inputs as keywords, at most `threads` at once.

    Raises:
        StoreError: MLflow did not store a row's trace.
    """
    from mlflow.genai.evaluation.entities import EvalItem
    from mlflow.genai.utils.trace_utils import convert_predict_fn

    items = [EvalItem.from_dataset_row(row) for row in frame.to_dict(orient="records")]
    call = convert_predict_fn(predict_fn=predict_fn, sample_input=items[0].inputs) if predict_fn else None
    with ThreadPoolExecutor(threads, "assay-rows") as pool:
        list(pool.map(lambda item: _give_trace(item, call, experiment_id), items))
    return items


def _give_trace(item: EvalItem, call: Callable[[Any], Any] | None, experiment_id: str) -> None:
    from mlflow.genai.utils.trace_utils import create_minimal_trace

    if call is not None:
        _predict(item, call)
    elif item.trace is not None and _is_elsewhere(item.trace, experiment_id):
        item.trace = _copy(item.trace)
    if item.trace is None:
        item.trace = create_minimal_trace(item)
    if item.trace is None:
        raise StoreError("MLflow stored no trace for a row.", found=f"inputs {str(item.inputs)[:200]}")
    _tag(item)


def _predict(item: EvalItem, call: Callable[[Any], Any]) -> None:
    import mlflow
    from mlflow.pyfunc.context import Context, set_prediction_context

    request_id = str(uuid.uuid4())
    with set_prediction_context(Context(request_id=request_id, is_evaluate=True)):
        try:
            item.outputs = call(item.inputs)
        except Exception as error:
            # A prediction is the user's code: its failure is one row's.
            item.error_message = f"Failed to invoke the predict_fn with {item.inputs}: {error}"
    item.trace = mlflow.get_trace(request_id, silent=True)


def _is_elsewhere(trace: Trace, experiment_id: str) -> bool:
    location = trace.info.trace_location.mlflow_experiment
    return location is not None and location.experiment_id != experiment_id


def _copy(trace: Trace) -> Trace | None:
    import mlflow
    from mlflow.tracing.utils.copy import copy_trace_to_experiment

    return mlflow.get_trace(copy_trace_to_experiment(trace.to_dict()), flush=True)


def _tag(item: EvalItem) -> None:
    import mlflow
    from mlflow.genai.evaluation.utils import is_none_or_nan, validate_tags
    from mlflow.utils.mlflow_tags import IMMUTABLE_TAGS

    tags = {} if is_none_or_nan(item.tags) else item.tags
    validate_tags(tags)
    for name in tags.keys() - IMMUTABLE_TAGS:
        mlflow.set_trace_tag(trace_id=item.trace.info.trace_id, key=name, value=tags[name])


def sessions_of(items: Sequence[EvalItem]) -> dict[str, list[int]]:
    """Row numbers by session id, in order of rows; rows of no session are left out."""
    from mlflow.genai.evaluation.session_utils import group_traces_by_session

    number = {id(item): i for i, item in enumerate(items)}
    groups = group_traces_by_session(list(items))
    return {session: [number[id(item)] for item in group] for session, group in groups.items()}


def expectations_of(item: EvalItem, run_id: str) -> list[Expectation]:
    """The row's expectations that its trace does not carry yet, as a person's, bound to its root span."""
    from mlflow.entities import AssessmentSource, AssessmentSourceType, Expectation
    from mlflow.tracing.constant import AssessmentMetadataKey
    from mlflow.tracking.context.registry import resolve_tags
    from mlflow.utils.mlflow_tags import MLFLOW_USER

    there = {a.name for a in item.trace.info.assessments if a.expectation is not None}
    who = AssessmentSource(AssessmentSourceType.HUMAN, resolve_tags().get(MLFLOW_USER, "unknown"))
    return [
        Expectation(
            trace_id=item.trace.info.trace_id,
            name=name,
            source=who,
            value=value,
            metadata={AssessmentMetadataKey.SOURCE_RUN_ID: run_id},
            span_id=root_span_id(item.trace),
        )
        for name, value in item.expectations.items()
        if name not in there
    ]


def root_span_id(trace: Trace) -> str | None:
    """The root span's id, where MLflow's evaluation UI looks for assessments; None without spans."""
    root = trace.data._get_root_span()
    return None if root is None else str(root.span_id)


# --- scorer values ----------------------------------------------------------------------------------------


def value_feedbacks(scorer: Scorer, shown: Mapping[str, Any]) -> list[Feedback]:
    """What a scorer makes of one row (or session) by MLflow's rules: none, one or several Feedbacks.

    Args:
        shown: the scorer's keyword arguments. A scorer that raises gives one Feedback with the error.
    """
    from mlflow.entities import Feedback
    from mlflow.entities.assessment_error import AssessmentError
    from mlflow.genai.evaluation.utils import make_code_type_assessment_source, standardize_scorer_value

    try:
        found: list[Feedback] = standardize_scorer_value(scorer.name, scorer.run(**shown))
        return found
    except Exception as error:
        # A scorer is somebody else's code: whatever it raises is this row's error.
        failure = AssessmentError("SCORER_ERROR", error_message=str(error), stack_trace=traceback.format_exc())
        source = make_code_type_assessment_source(scorer.name)
        return [Feedback(name=scorer.name, source=source, error=failure)]


def mark(scorer: Scorer, feedback: Feedback) -> None:
    """Add the digest and version of the scorer's definition to a Feedback's metadata, as MLflow does."""
    from mlflow.genai.evaluation.utils import add_scorer_metadata

    add_scorer_metadata(scorer, [feedback])


# --- results ----------------------------------------------------------------------------------------------


def summarise(
    run: Run,
    data: Data,
    items: Sequence[EvalItem],
    found: Sequence[list[Any]],
    scorers: Sequence[Scorer],
    since_ms: int,
) -> EvaluationResult:
    """Link the traces, log the metrics and give the result MLflow would have given.

    Args:
        found: a row's assessments, Feedbacks and Expectations.
        since_ms: when the evaluation began, epoch milliseconds: traces that scorers left in the run since are deleted.
    """
    import mlflow
    from mlflow.genai.evaluation.entities import EvalResult, EvaluationResult
    from mlflow.genai.scorers.aggregation import compute_aggregated_metrics
    from mlflow.genai.utils.trace_utils import clean_up_extra_traces, construct_eval_result_df

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    results: list[EvalResult] = [EvalResult(item, given) for item, given in zip(items, found, strict=True)]
    ids = list(dict.fromkeys(item.trace.info.trace_id for item in items))
    for start in range(0, len(ids), _LINK_BATCH):
        mlflow.MlflowClient().link_traces_to_run(trace_ids=ids[start : start + _LINK_BATCH], run_id=run_id)
    metrics = compute_aggregated_metrics(results, scorers=list(scorers))
    mlflow.log_metrics(metrics, run_id=run_id, dataset=data.dataset if data.managed else None)
    traces = mlflow.search_traces(locations=[experiment_id], run_id=run_id, include_spans=False, return_type="list")
    clean_up_extra_traces(traces, since_ms, experiment_id, set(ids))
    criteria = {s.name: s.pass_if for s in scorers if getattr(s, "pass_if", None) is not None}
    frame = construct_eval_result_df(run_id, traces, results)
    return EvaluationResult(run_id=run_id, result_df=frame, metrics=metrics, pass_criteria=criteria)
