"""A command whose options are the fields of a dataclass: each is declared once, with its type.

@dataclass(frozen=True)
class Request:
    sample: Annotated[float, opt("--sample", type=click.FloatRange(0, 1), default=1.0, help="Share of traces.")]
    otlp_endpoint: Annotated[str | None, sink_options]  # a decorator that several commands share
    datadog: bool  # declared by it as well

@click.command()
@takes(Request)
def watch(request: Request) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import click

__all__ = ["opt", "takes"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Option:
    """An option that has the name of the field it stands on."""

    flags: tuple[str, ...]
    facts: dict[str, Any]


def opt(*flags: str, **facts: Any) -> _Option:
    """What `click.option` takes, without the parameter's name, as an annotation of a field."""
    return _Option(flags, facts)


def takes(request: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Give a command the options of a dataclass, in the order of its fields, and call it with one of these.

    Args:
        request: its fields are annotated with `opt(…)`, or with a decorator that adds options of their names.
    """

    def decorate(command: Callable[[T], None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            command(request(**given))

        taking: Callable[..., None] = run
        hints = get_type_hints(request, include_extras=True)
        for field in reversed(fields(request)):  # type: ignore[arg-type]
            for said in getattr(hints[field.name], "__metadata__", ()):
                add = click.option(*said.flags, field.name, **said.facts) if isinstance(said, _Option) else said
                taking = add(taking)
        return taking

    return decorate
