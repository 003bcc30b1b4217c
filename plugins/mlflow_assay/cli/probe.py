"""`assay probe`: does a judge repeat itself, and does it prefer long answers?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.labelled import confidence_option, console, contracts, label_option, measure, read, table
from mlflow_assay.cli.options import (
    json_option,
    judges_path,
    max_calls_option,
    model_options,
    model_settings,
    texts_option,
    trace_options,
)
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.labels.history import Repeats
    from mlflow_assay.labels.lengths import LengthEffect
    from mlflow_assay.labels.window import Window

__all__ = ["probe"]

_SHOWN = 10


@click.command()
@trace_options
@click.option("--judge", "-j", required=True, help="The judge to probe.")
@label_option
@click.option("--stored", is_flag=True, help="Use verdicts that stand on the traces more than once; ask nothing.")
@click.option(
    "--swapped", metavar="JUDGE", help="For a judge that compares two answers: its stored verdicts, answers swapped."
)
@click.option("--mirror", metavar="FIRST=SECOND", help="With --swapped: the words for the first and the second place.")
@click.option("--sample", type=click.IntRange(min=2), default=30, show_default=True, help="Traces to ask about.")
@click.option("--repeats", type=click.IntRange(2, 20), default=3, show_default=True, help="How often to ask.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@texts_option
@max_calls_option
@model_options
@confidence_option
@judges_path
@json_option
def probe(
    experiment: str,
    filter_string: str | None,
    since: str | None,
    max_traces: int | None,
    judge: str,
    labels: tuple[str, ...],
    stored: bool,
    swapped: str | None,
    mirror: str | None,
    sample: int,
    repeats: int,
    seed: int,
    settings: tuple[str, ...],
    max_calls: int | None,
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    confidence: float,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask a judge about the same traces several times, and look for a liking of long answers.

    A verdict that changes when nothing else does is noise: it blurs every rate, and `assay drift` must tolerate
    it. Calls the model (sample × repeats times), never takes a verdict from the cache and writes nothing. Whether
    long answers pass more often is read off stored verdicts, among answers that people call good (or bad) alike;
    it needs 40 labels. For a judge that compares two answers, score the traces once with the answers as they are and
    once swapped, under two names: --swapped and --mirror then say how often the winner stays.

    \b
    assay probe --experiment support --judge request_resolved --model openai:/gpt-4.1-mini --sample 50
    assay probe -e support -j tone --stored
    assay probe -e support -j better_answer --swapped better_answer_swapped --mirror first=second
    """
    from mlflow_assay.labels.history import history, repeats_of, stored_repeats

    chosen = model_settings(model, base_url, timeout_s)
    window = read(experiment, filter_string, since, max_traces, labels, paths, quiet=as_json)
    if swapped is not None:
        _tell_swap(window, judge, swapped, mirror, confidence, as_json=as_json)
        return
    homes = {row.trace_id: row.unit for row in window.rows}
    if stored:
        said = stored_repeats(history(window.rows, judge, contracts(paths).get(judge)))
    else:
        said = _ask((judge, chosen, paths, settings), _drawn(list(homes), sample, seed), repeats, max_calls)
    found = repeats_of(judge, said, homes, confidence=confidence)
    if not found.n:
        raise ConfigError(
            f"No trace has two scored verdicts of one version of {judge!r}.",
            found=f"{len(said)} traces asked about, {found.unscored} repeats unscored",
            fix="Leave out --stored to ask it now." if stored else "See why with assay judges test.",
        )
    length = _length(window, judge, confidence)
    if as_json:
        told = {"refused": length} if isinstance(length, str) else length.to_dict()
        shown = {"judge": judge, "stored": stored, **found.to_dict(), "length": told}
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    _show(judge, found)
    console().print(length if isinstance(length, str) else _on_length(length))


