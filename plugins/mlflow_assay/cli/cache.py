"""`assay cache`: what the verdict cache holds, and making it smaller."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import json_option

if TYPE_CHECKING:
    from mlflow_assay.engine.cache import CacheStats

__all__ = ["cache"]

_url: Callable[..., Any] = click.option(
    "--url",
    metavar="URL",
    help="The cache's database. [default: ASSAY_CACHE_URL, or a file in the user's cache folder]",
)


@click.group()
def cache() -> None:
    """Look at the verdicts already paid for, and delete those no longer wanted."""


@cache.command()
@_url
@json_option
def stats(url: str | None, as_json: bool) -> None:
    """Show how many verdicts are kept of each judge and version, how big, how old, and how often used again."""
    from mlflow_assay.engine.cache import VerdictCache

    with VerdictCache(url) as opened:
        found = opened.stats()
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        _print(found)


@cache.command()
@_url
@click.option("--older-than", metavar="AGE", help="Only verdicts older than 30d, 12h, 2w, or than an ISO date.")
@click.option("--judge", metavar="NAME", help="Only verdicts of this judge.")
@click.option("--digest", metavar="HEX", help="Only verdicts of a judge with this digest (see stats).")
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Spare the N most recent of those.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def prune(
    url: str | None,
    older_than: str | None,
    judge: str | None,
    digest: str | None,
    keep: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete the verdicts that match all that is given; without options, all of them.

    The verdicts stored in MLflow stay. What is deleted here is judged, and paid, again when it is asked for again.

    \b
    assay cache prune --older-than 30d
    assay cache prune --judge tone --keep 1000 --yes
    """
    from mlflow_assay.engine.cache import VerdictCache

    which = {"older_than_ms": _age_ms(older_than), "judge": judge, "digest": digest}
    with VerdictCache(url) as opened:
        matching = max(0, opened.count(**which) - (keep or 0))  # type: ignore[arg-type]
        if matching and not yes:
            click.confirm(f"Delete {matching:,} verdicts from {opened.location}?", abort=True, err=True)
        deleted = opened.prune(**which, keep=keep) if matching else 0  # type: ignore[arg-type]
        left = opened.count()
    if as_json:
        click.echo(json.dumps({"deleted": deleted, "left": left}))
    else:
        click.echo(f"{deleted:,} verdicts deleted, {left:,} left.")


def _age_ms(text: str | None) -> int | None:
    from mlflow_assay.sources.mlflow_store import parse_since

    return None if text is None else int(time.time() * 1000) - parse_since(text)


def _print(found: CacheStats) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    click.echo(f"{found.location}: {found.entries:,} verdicts, {_size(found.bytes)}, used again {found.hits:,} times")
    if not found.judges:
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("judge", overflow="fold")
    table.add_column("digest", overflow="fold")
    for heading in ("verdicts", "size", "used again", "oldest", "newest"):
        table.add_column(heading, justify="right")
    for use in found.judges:
        ages = _day(use.oldest_ms), _day(use.newest_ms)
        table.add_row(use.judge, use.digest, f"{use.entries:,}", _size(use.bytes), f"{use.hits:,}", *ages)
    Console().print(table)


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d")
