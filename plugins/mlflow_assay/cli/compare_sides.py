"""What the two arguments of `assay compare` mean: a run, an experiment, or a selection of an experiment's traces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mlflow.entities import Run, Trace

    from mlflow_assay.sources.mlflow_store import MlflowSource

__all__ = ["Target", "resolve"]

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Target:
    """Where one side's traces are.

    Attributes:
        title: as the user wrote it, or the run's name.
        source: its traces.
        experiment_id: of the traces.
        run_id: the evaluation run, None for a selection.
        keep: further conditions the store cannot check; None for none.
    """

    title: str
    source: MlflowSource
    experiment_id: str
    run_id: str | None
    keep: Callable[[Trace], bool] | None


def resolve(text: str) -> Target:
    """A run by id or name, an experiment by name or id, or `EXPERIMENT@FIELD=VALUE[,FIELD=VALUE]`.

    Raises:
        StoreError: there is no such run or experiment.
        ConfigError: the selection cannot be read, or several runs bear the name.
    """
    from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment, reach

    reach()
    if "@" in text and (split := _selection(text)) is not None:
        return split
    if (run := _run(text)) is not None:
        source = MlflowSource(run.info.experiment_id, f"attribute.run_id = '{run.info.run_id}'")
        title = run.info.run_name or run.info.run_id
        return Target(title, source, str(run.info.experiment_id), str(run.info.run_id), None)
    try:
        experiment = find_experiment(text)
    except StoreError as error:
        raise StoreError(
            f"{text!r} is neither a run nor an experiment.",
            valid="run id, run name, experiment, EXPERIMENT@tag:KEY=VALUE",
            fix=str(error),
        ) from error
    return Target(text, MlflowSource(experiment.name), str(experiment.experiment_id), None, None)


def _run(text: str) -> Run | None:
    """The run of that id, or the only one of that name in any experiment; an experiment's name goes first."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    if _RUN_ID.fullmatch(text):
        try:
            return client.get_run(text)
        except MlflowException:
            return None
    if mlflow.get_experiment_by_name(text) is not None or "'" in text:
        return None
    ids = [e.experiment_id for e in mlflow.search_experiments(max_results=1000)]
    runs = client.search_runs(ids, f"attributes.run_name = '{text}'", max_results=10)
    if len(runs) > 1:
        raise ConfigError(
            f"{len(runs)} runs are called {text!r}.",
            valid=[str(r.info.run_id) for r in runs],
            fix="Name the one meant by its id.",
        )
    return runs[0] if runs else None


def _selection(text: str) -> Target | None:
    """`EXPERIMENT@FIELD=VALUE,…`; None when what stands before the @ is no experiment but the whole is."""
    import mlflow

    from mlflow_assay import trace_fields
    from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment

    if mlflow.get_experiment_by_name(text) is not None:
        return None
    name, _, conditions = text.partition("@")
    filters: list[str] = []
    checks: list[tuple[str, str]] = []
    for part in re.split(r",(?=[a-z_]+(?::[^=,]+)?=)", conditions):
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if not (field and equals and value):
            raise ConfigError(
                f"The selection {part!r} in {text!r} cannot be read.",
                valid="EXPERIMENT@tag:KEY=VALUE, EXPERIMENT@metadata:KEY=VALUE,tag:KEY=VALUE",
            )
        trace_fields.check(field)
        kind, _, key = field.partition(":")
        if kind == "tag" and not set("`'\"\\") & set(key + value):
            filters.append(f"tag.`{key}` = '{value}'")
        else:
            checks.append((field, value))
    experiment = find_experiment(name)
    source = MlflowSource(experiment.name, " AND ".join(filters) or None)
    return Target(text, source, str(experiment.experiment_id), None, _keeper(checks))


def _keeper(checks: list[tuple[str, str]]) -> Callable[[Trace], bool] | None:
    if not checks:
        return None
    from mlflow_assay import trace_fields

    if bad := next((field for field, _ in checks if trace_fields.needs_spans(field)), None):
        raise ConfigError(
            f"Traces cannot be selected by {bad!r}.", valid="tag:KEY, metadata:KEY, expectation:KEY, duration_ms"
        )

    def keep(trace: Trace) -> bool:
        def text(value: Any) -> str | None:
            return None if value is None else trace_fields.as_text(value)

        return all(text(trace_fields.extract(trace, field)) == value for field, value in checks)

    return keep
