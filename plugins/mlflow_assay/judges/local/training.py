"""Training: labelled traces in, a judge with its evidence out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_assay import trace_fields
from mlflow_assay.contracts import UnscoredError
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges.local import crossval, examples, features
from mlflow_assay.judges.local.confidence import (
    Confidence,
    Threshold,
    choose_threshold,
    fit_confidence,
)
from mlflow_assay.judges.local.embedder import EmbedderRef
from mlflow_assay.judges.local.examples import Example, Field, Row
from mlflow_assay.judges.local.features import RawBlock
from mlflow_assay.judges.local.groups import Groups, near_duplicates
from mlflow_assay.judges.local.judge import LocalJudge
from mlflow_assay.judges.local.labels import LabelSet
from mlflow_assay.judges.local.report import TrainingReport
from mlflow_assay.trust.agreement import Agreement, agreement, cohen_kappa

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["FEWEST", "FEWEST_RARER", "Options", "train", "train_examples"]

FEWEST = 30
FEWEST_RARER = 8
MIN_KAPPA = 0.4
TARGET_AGREEMENT = 0.9

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        fields: what the judge reads.
        good: the value a passing trace gets.
        purpose: the question it answers; empty makes one up from the label's name.
        embedder: folder of an embedding model, to read texts by meaning too; None reads words and word parts.
        cross: read the first text once more per value of each category with few values.
        group_by: field that near-duplicates are found by; empty takes the first text read, None only sessions.
        target_agreement: agreement asked of the verdicts it gives, in (0.5, 1).
        min_kappa: least lower bound of kappa with which it may be used, in [-1, 1].
        force: use it even so; recorded.
        seed: of the folds.
    """

    fields: Sequence[Field | str]
    good: bool = True
    purpose: str = ""
    embedder: str | Path | None = None
    cross: bool = True
    group_by: str | None = ""
    target_agreement: float = TARGET_AGREEMENT
    min_kappa: float = MIN_KAPPA
    force: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 < self.target_agreement < 1 or not -1 <= self.min_kappa <= 1:
            raise ConfigError(
                "The agreement to reach lies between 0.5 and 1, the least kappa between -1 and 1.",
                found=f"{self.target_agreement}, {self.min_kappa}",
            )

    @property
    def read(self) -> tuple[Field, ...]:
        """The fields, parsed."""
        return tuple(Field.parse(f) if isinstance(f, str) else f for f in self.fields)

    @property
    def to_read(self) -> tuple[Field, ...]:
        """What to read of each trace: the fields, and the one near-duplicates are found by."""
        extra = [self.group_by] if self.group_by and self.group_by not in {f.name for f in self.read} else []
        return (*self.read, *(Field(trace_fields.check(name)) for name in extra))


def train(traces: Iterable[Trace], labels: LabelSet, *, name: str, options: Options) -> LocalJudge:
    """Train a local judge from labelled traces.

    The judge comes with `report`, out-of-fold evidence for how good it is; where that is too weak,
    `report.refusals` says so, and saving or using the judge raises unless `options.force`.

    Args:
        traces: with spans, where a field needs them; those without a label are passed over.
        labels: see `labels.of_traces` and `labels.settle`.
        name: the assessment name of its verdicts.
        options: what it reads, and how good it must be.

    Raises:
        NotTrustedError: nothing can be learnt: one class only, or a class from one group only.
        ConfigError: a field does not exist, or no labelled trace has it.
    """
    read = options.to_read
    found = [examples.read(t, read) for t in traces if t.info.trace_id in labels.passed]
    return train_examples(found, labels, name=name, options=options)


def train_examples(found: Sequence[Example], labels: LabelSet, *, name: str, options: Options) -> LocalJudge:
    """`train` on what was already read of the traces."""
    data = _Data.of(found, labels, options)
    data.require_two_classes()
    reference = EmbedderRef.of(options.embedder) if options.embedder else None
    encode = reference.load().encode if reference else None
    blocks = features.plan(data.fields, data.rows, embed=encode is not None, cross=options.cross)
    raws = [features.raw(block, data.rows, encode) for block in blocks]
    evidence = _Evidence.of(data, raws, options)
    model, _ = crossval.fit_linear(raws, data.passed, np.arange(data.passed.size))
    crossed = sorted({b.by for b in blocks if b.by})
    return LocalJudge(
        name=name,
        purpose=options.purpose or f"Would a labeller of {labels.name!r} pass this trace?",
        good=options.good,
        fields=data.fields,
        model=model,
        seen={c: tuple(sorted({features.crossing(r, c) for r in data.rows})) for c in crossed},
        confidence=evidence.confidence,
        threshold=evidence.threshold.value if evidence.threshold else 0.0,
        report=_report(data, evidence, blocks, labels, options, reference),
        trained_on=frozenset(e.trace_id for e in data.examples),
        versions=_versions(),
        embedder=reference,
    )


