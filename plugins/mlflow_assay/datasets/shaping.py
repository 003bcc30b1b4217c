"""From rows as they come to rows as they are kept: duplicates merged, a sample drawn, splits by group.

Rows wait in a local file meanwhile; what is held in memory is a few dozen bytes a row, and the texts of the rows'
inputs where near-duplicates are sought.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlflow_assay.datasets.canonical import canonical
from mlflow_assay.datasets.columns import rows_of
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.datasets.near import method, near_pairs
from mlflow_assay.datasets.snapshot import Staged, stage
from mlflow_assay.datasets.splitting import Assigned, assign
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.fields import as_text
from mlflow_assay.judges.local.groups import group
from mlflow_assay.trust.sampling import stratified_sample

__all__ = ["FRACTIONS", "Shaped", "Shaping", "comparable", "shape"]

FRACTIONS = (0.6, 0.2, 0.2)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shaping:
    """What is done to rows on their way into a dataset.

    Attributes:
        duplicates: `near` merges rows whose inputs are nearly the same, `exact` those with the same inputs; `none`
            keeps all, and needs rows whose ids differ.
        near: least similarity of inputs that count as one, in (0, 1]; see `datasets.near`.
        sample: at most so many rows, drawn at random within each slice; None keeps all.
        fractions: of rows for training, validation and test; None leaves the dataset whole.
        seed: of sample and split.
    """

    duplicates: Literal["none", "exact", "near"] = "near"
    near: float = 0.8
    sample: int | None = None
    fractions: tuple[float, float, float] | None = FRACTIONS
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.near <= 1:
            raise ConfigError("The likeness of duplicates must be above 0 and at most 1.", found=self.near)


@dataclass
class Shaped:
    """Rows ready to be written, waiting in a local folder.

    Attributes:
        record: what was done, for the manifest: counts of every step.
    """

    record: dict[str, Any]
    _staged: Staged
    _kept: dict[int, tuple[float, int]]
    _assigned: Assigned | None
    _folder: tempfile.TemporaryDirectory[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self._kept)

    def __enter__(self) -> Shaped:
        return self

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()

    def rows(self) -> Iterator[DatasetRow]:
        """The rows, in the order they came."""
        position = 0
        for batch in self._staged.batches():
            for row in rows_of(batch):
                if position in self._kept:
                    weight, place = self._kept[position]
                    yield self._finished(row, weight, place)
                position += 1

    def _finished(self, row: DatasetRow, weight: float, place: int) -> DatasetRow:
        if self._assigned is None:
            return row if weight == row.weight else row.moved(weight=weight)
        return row.moved(
            weight=weight, split=self._assigned.splits[place], group=self._assigned.groups[place] or row.group
        )


@dataclass
class _Notes:
    """What is remembered of each row while it waits."""

    expected: list[int] = field(default_factory=list)
    expectations: list[int] = field(default_factory=list)
    sessions: list[str | None] = field(default_factory=list)
    slices: list[str | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def take(self, row: DatasetRow, texts: bool) -> DatasetRow:
        self.expected.append(len(row.expectations))
        self.expectations.append(hash(canonical(dict(row.expectations))) if row.expectations else 0)
        self.sessions.append(row.session)
        self.slices.append(row.slice)
        self.weights.append(row.weight)
        if texts:
            self.texts.append(comparable(row.inputs))
        return row


def comparable(inputs: Any) -> str:
    """The text near-duplicates are found by: the inputs' values, without the keys all rows share."""
    if isinstance(inputs, dict):
        return "\n".join(as_text(value) for _, value in sorted(inputs.items(), key=lambda item: str(item[0])))
    return as_text(inputs)


def shape(rows: Iterable[DatasetRow], shaping: Shaping) -> Shaped:
    """Merge duplicates, draw the sample, assign splits.

    Of rows that count as one, that with the most expectations is kept, the earliest among equals; its `weight` says
    how many rows it stands for.

    Returns:
        The rows, to be read while the result is open (it is a context manager).

    Raises:
        NotTrustedError: too few groups for a split.
    """
    folder = tempfile.TemporaryDirectory(prefix="assay-rows-")
    try:
        notes = _Notes()
        seeking = shaping.duplicates == "near" or shaping.fractions is not None
        staged = stage((notes.take(row, seeking) for row in rows), Path(folder.name))
        return _shape(staged, notes, shaping, folder)
    except BaseException:
        folder.cleanup()
        raise


