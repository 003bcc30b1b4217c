"""`assay judges train`: a local judge from labelled traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import json_option, trace_options

if TYPE_CHECKING:
    from mlflow_assay.judges.local import Example, LabelSet, LocalJudge, Options
    from mlflow_assay.sources.mlflow_store import MlflowSource

__all__ = ["train"]

_PAGE = 100


@click.command()
@click.argument("name")
@trace_options
@click.option("--label", required=True, help="Name of the assessments to learn from.")
@click.option(
    "--source",
    type=click.Choice(["human", "code", "any"]),
    default="human",
    show_default=True,
    help="Whose assessments: people's, recorded ground truth, or anyone's (LLM judges included).",
)
@click.option(
    "--field",
    "-f",
    "fields",
    multiple=True,
    required=True,
    metavar="FIELD[=text|category|number][?]",
    help="Trace field to read; repeatable. A ? makes it optional.",
)
@click.option("--good", type=click.BOOL, default=True, show_default=True, help="The label's value that passes.")
@click.option(
    "--embedder", type=click.Path(file_okay=False), help="Folder of a local MiniLM-type model; reads meaning."
)
@click.option(
    "--cross/--no-cross", default=True, help="Read the first text together with each category.  [default: on]"
)
@click.option(
    "--group-by",
    metavar="FIELD",
    help="Find near-duplicates by this field, or `session` for sessions only.  [default: the first text]",
)
@click.option(
    "--target-agreement", type=float, default=0.9, show_default=True, help="Agreement with the labels to answer with."
)
@click.option("--min-kappa", type=float, default=0.4, show_default=True, help="Least lower bound of kappa.")
@click.option("--purpose", default="", help="The question it answers, for the catalogue.")
@click.option(
    "--out", type=click.Path(file_okay=False), default="judges", show_default=True, help="Folder to write to."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the folds.")
@click.option("--force", is_flag=True, help="Allow its use even if it is refused; recorded in file and verdicts.")
@json_option
def train(
    name: str,
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    label: str,
    source: str,
    out: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a local judge: a text classifier that needs no key and calls no model.

    It learns from assessments named --label (yes/no, true/false, pass/fail), is checked on traces it did not see
    (sessions and near-duplicates kept together), abstains where it is unsure, and is refused where its agreement
    with the labels is too poor. Writes NAME.judge.zip and the definition NAME.yaml.

    \b
    assay judges train routing -e support --label correct_route -f first_user_message -f tag:agent
    assay judges train resolved -e support --label resolved --source code -f transcript -f tools_called -f steps
    """
    from mlflow_assay.judges.local import Options, train_examples
    from mlflow_assay.judges.local.definition import check_name, save_with_definition
    from mlflow_assay.sources.mlflow_store import MlflowSource, parse_since

    check_name(name)
    options = Options(**_grouping(settings))
    traces = MlflowSource(experiment, filter_string, parse_since(since) if since else None, max_traces)
    labels = _labels(traces, label, source, options.good)
    click.echo(f"{len(labels.passed)} labelled traces; reading them.", err=True)
    judge = train_examples(list(_examples(labels, options)), labels, name=name, options=options)
    usable = judge.report.trusted or options.force
    saved = save_with_definition(judge, out) if usable else None
    command = f"assay score -e {_quoted(experiment)} -j {name} --path {_quoted(out)}"
    if as_json:
        click.echo(json.dumps(_facts(judge, saved, command), indent=2, ensure_ascii=False))
    else:
        _print(judge, saved, command)
    judge.require_trust()


def _grouping(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with `--group-by` as `Options` takes it."""
    by = settings.pop("group_by")
    return settings | {"group_by": None if by == "session" else by or ""}


def _labels(source: MlflowSource, label: str, kind: str, good: bool) -> LabelSet:
    from mlflow_assay.contracts import BooleanValue
    from mlflow_assay.errors import ConfigError
    from mlflow_assay.judges.local import of_traces

    infos = list(source.infos())
    found = of_traces(infos, label, kind, BooleanValue(good))  # type: ignore[arg-type]
    if not found.passed and not found.ties and not found.unreadable:
        names = sorted({f"{a.name} ({str(a.source.source_type).lower()})" for i in infos for a in i.assessments or []})
        raise ConfigError(
            f"None of the {len(infos)} traces has an assessment {label!r} from source {kind}.",
            valid=names or "(no assessments)",
        )
    return found


def _examples(labels: LabelSet, options: Options) -> Iterator[Example]:
    """What the judge reads of each labelled trace, a page of traces in memory at a time."""
    from mlflow_assay.judges.local.examples import read
    from mlflow_assay.sources.mlflow_store import load_ids

    ids, fields = list(labels.passed), options.to_read
    for start in range(0, len(ids), _PAGE):
        for trace in load_ids(ids[start : start + _PAGE]):
            yield read(trace, fields)


def _facts(judge: LocalJudge, saved: tuple[Path, Path] | None, command: str) -> dict[str, Any]:
    return {
        "name": judge.name,
        "digest": judge.digest,
        "report": judge.report.to_dict(),
        "model": str(saved[0]) if saved else None,
        "definition": str(saved[1]) if saved else None,
        "next": command if saved else None,
    }


def _print(judge: LocalJudge, saved: tuple[Path, Path] | None, command: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"Local judge {judge.name}", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, figure in judge.report.rows():
        table.add_row(what, figure)
    console.print(table)
    for note in judge.report.notes:
        console.print(f"· {note}", markup=False)
    for refusal in judge.report.refusals:
        console.print(f"! {refusal}", markup=False, style="red")
    if saved:
        console.print(f"\nWritten: {saved[0]} and {saved[1]}", markup=False, soft_wrap=True)
        console.print(f"Next:    {command}", markup=False, soft_wrap=True)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
