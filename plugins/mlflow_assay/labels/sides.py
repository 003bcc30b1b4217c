"""Two sides of a comparison: their traces, paired by what they have in common, and each judge tested on the pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay import trace_fields
from mlflow_assay.contracts import JudgeContract, NumericValue, TraceSource
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.people import labels_of
from mlflow_assay.labels.rows import Row, read_row
from mlflow_assay.labels.verdicts import JudgeVerdicts, Verdict, collect, scale_value
from mlflow_assay.labels.window import LabelChoice
from mlflow_assay.trust.compare import Comparison, compare, compare_pass_k, holm_adjust
from mlflow_assay.trust.estimate import Estimate
from mlflow_assay.trust.trials import pass_k

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = [
    "Flip",
    "JudgeComparison",
    "Pairing",
    "Plan",
    "Side",
    "check_pair_by",
    "compare_sides",
    "pair_up",
    "read_side",
]

_SOURCE_RUN = "mlflow.assessment.sourceRunId"  # MLflow's own key, as of 3.17
_TRACE = "trace"
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        title: what was asked for.
        experiment_id: of its traces.
        rows: oldest first; where a run was asked for, with that run's verdicts only.
        keys: trace id to what it is paired by; traces without one are absent.
        notes: what the reader must know; plain sentences.
    """

    title: str
    experiment_id: str
    rows: tuple[Row, ...]
    keys: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def by_trace(self) -> Side:
        """The same side, paired by the trace itself."""
        return dataclasses.replace(self, keys={row.trace_id: row.trace_id for row in self.rows})


def check_pair_by(field: str) -> str:
    """The field's name if traces can be paired by it: `trace`, `session`, `inputs` or any field of a trace.

    Raises:
        ConfigError: they cannot.
    """
    return field if field in (_TRACE, "session") else trace_fields.check(field)


