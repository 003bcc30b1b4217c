"""The `assay` command. Thin: each command parses, calls the package, prints.

A command lives in its own file and is imported only when it is used, so `assay --help` is quick and imports
no MLflow. To add one: a file in this folder and a line in `COMMANDS`.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from mlflow_assay.cli.lazy import LazyGroup
from mlflow_assay.errors import AssayError

# name -> (module:attribute, the line shown in `assay --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "traces": ("mlflow_assay.cli.traces:traces", "Import recorded agent runs as MLflow traces."),
    "judges": ("mlflow_assay.cli.judges:judges", "List, show, validate, test, train and register judges."),
    "score": ("mlflow_assay.cli.score:score", "Judge the traces of an experiment."),
    "watch": ("mlflow_assay.cli.watch:watch", "Judge new traces and ship every assessment, for as long as it runs."),
    "bridge": ("mlflow_assay.cli.bridge:bridge", "See what the bridge has shipped; reconcile, replay, dead letters."),
    "cache": ("mlflow_assay.cli.cache:cache", "Look at and prune the verdicts already paid for."),
    "agreement": ("mlflow_assay.cli.agreement:agreement", "Check a judge against people's labels."),
    "kpi": ("mlflow_assay.cli.kpi:kpi", "Give pass rates corrected for the judge's errors."),
    "recalibrate": ("mlflow_assay.cli.recalibrate:recalibrate", "Find a better threshold from stored scores."),
    "drift": ("mlflow_assay.cli.drift:drift", "Tell a judge that changed from an agent that got worse."),
    "probe": ("mlflow_assay.cli.probe:probe", "Say how far a judge repeats itself."),
    "compare": ("mlflow_assay.cli.compare:compare", "Say whether B is better than A, on the same inputs."),
    "labels": ("mlflow_assay.cli.labels:labels", "Choose what experts shall label; labels in and out as CSV."),
    "align": ("mlflow_assay.cli.align:align", "Align a judge with the experts, accepted only when proven."),
    "optimize": ("mlflow_assay.cli.optimize:optimize", "Improve an agent's prompts, accepted only when proven."),
    "env": ("mlflow_assay.cli.env:env", "Print the variables that send traces to an endpoint, and check it."),
    "receive": ("mlflow_assay.cli.receive:receive", "Take in evaluations of other tools over OTLP."),
    "dataset": ("mlflow_assay.cli.dataset:dataset", "Make test sets of traces; versions, SQL, other forms."),
    "report": ("mlflow_assay.cli.report:report", "Write a stakeholder's report as one HTML page."),
    "dashboards": ("mlflow_assay.cli.dashboards:dashboards", "List, build, check, import and preview Grafana boards."),
    "slo": ("mlflow_assay.cli.slo:slo", "Turn objectives into recording rules and alerts."),
    "demo": ("mlflow_assay.cli.demo:demo", "Play the whole loop on a simulated telecom agent."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-assay", prog_name="assay")
def assay() -> None:
    """Measure how good an agent really is, from its traces in MLflow.

    The tracking server is the one MLflow is set to: MLFLOW_TRACKING_URI, or the nearest mlflow.db.

    \b
    assay traces import --format tau2 runs.json.gz --experiment support
    assay judges list
    assay score --experiment support --judge request_resolved --model openai:/gpt-4.1-mini
    assay report --experiment support --out report.html
    """


def main() -> None:
    """Run the command; an `AssayError` becomes one clear message and exit code 2.

    Within this process only, MLflow's usage telemetry and litellm's price look-up at import are off unless the
    user has said otherwise: offline, each holds a command up for many seconds.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    try:
        assay(standalone_mode=False)
    except AssayError as error:
        click.echo(f"assay: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("assay: stopped.", err=True)
        sys.exit(130)
