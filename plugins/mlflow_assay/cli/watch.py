"""`assay watch`: judge new traces and ship every assessment, for as long as it runs."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.bridge_kpis import make_gauges
from mlflow_assay.cli.bridge_options import GuaranteesCommand, make_sinks
from mlflow_assay.cli.declared import takes
from mlflow_assay.cli.options import model_settings, read_texts
from mlflow_assay.cli.watch_request import Request
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.bridge.daily_budget import DailyBudget
    from mlflow_assay.bridge.health import HealthServer
    from mlflow_assay.bridge.worker import Experiment, Periodic, Worker
    from mlflow_assay.contracts import BoundJudge, BridgeStatus
    from mlflow_assay.redaction import Redactor
    from mlflow_assay.sinks.worker_metrics import WorkerMetrics

_logger = logging.getLogger(__name__)
_PUSH_S = 30.0


@click.command(cls=GuaranteesCommand)
@takes(Request)
def watch(request: Request) -> None:
    """Judge new traces and ship every assessment: the bridge from MLflow to Tempo, Prometheus, Datadog and others.

    Every assessment of the experiments is shipped, whoever wrote it: judges, MLflow's own scorers, a person in the
    UI; created, edited and deleted; on traces of any age. It goes through a durable outbox: stop the worker, kill it,
    take a sink or MLflow away, and it goes on from where it was. `assay bridge status` shows how things stand.

    \b
    assay watch -e support --otlp-endpoint http://localhost:4318
    assay watch -e support -j request_resolved --model openai:/gpt-4.1-mini --sample 0.1 --max-usd 20 --datadog
    assay watch -e support --sink jsonl,path=verdicts.jsonl --once
    assay watch -e support --otlp-endpoint http://collector:4318 --redact --outbox postgresql://assay@db/assay
    """
    from mlflow_assay.bridge.logs import configure_logging

    configure_logging(request.log_format)
    observers = _observers(request)
    worker, closing = _worker(request, observers)
    try:
        if request.once:
            _once(worker, request)
        else:
            _forever(worker, request, observers)
    finally:
        for close in closing:
            close()


def _worker(request: Request, observers: Sequence[WorkerMetrics]) -> tuple[Worker, list[Any]]:
    """The worker asked for, and what is to be closed after it."""
    from mlflow_assay import pipeline
    from mlflow_assay.bridge.database import Database
    from mlflow_assay.bridge.owner import make_owner
    from mlflow_assay.bridge.worker import Pulse, Worker

    sinks = make_sinks(request.sinks, request.otlp_endpoint, request.datadog)
    if not sinks and not request.judges:
        raise ConfigError(
            "There is nothing to do: no sink and no judge was named.",
            valid="--otlp-endpoint URL, --datadog, --sink NAME, --judge NAME",
        )
    redactor, (judges, limits) = _redactor(request), _judges(request)
    database, owner = Database(request.outbox_url), make_owner()
    closing: list[Any] = []
    budgets: list[DailyBudget] = []

    def told(experiment_id: str, counts: Mapping[str, int]) -> None:
        for observer in observers:
            observer.judged(experiment_id, counts)

    experiments: list[Experiment] = []
    options = _engine_options(request, closing) if judges else None
    for name in dict.fromkeys(request.experiments):
        budget = _budget(database, name, limits) if judges else None
        budgets += [budget] if budget is not None else []
        experiments.append(
            pipeline.bridged(
                name,
                database,
                owner,
                tuple(sinks),
                judges=judges,
                options=options,
                budget=budget,
                selection=_selection(request),
                pace=_pace(request),
                redactor=redactor,
                slices=request.slices,
                paths=request.paths,
                told=told,
            )
        )
    worker = Worker(
        database,
        experiments,
        sinks,
        observers=observers,
        periodic=_kpis(request, closing),
        pulse=Pulse(poll_s=request.poll),
        owner=owner,
        spent=(lambda: max(b.share for b in budgets)) if budgets else None,
    )
    return worker, [*closing, *(b.close for b in budgets), *(o.close for o in observers)]


def _judges(request: Request) -> tuple[list[BoundJudge], tuple[float | None, int | None, int | None]]:
    from mlflow_assay import pipeline

    limits = (request.max_usd, request.max_tokens, request.max_calls)
    if not request.judges:
        if any(limit is not None for limit in limits):
            raise ConfigError("A budget limits judging, and no --judge was named.")
        return [], limits
    model = model_settings(request.model, request.base_url, request.timeout_s, request.price)
    built = pipeline.build_judges(request.judges, model=model, paths=request.paths, texts=read_texts(request.settings))
    pipeline.make_budget(built, *limits)  # refuses a limit in money where the price is unknown
    return built, limits


def _budget(database: Any, experiment: str, limits: tuple[float | None, int | None, int | None]) -> DailyBudget | None:
    from mlflow_assay.bridge.daily_budget import DailyBudget

    if all(limit is None for limit in limits):
        return None
    usd, tokens, calls = limits
    return DailyBudget(database.url, experiment, usd, tokens, calls, lambda text: _logger.warning("%s", text))


def _engine_options(request: Request, closing: list[Any]) -> Any:
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.engine.run import Options

    known = VerdictCache() if request.cache else None
    if known is not None:
        closing.append(known.close)
    return Options(concurrency=request.concurrency, cache=known)


def _selection(request: Request) -> Any:
    from mlflow_assay.bridge.judging import Selection

    return Selection(request.sample, request.filter_string, _since(request), request.settle, request.quiet)


def _pace(request: Request) -> Any:
    from mlflow_assay.bridge.following import Pace

    return Pace(since_ms=_since(request))


def _since(request: Request) -> int:
    from mlflow_assay.sources.mlflow_store import parse_since

    return parse_since(request.since) if request.since else 0


def _redactor(request: Request) -> Redactor | None:
    from mlflow_assay.redaction import Redactor

    if request.redaction_file is not None:
        return Redactor.from_yaml(request.redaction_file)
    return Redactor() if request.redact else None


def _observers(request: Request) -> list[WorkerMetrics]:
    """The worker's own metrics, where there is somewhere to send them or somebody may come for them."""
    if request.otlp_endpoint is None and request.health_port is None:
        return []
    from mlflow_assay.sinks.worker_metrics import WorkerMetrics

    metrics = WorkerMetrics(endpoint=request.otlp_endpoint, push=request.otlp_endpoint is not None)
    metrics.start()
    return [metrics]