def _tell_swap(
    window: Window, judge: str, swapped: str, mirror: str | None, confidence: float, *, as_json: bool
) -> None:
    from mlflow_assay.trust.position import position_swap

    first, found, second = (mirror or "").partition("=")
    if not (found and first and second):
        raise ConfigError("--swapped needs --mirror FIRST=SECOND.", found=repr(mirror), valid="--mirror first=second")
    if absent := [name for name in (judge, swapped) if name not in window.found]:
        raise ConfigError(f"No verdict of {absent[0]!r} is stored.", valid=sorted(window.found))
    said = [{unit: v.mark.value for unit, v in window.found[name].verdicts.items()} for name in (judge, swapped)]
    units = sorted(said[0].keys() & said[1].keys())
    sides = [[None if side[u] is None else str(side[u]) for u in units] for side in said]
    result = position_swap(sides[0], sides[1], {first: second}, confidence=confidence)
    if as_json:
        click.echo(json.dumps({"judge": judge, "swapped": swapped, **result.to_dict()}, indent=2))
        return
    share = f"{100 * result.consistent:.0f} % [{100 * result.low:.0f}-{100 * result.high:.0f} %]"
    click.echo(f"{judge}: the same winner both ways round in {share} of {result.n} pairs.")
    p = "" if result.p_value is None else f", p = {result.p_value:.2g} that it favours neither"
    click.echo(f"The first place won both times {result.for_first} times, the second {result.for_second} times{p}.")


def _length(window: Window, judge: str, confidence: float) -> LengthEffect | str:
    """Whether longer answers pass more often at equal quality, or why that cannot be said."""
    from mlflow_assay import trace_fields
    from mlflow_assay.errors import NotTrustedError
    from mlflow_assay.labels.lengths import FEWEST, length_effect
    from mlflow_assay.sources.mlflow_store import load_ids

    if judge not in window.found:
        return "Whether the judge prefers long answers cannot be said: no verdict of it is stored."
    paired = window.pair(judge)
    if paired.scope == "session" or paired.n_labelled < FEWEST:
        return f"Whether the judge prefers long answers cannot be said: it needs {FEWEST} labelled traces."
    ids = [u for u, good in zip(paired.units, paired.good, strict=True) if good is not None]
    answers = {str(t.info.trace_id): trace_fields.extract(t, "outputs") for t in load_ids(ids)}
    lengths = {trace: len(trace_fields.as_text(value)) for trace, value in answers.items() if value is not None}
    try:
        return length_effect(paired, lengths, confidence=confidence)
    except NotTrustedError as error:
        return str(error)


def _on_length(found: LengthEffect) -> str:
    low, high = 100 * (found.difference.low or 0), 100 * (found.difference.high or 0)
    head = "It prefers long answers" if found.biased and low > 0 else "No liking of long answers is shown"
    if found.biased and high < 0:
        head = "It prefers short answers"
    return (
        f"{head}: of answers that people call good (or bad) alike, the longer half passes "
        f"{100 * (found.difference.value or 0):+.1f} points [{low:+.1f}, {high:+.1f}] more often ({found.n} labels)."
    )


def _drawn(trace_ids: list[str], count: int, seed: int) -> list[str]:
    import random

    return sorted(random.Random(seed).sample(sorted(trace_ids), min(count, len(trace_ids))))  # noqa: S311 - a sample


def _ask(how: tuple[str, Any, tuple[str, ...], tuple[str, ...]], ids: list[str], times: int, limit: int | None) -> Any:
    from mlflow_assay.cli.asking import ask, build

    answers = ask(build(*how), ids, times, limit)
    return {trace: [one.get(trace) for one in answers] for trace in ids}


def _show(judge: str, found: Repeats) -> None:
    from mlflow_assay.report.words import interval, percent, rate

    out = console()
    out.print(judge, style="bold")
    stable = found.n - len(found.unstable)
    out.print(f"It said the same every time on {stable} of {found.n} traces ({found.verdicts} verdicts).")
    out.print(
        f"Asked twice, it contradicts itself on {rate(found.flips)} [{interval(found.flips)}]. Agreement with itself "
        f"beyond chance (Krippendorff's alpha): {measure(found.alpha)}."
    )
    if found.unscored:
        out.print(f"{found.unscored} repeats were unscored and are in no number.")
    ceiling = found.flips.high
    out.print(
        f"For a check of a gold set: assay drift --tolerated-flips {ceiling or 0:.2f} ({percent(ceiling)} at most)."
    )
    if found.unstable:
        made = table("trace with changing verdicts", "passed", "failed", numbers=(1, 2))
        for trace, (passed, failed) in list(found.unstable.items())[:_SHOWN]:
            made.add_row(trace, str(passed), str(failed))
        out.print(made)
