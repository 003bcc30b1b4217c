"""`assay report`: an experiment's verdicts as one HTML page, or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_assay.cli.options import judges_path, trace_options

if TYPE_CHECKING:
    from mlflow_assay.report.model import ReportData

__all__ = ["report"]


@click.command()
@trace_options
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page to write. Default: report.html.")
@click.option(
    "--by",
    multiple=True,
    metavar="FIELD",
    help="Break pass rates down by agent, tag:KEY, metadata:KEY, expectation:KEY, span:NAME (did the step run?) or "
    "span:NAME.outputs[.path] (what it returned). Repeatable. Default: a tag that tells traces apart, if any.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=JUDGE",
    help="Check JUDGE against the assessment or expectation NAME, instead of people's feedback under the judge's own "
    "name. Repeatable.",
)
@click.option("--ui-url", metavar="URL", help="Address of MLflow's UI for links. Default: the tracking server, if one.")
@click.option("--title", help="The page's heading. Default: the experiment's name.")
@judges_path
@click.option("--json", "as_json", is_flag=True, help="Print the data as JSON; the page is written only with --out.")
def report(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    out: Path | None,
    by: tuple[str, ...],
    labels: tuple[str, ...],
    ui_url: str | None,
    title: str | None,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a report of an experiment's verdicts that a stakeholder can read.

    The page needs nothing but a browser: no network, no script. Traces and verdicts are only read.

    \b
    assay report --experiment support --out report.html
    assay report --experiment support --by agent --since 7d --ui-url http://localhost:5000
    assay report --experiment support --label ground_truth=request_resolved --json
    """
    from mlflow_assay import pipeline
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.report.data import ReportRequest, parse_label
    from mlflow_assay.report.links import ui_base
    from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment, parse_since, reach

    pairs = tuple(parse_label(text) for text in labels)
    since_ms = parse_since(since) if since else None
    base = ui_base(ui_url, reach())
    found = find_experiment(experiment)
    request = ReportRequest(
        experiment=found.name,
        experiment_id=str(found.experiment_id),
        title=title,
        by=by,
        labels=pairs,
        selection=_selection(since, filter_string, max_traces),
        ui_url=base,
    )
    source = MlflowSource(found.name, filter_string, since_ms, max_traces)
    target = out if out or as_json else Path("report.html")
    with Steps("Reading traces", quiet=as_json) as steps:
        data = pipeline.report(source, request, target, paths=paths, progress=steps.reach)
    if target is not None:
        click.echo(_done(target, data), err=as_json)
    if as_json:
        click.echo(json.dumps(data.to_json(), ensure_ascii=False, indent=2))


def _selection(since: str | None, search: str | None, most: int | None) -> str:
    """Which traces were asked for, in words; empty means all."""
    parts = (f"since {since}" if since else "", search or "", f"the first {most}" if most else "")
    return ", ".join(part for part in parts if part)


def _done(target: Path, data: ReportData) -> str:
    """What was found, in a few lines."""
    from mlflow_assay.report import words

    lines = [f"{words.plural(data.n_traces, 'trace')}, {words.plural(len(data.judges), 'judge')}: {target}"]
    for judge in data.judges:
        e = judge.estimate
        if e is None or e.value is None:
            lines.append(f"  {judge.name}: no pass rate, {judge.counts.unscored} unscored")
            continue
        kind = f"corrected with {e.n_labelled} labels" if e.is_corrected else "not corrected"
        lines.append(
            f"  {judge.name}: {words.rate(e)} [{words.interval(e)}], n = {e.n_judged}, {kind}, "
            f"{judge.counts.unscored} unscored"
        )
    if data.n_traces and data.ui_url is None:
        lines.append("  No links to MLflow: the store has no web page. Run `mlflow ui` and add --ui-url.")
    return "\n".join(lines)
