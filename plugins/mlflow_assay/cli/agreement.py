"""`assay agreement`: is the judge right? Its verdicts against people's labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mlflow_assay.cli.labelled import by_option, confidence_option, console, label_option, measure, read, table
from mlflow_assay.cli.options import json_option, judges_path, trace_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mlflow_assay.labels.check import JudgeCheck, JudgeDuel
    from mlflow_assay.labels.people import Labels
    from mlflow_assay.trust.agreement import Agreement

__all__ = ["agreement"]

_SHOWN_CONFLICTS = 10


@click.command()
@trace_options
@click.option("--judge", "-j", "judges", multiple=True, required=True, help="The judge to check. Repeatable.")
@label_option
@by_option
@click.option(
    "--target",
    type=click.FloatRange(0.01, 0.5),
    default=0.2,
    show_default=True,
    help="Half-width of kappa's interval that counts as enough labels.",
)
@confidence_option
@judges_path
@json_option
def agreement(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    judges: tuple[str, ...],
    labels: tuple[str, ...],
    by: str | None,
    target: float,
    confidence: float,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say how far a judge agrees with people's labels, and how sure that is.

    Labels are people's feedback on the same traces: under the judge's own name, or under the name --label gives,
    which may also be recorded ground truth. Conflicting labels are shown; the majority counts. With several
    judges, they are also compared with the first on the same labelled traces.

    \b
    assay agreement --experiment support --judge request_resolved
    assay agreement --experiment support --judge request_resolved --by tag:agent
    assay agreement -e telecom -j customer_outcome_v1 -j quick_triage_v1 --label task_success --json
    """
    from mlflow_assay.labels.check import check_judge, duels_against_first

    window = read(experiment, filter_string, since, max_traces, labels, paths, by=[by] if by else [], quiet=as_json)
    paired = [window.pair(name) for name in dict.fromkeys(judges)]
    checks = [check_judge(p, by=by, confidence=confidence, target=target) for p in paired]
    duels = duels_against_first(paired, confidence=confidence)
    if as_json:
        found = {"judges": [c.to_dict() for c in checks], "against_first": [d.to_dict() for d in duels]}
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    out = console()
    for check in checks:
        _show(out, check, by, window.could_be_labels(check.judge))
    _show_duels(out, duels)


def _show(out: Console, check: JudgeCheck, by: str | None, others: Sequence[str]) -> None:
    out.print(f"{check.judge}", style="bold")
    for line in _plain(check, others):
        out.print(line)
    if check.agreement.n:
        out.print(_confusion(check.agreement))
        out.print(_measures(check))
    if check.slices:
        out.print(_slices(check, by or ""))
    if check.conflicts:
        out.print(_conflicts(check))


def _plain(check: JudgeCheck, others: Sequence[str]) -> list[str]:
    """What was found, in sentences."""
    from mlflow_assay.report.words import plural

    a, labels = check.agreement, check.labels
    if labels is None:
        hint = f" These are on the traces and could be named with --label: {', '.join(others)}." if others else ""
        return [f"No label: nobody gave feedback under the name {check.judge!r}.{hint}", *check.notes]
    lines = [_first(check, labels)]
    if a.n:
        (right_fail, wrong_pass), (wrong_fail, right_pass) = a.confusion
        lines.append(
            f"It lets {wrong_pass} of {right_fail + wrong_pass} bad {check.scope}s pass, and fails {wrong_fail} of "
            f"{wrong_fail + right_pass} good ones."
        )
        lines.append(_reading(a))
    lines += a.notes
    if a.n_unscored:
        lines.append(f"{plural(a.n_unscored, 'label')} on {check.scope}s the judge left unscored: in no number.")
    if labels.unreadable:
        lines.append(f"{plural(labels.unreadable, 'label')} neither good nor bad: left out.")
    if labels.simulated:
        lines.append(f"{plural(labels.simulated, 'label')} marked as simulated.")
    if check.conflicts:
        tail = f"; {labels.ties} are tied and left out" if labels.ties else ""
        lines.append(f"People disagree on {plural(len(check.conflicts), check.scope)}{tail}; the majority counts.")
    return lines + _people(check) + list(check.notes)


def _first(check: JudgeCheck, labels: Labels) -> str:
    a = check.agreement
    by = "people" if labels.human else "recorded truth"
    source = f"{labels.n} labels by {by} ({', '.join(labels.names)})"
    if not a.n:
        return f"{source}, but no labelled {check.scope} has a verdict."
    same = sum(a.confusion[i][i] for i in range(2))
    return f"Against {source}, the judge gives the same answer on {same} of {a.n} {check.scope}s."