def _shape(staged: Staged, notes: _Notes, shaping: Shaping, folder: tempfile.TemporaryDirectory[str]) -> Shaped:
    n = len(staged.index)
    record: dict[str, Any] = {"rows_found": n, "duplicates": shaping.duplicates}
    stands_for = _merged(staged, notes, shaping, record) if shaping.duplicates != "none" else dict.fromkeys(range(n), 1)
    weights = {i: notes.weights[i] * copies for i, copies in stands_for.items()}
    kept = _sampled(weights, notes, shaping, record)
    places = sorted(kept)
    assigned = None
    if shaping.fractions is not None and places:
        assigned = assign(
            [key.decode() for key in staged.index.keys[places].tolist()],
            [notes.sessions[i] for i in places],
            [notes.texts[i] for i in places],
            [notes.slices[i] for i in places],
            fractions=shaping.fractions,
            seed=shaping.seed,
        )
        record |= {"split": assigned.record | {"fractions": list(shaping.fractions), "seed": shaping.seed}}
    record["rows"] = len(places)
    return Shaped(record, staged, {i: (kept[i], p) for p, i in enumerate(places)}, assigned, folder)


def _merged(staged: Staged, notes: _Notes, shaping: Shaping, record: dict[str, Any]) -> dict[int, int]:
    """Position of each row kept to how many rows it stands for."""
    keys = np.unique(staged.index.keys, return_inverse=True)[1].astype(np.int64)
    kept = _best(keys, notes)
    record["exact_duplicates_merged"] = len(keys) - len(kept)
    copies = Counter(keys.tolist())
    merged = {i: copies[int(keys[i])] for i in kept}
    record["merged_with_other_expectations"] = _conflicts(keys, notes)
    if shaping.duplicates == "near" and len(kept) > 1:
        pairs = near_pairs([notes.texts[i] for i in kept], shaping.near)
        codes = group([None] * len(kept), pairs).codes
        again = [kept[p] for p in _best(codes, notes, kept)]
        total = np.bincount(codes, weights=[merged[i] for i in kept]).astype(int)
        place = {i: p for p, i in enumerate(kept)}
        merged = {i: int(total[codes[place[i]]]) for i in again}
        record["near_duplicates_merged"] = len(kept) - len(again)
        record["near"] = method(len(kept), shaping.near)
    return merged


def _best(codes: Ints, notes: _Notes, positions: Sequence[int] | None = None) -> list[int]:
    """Of each code the place with the most expectations, the earliest among equals; ascending."""
    every = range(len(codes)) if positions is None else positions
    counts = np.array([notes.expected[i] for i in every], dtype=np.int64)
    order = np.lexsort((np.arange(len(codes)), -counts, codes))
    first = np.r_[True, codes[order][1:] != codes[order][:-1]] if len(order) else np.zeros(0, bool)
    return sorted(int(i) for i in order[first])


def _conflicts(keys: Ints, notes: _Notes) -> int:
    """Inputs whose duplicates expect different things."""
    said = {(k, e) for k, e in zip(keys.tolist(), notes.expectations, strict=True) if e}
    return sum(count > 1 for count in Counter(k for k, _ in said).values())


def _sampled(weights: dict[int, float], notes: _Notes, shaping: Shaping, record: dict[str, Any]) -> dict[int, float]:
    """Rows drawn, each with how many it stands for."""
    if shaping.sample is None or shaping.sample >= len(weights):
        return weights
    positions = sorted(weights)
    drawn = stratified_sample([notes.slices[i] or "" for i in positions], shaping.sample, seed=shaping.seed)
    chances = [p or 1.0 for p in drawn.probabilities]
    record["sample"] = {
        "rows": len(drawn.chosen),
        "of": len(positions),
        "seed": shaping.seed,
        "by_slice": {str(stratum): count for stratum, count in drawn.allocation.items()},
    }
    return {positions[k]: weights[positions[k]] / chances[k] for k in drawn.chosen}