def read_side(
    source: TraceSource,
    title: str,
    experiment_id: str,
    pair_by: str,
    *,
    run_id: str | None = None,
    keep: Callable[[Trace], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Side:
    """Read one side.

    Args:
        source: its traces.
        title: what was asked for.
        experiment_id: of its traces.
        pair_by: from `check_pair_by`.
        run_id: an evaluation run: only its verdicts count, unless none of the traces carries one.
        keep: which of the traces belong to the side; None takes all.
        progress: called with the number of traces read so far.
    """
    rows: dict[str, Row] = {}
    keys: dict[str, str] = {}
    spans = pair_by not in (_TRACE, "session") and trace_fields.needs_spans(pair_by)
    for count, trace in enumerate(source.traces(spans=spans), 1):
        if keep is None or keep(trace):
            row = read_row(trace, ())
            rows[row.trace_id] = row
            if (key := _key(trace, row, pair_by)) is not None:
                keys[row.trace_id] = key
        if progress is not None:
            progress(count)
    ordered = sorted(rows.values(), key=lambda row: (row.time_ms, row.trace_id))
    if run_id is None:
        return Side(title, experiment_id, tuple(ordered), keys)
    of_run = [_of_run(row, run_id) for row in ordered]
    if any(m.metadata.get(_SOURCE_RUN) == run_id for row in of_run for m in row.marks):
        return Side(title, experiment_id, tuple(of_run), keys)
    note = f"No verdict on the traces of {title} says that it was given in that run: the latest verdicts count."
    return Side(title, experiment_id, tuple(ordered), keys, (note,))


def _key(trace: Trace, row: Row, pair_by: str) -> str | None:
    if pair_by == _TRACE:
        return row.trace_id
    value = row.session if pair_by == "session" else trace_fields.extract(trace, pair_by)
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    if len(text) <= _LONGEST_KEY:
        return text
    return f"{text[:_LONGEST_KEY]}… {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _of_run(row: Row, run_id: str) -> Row:
    """The row with the verdicts of one run, those a later run replaced included; people's marks stay."""
    kept = []
    for mark in row.marks:
        if mark.human or mark.expectation:
            kept.append(mark)
        elif mark.metadata.get(_SOURCE_RUN) == run_id:
            kept.append(dataclasses.replace(mark, valid=True))
    return dataclasses.replace(row, marks=tuple(kept))


# --- pairing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Which trace of A stands against which of B.

    Attributes:
        pairs: (key, trace of A, trace of B); the first trial of a key against the first, and so on.
        clusters: what each pair repeats with: the key, and sessions on either side, shape (pairs,).
        repeats: keys tried more than once on both sides.
        alone_a, alone_b: traces without a counterpart, those without a key included.
    """

    pairs: tuple[tuple[str, str, str], ...]
    clusters: tuple[int, ...]
    repeats: int
    alone_a: int
    alone_b: int


def pair_up(a: Side, b: Side) -> Pairing:
    """Pair the traces of two sides by their keys, repeated trials in order of time.

    Raises:
        ConfigError: they have no key in common.
    """
    first, second = _by_key(a), _by_key(b)
    found = [
        (key, left, right)
        for key in first
        if key in second
        for left, right in zip(first[key], second[key], strict=False)
    ]
    if not found:
        raise ConfigError(
            f"{a.title} and {b.title} have nothing in common to pair by.",
            found=f"A: {_listed(first)}; B: {_listed(second)}",
            fix="Say what identifies the same case on both sides, for example --pair-by tag:task.",
        )
    repeats = sum(len(first[key]) > 1 and len(second[key]) > 1 for key in first if key in second)
    alone = [len(side.rows) - len(found) for side in (a, b)]
    return Pairing(tuple(found), tuple(_clusters(found, a, b)), repeats, alone[0], alone[1])


def _listed(keys: Mapping[str, Any]) -> str:
    shown = ", ".join(repr(key[:40]) for key in list(keys)[:3])
    return f"{len(keys)} keys ({shown})" if keys else "no key"


def _by_key(side: Side) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in side.rows:
        if row.trace_id in side.keys:
            found.setdefault(side.keys[row.trace_id], []).append(row.trace_id)
    return found


def _clusters(pairs: Sequence[tuple[str, str, str]], a: Side, b: Side) -> list[int]:
    """Pairs that share a key, or a session on either side, share a cluster (union-find)."""
    units = [{row.trace_id: row.unit for row in side.rows} for side in (a, b)]
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for key, left, right in pairs:
        for node in (("a", units[0][left]), ("b", units[1][right])):
            parent[root(node)] = root(("key", key))
    names: dict[Hashable, int] = {}
    return [names.setdefault(root(("key", key)), len(names)) for key, _, _ in pairs]


# --- comparing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How a comparison is done; see `trust.compare.compare`.

    Attributes:
        judges: only these; empty takes every judge with verdicts on both sides.
        choice: where labels are read from, for the corrected difference.
        margin: of non-inferiority, above 0; None when not asked.
        effect: the difference the power sentence is about; None for 5 points.
        k: trials that must all pass, for pass^k; None when not asked.
        confidence: level in (0, 1).
    """

    judges: tuple[str, ...] = ()
    choice: LabelChoice = dataclasses.field(default_factory=LabelChoice)
    margin: float | None = None
    effect: float | None = None
    k: int | None = None
    confidence: float = 0.95


@dataclass(frozen=True)
class Flip:
    """One pair on which the sides differ."""

    key: str
    trace_a: str
    trace_b: str
    better: bool


@dataclass(frozen=True)
class JudgeComparison:
    """One judge on both sides.

    Attributes:
        judge: its name.
        comparison: B against A; ids are positions in the pairing.
        flips: pairs on which they differ, losses first.
        pass_k: pass^k of A and B and their comparison; None when not asked.
        labelled_a, labelled_b: pairs with a label on that side.
        n_trained: pairs left out because the judge was trained on the label of a side.
        notes: what the reader must know; plain sentences.
    """

    judge: str
    comparison: Comparison
    flips: tuple[Flip, ...]
    pass_k: tuple[Estimate, Estimate, Comparison] | None
    labelled_a: int
    labelled_b: int
    n_trained: int
    notes: tuple[str, ...]

    def improved(self) -> bool:
        """Whether B is shown to be better; by the corrected difference too, where there is one."""
        corrected = self.comparison.corrected
        sure = corrected is None or (corrected.low is not None and corrected.low > 0)
        return self.comparison.outcome == "better" and sure

    def not_worse(self) -> bool:
        """Whether that B is worse by the margin is ruled out; for the corrected difference too, where there is one."""
        corrected, margin = self.comparison.corrected, self.comparison.margin or 0.0
        sure = corrected is None or (corrected.low is not None and corrected.low > -margin)
        return bool(self.comparison.non_inferior) and sure


def compare_sides(
    a: Side, b: Side, pairing: Pairing, contracts: Mapping[str, JudgeContract], plan: Plan
) -> list[JudgeComparison]:
    """Every judge that gave verdicts on both sides, B against A; p-values Holm-adjusted where there are several.

    Raises:
        ConfigError: a judge asked for, or any at all, has no verdicts on both sides.
    """
    found = [{f.name: f for f in collect(side.rows, contracts)} for side in (a, b)]
    both = [name for name in found[0] if name in found[1]]
    names = list(plan.judges) or [name for name in both if name not in plan.choice.names]
    missing = [name for name in names if name not in both]
    if missing or not names:
        raise ConfigError(
            f"No verdicts of {missing[0]!r} on both sides." if missing else "No judge gave verdicts on both sides.",
            found=f"A: {', '.join(found[0]) or 'none'}; B: {', '.join(found[1]) or 'none'}",
            valid=both,
            fix="Judge both with the same judge first (assay score).",
        )
    done = [_judge(found[0][n], found[1][n], a, b, pairing, contracts.get(n), plan) for n in names]
    if len(done) < 2:
        return done
    adjusted = holm_adjust([d.comparison for d in done])
    return [dataclasses.replace(d, comparison=c) for d, c in zip(done, adjusted, strict=True)]


def _on_traces(found: JudgeVerdicts) -> dict[str, Verdict]:
    """The verdict standing on each trace; a session's stands on the trace it is logged on."""
    return {v.row.trace_id: v for v in found.verdicts.values()}


def _judge(
    in_a: JudgeVerdicts,
    in_b: JudgeVerdicts,
    a: Side,
    b: Side,
    pairing: Pairing,
    contract: JudgeContract | None,
    plan: Plan,
) -> JudgeComparison:
    left, right = _on_traces(in_a), _on_traces(in_b)
    every = range(len(pairing.pairs))
    sides = [(left.get(pairing.pairs[i][1]), right.get(pairing.pairs[i][2])) for i in every]
    trained = {i for i in every if any(v is not None and v.trained_on for v in sides[i])}
    used = [i for i in every if i not in trained and None not in sides[i]]
    x, y = ([pair[side] for pair in sides] for side in (0, 1))
    scores = not any(v.reading.passed is not None for v in (*left.values(), *right.values()))
    values_a, values_b = ([_value(v[i], contract, scores) for i in used] for v in (x, y))
    labels = [labels_of(f, side.rows, plan.choice.of(in_a.name), contract).agreed for f, side in ((in_a, a), (in_b, b))]
    good_a, good_b = ([labels[n].get(v[i].unit) if v[i] else None for i in used] for n, v in ((0, x), (1, y)))  # type: ignore[union-attr]
    comparison = compare(
        values_a,
        values_b,
        kind="mean" if scores else "share",
        clusters=[pairing.clusters[i] for i in used],
        labels_a=good_a if any(g is not None for g in good_a) else None,
        labels_b=good_b if any(g is not None for g in good_b) else None,
        ids=used,
        name=in_a.name,
        better=contract.value.better if scores and contract and isinstance(contract.value, NumericValue) else "higher",
        margin=plan.margin,
        effect=plan.effect,
        confidence=plan.confidence,
    )
    flips = [Flip(*pairing.pairs[int(i)], better=False) for i in comparison.losses]  # type: ignore[call-overload]
    flips += [Flip(*pairing.pairs[int(i)], better=True) for i in comparison.wins]  # type: ignore[call-overload]
    return JudgeComparison(
        judge=in_a.name,
        comparison=comparison,
        flips=tuple(flips),
        pass_k=None if plan.k is None or scores else _pass_k(a, b, left, right, plan, in_a.name, plan.k),
        labelled_a=sum(g is not None for g in good_a),
        labelled_b=sum(g is not None for g in good_b),
        n_trained=len(trained),
        notes=tuple(_notes(left, right, pairing, used, trained, scores, contract)),
    )


def _value(verdict: Verdict | None, contract: JudgeContract | None, scores: bool) -> Any:
    if verdict is None:
        return None
    return scale_value(verdict.mark.value, contract) if scores else verdict.reading.passed


def _notes(
    left: Mapping[str, Verdict],
    right: Mapping[str, Verdict],
    pairing: Pairing,
    used: Sequence[int],
    trained: set[int],
    scores: bool,
    contract: JudgeContract | None,
) -> list[str]:
    notes = []
    versions = [Counter(v.version for v in side.values()) for side in (left, right)]
    same_traces = all(first == second for _, first, second in pairing.pairs)
    if set(versions[0]) != set(versions[1]) and not same_traces:
        listed = [", ".join(str(v or "unnamed") for v in side) for side in versions]
        notes.append(f"A was judged by version {listed[0]}, B by {listed[1]}: a difference may be the judge's.")
    if trained:
        notes.append(f"{len(trained)} pairs are left out because the judge was trained on a label of theirs.")
    if len(pairing.pairs) - len(trained) > len(used):
        notes.append(f"{len(pairing.pairs) - len(trained) - len(used)} pairs lack a verdict of this judge on a side.")
    if scores:
        word = "as its definition says" if contract else "assumed: the judge is in no catalogue"
        notes.append(f"Scores without a pass rule are compared by their mean; which direction is better is {word}.")
    return notes


def _pass_k(
    a: Side, b: Side, left: Mapping[str, Verdict], right: Mapping[str, Verdict], plan: Plan, name: str, k: int
) -> tuple[Estimate, Estimate, Comparison]:
    """Pass^k of both sides over all trials of their keys, and their comparison task by task."""
    trials = []
    for side, verdicts in ((a, left), (b, right)):
        said = [(verdicts[t].reading.passed, key) for t, key in side.keys.items() if t in verdicts]
        trials.append(([v for v, _ in said], [key for _, key in said]))
    (va, ka), (vb, kb) = trials
    title = f"{name}, pass^{k}"
    return (
        pass_k(va, ka, k, name=title, confidence=plan.confidence),
        pass_k(vb, kb, k, name=title, confidence=plan.confidence),
        compare_pass_k(va, ka, vb, kb, k, name=title, margin=plan.margin, confidence=plan.confidence),
    )
