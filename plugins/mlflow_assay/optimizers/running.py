"""An optimization from request to record: the run in MLflow is there from the start and ends well in any case."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_assay.contracts import BoundJudge
from mlflow_assay.errors import AssayError, StoreError
from mlflow_assay.optimizers import record
from mlflow_assay.optimizers.procedure import Run
from mlflow_assay.optimizers.report import OptimizationReport
from mlflow_assay.optimizers.request import Request
from mlflow_assay.optimizers.task import Candidate

if TYPE_CHECKING:
    from mlflow_assay.engine.cache import VerdictCache

__all__ = [
    "EXPERIMENT",
    "StoppedError",
    "aliases_of",
    "carry_out",
    "default_state",
    "looks_into_traces",
    "open_experiment",
]

EXPERIMENT = "assay-optimize"
_ALIAS = "optimized"


class StoppedError(AssayError):
    """The user stopped a run; the best so far is kept, and nothing was promoted."""


def default_state() -> Path:
    """`mlflow-assay/optimize` under `XDG_CACHE_HOME` (else `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-assay" / "optimize"


def aliases_of(names: Sequence[str], prompts: Sequence[str], alias: str | None = None) -> dict[str, str]:
    """The alias each prompt's new version gets: the one asked for, else that of its URI, else `optimized`.

    Args:
        names: as given: `NAME`, `prompts:/NAME/3`, `prompts:/NAME@alias`.
        prompts: the prompts' names, in the same order.
        alias: for all of them; None as said.
    """
    found = {}
    for given, prompt in zip(names, prompts, strict=True):
        named = given.rpartition("@")[2] if "@" in given else ""
        found[prompt] = alias or (named if named and named != "latest" else _ALIAS)
    return found


def looks_into_traces(judges: Sequence[BoundJudge]) -> bool:
    """Whether a judge reads more than inputs, outputs and expectations, so that answers must be traced."""
    return any(
        set(callee.contract.needs) & {"spans", "tools", "retrieved", "session"}
        or callee.fields
        or callee.contract.kind == "local"
        or "trace" in getattr(callee.scorer, "template_variables", ())
        for judge in judges
        for callee in judge.callees()
    )


def open_experiment(name: str) -> str:
    """The id of the experiment of that name, made where there is none.

    Raises:
        StoreError: MLflow cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    from mlflow_assay.sources.mlflow_store import reach

    uri = reach()
    client = mlflow.MlflowClient()
    try:
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))
    except MlflowException as error:
        raise StoreError(f"The experiment {name!r} at {uri} could not be used: {error.message}") from error


def carry_out(
    request: Request,
    experiment_id: str,
    aliases: Mapping[str, str],
    *,
    state: Path | None = None,
    cache: VerdictCache | None = None,
    told: Callable[[Candidate], None] = lambda _: None,
    step: Callable[[int], None] = lambda _: None,
    stage: Callable[[str], None] = lambda _: None,
) -> tuple[OptimizationReport, record.Outcome]:
    """Optimize, let the gate decide, keep the evidence, and register what was accepted.

    Args:
        request: what is asked for.
        experiment_id: where the run goes.
        aliases: alias by prompt name, for accepted versions.
        state: folder of journals, by which a run that was stopped goes on; None keeps none.
        cache: judges' verdicts already paid for.
        told: called for each candidate.
        step: called for each answer of the agent.
        stage: told what is being done, one sentence a stage.

    Raises:
        StoppedError: the user stopped it (KeyboardInterrupt).
        AssayError: as `Run.go`. In both cases the run in MLflow holds the best so far.
    """
    import mlflow

    run = Run(request, state=state, cache=cache, told=told, step=step, stage=stage)
    run_id = record.open_run(run, experiment_id)
    if getattr(run.plan.agent, "traced", False):
        mlflow.set_experiment(experiment_id=experiment_id)  # where the answers' traces go
    try:
        report = run.go()
    except KeyboardInterrupt as error:
        record.stopped(run, run_id, "by the user")
        raise StoppedError(f"{_said(run)} Kept in MLflow run {run_id}.", fix=_again(state)) from error
    except BaseException as error:
        record.stopped(run, run_id, f"{type(error).__name__}: {error}")
        raise
    return report, record.keep(report, request.prompts, run_id, aliases)


def _said(run: Run) -> str:
    if not run.task.candidates:
        return "Stopped before the prompts as they are had been tried; nothing was promoted."
    first, best = run.task.candidates[0], run.task.best
    return (
        f"Stopped; nothing was promoted. Best of {len(run.task.candidates)} candidates so far: {100 * best.score:.0f} "
        f"% of the validation rows pass against {100 * first.score:.0f} % ({best.note}); it has not been tested."
    )


def _again(state: Path | None) -> str:
    return "The same command goes on from here." if state else "No journal was kept, so another run starts anew."
