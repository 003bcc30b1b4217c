"""`assay receive`: evaluations of other tools, arriving over OTLP, become assessments in MLflow."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mlflow_assay.inbound.inbox import Inbox

__all__ = ["receive"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond loopback a token is needed.")
@click.option("--port", type=click.IntRange(0, 65535), default=4319, show_default=True, help="0 takes a free one.")
@click.option("--experiment", "-e", "experiments", multiple=True, help="Only traces of it. Repeatable. Default: all.")
@click.option(
    "--evaluators",
    type=click.Choice(["llm_judge", "code"]),
    default="llm_judge",
    show_default=True,
    help="What evaluators are that do not say it.",
)
@click.option("--accept-human", is_flag=True, help="Let senders write labels in people's name; these correct KPIs.")
@click.option("--inbox", metavar="FILE", help="Where evaluations wait. [default: ASSAY_INBOX, or a file of the user's]")
@click.option(
    "--keep", metavar="AGE", default="1h", show_default=True, help="How long a trace may stay unknown: 90s, 2d."
)
@click.option("--max-mb", type=click.FloatRange(min=0.01), default=4.0, show_default=True, help="Of one request.")
@click.option("--status", is_flag=True, help="Say what waits and what was given up, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (the address, or the status).")
def receive(
    host: str,
    port: int,
    experiments: tuple[str, ...],
    evaluators: str,
    accept_human: bool,
    inbox: str | None,
    keep: str,
    max_mb: float,
    status: bool,
    as_json: bool,
) -> None:
    """Take in `gen_ai.evaluation.result` events over OTLP/HTTP and store them as assessments.

    Log events, span events and evaluation spans are read, protobuf or JSON; everything else is passed over, and so
    is what this pack's own bridge has sent. The same evaluation sent again changes nothing. An evaluation of a trace
    that MLflow does not know yet waits; what was acknowledged survives a crash. Runs until stopped.

    ASSAY_RECEIVE_TOKEN, where set, is demanded of senders as `Authorization: Bearer`.

    \b
    assay receive --experiment support
    OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=http://127.0.0.1:4319/v1/logs python evaluate.py
    assay receive --status
    """
    from mlflow_assay.inbound.inbox import Inbox, default_path

    path = Path(inbox) if inbox else default_path()
    if status and not path.exists():
        raise StoreError(f"There is no inbox {str(path)!r}.", fix="Name it with --inbox; assay receive makes it.")
    opened = Inbox(path)
    try:
        if status:
            _status(opened, as_json)
        else:
            _serve(opened, host, port, experiments, evaluators, accept_human, keep, max_mb, as_json)
    finally:
        opened.close()


def _status(inbox: Inbox, as_json: bool) -> None:
    waiting, given_up = inbox.waiting(), inbox.given_up()
    if as_json:
        click.echo(json.dumps({"waiting": waiting, "given_up": given_up}))
        return
    click.echo(f"{waiting} evaluations wait to be stored.")
    for reason, count in given_up.items():
        click.echo(f"{count} given up in the last 7 days: {reason}.")


def _serve(
    inbox: Inbox,
    host: str,
    port: int,
    experiments: tuple[str, ...],
    evaluators: str,
    accept_human: bool,
    keep: str,
    max_mb: float,
    as_json: bool,
) -> None:
    from mlflow_assay.inbound.receiver import Receiver, ReceiverSettings
    from mlflow_assay.inbound.writer import Writer

    settings = ReceiverSettings(
        host=host,
        port=port,
        token=os.environ.get("ASSAY_RECEIVE_TOKEN") or None,
        max_bytes=int(max_mb * 1024 * 1024),
        default_source=evaluators.upper(),
        accept_human=accept_human,
    )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    receiver = Receiver(settings, inbox, Writer(inbox, _ids(experiments), keep_s=_seconds(keep))).start()
    try:
        if as_json:
            click.echo(json.dumps({"url": receiver.url}))
        else:
            click.echo(f"Listening on {receiver.url}. Senders: OTEL_EXPORTER_OTLP_LOGS_ENDPOINT={receiver.url}/v1/logs")
        stopped.wait()
    finally:
        receiver.stop()
    counts = {**receiver.counts, **receiver.writer_counts}
    click.echo(", ".join(f"{count} {what}" for what, count in counts.items() if count) or "Nothing arrived.", err=True)


def _ids(experiments: tuple[str, ...]) -> list[str] | None:
    """Experiment ids from names or ids; None when none was named."""
    if not experiments:
        return None
    import mlflow

    found = []
    for name in experiments:
        known = mlflow.get_experiment_by_name(name) or (mlflow.get_experiment(name) if name.isdigit() else None)
        if known is None:
            raise StoreError(f"There is no experiment {name!r} in MLflow.")
        found.append(str(known.experiment_id))
    return found


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(age: str) -> float:
    number, unit = age[:-1], age[-1:]
    if unit not in _UNITS or not number.isdigit():
        raise ConfigError(f"--keep {age!r} is no time.", valid="90s, 15m, 1h, 2d")
    return float(number) * _UNITS[unit]
