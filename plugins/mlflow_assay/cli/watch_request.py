"""What `assay watch` can be asked: every option once, as a field with its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import click

from mlflow_assay.cli.bridge_kpis import gauge_options
from mlflow_assay.cli.bridge_options import outbox_option, sink_options
from mlflow_assay.cli.declared import opt
from mlflow_assay.cli.options import cache_option, judges_path, model_options, texts_option

__all__ = ["Request"]

_NOT_NEGATIVE = click.FloatRange(min=0)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


@dataclass(frozen=True)
class Request:
    """The command line. Fields that follow a shared decorator's are declared by it too."""

    experiments: Annotated[
        tuple[str, ...], opt("--experiment", "-e", multiple=True, required=True, help="Name or id; repeatable.")
    ]
    judges: Annotated[
        tuple[str, ...],
        opt("--judge", "-j", multiple=True, help="Judge new traces with it; repeatable. None: only ship."),
    ]
    sample: Annotated[
        float,
        opt("--sample", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of traces to judge."),
    ]
    filter_string: Annotated[
        str | None, opt("--filter", help="Judge only these: MLflow's search syntax, such as \"tag.env = 'prod'\".")
    ]
    since: Annotated[
        str | None, opt("--since", help="Only traces since then: 7d, 24h, 2026-11-01. [default: all there are]")
    ]
    settings: Annotated[tuple[str, ...], texts_option]
    paths: Annotated[tuple[str, ...], judges_path]
    model: Annotated[str | None, model_options]
    base_url: str | None
    timeout_s: float
    concurrency: Annotated[
        int,
        opt("--concurrency", type=click.IntRange(1, 1024), default=16, show_default=True, help="Calls in flight."),
    ]
    price: Annotated[str | None, opt("--price", help="The model's price, INPUT,OUTPUT in dollars per million tokens.")]
    max_usd: Annotated[float | None, opt("--max-usd", type=_POSITIVE, help="Judging may cost so much a day (UTC).")]
    max_calls: Annotated[int | None, opt("--max-calls", type=_COUNT, help="Judge calls a day (UTC).")]
    max_tokens: Annotated[int | None, opt("--max-tokens", type=_COUNT, help="Tokens a day (UTC).")]
    cache: Annotated[bool, cache_option]
    settle: Annotated[
        float,
        opt(
            "--settle",
            type=_NOT_NEGATIVE,
            default=10.0,
            show_default=True,
            help="Judge a trace so many seconds after its end.",
        ),
    ]
    quiet: Annotated[
        float,
        opt(
            "--quiet",
            type=_NOT_NEGATIVE,
            default=300.0,
            show_default=True,
            help="Judge a session after so many seconds of silence.",
        ),
    ]
    sinks: Annotated[tuple[str, ...], sink_options]
    datadog: bool
    otlp_endpoint: str | None
    outbox_url: Annotated[str | None, outbox_option]
    slices: Annotated[
        tuple[str, ...],
        opt("--slice", multiple=True, metavar="TAG", help="Tag of the trace that verdicts carry; repeatable."),
    ]
    redact: Annotated[
        bool, opt("--redact", is_flag=True, help="Mask personal data and keys in everything that leaves.")
    ]
    redaction_file: Annotated[
        str | None,
        opt("--redaction", type=click.Path(dir_okay=False), help="The same, by a YAML file of your own."),
    ]
    kpi_every: Annotated[
        float,
        opt(
            "--kpi-every",
            type=_NOT_NEGATIVE,
            default=300.0,
            show_default=True,
            help="Seconds between KPI gauges; 0: none. They need --otlp-endpoint.",
        ),
    ]
    labels: Annotated[tuple[str, ...], gauge_options]
    targets: tuple[str, ...]
    gold: str | None
    poll: Annotated[
        float,
        opt(
            "--poll",
            type=click.FloatRange(min=0.05),
            default=2.0,
            show_default=True,
            help="Seconds between looks at MLflow.",
        ),
    ]
    once: Annotated[bool, opt("--once", is_flag=True, help="Judge, read and ship all there is, then end: for cron.")]
    timeout_once: Annotated[
        float,
        opt(
            "--timeout-once",
            type=_NOT_NEGATIVE,
            default=300.0,
            show_default=True,
            help="With --once: seconds to go on trying sinks.",
        ),
    ]
    health_port: Annotated[
        int | None,
        opt(
            "--health-port",
            type=click.IntRange(0, 65535),
            help="Serve /healthz, /readyz, /status, /metrics there; 0: a free port.",
        ),
    ]
    health_host: Annotated[
        str, opt("--health-host", default="127.0.0.1", show_default=True, help="Address of that endpoint.")
    ]
    log_format: Annotated[
        Literal["text", "json"],
        opt(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Log on stderr.",
        ),
    ]
    as_json: Annotated[bool, opt("--json", is_flag=True, help="With --once: print how things stand as JSON.")]
