"""`assay judges calibrate`: what labels allow a cascade's tiers, or teach a panel's members."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlflow_assay.cli.options import (
    json_option,
    judges_path,
    model_options,
    model_settings,
    read_texts,
    texts_option,
    trace_options,
)

if TYPE_CHECKING:
    from mlflow_assay.judges.calibrating import Calibration

__all__ = ["calibrate"]


@click.command()
@click.argument("name")
@trace_options
@click.option("--label", "-l", required=True, help="Assessment or expectation that holds the labels.")
@click.option(
    "--agreement",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Cascade: share of accepted verdicts that must agree with the labels.",
)
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Cascade: chance that they agree less all the same.",
)
@judges_path
@texts_option
@model_options
@json_option
def calibrate(
    name: str,
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    label: str,
    agreement: float,
    delta: float,
    paths: tuple[str, ...],
    settings: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Calibrate the cascade NAME, or the panel NAME with `vote: learned`, on labelled traces.

    Reads the verdicts its judges have already given in the experiment (run them first with `assay score`) and the
    labels, and writes what they show into the file that the definition names under `calibration`. No judge is asked.
    For a cascade: from which confidence on each tier may answer, so that its verdicts agree with the labels at
    --agreement or more, except with probability --delta. Where the labels do not show it, nothing is written and
    the exit code is 2.

    \b
    assay score --experiment support --judge routing_local
    assay judges calibrate routing_cascade --experiment support --label routing_ok --agreement 0.9
    """
    from mlflow_assay import pipeline
    from mlflow_assay.sources.mlflow_store import MlflowSource, parse_since

    source = MlflowSource(experiment, filter_string, parse_since(since) if since else None, max_traces)
    path, found = pipeline.calibrate(
        name,
        source,
        label,
        agreement=agreement,
        delta=delta,
        model=model_settings(model, base_url, timeout_s),
        paths=paths,
        texts=read_texts(settings).get(name, {}),
    )
    if as_json:
        click.echo(json.dumps({"judge": name, "path": str(path), **asdict(found)}, indent=2, ensure_ascii=False))
        return
    click.echo(found.summary)
    for note in _left_out(found):
        click.echo(note)
    click.echo(f"Written: {path}")
    click.echo(f"Next: assay score --experiment {experiment!r} --judge {name}")


def _left_out(found: Calibration) -> list[str]:
    told = (
        (found.unjudged, "have no verdict of one of the judges"),
        (found.learnt, "taught one of the judges, so its verdict on them proves nothing"),
        (found.thinned, "left out at random, so that all had the same chance of being labelled"),
    )
    return [f"{count} labelled traces {why}." for count, why in told if count]
