"""`assay bridge kpis`: the KPI gauges as they stand, shown or pushed once. Options are shared with `assay watch`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.kpis.gauges import KpiGauges
    from mlflow_assay.redaction import Redactor

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["gauge_options", "kpis", "make_gauges"]


def gauge_options(command: F) -> F:
    """What KPI gauges are computed from."""
    for option in (
        click.option(
            "--gold", metavar="EXPERIMENT", help="Gold set whose stored verdicts show whether a judge changed."
        ),
        click.option(
            "--kpi-target",
            "targets",
            multiple=True,
            metavar="JUDGE=RATE",
            help="The pass rate the alarm holds the agent to, such as request_resolved=0.8; repeatable. Default: what "
            "it was before.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="NAME",
            help="Assessment or expectation that holds the labels (NAME=JUDGE for one judge only); repeatable. "
            "Default: people's feedback under the judge's own name.",
        ),
    ):
        command = option(command)
    return command


def make_gauges(
    experiment: str,
    *,
    labels: Sequence[str],
    targets: Sequence[str],
    gold: str | None,
    by: Sequence[str],
    every_s: float = 300.0,
    judges: Sequence[str] = (),
    paths: tuple[str, ...] = (),
    endpoint: str | None = None,
    redactor: Redactor | None = None,
) -> KpiGauges:
    """The gauges of one experiment, from options.

    Raises:
        ConfigError: an option is not one.
    """
    from mlflow_assay.cli.labelled import contracts
    from mlflow_assay.kpis.gauges import KpiGauges

    return KpiGauges(
        experiment,
        judges=judges,
        by=by,
        labels=labels,
        targets=dict(_target(text) for text in targets),
        gold=gold,
        contracts=contracts(paths),
        every_s=every_s,
        endpoint=endpoint,
        redactor=redactor,
    )


def _target(text: str) -> tuple[str, float]:
    judge, _, rate = (part.strip() for part in text.rpartition("="))
    try:
        number = float(rate)
    except ValueError:
        number = 0.0
    if not judge or not 0 < number < 1:
        raise ConfigError(f"--kpi-target {text!r} is no target.", valid="JUDGE=RATE between 0 and 1, such as tone=0.9")
    return judge, number


@click.command()
@click.option("--experiment", "-e", required=True, help="Name or id.")
@click.option("--judge", "-j", "judges", multiple=True, help="Only this judge; repeatable. Default: all found.")
@click.option(
    "--by", multiple=True, metavar="FIELD", help="Also within each value of tag:KEY or metadata:KEY; repeatable."
)
@gauge_options
@click.option("--otlp-endpoint", metavar="URL", help="Push them there, once: http://localhost:4318.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def kpis(
    experiment: str,
    judges: tuple[str, ...],
    by: tuple[str, ...],
    labels: tuple[str, ...],
    targets: tuple[str, ...],
    gold: str | None,
    otlp_endpoint: str | None,
    as_json: bool,
) -> None:
    """Show the KPI gauges of the last 24 hours, 7 days and 28 days, as `assay watch` publishes them.

    They are computed from MLflow each time: pass rates with intervals, corrected where labels allow; agreement with
    labels; an alarm that may be looked at as often as one likes; waiting labels; cost and latency of runs.

    \b
    assay bridge kpis -e support
    assay bridge kpis -e support --by tag:domain --kpi-target request_resolved=0.8 --json
    assay bridge kpis -e support --otlp-endpoint http://localhost:4318      # for cron, where no worker runs
    """
    from mlflow_assay.kpis.gauges import to_rows

    gauges = make_gauges(
        experiment,
        labels=labels,
        targets=targets,
        gold=gold,
        by=by,
        judges=judges,
        endpoint=otlp_endpoint,
    )
    rows = to_rows(gauges.update() if otlp_endpoint else gauges.compute())
    gauges.close()
    if as_json:
        click.echo(json.dumps({"experiment": experiment, "gauges": rows}, ensure_ascii=False, indent=2))
        return
    _print(rows)
    if otlp_endpoint:
        click.echo(f"{len(rows)} gauges pushed.")


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """Rates as a table, `own` being the judge's uncorrected one; all else a line a series, windows side by side."""
    from mlflow_assay import semconv
    from mlflow_assay.cli.labelled import console, fit, table

    rates: dict[tuple[str, ...], dict[str, Any]] = {}
    rest: dict[str, list[str]] = {}
    for row in rows:
        labels = dict(row["labels"])
        window = labels.pop(semconv.prometheus_label(semconv.WINDOW), "")
        if row["metric"].startswith("assay_kpi_") and row["metric"] != semconv.prometheus_name(semconv.M_KPI_ALARM):
            named = (semconv.EVALUATION_NAME, semconv.GEN_AI_AGENT, semconv.SLICE)
            key = (*(labels.get(semconv.prometheus_label(name), "") for name in named), window)
            found = rates.setdefault(key, {})
            found[row["metric"].removeprefix("assay_kpi_")] = row["value"]
            found.update({"method": method} if (method := labels.get(semconv.prometheus_label(semconv.METHOD))) else {})
        else:
            labels.pop(semconv.prometheus_label(semconv.EXPERIMENT_ID), None)
            told = ", ".join(f"{name}={value}" for name, value in labels.items())
            rest.setdefault(f"{row['metric']}{{{told}}}", []).append(f"{window} {row['value']:.4g}".strip())
    made = table("judge", "of", "window", "pass rate", "own", "judged", "labelled", "unscored", "")
    for (judge, agent, part, window), found in sorted(rates.items(), key=lambda item: item[0][:3]):
        counts = (f"{found[name]:.0f}" if name in found else "–" for name in ("judged", "labelled", "unscored"))
        made.add_row(
            judge, part or agent, window, _rate(found), _percent(found.get("raw")), *counts, found.get("method", "")
        )
    if rates:
        console().print(fit(made))
    for series, values in rest.items():
        click.echo(f"{series}  {', '.join(values)}")
    if not rows:
        click.echo("There is nothing to show: no traces, or none with a verdict, in the last 28 days.")


def _rate(found: dict[str, Any]) -> str:
    low, high = (f"{100 * found[end]:.0f}" if end in found else "–" for end in ("low", "high"))
    return f"{_percent(found.get('rate'))} [{low}–{high}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