def _reading(a: Agreement) -> str:
    """What kappa's interval allows to be said, in one sentence."""
    low, high = a.kappa.low, a.kappa.high
    if low is None or high is None:
        return f"Too few labels ({a.n}) to say more."
    if not a.enough:
        more = "" if not a.needed else f": {a.needed} more needed for ± {a.target:g}"
        return f"Too few labels{more} (kappa {a.kappa} so far)."
    if low > 0.6:
        return f"Beyond chance it agrees well (kappa {a.kappa}; 1 is always, 0 is guessing)."
    if low > 0.4:
        return f"Beyond chance it agrees moderately (kappa {a.kappa}; 1 is always, 0 is guessing)."
    if low <= 0:
        return f"It is not shown to do better than guessing (kappa {a.kappa}; 1 is always, 0 is guessing)."
    word = "weakly" if high <= 0.4 else "at least weakly; more labels would tell how well"
    return f"Beyond chance it agrees {word} (kappa {a.kappa}; 1 is always, 0 is guessing)."


def _people(check: JudgeCheck) -> list[str]:
    people = check.people
    if people is None:
        return []
    lines = [f"{people.n} people labelled: their agreement beyond chance (Krippendorff's alpha) is {people.alpha}."]
    if people.ceiling.humans is not None:
        own = "cannot be said" if people.ceiling.judge is None else f"{people.ceiling.judge:.2f}"
        lines.append(
            f"The ceiling: one person agrees with another at a kappa of {people.ceiling.humans:.2f}, the judge with "
            f"one person at {own}."
        )
    lines.append(people.alt.summary if people.alt is not None else people.alt_refused or "")
    return lines


def _confusion(a: Agreement) -> object:
    made = table("", "judge: fail", "judge: pass", numbers=(1, 2))
    for word, row in zip(("label: bad", "label: good"), a.confusion, strict=True):
        made.add_row(word, *(str(n) for n in row))
    return made


def _measures(check: JudgeCheck) -> object:
    a = check.agreement
    made = table("measure", f"value [{a.confidence:.0%} interval]", "meaning")
    made.add_row("kappa", measure(a.kappa), "agreement beyond chance: 1 always, 0 guessing")
    if check.scale is not None:
        kind = f"{check.scale.weighting} weights" if check.scale.weighting else "no order"
        made.add_row(
            "kappa, own scale", measure(check.scale.kappa), f"over {len(check.scale.categories)} values, {kind}"
        )
    made.add_row("same answer", measure(a.accuracy, percent=True), "share of equal answers; high when one is rare")
    made.add_row("sensitivity", measure(a.sensitivity, percent=True), "of the good ones, share it passes")
    made.add_row("specificity", measure(a.specificity, percent=True), "of the bad ones, share it fails")
    made.add_row("MCC", measure(a.mcc), "correlation of verdict and label: 1 always, 0 none")
    return made


def _slices(check: JudgeCheck, by: str) -> object:
    made = table(by, "labels", "kappa", "sensitivity", "specificity", "more needed", numbers=(1, 5))
    for value, a in check.slices.items():
        more = "–" if a.needed is None else str(a.needed)
        passed, failed = measure(a.sensitivity, percent=True), measure(a.specificity, percent=True)
        made.add_row(value, str(a.n), measure(a.kappa), passed, failed, more)
    return made


def _conflicts(check: JudgeCheck) -> object:
    left = len(check.conflicts) - _SHOWN_CONFLICTS
    title = "Where people disagree" + (f" (the first {_SHOWN_CONFLICTS}; {left} more in --json)" if left > 0 else "")
    made = table(check.scope, "what they said", title=title)
    for unit, said in list(check.conflicts.items())[:_SHOWN_CONFLICTS]:
        made.add_row(str(unit), ", ".join(f"{who}: {'good' if v else 'bad'}" for who, v in said.items()))
    return made


def _show_duels(out: Console, duels: Sequence[JudgeDuel]) -> None:
    if duels:
        out.print("Which judge is right more often, on the same labelled traces", style="bold")
    for found in duels:
        c = found.comparison
        if c.p_value is None or c.value_a is None or c.value_b is None:
            out.print(f"{found.b} against {found.a}: no labelled trace has a verdict of both.")
            continue
        heads = {"better": "is right more often than", "worse": "is right less often than"}
        head = heads.get(c.outcome, "is not shown to be right more or less often than")
        p = c.p_value if c.p_adjusted is None else c.p_adjusted
        word = "exact p" if c.p_adjusted is None else "Holm-adjusted p"
        out.print(
            f"{found.b} {head} {found.a}: {c.value_b:.1%} against {c.value_a:.1%} of {c.n}; only it right on "
            f"{len(c.wins)}, only the other on {len(c.losses)} ({word} = {p:.1g}; gain in kappa {found.gain})."
        )
