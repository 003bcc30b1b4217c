"""From rows as they come to rows as they are kept: duplicates merged, a sample drawn, splits by group.

Rows wait in a local file meanwhile, as do the texts near-duplicates are found by; what is held in memory is some
hundred bytes a row, and 256 more while they are sought among many.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
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
from mlflow_assay.datasets.texts import Texts
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local.groups import group
from mlflow_assay.trace_fields import as_text
from mlflow_assay.trust.sampling import stratified_sample

__all__ = ["FRACTIONS", "Shaped", "Shaping", "comparable", "shape"]

FRACTIONS = (0.6, 0.2, 0.2)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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
    _kept: Ints
    _weights: Floats
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
        start = place = 0
        for batch in self._staged.batches():
            end = start + batch.num_rows
            until = int(np.searchsorted(self._kept, end))
            kept = batch.take(self._kept[place:until] - start)
            for place_, row in enumerate(rows_of(kept), place):
                yield self._finished(row, float(self._weights[place_]), place_)
            start, place = end, until

    def _finished(self, row: DatasetRow, weight: float, place: int) -> DatasetRow:
        if self._assigned is None:
            return row if weight == row.weight else row.moved(weight=weight)
        return row.moved(
            weight=weight, split=self._assigned.splits[place], group=self._assigned.groups[place] or row.group
        )


class _Notes:
    """What is remembered of each row while it waits."""

    def __init__(self, texts: Texts, seeking: bool) -> None:
        self.expected, self.expectations, self.weights = array("q"), array("q"), array("d")
        self.sessions: list[str | None] = []
        self.slices: list[str | None] = []
        self.texts, self._seeking, self._names = texts, seeking, dict[str | None, str | None]()

    def take(self, row: DatasetRow) -> DatasetRow:
        self.expected.append(len(row.expectations))
        self.expectations.append(hash(canonical(dict(row.expectations))) if row.expectations else 0)
        self.sessions.append(self._names.setdefault(row.session, row.session))  # one text for all that are equal
        self.slices.append(self._names.setdefault(row.slice, row.slice))
        self.weights.append(row.weight)
        if self._seeking:
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
        seeking = shaping.duplicates == "near" or shaping.fractions is not None
        with Texts(Path(folder.name) / "texts") as texts:
            return _shape(rows, _Notes(texts, seeking), shaping, folder)
    except BaseException:
        folder.cleanup()
        raise


def _shape(
    rows: Iterable[DatasetRow], notes: _Notes, shaping: Shaping, folder: tempfile.TemporaryDirectory[str]
) -> Shaped:
    staged = stage(map(notes.take, rows), Path(folder.name))
    n = len(staged.index)
    record: dict[str, Any] = {"rows_found": n, "duplicates": shaping.duplicates}
    kept, copies = np.arange(n), np.ones(n, np.int64)
    if shaping.duplicates != "none":
        kept, copies = _merged(staged, notes, shaping, record)
    every = np.asarray(notes.weights, np.float64)[kept] * copies
    kept, weights = _sampled(kept, every, notes, shaping, record)
    assigned = None
    if shaping.fractions is not None and len(kept):
        assigned = assign(
            [key.decode() for key in staged.index.keys[kept].tolist()],
            [notes.sessions[i] for i in kept.tolist()],
            notes.texts.at(kept),
            [notes.slices[i] for i in kept.tolist()],
            fractions=shaping.fractions,
            seed=shaping.seed,
        )
        record |= {"split": assigned.record | {"fractions": list(shaping.fractions), "seed": shaping.seed}}
    record["rows"] = len(kept)
    return Shaped(record, staged, kept, weights, assigned, folder)


def _merged(staged: Staged, notes: _Notes, shaping: Shaping, record: dict[str, Any]) -> tuple[Ints, Ints]:
    """Positions of the rows kept, ascending, and how many rows each stands for."""
    expected = np.asarray(notes.expected)
    keys = np.unique(staged.index.keys, return_inverse=True)[1].astype(np.int64)
    kept = _best(keys, expected)
    copies = np.bincount(keys)[keys[kept]] if len(kept) else np.zeros(0, np.int64)
    record["exact_duplicates_merged"] = len(keys) - len(kept)
    record["merged_with_other_expectations"] = _conflicts(keys, np.asarray(notes.expectations))
    if shaping.duplicates == "near" and len(kept) > 1:
        codes = group([None] * len(kept), near_pairs(notes.texts.at(kept), shaping.near)).codes
        again = _best(codes, expected[kept])
        record["near_duplicates_merged"] = len(kept) - len(again)
        record["near"] = method(len(kept), shaping.near)
        copies = np.bincount(codes, weights=copies).astype(np.int64)[codes[again]]
        kept = kept[again]
    return kept, copies


def _best(codes: Ints, expected: Ints) -> Ints:
    """Of each code the place with the most expectations, the earliest among equals; ascending."""
    order = np.lexsort((np.arange(len(codes)), -expected, codes))
    first = np.r_[True, codes[order][1:] != codes[order][:-1]] if len(order) else np.zeros(0, bool)
    return np.sort(order[first])


def _conflicts(keys: Ints, expectations: Ints) -> int:
    """Inputs whose duplicates expect different things."""
    said = expectations != 0
    different = np.unique(np.stack([keys[said], expectations[said]], axis=1), axis=0)[:, 0]
    return int((np.unique(different, return_counts=True)[1] > 1).sum())


def _sampled(
    kept: Ints, weights: Floats, notes: _Notes, shaping: Shaping, record: dict[str, Any]
) -> tuple[Ints, Floats]:
    """Positions of the rows drawn, and how many rows each stands for."""
    if shaping.sample is None or shaping.sample >= len(kept):
        return kept, weights
    drawn = stratified_sample([notes.slices[i] or "" for i in kept.tolist()], shaping.sample, seed=shaping.seed)
    record["sample"] = {
        "rows": len(drawn.chosen),
        "of": len(kept),
        "seed": shaping.seed,
        "by_slice": {str(stratum): count for stratum, count in drawn.allocation.items()},
    }
    chosen = np.array(drawn.chosen, dtype=np.int64)
    chances = np.array([drawn.probabilities[i] or 1.0 for i in drawn.chosen])
    return kept[chosen], weights[chosen] / chances
