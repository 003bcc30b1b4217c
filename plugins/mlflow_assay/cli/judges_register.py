"""`assay judges register`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlflow_assay.cli.options import judges_path, read_texts, texts_option
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.judges.registering import Registration, Schedule

__all__ = ["register"]


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--experiment", "-e", required=True, help="Name or id of the MLflow experiment.")
@click.option("--model", help="Judge model MLflow will ask: gateway:/ENDPOINT to start it, else any model URI.")
@texts_option
@judges_path
@click.option("--start", is_flag=True, help="Have MLflow's server judge new traces (needs --model gateway:/…).")
@click.option(
    "--sample-rate",
    type=click.FloatRange(0, 1, min_open=True),
    help="With --start: the share of new traces judged.  [default: 1.0]",
)
@click.option("--filter", "filter_string", help="With --start: only traces that match, in MLflow's search syntax.")
@click.option("--json", "as_json", is_flag=True, help="Print a list, one object a judge.")
def register(
    names: tuple[str, ...],
    experiment: str,
    model: str | None,
    settings: tuple[str, ...],
    paths: tuple[str, ...],
    start: bool,
    sample_rate: float | None,
    filter_string: str | None,
    as_json: bool,
) -> None:
    """Register judges as scorers of an MLflow experiment, so that they appear in MLflow's UI.

    With a model of MLflow's AI Gateway they can be started: the server then judges new traces by itself. Instruction
    judges that read {{ inputs }}, {{ outputs }}, {{ trace }} or {{ conversation }} can be registered, and MLflow's
    built-in ones; code judges and judges with mapped fields cannot: run those with `assay score`. All NAMES are
    checked before the first is registered; registering an unchanged judge again adds no version.

    \b
    assay judges register tone request_resolved -e support --model gateway:/judge --start --sample-rate 0.1
    """
    from mlflow_assay.cli.options import model_settings
    from mlflow_assay.judges import registering
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.sources.mlflow_store import find_experiment

    schedule = _schedule(start, sample_rate, filter_string)
    catalogue, texts, chosen = Catalogue(paths), read_texts(settings), model_settings(model, None, 60.0)
    for name in names:
        registering.check(catalogue, name, chosen, start)
        catalogue.build(name, chosen, texts.get(name))
    found = find_experiment(experiment)
    done = [
        registering.register(catalogue, name, found.experiment_id, chosen, texts.get(name), schedule)
        for name in dict.fromkeys(names)
    ]
    if as_json:
        click.echo(json.dumps([asdict(r) for r in done], indent=2))
    else:
        _print(done, str(found.name))


def _schedule(start: bool, sample_rate: float | None, filter_string: str | None) -> Schedule | None:
    from mlflow_assay.judges.registering import Schedule

    if start:
        return Schedule(1.0 if sample_rate is None else sample_rate, filter_string)
    if sample_rate is not None or filter_string is not None:
        raise ConfigError("--sample-rate and --filter say how a judge is run; they need --start.")
    return None


def _print(done: list[Registration], experiment: str) -> None:
    for r in done:
        state = "unchanged, still" if r.unchanged else "registered as"
        started = f", started on {r.sample_rate:.0%} of new traces" if r.sample_rate is not None else ""
        asks = f", asks {r.model}" if r.model else ""
        click.echo(f"{r.judge}: {state} version {r.version} in {experiment!r}{asks}{started}")
        if r.note:
            click.echo(f"  note: {r.note}")
    click.echo("In MLflow's UI: the experiment's Judges tab. Its server's verdicts carry MLflow's own metadata.")
