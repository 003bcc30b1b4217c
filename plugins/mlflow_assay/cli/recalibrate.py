"""`assay recalibrate`: would another threshold agree better with people? From stored scores, no model call."""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any, Literal

import click

from mlflow_assay.cli.labelled import confidence_option, console, contracts, label_option, measure, read, table
from mlflow_assay.cli.options import json_option, judges_path, trace_options

if TYPE_CHECKING:
    from mlflow_assay.labels.scores import Scores
    from mlflow_assay.trust.recalibrate import Recalibration

__all__ = ["recalibrate"]


@click.command()
@trace_options
@click.option("--judge", "-j", required=True, help="The judge.")
@label_option
@click.option("--threshold", type=float, help="The threshold in use. Default: the definition's.")
@click.option("--better", type=click.Choice(["higher", "lower"]), help="Which end is good. Default: the definition's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the folds.")
@confidence_option
@judges_path
@json_option
def recalibrate(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    judge: str,
    labels: tuple[str, ...],
    threshold: float | None,
    better: Literal["higher", "lower"] | None,
    seed: int,
    confidence: float,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find the threshold at which a judge that gives scores agrees best with people's labels.

    Works on the scores (or confidences) stored with the verdicts: nothing is called, nothing is changed. Each trace
    is judged by a threshold chosen without it, so what is shown is what new traces may expect. Try this before
    anything that costs money. Needs 50 labels. The new definition is printed as a diff; `assay align JUDGE
    --optimizer recalibrate` writes it, once it is proven on labels kept aside.

    \b
    assay recalibrate --experiment support --judge helpfulness
    assay recalibrate -e support -j other_score --label resolved --threshold 0.5 --better higher
    """
    from mlflow_assay.labels.scores import recalibrated, scores_of

    window = read(experiment, filter_string, since, max_traces, labels, paths, quiet=as_json)
    paired = window.pair(judge)
    scores = scores_of(paired, contracts(paths).get(judge), threshold=threshold, better=better)
    found = recalibrated(paired, scores, confidence=confidence, seed=seed)
    diff = _diff(judge, paths, scores, found)
    if as_json:
        shown: dict[str, Any] = {"judge": judge, "on": scores.kind, "n_trained": paired.n_trained}
        click.echo(json.dumps(shown | found.to_dict() | {"diff": diff}, ensure_ascii=False, indent=2))
        return
    _show(judge, scores, found, diff)


def _show(judge: str, scores: Scores, found: Recalibration, diff: str | None) -> None:
    out = console()
    out.print(judge, style="bold")
    if scores.kind == "confidence":
        out.print("On the probability the judge gave to a pass.")
    out.print(found.summary)
    made = table("", "threshold", "kappa", "same answer", "sensitivity", "specificity")
    for word, at, a in (("before", scores.threshold, found.before), ("after", found.threshold, found.after)):
        shares = (measure(m, percent=True) for m in (a.accuracy, a.sensitivity, a.specificity))
        made.add_row(word, f"{at:g}", measure(a.kappa), *shares)
    out.print(made)
    folds = ", ".join(f"{t:g}" for t in found.fold_thresholds)
    out.print(f"Thresholds chosen without each fold: {folds}. If they scatter widely, the labels are too few.")
    if diff is not None:
        out.print("Nothing is changed. The next version of the definition would be:")
        out.print(diff, soft_wrap=True)
    elif scores.kind == "confidence":
        out.print("A definition holds no threshold on confidence: use it where the confidence is read.")


def _diff(judge: str, paths: tuple[str, ...], scores: Scores, found: Recalibration) -> str | None:
    """The change to the judge's definition as a unified diff; None where no file says its threshold."""
    from mlflow_assay.alignment.revision import next_version
    from mlflow_assay.judges.catalogue import Catalogue

    entry = next((e for e in Catalogue(paths).entries.values() if e.contract.name == judge and e.definition), None)
    if entry is None or entry.path is None or entry.definition is None or scores.kind != "value":
        return None
    old = entry.path.read_text(encoding="utf-8")
    new = re.sub(r"(\bthreshold:\s*)[-+.\deE]+", rf"\g<1>{found.threshold:g}", old, count=1)
    version = next_version(entry.definition.version)
    if re.search(r"(?m)^version:", new):
        new = re.sub(r"(?m)^version:.*$", f'version: "{version}"', new, count=1)
    else:
        new = re.sub(r"(?m)^(name:.*)$", rf'\g<1>\nversion: "{version}"', new, count=1)
    name = entry.path.name
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", n=1, lineterm="")
    return "\n".join(lines) or None
