"""What `assay watch` and `assay bridge` share: the outbox, and sinks named on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from mlflow_assay.contracts import BridgeSink
from mlflow_assay.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["make_sinks", "outbox_option", "parse_sink", "sink_options"]

_OTLP = ("otlp-span", "otlp-event", "otlp-metrics")


def outbox_option(command: F) -> F:
    """`--outbox`."""
    option = click.option(
        "--outbox",
        "outbox_url",
        metavar="URL",
        help="Database of the outbox: sqlite:////path/outbox.db, postgresql://user@host/db. Also ASSAY_OUTBOX_URL. "
        "[default: a SQLite file in the user's state folder]",
    )
    return option(command)


def sink_options(command: F) -> F:
    """Where to ship to."""
    for option in (
        click.option(
            "--sink",
            "sinks",
            multiple=True,
            metavar="NAME[,k=v…]",
            help="A bridge sink with its options, such as jsonl,path=verdicts.jsonl; as=NAME gives it another name "
            "in the outbox. Repeatable.",
        ),
        click.option("--datadog", is_flag=True, help="Evaluations to Datadog; DD_API_KEY and DD_SITE say where."),
        click.option(
            "--otlp-endpoint",
            metavar="URL",
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="OTLP/HTTP endpoint for verdict spans, evaluation events and metrics: http://localhost:4318. "
            "Also OTEL_EXPORTER_OTLP_ENDPOINT.",
        ),
    ):
        command = option(command)
    return command


def make_sinks(named: Sequence[str], otlp_endpoint: str | None, datadog: bool) -> dict[str, BridgeSink]:
    """The sinks asked for, by their names in the outbox.

    Raises:
        ConfigError: an unknown sink or option, two sinks of one name, or one that cannot be set up.
    """
    wanted = [parse_sink(text) for text in named]
    if otlp_endpoint:
        given = {alias for alias, _, _ in wanted}
        wanted += [(name, name, {"endpoint": otlp_endpoint}) for name in _OTLP if name not in given]
    if datadog:
        wanted.append(("datadog", "datadog", {}))
    made: dict[str, BridgeSink] = {}
    for alias, name, options in wanted:
        if alias in made:
            raise ConfigError(f"Two sinks are named {alias!r}.", fix="Give one another name: --sink NAME,as=OTHER")
        made[alias] = _build(name, options)
    return made


def parse_sink(text: str) -> tuple[str, str, dict[str, str]]:
    """`NAME[,k=v…]` as (name in the outbox, plugin's name, options).

    Raises:
        ConfigError: it is not of that form.
    """
    name, *parts = text.split(",")
    options: dict[str, str] = {}
    for part in parts:
        key, found, value = part.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"--sink {text!r} cannot be read.", found=part, valid="NAME or NAME,key=value,key=value")
        options[key.strip()] = value
    alias = options.pop("as", name)
    return alias, name, options


def _build(name: str, options: Mapping[str, str]) -> BridgeSink:
    from mlflow_assay import registry

    plugin = registry.load("bridge_sinks", name)
    valid = [p for p in inspect.signature(plugin).parameters if p not in ("args", "kwargs")]
    if stray := sorted(set(options) - set(valid)):
        raise ConfigError(f"The sink {name!r} has no option {stray[0]!r}.", valid=valid or "(none)")
    made: BridgeSink = plugin(**options)
    return made
