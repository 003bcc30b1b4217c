"""What the commands on labels share: options, reading one window of traces, and words for numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mlflow_assay.contracts import JudgeContract
    from mlflow_assay.labels.window import Window
    from mlflow_assay.trust.ratings import Measure

F = TypeVar("F", bound=Callable[..., Any])

_LOG_WIDTH = 120

__all__ = ["by_option", "confidence_option", "console", "contracts", "fit", "label_option", "measure", "read", "table"]


def label_option(command: F) -> F:
    """`--label`, where the labels are."""
    option = click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="NAME",
        help="Assessment or expectation that holds the labels (NAME=JUDGE for one judge only). Repeatable. Default: "
        "people's feedback under the judge's own name.",
    )
    return option(command)


def by_option(command: F) -> F:
    """`--by`, one breakdown."""
    option = click.option(
        "--by",
        metavar="FIELD",
        help="Also within each value of agent, tag:KEY, metadata:KEY, expectation:KEY or span:NAME.",
    )
    return option(command)


def confidence_option(command: F) -> F:
    """`--confidence` of intervals."""
    option = click.option(
        "--confidence",
        type=click.FloatRange(0.5, 0.999),
        default=0.95,
        show_default=True,
        help="Level of the intervals.",
    )
    return option(command)


def contracts(paths: tuple[str, ...]) -> dict[str, JudgeContract]:
    """Judges of the catalogue by the name of their verdicts; a YAML definition goes before a library's own."""
    from mlflow_assay.judges.catalogue import Catalogue

    entries = sorted(Catalogue(paths).entries.values(), key=lambda e: e.definition is not None)
    return {entry.contract.name: entry.contract for entry in entries}


def read(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    labels: tuple[str, ...],
    paths: tuple[str, ...],
    *,
    by: Sequence[str] = (),
    quiet: bool = False,
) -> Window:
    """The window the trace options ask for.

    Raises:
        StoreError: no such experiment, or no trace in it is selected.
    """
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.errors import StoreError
    from mlflow_assay.labels.window import parse_labels, read_window
    from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment, parse_since

    choice = parse_labels(labels)
    since_ms = parse_since(since) if since else None
    found = find_experiment(experiment)
    source = MlflowSource(found.name, filter_string, since_ms, max_traces)
    with Steps("Reading traces", quiet=quiet) as steps:
        window = read_window(source, contracts(paths), choice, by=by, progress=lambda _: steps.step())
    if not window.rows:
        raise StoreError(
            f"No trace of experiment {found.name!r} is selected.",
            found=f"selection {source.selection}",
            fix="Widen --since or --filter, or log traces first.",
        )
    return window


def console() -> Console:
    """Where tables go: standard output, numbers not recoloured; as wide as a log where it is no terminal."""
    import os
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _LOG_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def table(*columns: str, title: str | None = None, numbers: Sequence[int] = ()) -> Table:
    """A plain table; `numbers` are the positions of right-aligned columns."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=title, title_justify="left")
    for position, name in enumerate(columns):
        made.add_column(name, justify="right" if position in numbers else "left", overflow="fold")
    return made


def fit(made: Table) -> Table:
    """The table with only its first column allowed to fold, so that no number is lost on a narrow terminal."""
    for column in made.columns[1:]:
        column.no_wrap = True
    return made


def measure(found: Measure, *, percent: bool = False) -> str:
    """A number with its interval, `0.62 [0.48, 0.74]` or `62 % [48 %, 74 %]`."""
    if found.value is None:
        return "cannot be said"
    if not percent:
        return str(found)
    from mlflow_assay.report.words import percent as as_percent

    if found.low is None or found.high is None:
        return as_percent(found.value)
    return f"{as_percent(found.value)} [{as_percent(found.low, sign=False)}–{as_percent(found.high)}]"
