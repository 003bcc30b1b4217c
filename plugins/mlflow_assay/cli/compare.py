"""`assay compare`: two versions on the same inputs, tested as pairs; usable as a gate."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mlflow_assay.cli.labelled import confidence_option, console, contracts, fit, label_option, table
from mlflow_assay.cli.options import json_option, judges_path
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mlflow_assay.labels.sides import Flip, JudgeComparison, Pairing, Side
    from mlflow_assay.report.links import Links

__all__ = ["compare"]

_SHOWN_FLIPS = 10
_MARGIN = 0.05
Gate = Literal["improved", "not-worse"]


@dataclass(frozen=True)
class _Result:
    """What was found, for the terminal, as JSON and as markdown: the sides, how they were paired, and a gate's answer.

    Attributes:
        margin: the gate's, which `--non-inferiority` or its default set.
        passed: None where no gate was asked for.
    """

    a: Side
    b: Side
    field: str
    pairing: Pairing
    found: Sequence[JudgeComparison]
    links: tuple[Links, Links]
    gate: Gate | None = None
    margin: float | None = None
    passed: bool | None = None

    @property
    def verdict(self) -> str | None:
        """The gate's answer in words."""
        return None if self.gate is None else _gate_text(self.gate, bool(self.passed), self.margin)


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--judge", "-j", "judges", multiple=True, help="Only this judge. Repeatable. Default: all on both sides.")
@click.option(
    "--pair-by",
    metavar="FIELD",
    help="What makes two traces the same case: inputs, trace, session, tag:KEY, metadata:KEY, expectation:KEY. "
    "Default: the trace where both sides hold the same traces, else the inputs.",
)
@label_option
@click.option(
    "--non-inferiority",
    "margin",
    type=click.FloatRange(0, min_open=True),
    metavar="MARGIN",
    help="Also ask whether B being worse by MARGIN (0.05 is 5 points) is ruled out.",
)
@click.option(
    "--effect",
    type=click.FloatRange(0, min_open=True),
    help="The difference that should be seen, for how many more rows it takes. Default: 0.05.",
)
@click.option("--pass-k", "k", type=click.IntRange(min=1), help="Also the chance that K trials of a case all pass.")
@click.option(
    "--gate",
    type=click.Choice(["improved", "not-worse"]),
    help="Exit code 1 unless: improved: a judge shows B better and none shows it worse; not-worse: every judge rules "
    f"out that B is worse by the margin ({_MARGIN} unless --non-inferiority says otherwise). Where labels allow a "
    "corrected difference, it must say so too.",
)
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write a table for a pull request.")
@click.option("--ui-url", metavar="URL", help="Address of MLflow's UI for links. Default: the tracking server, if one.")
@confidence_option
@judges_path
@json_option
def compare(
    a: str,
    b: str,
    judges: tuple[str, ...],
    pair_by: str | None,
    labels: tuple[str, ...],
    margin: float | None,
    effect: float | None,
    k: int | None,
    gate: Gate | None,
    markdown: Path | None,
    ui_url: str | None,
    confidence: float,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say whether B is better than A, on the same inputs.

    A and B are evaluation runs (id or name), experiments, or a selection of an experiment's traces:
    EXPERIMENT@tag:KEY=VALUE. Pairs that share a case or a session count together; with several judges, p-values are
    adjusted (Holm). Exit code 0: compared, and the --gate, if any, is passed; 1: the gate is not; 2: an error.

    \b
    assay compare before after --gate not-worse --markdown comparison.md
    assay compare "support@tag:version=1" "support@tag:version=2" --judge request_resolved
    assay compare "telecom@tag:model=gpt-4.1" "telecom@tag:model=mine" --pair-by tag:task --gate improved
    """
    from mlflow_assay.labels.sides import Plan, compare_sides, pair_up
    from mlflow_assay.labels.window import parse_labels
    from mlflow_assay.report.links import Links, ui_base
    from mlflow_assay.sources.mlflow_store import reach

    if gate == "not-worse" and margin is None:
        margin = _MARGIN
    plan = Plan(judges, parse_labels(labels), margin, effect, k, confidence)
    base = ui_base(ui_url, reach())
    left, right, field = _sides(a, b, pair_by, quiet=as_json)
    pairing = pair_up(left, right)
    found = compare_sides(left, right, pairing, contracts(paths), plan)
    passed = None if gate is None else _passes(found, gate)
    links = (Links(base, left.experiment_id), Links(base, right.experiment_id))
    result = _Result(left, right, field, pairing, found, links, gate, margin, passed)
    if as_json:
        click.echo(json.dumps(_json(result), ensure_ascii=False, indent=2))
    else:
        _show(console(), result)
    if markdown is not None:
        _write(markdown, _markdown(result))
        click.echo(f"Wrote {markdown}", err=True)
    if gate is not None:
        click.echo(result.verdict, err=as_json)
        sys.exit(0 if passed else 1)


def _sides(a: str, b: str, pair_by: str | None, *, quiet: bool) -> tuple[Side, Side, str]:
    """Both sides, and what they are paired by."""
    from mlflow_assay.cli.compare_sides import resolve
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.errors import StoreError
    from mlflow_assay.labels.sides import check_pair_by, read_side

    field = check_pair_by(pair_by or "inputs")
    targets = [resolve(a), resolve(b)]
    if targets[0] == targets[1] or (a == b):
        raise ConfigError(f"A and B are both {a!r}.", fix="Name two runs, experiments or selections.")
    sides = []
    for target in targets:
        with Steps(f"Reading {target.title}", quiet=quiet) as steps:
            sides.append(
                read_side(
                    target.source,
                    target.title,
                    target.experiment_id,
                    field,
                    run_id=target.run_id,
                    keep=target.keep,
                    progress=steps.reach,
                )
            )
        if not sides[-1].rows:
            raise StoreError(f"{target.title!r} holds no traces.", found=f"selection {target.source.selection}")
    left, right = sides
    shared = {row.trace_id for row in left.rows} & {row.trace_id for row in right.rows}
    if shared and targets[0].run_id is None and targets[1].run_id is None:
        raise ConfigError(
            f"{len(shared)} traces are in both A and B, and would be compared with themselves.",
            fix="Name selections that share no trace, or two evaluation runs.",
        )
    if pair_by is None and 2 * len(shared) >= min(len(left.rows), len(right.rows)):
        return left.by_trace(), right.by_trace(), "trace"
    return left, right, field


def _passes(found: Sequence[JudgeComparison], gate: Gate) -> bool:
    if gate == "not-worse":
        return all(f.not_worse() for f in found)
    return any(f.improved() for f in found) and not any(f.comparison.outcome == "worse" for f in found)


def _gate_text(gate: Gate, passed: bool, margin: float | None) -> str:
    if gate == "improved":
        return "Gate passed: B is better." if passed else "Gate not passed: B is not shown to be better."
    points = f"{100 * (margin or 0):g} points"
    if passed:
        return f"Gate passed: that B is worse by {points} is ruled out."
    return f"Gate not passed: that B is worse by {points} is not ruled out."


# --- words ----------------------------------------------------------------------------------------------


def _cells(one: JudgeComparison) -> list[str]:
    """Judge, A, B, difference, won-lost-equal, p, corrected difference, what it comes to."""
    c = one.comparison
    p = c.p_value if c.p_adjusted is None else c.p_adjusted
    e = c.corrected
    corrected = "–" if e is None else _points(e.corrected, e.low, e.high, True)
    counts = f"{len(c.wins)} / {len(c.losses)} / {c.ties}"
    values = [_value(c.value_a, c.kind == "share"), _value(c.value_b, c.kind == "share")]
    difference = _points(c.difference, c.low, c.high, c.kind == "share")
    verdict = {"better": "B is better", "worse": "B is worse", "inconclusive": "no difference shown"}[c.outcome]
    return [one.judge, *values, difference, counts, "–" if p is None else f"{p:.2g}", corrected, verdict]


def _value(value: float | None, share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if share else f"{value:.3g}"


def _points(value: float | None, low: float | None, high: float | None, share: bool) -> str:
    if value is None:
        return "–"
    scale, digits = (100, 1) if share else (1, 3)
    text = f"{scale * value:+.{digits}f}"
    return text if low is None or high is None else f"{text} [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"


_COLUMNS = ("judge", "A", "B", "difference", "won / lost / equal", "p", "corrected difference", "comes to")
_IN_TABLE = 6  # columns shown on a terminal; the rest is said in sentences below


def _heading(result: _Result) -> list[str]:
    a, b, pairing = result.a, result.b, result.pairing
    lines = [f"A: {a.title} ({len(a.rows)} traces)", f"B: {b.title} ({len(b.rows)} traces)"]
    alone = f"; without a counterpart: {pairing.alone_a} of A, {pairing.alone_b} of B"
    some = pairing.alone_a or pairing.alone_b
    lines.append(f"{len(pairing.pairs)} pairs by {result.field}{alone if some else ''}.")
    if pairing.repeats:
        lines.append(f"{pairing.repeats} cases were tried more than once; their trials count together.")
    return [*lines, *a.notes, *b.notes]


def _lines(one: JudgeComparison) -> list[str]:
    """What the comparison comes to, in sentences."""
    lines = [one.comparison.verdict, *one.notes]
    e = one.comparison.corrected
    if e is not None:
        shown = _points(e.corrected, e.low, e.high, True)
        lines.append(
            f"Corrected for the judge's errors by {e.n_labelled} pairs labelled on both sides: {shown} points."
        )
    elif one.labelled_a or one.labelled_b:
        lines.append(f"Labelled: {one.labelled_a} pairs on A's side, {one.labelled_b} on B's.")
    if one.pass_k is not None:
        a, b, c = one.pass_k
        told = c.verdict.removeprefix(f"{c.name}: ")
        lines.append(f"{c.name}: A {_value(a.raw, True)}, B {_value(b.raw, True)}: {told}")
    return lines


def _show(out: Console, result: _Result) -> None:
    for line in _heading(result):
        out.print(line)
    made = table(*_COLUMNS[:_IN_TABLE])
    for one in result.found:
        made.add_row(*_cells(one)[:_IN_TABLE])
    out.print(fit(made))
    for one in result.found:
        for line in _lines(one):
            out.print(line)
    for one in result.found:
        if one.flips:
            out.print(_flip_table(one, result.links))


def _flip_table(one: JudgeComparison, links: tuple[Links, Links]) -> object:
    from mlflow_assay.report.words import clip

    left = len(one.flips) - _SHOWN_FLIPS
    more = f" (the first {_SHOWN_FLIPS}; {left} more in --json)" if left > 0 else ""
    made = table("case", "A → B", "trace of A", "trace of B", title=f"Flips of {one.judge}, losses first{more}")
    for flip in one.flips[:_SHOWN_FLIPS]:
        made.add_row(clip(flip.key, 48), _turn(one, flip), *(_place(flip, side, links) for side in (0, 1)))
    return made


def _turn(one: JudgeComparison, flip: Flip) -> str:
    if one.comparison.kind == "mean":
        return "better" if flip.better else "worse"
    return "fail → pass" if flip.better else "pass → fail"


def _place(flip: Flip, side: int, links: tuple[Links, Links]) -> str:
    trace = (flip.trace_a, flip.trace_b)[side]
    return links[side].trace(trace) or trace


# --- JSON and markdown ----------------------------------------------------------------------------------


def _json(result: _Result) -> dict[str, Any]:
    a, b, pairing = result.a, result.b, result.pairing
    return {
        "a": {"title": a.title, "traces": len(a.rows), "unpaired": pairing.alone_a},
        "b": {"title": b.title, "traces": len(b.rows), "unpaired": pairing.alone_b},
        "pair_by": result.field,
        "pairs": len(pairing.pairs),
        "repeated_cases": pairing.repeats,
        "notes": [*a.notes, *b.notes],
        "judges": [_judge_json(one, result.links) for one in result.found],
        "gate": None if result.gate is None else {"asked": result.gate, "passed": result.passed},
    }


def _judge_json(one: JudgeComparison, links: tuple[Links, Links]) -> dict[str, Any]:
    comparison = one.comparison.to_dict()
    comparison["wins"], comparison["losses"] = len(one.comparison.wins), len(one.comparison.losses)
    pass_k = None
    if one.pass_k is not None:
        a, b, c = one.pass_k
        pass_k = {"a": a.to_dict(), "b": b.to_dict(), "comparison": c.to_dict()}
    return {
        "judge": one.judge,
        "comparison": comparison,
        "pass_k": pass_k,
        "labelled": {"a": one.labelled_a, "b": one.labelled_b},
        "n_trained": one.n_trained,
        "notes": list(one.notes),
        "flips": [
            {
                "case": f.key,
                "better": f.better,
                "trace_a": f.trace_a,
                "trace_b": f.trace_b,
                "url_a": links[0].trace(f.trace_a),
                "url_b": links[1].trace(f.trace_b),
            }
            for f in one.flips
        ],
    }


def _markdown(result: _Result) -> str:
    """A comparison as GitHub shows it: a line, a table, the sentences, the flips folded away."""
    lines = ["### Is B better than A, on the same inputs?", ""]
    if result.verdict is not None:
        lines += [f"**{result.verdict}**", ""]
    lines += [f"- {_escape(line)}" for line in _heading(result)]
    lines += ["", _row(_COLUMNS), _row(["---"] * len(_COLUMNS)), *(_row(_cells(one)) for one in result.found), ""]
    lines += [f"- {_escape(line)}" for one in result.found for line in _lines(one)]
    for one in result.found:
        if one.flips:
            lines += ["", f"<details><summary>{len(one.flips)} flips of {_escape(one.judge)}</summary>", ""]
            lines += [_row(("case", "A → B", "trace of A", "trace of B")), _row(["---"] * 4)]
            lines += [
                _row((f.key, _turn(one, f), *(_link(f, s, result.links) for s in (0, 1))), raw=2) for f in one.flips
            ]
            lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _link(flip: Flip, side: int, links: tuple[Links, Links]) -> str:
    trace = (flip.trace_a, flip.trace_b)[side]
    url = links[side].trace(trace)
    return f"[{trace[:11]}…]({url})" if url else f"`{trace}`"


def _escape(text: str) -> str:
    """Text that shows as it is in a markdown table or list."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _row(cells: Sequence[str], raw: int = 0) -> str:
    """A table row; the last `raw` cells are markdown already."""
    edge = len(cells) - raw
    return "| " + " | ".join([_escape(c) for c in cells[:edge]] + list(cells[edge:])) + " |"


def _write(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The table cannot be written to {target}: {error}.") from error
