"""What `assay watch` and `assay bridge` share: the outbox, and sinks named on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from mlflow_assay.contracts import BridgeSink
from mlflow_assay.errors import AssayError, ConfigError

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["GuaranteesCommand", "GuaranteesGroup", "make_sinks", "outbox_option", "parse_sink", "sink_options"]

_FOR_ALL = """
Every revision of every assessment reaches each sink at least once, an assessment's in order. None is lost by kill -9,
an outage of sink or MLflow, a full disk, wrong clocks or a second worker; two edits between two looks at MLflow are one
revision. Sent again is only what was on its way when a worker died or an answer was lost. What a sink refuses for good
is a dead letter with its reason. The promise ends where the endpoint acknowledges: a collector's queues are its own.
"""
_OTLP = ("otlp-span", "otlp-event", "otlp-metrics")


class GuaranteesCommand(click.Command):
    """A command whose help ends with what each installed sink can promise against loss and doubles."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the guarantees, as the sinks themselves say them."""
        super().format_epilog(ctx, formatter)
        write_guarantees(formatter)


class GuaranteesGroup(GuaranteesCommand, click.Group):
    """The same for a group."""


def write_guarantees(formatter: click.HelpFormatter) -> None:
    """What holds for all sinks, and a sentence of each installed one."""
    from mlflow_assay import registry

    with formatter.section("Guarantees"):
        formatter.write_text(" ".join(_FOR_ALL.split()))
        formatter.write_dl([(name, _guarantee(name)) for name in registry.available("bridge_sinks")])


def _guarantee(name: str) -> str:
    from mlflow_assay import registry

    try:
        return str(getattr(registry.load("bridge_sinks", name), "guarantee", "At least once; it says no more."))
    except AssayError as error:
        return f"It cannot be loaded: {error}"  # help is help, also where somebody's package is broken


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