@dataclass(frozen=True)
class _Data:
    """The usable labelled traces."""

    examples: tuple[Example, ...]
    fields: tuple[Field, ...]
    rows: tuple[Row, ...]
    passed: Bools
    missing: Mapping[str, int]
    near_field: str | None

    @classmethod
    def of(cls, found: Sequence[Example], labels: LabelSet, options: Options) -> _Data:
        labelled = [e for e in found if e.trace_id in labels.passed]
        if not labelled:
            raise NotTrustedError(
                f"No trace has a usable label {labels.name!r}.",
                found=f"{labels.ties} ties, {sum(labels.unreadable.values())} neither pass nor fail",
                fix="Check --label and --source; feedback values must be yes/no, true/false or pass/fail.",
            )
        fields = examples.resolve(options.read, labelled)
        kept: list[tuple[Example, Row]] = []
        missing: Counter[str] = Counter()
        for example in labelled:
            try:
                kept.append((example, examples.row(example, fields)))
            except UnscoredError as error:
                missing[error.detail] += 1
        passed = np.array([labels.passed[e.trace_id] for e, _ in kept], dtype=bool)
        near = options.group_by or next((f.name for f in fields if f.kind == "text"), None)
        near = None if options.group_by is None else near
        return cls(tuple(e for e, _ in kept), fields, tuple(r for _, r in kept), passed, dict(missing), near)

    def require_two_classes(self) -> None:
        """Refuse what nothing can be learnt from, forced or not."""
        n, good = self.passed.size, int(self.passed.sum())
        if good in (0, n):
            raise NotTrustedError(
                f"There is nothing to learn: all {n} usable labels say {'pass' if good else 'fail'}.",
                found="; ".join(f"{c} left out: {why}" for why, c in self.missing.items()) or None,
                fix="Label some of the other kind.",
            )

    def near_texts(self) -> list[str]:
        """What near-duplicates are found by, one text a trace."""
        if self.near_field is None:
            return [""] * len(self.examples)
        return [trace_fields.as_text(e.values.get(self.near_field)) for e in self.examples]


@dataclass(frozen=True)
class _Evidence:
    """What held-out traces say."""

    groups: Groups
    folds: int
    agreement: Agreement | None
    kappa_random: float | None
    confidence: Confidence
    threshold: Threshold | None

    @classmethod
    def of(cls, data: _Data, raws: Sequence[RawBlock], options: Options) -> _Evidence:
        sessions = [e.session for e in data.examples]
        pairs = near_duplicates(data.near_texts())
        groups, folds = crossval.group_folds(data.passed, sessions, pairs, options.seed)
        if not folds:
            raise NotTrustedError(
                "The judge cannot be checked on unseen traces: all labels of one class come from one session or "
                "from near-duplicates of one text.",
                found=f"{data.passed.size} labels in {groups.count} groups",
                fix="Label traces of other sessions, or group by another field (--group-by).",
            )
        scores = crossval.out_of_fold(raws, data.passed, folds)
        correct = (scores > 0) == data.passed
        found = agreement((scores > 0).tolist(), data.passed.tolist(), clusters=groups.codes.tolist(), categories=_BOTH)
        confidence = fit_confidence(scores, correct)
        sure = confidence.of(scores)
        threshold = choose_threshold(sure, correct, groups.codes, options.target_agreement)
        return cls(groups, len(folds), found, _blind(raws, data.passed, options.seed), confidence, threshold)


_BOTH = (False, True)


def _blind(raws: Sequence[RawBlock], passed: Bools, seed: int) -> float | None:
    """Kappa as a random split would show it."""
    folds = crossval.random_folds(passed, seed)
    if not folds:
        return None
    scores = crossval.out_of_fold(raws, passed, folds)
    return cohen_kappa((scores > 0).tolist(), passed.tolist(), categories=_BOTH)