def _kpis(request: Request, closing: list[Any]) -> list[Periodic]:
    from mlflow_assay.bridge.worker import Periodic

    if request.otlp_endpoint is None or request.kpi_every <= 0:
        return []
    tasks = []
    for name in dict.fromkeys(request.experiments):
        gauges = make_gauges(
            name,
            labels=request.labels,
            targets=request.targets,
            gold=request.gold,
            by=[f"tag:{tag}" for tag in request.slices],
            every_s=request.kpi_every,
            paths=request.paths,
            endpoint=request.otlp_endpoint,
            redactor=_redactor(request),
        )
        closing.append(gauges.close)
        # Pushed far more often than computed: Prometheus forgets a gauge after five minutes.
        pause = min(request.kpi_every, _PUSH_S)
        tasks.append(Periodic(f"kpi-{name}", pause, lambda g=gauges: _update(g)))  # type: ignore[misc]
    return tasks


def _update(gauges: Any) -> None:
    gauges.update()


def _forever(worker: Worker, request: Request, observers: Sequence[WorkerMetrics]) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: worker.stop())
    server = _health(worker, request, observers)
    _logger.info("watching %s; outbox %s", ", ".join(request.experiments), worker.location)
    try:
        worker.run()
    finally:
        if server is not None:
            server.close()
    _logger.info("stopped")


def _health(worker: Worker, request: Request, observers: Sequence[WorkerMetrics]) -> HealthServer | None:
    from mlflow_assay.bridge.health import HealthServer

    if request.health_port is None:
        return None

    def metrics(status: BridgeStatus) -> str:
        """All that the worker counts, the backlog as of now."""
        for observer in observers:
            observer.backlog(status)
        return "".join(observer.prometheus_text() for observer in observers)

    server = HealthServer(
        worker.health, lambda: worker.failing, worker.status, request.health_port, request.health_host, metrics
    )
    _logger.info("health endpoint on http://%s:%d", request.health_host, server.port)
    return server


def _once(worker: Worker, request: Request) -> None:
    status = worker.once(request.timeout_once)
    if request.as_json:
        click.echo(json.dumps(asdict(status), indent=2))
    else:
        _print(status)
    if any(sink.pending or sink.retrying or sink.dead for sink in status.sinks):
        click.echo("Not everything was delivered: see `assay bridge status` and `assay bridge dead`.", err=True)
        sys.exit(1)
    if any(part.startswith("task-") for part in worker.health.faults):
        sys.exit(1)


def _print(status: BridgeStatus) -> None:
    for experiment, standing in status.standing.items():
        click.echo(f"experiment {experiment}: {standing} assessments stand")
    for sink in status.sinks:
        rest = f"{sink.pending + sink.retrying} to go, {sink.dead} dead, {sink.skipped} skipped"
        click.echo(f"{sink.sink}: {sink.delivered} delivered, {rest}")
        if sink.oldest_error:
            click.echo(f"  last said: {sink.oldest_error}")
