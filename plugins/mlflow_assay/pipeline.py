"""The only module that joins stages: source to judge to feedback to sink."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_assay.contracts import BoundJudge, ModelSettings, Sink
from mlflow_assay.engine.report import RunReport
from mlflow_assay.errors import ConfigError, IncompleteError
from mlflow_assay.judges.catalogue import Catalogue

if TYPE_CHECKING:
    from mlflow_assay.engine.budget import Budget
    from mlflow_assay.engine.plan import Plan
    from mlflow_assay.engine.run import Options, Progress
    from mlflow_assay.sources.mlflow_store import MlflowSource

__all__ = ["build_judges", "make_budget", "score"]


def build_judges(
    names: Sequence[str],
    *,
    model: ModelSettings | None = None,
    paths: Sequence[str | Path] = (),
    texts: Mapping[str, Mapping[str, str]] | None = None,
) -> list[BoundJudge]:
    """Judges of the catalogue, ready to run.

    Args:
        names: as in `assay judges list`.
        model: the one judge model; None takes each definition's default.
        paths: the user's own folders of definitions.
        texts: values for definitions' variables, by judge name.

    Raises:
        ConfigError: an unknown judge, one named twice, a missing text, or a model that cannot be reached
            for lack of a key.
    """
    from mlflow_assay.engine.chat import check_credentials

    if not names:
        raise ConfigError("Name at least one judge.", fix="`assay judges list` shows all.")
    if twice := [n for n in dict.fromkeys(names) if list(names).count(n) > 1]:
        raise ConfigError(f"The judge {twice[0]!r} is named twice.")
    catalogue, texts = Catalogue(paths), texts or {}
    if stray := sorted(set(texts) - set(names)):
        raise ConfigError(f"A text is set for the judge {stray[0]!r}, which is not asked for.", valid=names)
    judges = [catalogue.build(name, model, texts.get(name)) for name in names]
    for judge in judges:
        if judge.model is not None and judge.contract.calls_llm:
            check_credentials(judge.model)
    return judges


def make_budget(
    judges: Sequence[BoundJudge],
    max_usd: float | None = None,
    max_tokens: int | None = None,
    max_calls: int | None = None,
    warn: Callable[[str], None] | None = None,
) -> Budget | None:
    """The budget of a run, or None where no limit is set.

    Args:
        warn: told once when most of it is spent.

    Raises:
        ConfigError: a limit in money is set and a judge model has no known price.
    """
    from mlflow_assay.engine.budget import Budget
    from mlflow_assay.engine.prices import price_for

    if max_usd is None and max_tokens is None and max_calls is None:
        return None
    for judge in judges:
        if max_usd is not None and judge.contract.calls_llm and price_for(judge.model) is None:
            raise ConfigError(
                f"A limit in money needs the price of {judge.model.uri if judge.model else judge.name!r}, "
                "which MLflow's catalogue does not have.",
                fix="Give it with --price INPUT,OUTPUT, or limit --max-tokens or --max-calls instead.",
            )
    return Budget(max_usd, max_tokens, max_calls, on_soft=warn)


def score(
    source: MlflowSource,
    judges: Sequence[BoundJudge],
    *,
    options: Options | None = None,
    sinks: Sequence[Sink] = (),
    progress: Callable[[Plan], Progress] | None = None,
    evaluation_run: bool = True,
) -> RunReport:
    """Judge the traces of an experiment and store the verdicts on them.

    Verdicts that stand are left alone, so running it twice doubles nothing and a killed run goes on where it
    stopped.

    Args:
        source: which traces.
        judges: from `build_judges`.
        options: concurrency, cache, budget; None takes the defaults without a cache.
        sinks: further sinks beside MLflow.
        progress: makes a progress display from the plan.
        evaluation_run: whether the work shows up in MLflow as an evaluation run; none is made when nothing
            is owed.

    Returns:
        The run's tallies; for each judge, judged + already = the traces (or sessions) it applies to.

    Raises:
        StoreError, SinkError: MLflow could not be read or written.
        IncompleteError: a verdict that was written is not in the store afterwards.
    """
    from mlflow_assay.engine.evaluation_run import open_run
    from mlflow_assay.engine.plan import make_plan
    from mlflow_assay.engine.run import LocalEngine, Options
    from mlflow_assay.sinks.mlflow_assessments import MlflowSink
    from mlflow_assay.sources.mlflow_store import load_ids

    started = time.perf_counter()
    plan = make_plan(source.infos(), judges)
    options = options or Options()
    run = open_run(source.experiment_id, judges, source.selection) if evaluation_run and plan.total else None
    options = replace(options, run_id=run.run_id) if run else options
    engine = LocalEngine(plan, load_ids, MlflowSink(), options, sinks, progress(plan) if progress else None)
    report = RunReport(source.experiment, engine.tallies, plan.traces, run_id=run.run_id if run else None)
    try:
        engine.run()
    finally:
        report.wall_s = time.perf_counter() - started
        report.stored = len(engine.stored)
        report.sink_failures = engine.sink_failures
    report.stopped = engine.stopped
    _check_complete(engine.stored)
    if run is not None:
        run.close(report, (trace_id for trace_id, _ in engine.stored))
    return report


def _check_complete(stored: Sequence[tuple[str, str]]) -> None:
    """Count what was written against what is there.

    Raises:
        IncompleteError: with the list of what is missing.
    """
    from mlflow_assay.sources.mlflow_store import assessment_ids

    present = assessment_ids(dict.fromkeys(trace_id for trace_id, _ in stored))
    missing = [f"{trace} ({wanted})" for trace, wanted in stored if wanted not in present]
    if missing:
        shown = ", ".join(missing[:20]) + (" …" if len(missing) > 20 else "")
        raise IncompleteError(
            f"{len(missing)} of {len(stored)} verdicts are not in the store after the run: {shown}",
            fix="Run the same command again: what was paid is in the cache.",
        )