def _report(
    data: _Data,
    evidence: _Evidence,
    blocks: Sequence[features.Block],
    labels: LabelSet,
    options: Options,
    reference: EmbedderRef | None,
) -> TrainingReport:
    found, cut = evidence.agreement, evidence.threshold
    assert found is not None  # noqa: S101 - without folds there is no evidence
    times = sorted(e.timestamp_ms for e in data.examples if e.timestamp_ms is not None)
    (fail_fail, fail_pass), (pass_fail, pass_pass) = found.confusion
    return TrainingReport(
        label=labels.name,
        label_sources=labels.sources,
        n=data.passed.size,
        n_passed=int(data.passed.sum()),
        n_groups=evidence.groups.count,
        n_near_duplicates=evidence.groups.duplicates,
        near_field=data.near_field,
        largest_group=int(np.bincount(evidence.groups.codes).max()),
        folds=evidence.folds,
        kappa=found.kappa.value,
        kappa_low=found.kappa.low,
        kappa_high=found.kappa.high,
        kappa_random=evidence.kappa_random,
        agreement=found.accuracy.value,
        confusion={
            "pass_pass": pass_pass,
            "pass_fail": pass_fail,
            "fail_pass": fail_pass,
            "fail_fail": fail_fail,
        },
        target_agreement=options.target_agreement,
        min_kappa=options.min_kappa,
        threshold=cut.value if cut else 0.0,
        coverage=cut.coverage if cut else 1.0,
        answered_agreement=cut.agreement if cut else found.accuracy.value,
        answered_low=cut.low if cut else None,
        target_proven=bool(cut and cut.proven),
        reads=tuple(f"{f.name} ({f.kind}{', optional' if f.optional else ''})" for f in data.fields),
        crossed=tuple(dict.fromkeys(f"{b.field} by {b.by}" for b in blocks if b.by)),
        n_conflicting=labels.conflicts,
        n_tied=labels.ties,
        n_missing=data.missing,
        n_unreadable=labels.unreadable,
        refusals=tuple(_refusals(data, found, cut, options)),
        forced=options.force,
        notes=tuple(_notes(found, evidence, labels, options)),
        first_ms=times[0] if times else None,
        last_ms=times[-1] if times else None,
        seed=options.seed,
        embedder=reference.digest if reference else None,
    )


def _refusals(data: _Data, found: Agreement, cut: Threshold | None, options: Options) -> Iterable[str]:
    n, good = data.passed.size, int(data.passed.sum())
    rarer, kind = min((good, "pass"), (n - good, "fail"))
    if n < FEWEST:
        yield f"It has {n} usable labels; {FEWEST} are the least."
    if rarer < FEWEST_RARER:
        yield f"Only {rarer} labels say {kind}; {FEWEST_RARER} are the least."
    low = found.kappa.low
    if low is None or low < options.min_kappa:
        says = "cannot be said" if low is None else f"may be as low as {low:.2f}"
        yield f"Its agreement with the labels on unseen traces {says} (kappa; {options.min_kappa:.2f} is the least)."
    if cut is None:
        share = f"{options.target_agreement:.0%}".replace("%", " %")
        yield f"Even its surest verdicts agree with the labels less than {share} of the time."


def _notes(found: Agreement, evidence: _Evidence, labels: LabelSet, options: Options) -> Iterable[str]:
    if evidence.threshold and not evidence.threshold.proven:
        share = f"{options.target_agreement:.0%}".replace("%", " %")
        yield f"Agreement of {share} is observed among its answers, not proven: label more to prove it."
    if labels.conflicts or labels.ties:
        yield (
            f"Labellers disagreed on {labels.conflicts + labels.ties} traces: {labels.conflicts} settled by majority, "
            f"{labels.ties} left out as ties."
        )
    gain = (evidence.kappa_random or 0.0) - (found.kappa.value or 0.0)
    if gain > 0.1:
        yield f"A random split would have looked better by {gain:.2f} of kappa: it tests on twins of training traces."
    largest = int(np.bincount(evidence.groups.codes).max())
    if largest * 3 > evidence.groups.codes.size:
        size = evidence.groups.codes.size
        yield f"One group holds {largest} of {size} traces; the figures rest on few sessions or texts."
    yield "Calibration does not travel: for another agent or another time, label a new sample."


def _versions() -> dict[str, Any]:
    from importlib.metadata import version

    return {name: version(name) for name in ("mlflow-assay", "numpy", "scikit-learn")}
