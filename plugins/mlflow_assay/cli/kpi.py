"""`assay kpi`: pass rates corrected for the judge's errors, or marked uncorrected with the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mlflow_assay.cli.labelled import by_option, confidence_option, console, fit, label_option, read, table
from mlflow_assay.cli.options import json_option, judges_path, trace_options
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from mlflow_assay.labels.kpi import Kpi
    from mlflow_assay.trust.estimate import ErrorRates, Estimate

__all__ = ["kpi"]

_GUIDE = """\
How to read "24 % [17–33 %], corrected with 114 labels"

  24 %      Our best answer to: of all requests in this window, how many were really handled well?
  [17–33 %] The range the true share lies in, as far as the data can tell. If we made such ranges every week, about
            95 in 100 of them would hold the true share, and 5 would not. It is not the range single requests vary in.
  n         How many requests were judged. Repeated requests of one session count as less than separate ones.

Why it differs from what the judge says
  A judge makes mistakes: it lets bad answers pass and fails good ones. People labelled some of the same requests; from
  these we know how often its "pass" is truly good and its "fail" truly bad, and correct the whole by that. On recorded
  runs of a telecom agent, one judge said 44 % where the truth was 24 %. "Not corrected" means: this is only what the
  judge says, and nobody knows how far it is off. The line below the table says what is missing.

Did it get better?
  Two ranges that do not overlap: yes. Two that overlap: perhaps; do not read it off two numbers. Ask `assay compare`,
  which looks at the same requests before and after and can see much smaller changes.

What makes the range narrower
  More labels, until there are a few hundred: half the width takes about four times as many. More judged requests
  help only while they are few. A judge that agrees better with people helps too (`assay agreement`).

What it cannot tell
  Unscored requests are in no number; if they are many, ask why they could not be judged. Labels must be drawn from
  this very window, at random or as `assay` picks them: labels of last month, of another agent, or only of the
  requests somebody complained about do not speak for these."""


def _explain(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(_GUIDE)
        ctx.exit()


@click.command()
@trace_options
@click.option("--judge", "-j", "judges", multiple=True, help="Only this judge. Repeatable. Default: all found.")
@label_option
@by_option
@click.option("--se", "sensitivity", metavar="HITS/GOOD", help="From a study elsewhere: good traces the judge passed.")
@click.option("--sp", "specificity", metavar="REJECTED/BAD", help="From the same study: bad traces it failed.")
@click.option("--rates-from", metavar="TEXT", help="Where and when --se and --sp were measured; shown to the reader.")
@confidence_option
@judges_path
@json_option
@click.option(
    "--explain", is_flag=True, is_eager=True, expose_value=False, callback=_explain, help="How to read such a number."
)
def kpi(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    judges: tuple[str, ...],
    labels: tuple[str, ...],
    by: str | None,
    sensitivity: str | None,
    specificity: str | None,
    rates_from: str | None,
    confidence: float,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Give each judge's pass rate with its interval, corrected for the judge's errors where labels allow it.

    Labels must stand on these very traces (20 or more) and on verdicts of the same version of the judge; otherwise
    the number is marked as not corrected, with the reason. Error rates from a study elsewhere (--se, --sp) are used
    only where labels do not suffice, and say so.

    \b
    assay kpi --experiment support --since 7d
    assay kpi --experiment telecom --judge quick_triage_v1 --label task_success --by tag:domain
    assay kpi --experiment support --judge polite --se 45/50 --sp 88/100 --rates-from "gold set of May"
    assay kpi --explain
    """
    from mlflow_assay.labels.kpi import kpi_of

    external = _external(sensitivity, specificity, rates_from)
    window = read(experiment, filter_string, since, max_traces, labels, paths, by=[by] if by else [], quiet=as_json)
    names = list(dict.fromkeys(judges)) or window.judges
    if external is not None and len(names) != 1:
        raise ConfigError("Error rates belong to one judge.", found=f"{len(names)} judges", fix="Name it with --judge.")
    found = []
    for name in names:
        paired = window.pair(name)
        units = {row.unit if paired.scope == "session" else row.trace_id for row in window.rows}
        found.append(kpi_of(paired, len(units), by=by, external=external, confidence=confidence))
    if as_json:
        shown = {"experiment": experiment, "n_traces": len(window.rows), "kpis": [k.to_dict() for k in found]}
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    out = console()
    if not found:
        out.print(f"No judge gave verdicts on these {len(window.rows)} traces. Next: assay score.")
        return
    _show(out, found, by)


def _external(sensitivity: str | None, specificity: str | None, source: str | None) -> ErrorRates | None:
    """The external error rates; None when none are given."""
    if sensitivity is None and specificity is None and source is None:
        return None
    if sensitivity is None or specificity is None or source is None:
        raise ConfigError(
            "External error rates need --se, --sp and --rates-from together.",
            fix='For example: --se 45/50 --sp 88/100 --rates-from "gold set of May".',
        )
    from mlflow_assay.trust.estimate import ErrorRates

    (hits, good), (rejections, bad) = _fraction("--se", sensitivity), _fraction("--sp", specificity)
    return ErrorRates(hits, good, rejections, bad, source)


def _fraction(option: str, text: str) -> tuple[int, int]:
    part, slash, whole = (piece.strip() for piece in text.partition("/"))
    if not (slash and part.isdigit() and whole.isdigit()):
        raise ConfigError(
            f"{option} {text!r} is not a count of a count.",
            valid="HITS/TOTAL, for example 45/50",
            fix="A bare rate does not say how sure it is, so no interval could be given.",
        )
    return int(part), int(whole)


_COLUMNS = ("pass rate", "corrected", "alone", "judged", "labels", "unscored")


def _show(out: Console, found: list[Kpi], by: str | None) -> None:
    made = table(f"judge, {by}" if by else "judge", *_COLUMNS, numbers=(4, 5, 6))
    for one in found:
        made.add_row(one.judge, *_cells(one.estimate))
        for value, estimate in one.slices.items():
            made.add_row(f"  {value}", *_cells(estimate))
    out.print(fit(made))
    for one in found:
        for line in _lines(one):
            out.print(line)
    out.print("Alone: what the judge says, uncorrected. How to read this: assay kpi --explain")


def _cells(e: Estimate) -> list[str]:
    from mlflow_assay.report.words import interval, percent, rate

    how = ("by rates" if e.method == "rogan-gladen" else "yes") if e.is_corrected else "no"
    counts = [str(e.n_judged), str(e.n_labelled), str(e.n_unscored)]
    return [f"{rate(e)} [{interval(e)}]", how, percent(e.raw), *counts]


def _lines(one: Kpi) -> list[str]:
    """What the number rests on, in sentences."""
    from mlflow_assay.report.words import reason

    lines = [f"{one.judge} ({one.estimate.method}): {' '.join(one.estimate.assumptions)}"]
    if one.reasons:
        why = ", ".join(f"{n} × {reason(code)}" for code, n in one.reasons.items())
        lines.append(f"  Unscored: {why}.")
    absent = one.units - one.estimate.n_judged - one.estimate.n_unscored - one.n_trained
    if absent:
        lines.append(f"  {absent} of {one.units} {one.scope}s have no verdict of this judge.")
    return lines
