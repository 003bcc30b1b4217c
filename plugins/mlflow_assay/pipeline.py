"""The only module that joins stages: source to judge to feedback to sink."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay.contracts import BoundJudge, JudgeContract, ModelSettings, Sink, TraceSource
from mlflow_assay.engine.report import RunReport
from mlflow_assay.errors import ConfigError, IncompleteError
from mlflow_assay.judges.catalogue import PATH_VARIABLE, Catalogue

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo
    from mlflow.genai.evaluation.entities import EvaluationResult
    from mlflow.genai.scorers import Scorer

    from mlflow_assay.bridge.daily_budget import DailyBudget
    from mlflow_assay.bridge.database import Database
    from mlflow_assay.bridge.following import Pace
    from mlflow_assay.bridge.judging import Selection
    from mlflow_assay.bridge.worker import Experiment
    from mlflow_assay.contracts import DatasetStore
    from mlflow_assay.datasets.build import BuildPlan
    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.datasets.model import DatasetRow
    from mlflow_assay.engine.budget import Budget
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.engine.forecast import Forecast
    from mlflow_assay.engine.partition import BudgetShare, JudgeRecipe, Partition, PartitionResult
    from mlflow_assay.engine.plan import Plan
    from mlflow_assay.engine.run import Options, Progress
    from mlflow_assay.judges.calibrating import Calibration
    from mlflow_assay.optimizers.record import Outcome as Kept
    from mlflow_assay.optimizers.report import OptimizationReport
    from mlflow_assay.optimizers.request import Request as OptimizationRequest
    from mlflow_assay.optimizers.task import Candidate
    from mlflow_assay.redaction import Redactor
    from mlflow_assay.report.data import ReportRequest
    from mlflow_assay.report.model import ReportData
    from mlflow_assay.sources.mlflow_store import MlflowSource

__all__ = [
    "ENGINES",
    "JudgeList",
    "bridged",
    "build_dataset",
    "build_judges",
    "calibrate",
    "dry_run",
    "evaluate",
    "make_budget",
    "optimization",
    "optimize",
    "report",
    "run_partition",
    "score",
    "score_infos",
]

ENGINES = ("local", "ray", "spark")


class JudgeList(list[BoundJudge]):
    """Judges, and the recipe they were built from, by which other processes build the same ones."""

    def __init__(self, judges: Sequence[BoundJudge], recipe: JudgeRecipe) -> None:
        super().__init__(judges)
        self.recipe = recipe


def build_judges(
    names: Sequence[str],
    *,
    model: ModelSettings | None = None,
    paths: Sequence[str | Path] = (),
    texts: Mapping[str, Mapping[str, str]] | None = None,
) -> JudgeList:
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
    from mlflow_assay.engine.partition import JudgeRecipe

    if not names:
        raise ConfigError("Name at least one judge.", fix="`assay judges list` shows all.")
    if twice := [n for n in dict.fromkeys(names) if list(names).count(n) > 1]:
        raise ConfigError(f"The judge {twice[0]!r} is named twice.")
    catalogue, texts = Catalogue(paths), texts or {}
    if stray := sorted(set(texts) - set(names)):
        raise ConfigError(f"A text is set for the judge {stray[0]!r}, which is not asked for.", valid=names)
    judges = [catalogue.build(name, model, texts.get(name)) for name in names]
    for judge in [callee for panel in judges for callee in panel.callees()]:
        if judge.model is not None and judge.contract.calls_llm:
            check_credentials(judge.model)
    own = [p for p in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if p]
    return JudgeList(judges, JudgeRecipe(tuple(names), model, tuple(map(str, (*own, *paths))), texts))


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
    for judge in [callee for panel in judges for callee in panel.callees()]:
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
    engine: str = "local",
    workers: int = 2,
    budget: BudgetShare | None = None,
    told: Callable[[PartitionResult], None] | None = None,
) -> RunReport:
    """Judge the traces of an experiment and store the verdicts on them.

    Verdicts that stand are left alone, so running it twice doubles nothing and a killed run goes on where it
    stopped.

    Args:
        source: which traces.
        judges: from `build_judges`.
        options: concurrency, cache, budget; None takes the defaults without a cache.
        sinks: further sinks beside MLflow; on `local` only.
        progress: makes a progress display from the plan; on `local` only.
        evaluation_run: whether the work shows up in MLflow as an evaluation run; none is made when nothing
            is owed.
        engine: `local` judges in this process; `ray` and `spark` judge partitions of the traces in `workers`
            processes, which share the options' concurrency and write to MLflow themselves.
        workers: processes at once, on `ray` and `spark`.
        budget: the limits on `ray` and `spark`, in place of the options' budget.
        told: called for each partition that is done, on `ray` and `spark`.

    Returns:
        The run's tallies; for each judge, judged + already = the traces (or sessions) it applies to.

    Raises:
        ConfigError: an unknown engine, one whose extra is not installed, or something it cannot share.
        StoreError, SinkError: MLflow could not be read or written.
        IncompleteError: a verdict that was written is not in the store afterwards.
    """
    from mlflow_assay.engine.evaluation_run import open_run
    from mlflow_assay.engine.plan import make_plan
    from mlflow_assay.engine.run import Options

    if engine not in ENGINES:
        raise ConfigError(f"There is no engine {engine!r}.", valid=ENGINES)
    started = time.perf_counter()
    plan = make_plan(source.infos(), judges)
    run = open_run(source.experiment_id, judges, source.selection, owed=plan.total > 0) if evaluation_run else None
    options = replace(options or Options(), run_id=run.run_id if run else None)
    report = RunReport(source.experiment, [], plan.traces, run_id=options.run_id)
    try:
        if engine == "local":
            trace_ids = _score_here(plan, report, options, sinks, progress)
        else:
            trace_ids = _score_on(engine, workers, plan, report, options, sinks, budget, told)
    finally:
        report.wall_s = time.perf_counter() - started
    if run is not None:
        tallies, trace_ids = run.whole(source.infos(), judges) if run.resumed else (report.tallies, trace_ids)
        run.close(tallies, trace_ids)
    return report


def score_infos(
    experiment: str, infos: Sequence[TraceInfo], judges: Sequence[BoundJudge], options: Options | None = None
) -> RunReport:
    """Judge these traces where they owe a verdict, in this process and without an evaluation run.

    Args:
        experiment: for the report.
        infos: with their assessments, oldest first; for a judge of sessions all of a session's.
        judges: from `build_judges`.
        options: concurrency, cache, budget.

    Raises:
        StoreError, SinkError, IncompleteError: as for `score`.
    """
    from mlflow_assay.engine.plan import make_plan
    from mlflow_assay.engine.run import Options

    plan = make_plan(infos, judges)
    report = RunReport(experiment, [], plan.traces)
    if plan.total:
        _score_here(plan, report, options or Options(), (), None)
    return report


def bridged(
    experiment: str,
    database: Database,
    owner: str,
    sinks: Sequence[str],
    *,
    judges: Sequence[BoundJudge] = (),
    options: Options | None = None,
    budget: DailyBudget | None = None,
    selection: Selection | None = None,
    pace: Pace | None = None,
    redactor: Redactor | None = None,
    slices: Sequence[str] = (),
    paths: Sequence[str | Path] = (),
    told: Callable[[str, Mapping[str, int]], None] | None = None,
) -> Experiment:
    """An experiment made ready for the bridge's worker.

    Args:
        experiment: name or id.
        database: the outbox.
        owner: the worker's name.
        sinks: names, in the outbox, of the sinks everything goes to.
        judges: judge its new traces; none ships only what others write.
        options: of the engine; its budget is replaced by `budget`.
        budget: what judging may cost a day; None is no limit.
        selection: which traces are judged.
        pace: how often and how much MLflow is read.
        redactor: masks what leaves, before the outbox; None leaves it as it is.
        slices: tags of the trace that verdicts carry.
        paths: the user's own folders of definitions, for what values of assessments mean.
        told: called with the experiment's id and counts of traces gone through.

    Raises:
        ConfigError: the outbox belongs to another MLflow.
        StoreError: there is no such experiment, or MLflow or the outbox cannot be used.
    """
    from mlflow_assay.bridge.following import Following, Pace
    from mlflow_assay.bridge.ingest import Ingest
    from mlflow_assay.bridge.judging import Judged, Judging, Selection
    from mlflow_assay.bridge.mlflow_reads import MlflowReads
    from mlflow_assay.bridge.outbox import Outbox
    from mlflow_assay.bridge.redacting import redacting
    from mlflow_assay.bridge.subject import Subjects
    from mlflow_assay.bridge.worker import Experiment
    from mlflow_assay.engine.run import Options
    from mlflow_assay.sources.mlflow_store import find_experiment

    location = find_experiment(experiment)
    found = str(location.experiment_id)
    reads, outbox = MlflowReads(found), Outbox(database, sinks)
    if not outbox.belongs(found, str(location.creation_time)):
        raise ConfigError(
            f"The outbox {database.location} knows another experiment with the id {found} than {experiment!r}: it was "
            "used with another MLflow.",
            fix="Name an outbox of its own for each MLflow, with --outbox or ASSAY_OUTBOX_URL.",
        )
    mask = redacting(redactor) if redactor is not None else None
    ingest = Ingest(outbox, found, owner, _meanings(paths, judges), mask, Subjects(slices))

    def judge(infos: Sequence[TraceInfo], scope: str) -> Judged:
        if budget is not None and budget.exhausted:
            return Judged(stopped=budget.exhausted)
        given = replace(options or Options(), budget=budget.today() if budget is not None else None)
        report = score_infos(experiment, infos, [j for j in judges if j.contract.scope == scope], given)
        return Judged(report.stored, report.stopped)

    judging = Judging(
        found,
        reads,
        outbox,
        judge,
        frozenset(j.contract.scope for j in judges),
        selection or Selection(),
        None if told is None else lambda counts: told(found, counts),
    )
    return Experiment(found, Following(reads, outbox, ingest, pace or Pace()), judging if judges else None)


def _meanings(paths: Sequence[str | Path], judges: Sequence[BoundJudge]) -> dict[str, JudgeContract]:
    """What values mean, by assessment name: the catalogue's judges, and the run's own before them."""
    # A YAML definition goes before a library's own judge of the same assessment name.
    entries = sorted(Catalogue(paths).entries.values(), key=lambda e: e.definition is not None)
    return {entry.contract.name: entry.contract for entry in entries} | {j.name: j.contract for j in judges}


def _score_here(
    plan: Plan,
    report: RunReport,
    options: Options,
    sinks: Sequence[Sink],
    progress: Callable[[Plan], Progress] | None,
) -> list[str]:
    """Judge in this process; the ids of the traces that got a verdict."""
    from mlflow_assay.engine.run import LocalEngine
    from mlflow_assay.sinks.mlflow_assessments import MlflowSink
    from mlflow_assay.sources.mlflow_store import load_ids

    engine = LocalEngine(plan, load_ids, MlflowSink(), options, sinks, progress(plan) if progress else None)
    report.tallies = engine.tallies
    try:
        engine.run()
    finally:
        report.stored = len(engine.stored)
        report.sink_failures = engine.sink_failures
    report.stopped = engine.stopped
    _check_complete(engine.stored)
    return [trace_id for trace_id, _ in engine.stored]


def _score_on(
    engine: str,
    workers: int,
    plan: Plan,
    report: RunReport,
    options: Options,
    sinks: Sequence[Sink],
    budget: BudgetShare | None,
    told: Callable[[PartitionResult], None] | None,
) -> list[str]:
    """Judge on Ray or Spark; the ids of the traces that were owed a verdict."""
    from mlflow_assay.engine.on_ray import run_on_ray
    from mlflow_assay.engine.on_spark import run_on_spark
    from mlflow_assay.engine.partition import merge, shares
    from mlflow_assay.engine.report import Tally

    template = _template(plan, options, budget, sinks, engine)
    standing = [
        Tally(j.name, j.digest, plan.standing[i], foreign=plan.foreign[i], no_session=plan.no_session[i])
        for i, j in enumerate(plan.judges)
    ]
    if budget is not None:
        shared = budget.open()
        shared.release()  # what workers of an earlier, killed run had reserved
        shared.close()
    run_on = run_on_ray if engine == "ray" else run_on_spark
    partitions = shares(plan, template, workers)
    results = run_on(run_partition, partitions, workers, told) if partitions else []
    report.tallies = merge(standing, results)
    report.stored = sum(result.stored + result.found for result in results)
    report.stopped = next((result.stopped for result in results if result.stopped), None)
    return list(plan.due)


def _template(
    plan: Plan, options: Options, budget: BudgetShare | None, sinks: Sequence[Sink], engine: str
) -> Partition:
    """What all partitions of a run have in common.

    Raises:
        ConfigError: something asked for cannot be shared between processes.
    """
    import mlflow

    from mlflow_assay.engine.partition import Partition, pack

    recipe = getattr(plan.judges, "recipe", None)
    if recipe is None:
        raise ConfigError(f"The engine {engine!r} needs judges that other processes can build.", valid="build_judges()")
    if sinks:
        raise ConfigError(f"The engine {engine!r} writes to MLflow only.", found=f"sink {sinks[0].name!r}")
    if options.budget is not None:
        raise ConfigError(f"The engine {engine!r} needs a budget its processes share: give it as `budget`.")
    return Partition(
        number=0,
        tracking_uri=str(mlflow.get_tracking_uri()),
        recipe=recipe,
        folders=pack(recipe.paths),
        digests=(),
        due=(),
        concurrency=options.concurrency,
        threads=options.threads,
        page=options.page,
        retry=options.retry,
        cache_url=options.cache.url if options.cache is not None else None,
        budget=budget,
        run_id=options.run_id,
    )


def evaluate(
    data: Any,
    scorers: Sequence[Scorer | BoundJudge | str],
    predict_fn: Callable[..., Any] | None = None,
    model_id: str | None = None,
    *,
    options: Options | None = None,
    model: ModelSettings | None = None,
    paths: Sequence[str | Path] = (),
) -> EvaluationResult:
    """`mlflow.genai.evaluate` on this package's engine: what it takes, and the result it gives.

    Every call is a new evaluation run that judges every row; replies already paid for come from the cache, if
    there is one. All rows get their outputs and traces first, then all are judged. Left out of what MLflow does:
    a `ConversationSimulator` as data, traces of the scorers' own work, and the tags of `@mlflow.test`.

    Args:
        data: a DataFrame (also of `mlflow.search_traces`), a list of mappings with inputs, outputs, expectations,
            tags or trace, a list of traces, or an evaluation dataset.
        scorers: MLflow scorers, with their own meaning; judges from `build_judges` or names of the catalogue,
            with their contract's.
        predict_fn: makes the outputs from a row's inputs, given as keywords; at most `options.threads` at once.
        model_id: the logged model the traces and metrics belong to.
        options: concurrency, cache, budget; None takes the defaults without a cache.
        model: the judge model of judges named here; None takes each definition's default.
        paths: the user's own folders of definitions, for judges named here.

    Returns:
        MLflow's own result: `run_id`, `metrics`, `result_df`, `tables`, `passed`.

    Raises:
        ConfigError: something is not a scorer, two share a name, or a model cannot be reached for lack of a key.
        MlflowException: the data is not what `mlflow.genai.evaluate` takes.
        IncompleteError: an assessment that was written is not in the store afterwards.
    """
    from mlflow_assay.engine import evaluate as rows
    from mlflow_assay.engine.run import Options

    named = [s for s in scorers if isinstance(s, str)]
    built = iter(build_judges(named, model=model, paths=paths) if named else ())
    judges = [next(built) if isinstance(s, str) else rows.as_judge(s) for s in scorers]
    names = [judge.name for judge in judges]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"Two scorers are named {twice[0]!r}.", fix="Give one of them another name.")
    return rows.evaluate(data, judges, predict_fn, model_id, options or Options(), _check_complete)


def run_partition(partition: Partition) -> PartitionResult:
    """Judge one partition in this process: what a worker of Ray or Spark runs.

    Raises:
        ConfigError: the judges cannot be built here, or are other versions than the run's.
        StoreError, SinkError, IncompleteError: as for `score`.
    """
    import mlflow

    from mlflow_assay.engine import partition as partitions
    from mlflow_assay.sources.mlflow_store import assessments_on, load_ids

    mlflow.set_tracking_uri(partition.tracking_uri)
    recipe = partition.recipe
    with partitions.unpacked(partition.folders) as paths:
        judges = build_judges(recipe.names, model=recipe.model, paths=paths, texts=recipe.texts)
        return partitions.run_partition(partition, judges, load_ids, assessments_on, _check_complete)


def dry_run(
    source: MlflowSource, judges: Sequence[BoundJudge], *, options: Options | None = None, sample: int = 50
) -> Forecast:
    """What `score` would do and about what it would cost; nothing is called or written.

    Args:
        options: its cache is looked into.
        sample: traces per judge whose prompts are made and measured.

    Raises:
        StoreError: MLflow could not be read.
    """
    from mlflow_assay.engine.forecast import Forecast, forecast
    from mlflow_assay.engine.plan import make_plan
    from mlflow_assay.engine.run import Options
    from mlflow_assay.sources.mlflow_store import load_ids

    plan = make_plan(source.infos(), judges)
    return Forecast(source.experiment, plan.traces, forecast(plan, load_ids, options or Options(), sample))


def report(
    source: TraceSource,
    request: ReportRequest,
    out: Path | None = None,
    *,
    paths: Sequence[str | Path] = (),
    progress: Callable[[int], None] | None = None,
) -> ReportData:
    """What an experiment's verdicts come to, as data and, with `out`, as one self-contained HTML page.

    Args:
        source: which traces.
        request: what to show of them.
        out: the page to write; None writes none.
        paths: the user's own folders of definitions, for pass rules not recorded with the verdicts.
        progress: told how many traces have been read.

    Raises:
        ConfigError: a label names nothing that is there, or the page cannot be written.
        StoreError: the traces cannot be read.
    """
    from mlflow_assay.report.data import build
    from mlflow_assay.report.render import render

    # A YAML definition goes before a library's own judge of the same assessment name.
    entries = sorted(Catalogue(paths).entries.values(), key=lambda e: e.definition is not None)
    data = build(source, request, {entry.contract.name: entry.contract for entry in entries}, progress)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(render(data), encoding="utf-8", errors="xmlcharrefreplace")
        except OSError as error:
            raise ConfigError(f"The page cannot be written to {out}: {error}.") from error
    return data


def calibrate(
    name: str,
    source: TraceSource,
    label: str,
    *,
    agreement: float = 0.9,
    delta: float = 0.05,
    model: ModelSettings | None = None,
    paths: Sequence[str | Path] = (),
    texts: Mapping[str, str] | None = None,
) -> tuple[Path, Calibration]:
    """Calibrate a cascade, or a panel with `vote: learned`, on stored verdicts and labels; no judge is asked.

    Args:
        name: of the catalogue.
        source: traces with the verdicts of its judges and the labels.
        label: the assessment or expectation that holds the labels.
        agreement: what a cascade's accepted verdicts must reach, in (0, 1).
        delta: probability that they do not all the same, in (0, 1).
        model: the run's judge model, for members that name none.
        paths: the user's own folders of definitions.
        texts: values for variables of the members.

    Returns:
        The file that was written, beside the definition, and what is in it.

    Raises:
        ConfigError: it is no such judge, a member has no verdicts, there are no labels, or the file cannot be written.
        NotTrustedError: the labels do not support it; nothing was written.
        StoreError: the traces cannot be read.
    """
    from mlflow_assay.judges import calibrating, calibration_file
    from mlflow_assay.labels.people import labels_of
    from mlflow_assay.labels.rows import read_rows
    from mlflow_assay.labels.verdicts import JudgeVerdicts

    catalogue = Catalogue(paths)
    entry = catalogue.get(name)
    spec = entry.definition.composite if entry.definition else None
    if spec is None or spec.calibration is None or entry.path is None:
        raise ConfigError(f"There is nothing to calibrate about {name!r}.", valid="cascades; panels with vote: learned")
    members, scope = catalogue.members(name, model, texts), entry.contract.scope
    rows = [(row.unit if scope == "session" else row.trace_id, row) for row in read_rows(source, [])]
    found = labels_of(JudgeVerdicts(name, scope, {}, 0), [row for _, row in rows], [label], entry.contract)
    units = dict(rows)
    labelled = {
        unit: calibrating.LabelledUnit(passed, units[unit].unit, units[unit].label_probability)
        for unit, passed in found.agreed.items()
    }
    said = calibrating.collect([(unit, mark) for unit, row in rows for mark in row.marks], members)
    result = calibrating.calibrate(name, spec, members, said, labelled, agreement=agreement, delta=delta)
    calibrating.refuse(name, result)
    path = entry.path.parent / spec.calibration
    evidence = {"label": label, "used": result.used, "made_ms": int(time.time() * 1000)}
    try:
        calibration_file.write(path, name, result.kind, result.digests, result.result, evidence)
    except OSError as error:
        raise ConfigError(f"The calibration cannot be written to {path}: {error}.") from error
    return path, result


def optimization(
    prompts: Sequence[str],
    dataset: Dataset | Sequence[DatasetRow],
    judges: Sequence[BoundJudge],
    optimizer: str,
    *,
    predict: Callable[..., Any] | str | None = None,
    agent_model: ModelSettings | None = None,
    writer: ModelSettings | None = None,
    options: Mapping[str, Any] | None = None,
    max_usd: float | None = None,
    max_calls: int | None = None,
    call_usd: float | None = None,
    trace: bool | None = None,
    margin: float = 0.05,
    seed: int = 0,
    threads: int = 4,
) -> OptimizationRequest:
    """What `optimize` would do, ready to be looked at (`optimizers.procedure.plan`) or carried out.

    Args:
        prompts: registered prompts of one agent: `NAME`, `prompts:/NAME/3`, `prompts:/NAME@alias`.
        dataset: rows with inputs and expectations; parted by group here where it is not parted already.
        judges: the first is to improve, by further ones the prompts must not get worse.
        optimizer: name of an installed optimizer.
        predict: the agent: a function, or where it is, `module:function`. It gets a row's inputs as keywords and
            loads its prompts from the registry, in this process.
        agent_model: without `predict`, the model the one prompt is sent to.
        writer: model that writes prompts; None takes `agent_model`.
        options: parameters of the optimizer.
        max_usd, max_calls: limits over agent, judges and writer, earlier attempts of the same request included.
        call_usd: what a call of `predict` costs where its trace does not say.
        trace: whether answers are traced into the active experiment; None where a judge or a limit in money needs it.
        margin: how much less often a further judge may pass and still count as not worse, in (0, 1).
        seed: of split and optimizer.
        threads: answers side by side.

    Raises:
        ConfigError: something does not fit together.
        StoreError: there is no such prompt, or the dataset cannot be read.
        NotTrustedError: the dataset has no rows, or too few groups to part.
    """
    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.optimizers.agent import FunctionAgent, read_function
    from mlflow_assay.optimizers.request import Request, load_prompts, rows_of
    from mlflow_assay.optimizers.running import looks_into_traces
    from mlflow_assay.trust.prompt_gate import PromptGate

    if isinstance(dataset, Dataset):
        found = rows_of(
            list(dataset.rows()), reference=dataset.reference, content=dataset.digest, uri=dataset.uri, seed=seed
        )
    else:
        found = rows_of(dataset, seed=seed)
    agent = None
    if predict is not None:
        function = read_function(predict) if isinstance(predict, str) else predict
        traced = looks_into_traces(judges) or (max_usd is not None and call_usd is None) if trace is None else trace
        name = predict if isinstance(predict, str) else None
        agent = FunctionAgent(function, traced=traced, usd_per_call=call_usd, identity=name)
    return Request(
        load_prompts(prompts),
        found,
        judges,
        optimizer,
        agent=agent,
        model=agent_model,
        writer=writer,
        options=options or {},
        max_usd=max_usd,
        max_calls=max_calls,
        seed=seed,
        gate=PromptGate(margin=margin),
        threads=threads,
    )


def optimize(
    request: OptimizationRequest,
    aliases: Mapping[str, str],
    *,
    experiment: str = "assay-optimize",
    state: Path | None = None,
    cache: VerdictCache | None = None,
    told: Callable[[Candidate], None] = lambda _: None,
    step: Callable[[int], None] = lambda _: None,
    stage: Callable[[str], None] = lambda _: None,
) -> tuple[OptimizationReport, Kept]:
    """Search for better prompts, and keep them only if they are proven on rows no optimizer saw.

    Args:
        request: from `optimization`.
        aliases: alias by prompt name, for versions that are accepted.
        experiment: where the run is logged, and traced answers go; made where there is none.
        state: folder of journals, by which a run that was stopped goes on; None keeps none.
        cache: judges' verdicts already paid for.
        told: called for each candidate.
        step: called for each answer of the agent.
        stage: told what is being done, one sentence a stage.

    Raises:
        AssayError: nothing could be tried, or the optimizer failed; nothing was changed.
    """
    from mlflow_assay.optimizers.running import carry_out, open_experiment

    experiment_id = open_experiment(experiment)
    return carry_out(request, experiment_id, aliases, state=state, cache=cache, told=told, step=step, stage=stage)


def build_dataset(
    name: str,
    source: TraceSource,
    plan: BuildPlan | None = None,
    *,
    store: DatasetStore | str | None = None,
    alias: str | None = None,
    redactor: Redactor | Literal["built-in"] | None = "built-in",
    paths: Sequence[str | Path] = (),
    progress: Callable[[int, int | None], None] | None = None,
    **said: str | None,
) -> Dataset:
    """Make a version of a dataset from traces: those judges failed, people corrected, or any condition selects.

    Args:
        name: of the dataset.
        source: where the traces are.
        plan: which of them, and what of them; None takes every trace, without near-duplicates, split 60/20/20.
        store: an open store or its URL; None takes ASSAY_DATASETS, else the folder `assay-datasets`.
        alias: also points at the new version.
        redactor: what replaces personal data; None replaces nothing.
        paths: the user's own folders of judge definitions, whose pass rules are needed.
        progress: called with rows made so far and in all.
        said: what the manifest shall say: `licence`, `owner`, `retention`, `pii`, `by`.

    Raises:
        ConfigError: a condition names a judge or label that is not there.
        StoreError: no trace is selected, or MLflow or the store cannot be used.
        NotTrustedError: too few groups to split.
    """
    from mlflow_assay.datasets.build import BuildPlan, build
    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.datasets.store import open_store
    from mlflow_assay.redaction import Redactor

    opened = open_store(store) if store is None or isinstance(store, str) else store
    opened.versions(name)  # a wrong name or store is said before the traces are read
    entries = sorted(Catalogue([str(p) for p in paths]).entries.values(), key=lambda e: e.definition is not None)
    contracts = {entry.contract.name: entry.contract for entry in entries}
    masks = Redactor() if redactor == "built-in" else redactor
    with build(source, plan or BuildPlan(), contracts, redactor=masks, progress=progress) as built:
        manifest = opened.write(name, built.rows(), built.about(**said))
    if alias is not None:
        opened.set_alias(name, alias, manifest.version)
    return Dataset(manifest, opened)


def _check_complete(stored: Sequence[tuple[str, str]]) -> None:
    """Count what was written against what is there.

    Raises:
        IncompleteError: with the list of what is missing.
    """
    from mlflow_assay.sources.mlflow_store import missing_assessments

    missing = [f"{trace} ({wanted})" for trace, wanted in missing_assessments(stored)]
    if missing:
        shown = ", ".join(missing[:20]) + (" …" if len(missing) > 20 else "")
        raise IncompleteError(
            f"{len(missing)} of {len(stored)} verdicts are not in the store after the run: {shown}",
            fix="Run the same command again: what was paid is in the cache.",
        )
