"""Options the dataset commands share, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.contracts import DatasetStore
    from mlflow_assay.redaction import Redactor

F = TypeVar("F", bound=Callable[..., Any])

__all__ = [
    "governance_options",
    "json_option",
    "open_",
    "pairs",
    "redactor",
    "row_options",
    "shaping_options",
    "store_option",
    "summary",
]


def store_option(command: F) -> F:
    """`--store`, where datasets are."""
    option = click.option(
        "--store",
        metavar="URL",
        envvar="ASSAY_DATASETS",
        help="Folder or URL of the store. Also ASSAY_DATASETS.  [default: the folder assay-datasets]",
    )
    return option(command)


def json_option(command: F) -> F:
    """`--json`, for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def governance_options(command: F) -> F:
    """What the manifest says about the data."""
    for option in (
        click.option("--pii", metavar="CLASS", help="Class of personal data: none, redacted, personal, …"),
        click.option("--retention", metavar="TIME", help="How long it may be kept: 90d, or a date."),
        click.option("--owner", help="Who answers for the data."),
        click.option("--licence", help="SPDX id or a sentence."),
        click.option("--by", help="Who makes the version.  [default: your user name]"),
    ):
        command = option(command)
    return command


def row_options(command: F) -> F:
    """Which traces become rows, and what of them."""
    for option in (
        click.option(
            "--redaction",
            metavar="FILE",
            envvar="ASSAY_REDACTION",
            help="YAML with patterns of your own; `none` replaces nothing. Also ASSAY_REDACTION.  [default: the "
            "built-in patterns]",
        ),
        click.option(
            "--tag", "tags", multiple=True, metavar="KEY", help="Keep this trace tag with the row. Repeatable."
        ),
        click.option("--output", "output", default="outputs", show_default=True, help="Trace field of the answer."),
        click.option(
            "--input",
            "inputs",
            multiple=True,
            metavar="NAME=FIELD",
            help="Input of a row from a trace field, such as request=first_user_message. Repeatable.  [default: the "
            "root span's inputs]",
        ),
        click.option(
            "--slice",
            "slice_",
            metavar="FIELD",
            help="Part of the population: agent, tag:KEY, metadata:KEY, span:NAME.",
        ),
        click.option(
            "--expect",
            multiple=True,
            metavar="NAME",
            help="People's feedback that says what should have been. Repeatable.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="NAME",
            help="Where labels are (NAME=JUDGE for one judge). Repeatable.",
        ),
        click.option(
            "--where",
            multiple=True,
            metavar="CONDITION",
            help="'judge NAME failed|passed|unscored|wrong|right', 'label NAME good|bad|contested|any', "
            "'tag KEY = VALUE', 'trace failed|ok'. All must hold. Repeatable.",
        ),
    ):
        command = option(command)
    return command


def shaping_options(command: F) -> F:
    """Duplicates, sample, splits."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Of sample and splits."),
        click.option(
            "--split",
            default="60/20/20",
            show_default=True,
            metavar="A/B/C",
            help="Train, validation and test; or none.",
        ),
        click.option(
            "--sample",
            type=click.IntRange(min=1),
            metavar="N",
            help="At most so many rows in all, drawn from every slice.",
        ),
        click.option(
            "--near",
            type=click.FloatRange(0, 1, min_open=True),
            default=0.8,
            show_default=True,
            help="Similarity from which inputs count as the same.",
        ),
        click.option(
            "--duplicates",
            type=click.Choice(["near", "exact", "none"]),
            default="near",
            show_default=True,
            help="Which are merged.",
        ),
    ):
        command = option(command)
    return command


def open_(url: str | None) -> DatasetStore:
    """The store asked for."""
    from mlflow_assay.datasets.store import open_store

    return open_store(url)


def redactor(setting: str | None) -> Redactor | None:
    """The redactor asked for; None for none."""
    from mlflow_assay.redaction import Redactor

    if setting is not None and setting.strip().lower() == "none":
        return None
    return Redactor() if setting is None else Redactor.from_yaml(setting)


def pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping.

    Raises:
        ConfigError: one has another form.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise ConfigError(f"{option} {text!r} cannot be read.", valid="NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def summary(manifest: Any) -> str:
    """One line on a version: rows, splits, digest."""
    parts = ", ".join(f"{count} {split}" for split, count in manifest.splits.items())
    return f"{manifest.reference}: {manifest.rows} rows{f' ({parts})' if parts else ''}, digest {manifest.short}"
