"""The demo's further sections of the report: the dataset, what was changed in the prompt, whether it helped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlflow_assay.report.model import Section
from mlflow_assay.report.words import percent, plural

if TYPE_CHECKING:
    from mlflow_assay.demo.improving import FailureSet
    from mlflow_assay.optimizers.report import OptimizationReport
    from mlflow_assay.trust.compare import Comparison

__all__ = ["change_in_points", "comparison_section", "dataset_section", "prompt_section"]

_DESK = re.compile(r"- (\w+):")

_OUTCOMES = {
    "better": "The new prompt is better.",
    "worse": "The new prompt is worse.",
    "inconclusive": "No difference is shown: these requests are too few to tell.",
}


def dataset_section(failures: FailureSet) -> Section:
    """What the failures were collected into."""
    dataset = failures.dataset
    parts = ", ".join(str(dataset.manifest.splits.get(part, 0)) for part in ("train", "validation", "test"))
    masked = ", ".join(f"{n} {kind}" for kind, n in failures.masked.items()) or "none found"
    return Section(
        key="dataset",
        title="The failures as a dataset",
        summary=(
            f"Every request the expert labelled became a test case: {failures.misrouted} that went to the wrong desk, "
            "and those that went right beside them, so that a test sees what a new prompt breaks. Cases of one "
            "session, or with nearly the same words, are in one part only."
        ),
        facts=(
            ("Version", dataset.reference),
            ("Content digest", dataset.digest[:8]),
            ("Cases", str(len(dataset))),
            ("Learn from, choose by, test on", parts),
            ("Mis-routed", str(failures.misrouted)),
            ("Personal data masked", masked),
        ),
        columns=("desk the expert expected", "mis-routed requests"),
        rows=tuple((desk, str(count)) for desk, count in failures.desks),
    )


def prompt_section(found: OptimizationReport, promoted: int | None) -> Section:
    """What the optimizer changed, and what the gate said."""
    word = (
        "It was accepted and, after new requests confirmed it, promoted."
        if promoted
        else "It was accepted, but not promoted: new requests did not confirm it."
        if found.accepted
        else "It was not accepted, so the old prompt stays."
    )
    facts = [("Candidates tried", str(len(found.candidates))), ("Calls of a model", "0")]
    comparison = found.comparison
    if comparison is not None:
        facts += [
            ("Right desk before, on cases never seen", percent(comparison.value_a)),
            ("Right desk after", percent(comparison.value_b)),
            ("Change, with 90 % interval (tested on one side, at 5 %)", change_in_points(comparison)),
        ]
    if promoted:
        facts.append(("In production now", f"version {promoted}"))
    return Section(
        key="prompt_fix",
        title="The prompt, optimized",
        summary=(
            "No person and no model wrote the change: the words that set the mis-routed requests apart, and a few of "
            "those requests, were put into the descriptions of the desks. The best of several candidates was chosen on "
            f"one part of the cases and tested on another. {word}"
        ),
        facts=tuple(facts),
        columns=("desk", "added to its description in the prompt"),
        rows=tuple(_added(found)),
    )


def _added(found: OptimizationReport) -> list[tuple[str, str]]:
    """New lines of the prompt, each with the desk whose description it is in."""
    rows, desk = [], ""
    for name, text in found.changed.items():
        before = set(found.old[name].splitlines())
        for line in text.splitlines():
            if heading := _DESK.match(line):
                desk = heading[1]
            if line not in before:
                rows.append((desk, line.removeprefix(heading[0]).strip() if heading else line.strip()))
    return rows


def comparison_section(fix: Comparison) -> Section:
    """Old and new prompt on the same new requests."""
    facts = [
        ("Right desk before", percent(fix.value_a)),
        ("Right desk after", percent(fix.value_b)),
        ("Requests now right that were wrong", str(len(fix.wins))),
        ("Requests now wrong that were right", str(len(fix.losses))),
    ]
    if fix.difference is not None and fix.low is not None and fix.high is not None:
        facts.insert(2, ("Change, with 95 % interval", f"{change_in_points(fix)}"))
    if fix.p_value is not None:
        facts.append(("Chance of seeing this if nothing had changed (paired test)", _chance(fix.p_value)))
    return Section(
        key="comparison",
        title="Did the fix help?",
        summary=(
            f"Old and optimized prompt answered the same {plural(fix.n, 'new request')}, and the simulated expert "
            f"judged every answer. {_OUTCOMES[fix.outcome]}"
        ),
        facts=tuple(facts),
    )


def _chance(p: float) -> str:
    return "under 0.1 %" if p < 0.001 else f"{100 * p:.2g} %"


def change_in_points(found: Comparison) -> str:
    """`+22 points [+14 to +31]`."""
    if found.difference is None or found.low is None or found.high is None:
        return "cannot be said"
    return f"{100 * found.difference:+.0f} points [{100 * found.low:+.0f} to {100 * found.high:+.0f}]"
