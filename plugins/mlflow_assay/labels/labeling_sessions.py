"""MLflow's labeling sessions, which are Databricks-only, on open-source servers: each is a run and a review queue.

The run gives the session its id and links its traces, so `mlflow.search_traces(run_id=…)` finds them with their
labels; the review queue is where experts work. What a review queue cannot do is refused and said: agents that answer
live, multi-turn chat, records without a trace.

Errors are MLflow's own exceptions, since the callers are MLflow's functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, Trace, ViewType
from mlflow.exceptions import MlflowException
from mlflow.genai import label_schemas as schemas
from mlflow.genai import review_queues as queues
from mlflow.genai.label_schemas import InputCategorical, InputCategoricalList, LabelSchema
from mlflow.genai.labeling.labeling import LabelingSession
from mlflow.genai.labeling.stores import AbstractLabelingStore
from mlflow.genai.review_queues import ReviewQueue
from mlflow.tracking.fluent import _get_experiment_id

from mlflow_assay import semconv
from mlflow_assay.labels.queues import url_of

__all__ = ["ReviewQueueLabelingStore"]

_LINKED_AT_ONCE = 100  # MLflow's limit
_PAGE = 200
_GONE = "RESOURCE_DOES_NOT_EXIST"


class ReviewQueueLabelingStore(AbstractLabelingStore):
    """Labeling sessions over the tracking server's review queues.

    Args:
        tracking_uri: of the store; the functions underneath act on the URI MLflow is set to, which is the same one.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        super().__init__(tracking_uri)
        self._client = MlflowClient(tracking_uri)

    # --- sessions -----------------------------------------------------------------------------------

    def get_labeling_session(self, run_id: str) -> LabelingSession:
        """The session of that run.

        Raises:
            MlflowException: there is no such run, it is no labeling session, or its queue has been deleted.
        """
        run = self._client.get_run(run_id)
        queue_id = run.data.tags.get(semconv.LABELING_QUEUE)
        if queue_id is None or run.info.lifecycle_stage == "deleted":
            raise _not_found(f"The run {run_id!r} is no labeling session.")
        return self._session(run, queues.get_review_queue(queue_id))

    def get_labeling_sessions(self, experiment_id: str | None = None) -> list[LabelingSession]:
        """All sessions of an experiment (None: the current one), newest first; queues made otherwise are none."""
        runs = self._runs(experiment_id or _get_experiment_id())
        found = [(run, _queue(run.data.tags[semconv.LABELING_QUEUE])) for run in runs]
        return [self._session(run, queue) for run, queue in found if queue is not None]

    def create_labeling_session(
        self,
        name: str,
        *,
        assigned_users: list[str] | None = None,
        agent: str | None = None,
        label_schemas: list[str] | None = None,
        enable_multi_turn_chat: bool = False,
        custom_inputs: dict[str, Any] | None = None,
        experiment_id: str | None = None,
    ) -> LabelingSession:
        """A new session: a review queue with these questions and reviewers, and the run that stands for it.

        Raises:
            MlflowException: the name is taken, a label schema does not exist, or something is asked for that review
                queues cannot do.
        """
        _refuse(agent=agent, enable_multi_turn_chat=enable_multi_turn_chat, custom_inputs=custom_inputs)
        experiment = experiment_id or _get_experiment_id()
        ids = [str(self._schema(experiment, schema).schema_id) for schema in label_schemas or []]
        queue = queues.create_review_queue(
            name, queue_type="custom", users=assigned_users or [], schema_ids=ids, experiment_id=experiment
        )
        try:
            run = self._client.create_run(experiment, run_name=name, tags={semconv.LABELING_QUEUE: queue.queue_id})
            self._client.set_terminated(run.info.run_id)
        except MlflowException:
            queues.delete_review_queue(queue.queue_id)
            raise
        return self._session(run, queue)

    def delete_labeling_session(self, labeling_session: LabelingSession) -> None:
        """Delete the session's queue and run. Labels stay on their traces."""
        queues.delete_review_queue(labeling_session.labeling_session_id)
        self._client.delete_run(labeling_session.mlflow_run_id)

    def set_session_assigned_users(
        self, labeling_session: LabelingSession, assigned_users: list[str]
    ) -> LabelingSession:
        """Replace the session's reviewers (at most ten)."""
        queues.update_review_queue(labeling_session.labeling_session_id, users=assigned_users)
        return self.get_labeling_session(labeling_session.mlflow_run_id)

    # --- label schemas ------------------------------------------------------------------------------

    def get_label_schema(self, name: str) -> LabelSchema:
        """The current experiment's label schema of that name.

        Raises:
            MlflowException: there is none; the existing ones are named.
        """
        return self._schema(_get_experiment_id(), name)

    def create_label_schema(
        self,
        name: str,
        *,
        type: str,  # noqa: A002 - MLflow's signature
        title: str,
        input: Any,  # noqa: A002
        instruction: str | None = None,
        enable_comment: bool = False,
        overwrite: bool = False,
    ) -> LabelSchema:
        """A label schema in the current experiment.

        Review queues show a schema's name, and have no place for a title: one that differs from the name becomes the
        first line of the instruction. A list of choices becomes a choice of several.

        Raises:
            MlflowException: the name is taken and `overwrite` is False; `overwrite` would change the kind of answer,
                which MLflow forbids because answers given would lose their meaning; or the kind of answer is not
                supported.
        """
        told = "\n".join(text for text in (title if title != name else None, instruction) if text) or None
        if isinstance(input, InputCategoricalList):
            input = InputCategorical(input.options, multi_select=True)  # noqa: A001
        known = _find(_get_experiment_id(), name) if overwrite else None
        if known is None:
            return schemas.create_label_schema(
                name,
                type=type,
                input=input,
                instruction=told,
                enable_comment=enable_comment,
            )
        if str(known.type) != str(type):
            raise MlflowException.invalid_parameter_value(
                f"The label schema {name!r} collects {known.type}, and MLflow cannot change that to {type}. Delete it "
                "first, or choose another name."
            )
        return schemas.update_label_schema(
            str(known.schema_id), instruction=told or "", enable_comment=enable_comment, input=input
        )

    def delete_label_schema(self, name: str) -> None:
        """Delete the current experiment's label schema of that name. Labels given under it stay on their traces.

        Raises:
            MlflowException: there is none.
        """
        schemas.delete_label_schema(schema_id=str(self.get_label_schema(name).schema_id))

    # --- items --------------------------------------------------------------------------------------

    def add_dataset_to_session(
        self, labeling_session: LabelingSession, dataset_name: str, record_ids: list[str] | None = None
    ) -> LabelingSession:
        """Add the traces that a dataset's records were made from.

        Raises:
            MlflowException: no such dataset or record, or a record was not made from a trace: review queues hold
                traces only.
        """
        from mlflow.genai.datasets import get_dataset

        records = get_dataset(name=dataset_name).to_df()
        sources = dict(zip(records["dataset_record_id"], records["source"], strict=True))
        if stray := sorted(set(record_ids or []) - set(sources)):
            raise _not_found(f"The dataset {dataset_name!r} has no record {stray[0]!r}.")
        wanted = record_ids or list(sources)
        traces = [_trace_of(sources[i]) for i in wanted]
        if lacking := traces.count(None):
            raise MlflowException.invalid_parameter_value(
                f"{lacking} of {len(wanted)} records of the dataset {dataset_name!r} were not made from a trace, and "
                "MLflow's review queues hold traces only. Run the agent on them first "
                "(mlflow.genai.evaluate with a predict_fn logs a trace for each), and add those traces."
            )
        return self._add(labeling_session, [str(t) for t in traces])

    def add_traces_to_session(self, labeling_session: LabelingSession, traces: list[Trace]) -> LabelingSession:
        """Add traces; those in the session already keep their state.

        Raises:
            MlflowException: a trace belongs to another experiment.
        """
        home = labeling_session.experiment_id
        if strays := [t.info.trace_id for t in traces if t.info.experiment_id != home]:
            raise MlflowException.invalid_parameter_value(
                f"{len(strays)} traces are not in the session's experiment {home}, the first of them {strays[0]}."
            )
        return self._add(labeling_session, [t.info.trace_id for t in traces])

    def sync_session_expectations(self, labeling_session: LabelingSession, dataset: str) -> None:
        """Merge the session's traces that carry expectations into an evaluation dataset, which must exist.

        Raises:
            MlflowException: no such dataset.
        """
        from mlflow.genai.datasets import get_dataset

        target = get_dataset(name=dataset)
        ids = self._items(labeling_session.labeling_session_id)
        traces = [t for t in self._traces(ids) if t.search_assessments(type="expectation")]
        if traces:
            target.merge_records(traces)

    # --- inside -------------------------------------------------------------------------------------

    def _add(self, session: LabelingSession, trace_ids: Sequence[str]) -> LabelingSession:
        for start in range(0, len(trace_ids), _LINKED_AT_ONCE):
            page = list(trace_ids[start : start + _LINKED_AT_ONCE])
            queues.add_items_to_review_queue(session.labeling_session_id, item_ids=page)
            self._client.link_traces_to_run(page, session.mlflow_run_id)
        return self.get_labeling_session(session.mlflow_run_id)

    def _items(self, queue_id: str) -> list[str]:
        ids: list[str] = []
        token = None
        while True:
            page = queues.list_review_queue_items(queue_id, max_results=_PAGE, page_token=token)
            ids += [item.item_id for item in page]
            token = page.token
            if not token:
                return ids

    def _traces(self, trace_ids: Sequence[str]) -> list[Trace]:
        from mlflow.tracing.client import TracingClient

        client = TracingClient()
        return [
            t for at in range(0, len(trace_ids), _PAGE) for t in client.batch_get_traces(trace_ids[at : at + _PAGE])
        ]

    def _runs(self, experiment_id: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id],
                filter_string=f"tags.`{semconv.LABELING_QUEUE}` LIKE '%'",
                run_view_type=ViewType.ACTIVE_ONLY,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _session(self, run: Run, queue: ReviewQueue) -> LabelingSession:
        asked = {s.schema_id: s.name for s in _all_schemas(queue.experiment_id)}
        return LabelingSession(
            name=queue.name,
            assigned_users=list(queue.users),
            agent=None,
            label_schemas=[asked[i] for i in queue.schema_ids if i in asked],
            labeling_session_id=queue.queue_id,
            mlflow_run_id=run.info.run_id,
            review_app_id="",  # open-source MLflow has no review app
            experiment_id=str(queue.experiment_id),
            url=url_of(queue) or "",
            enable_multi_turn_chat=False,
            custom_inputs=None,
        )

    def _schema(self, experiment_id: str, name: str) -> LabelSchema:
        found = _find(experiment_id, name)
        if found is None:
            names = ", ".join(repr(s.name) for s in _all_schemas(experiment_id))
            raise _not_found(
                f"Experiment {experiment_id} has no label schema {name!r}. It has: {names}. Make it with "
                "mlflow.genai.label_schemas.create_label_schema."
            )
        return found


def _not_found(message: str) -> MlflowException:
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    return MlflowException(message, error_code=RESOURCE_DOES_NOT_EXIST)


def _refuse(**asked: Any) -> None:
    if wanted := [option for option, value in asked.items() if value]:
        raise MlflowException.invalid_parameter_value(
            f"Labeling sessions on an open-source MLflow server cannot do {', '.join(wanted)}: reviewers label traces "
            "that exist, no agent answers them live. Leave it out."
        )


def _queue(queue_id: str) -> ReviewQueue | None:
    try:
        return queues.get_review_queue(queue_id)
    except MlflowException as error:
        if error.error_code != _GONE:
            raise
        return None


def _find(experiment_id: str, name: str) -> LabelSchema | None:
    return next((s for s in _all_schemas(experiment_id) if s.name == name), None)


def _all_schemas(experiment_id: str) -> list[LabelSchema]:
    found: list[LabelSchema] = []
    token = None
    while True:
        page = schemas.list_label_schemas(str(experiment_id), max_results=100, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _trace_of(source: Any) -> str | None:
    """The id of the trace a dataset record was made from, or None."""
    if source is None or "TRACE" not in str(source.source_type).upper():
        return None
    found: str | None = (source.source_data or {}).get("trace_id")
    return found
