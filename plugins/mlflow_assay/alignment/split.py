"""Training, validation and test: split by group, so that nothing of the test is met before it.

A group is a session, together with all sessions that hold nearly the same text or the very same request. The test part
decides whether the change is accepted, so no aligner ever sees it.

Sessions that share a wording chain into one another until one group holds half of everything. Such groups are cut, and
what resembles a row of a later part across the cut is purged: it is in no part.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges.local.groups import Groups, Pair, group, near_duplicates

__all__ = ["FRACTIONS", "PARTS", "Split", "split"]

PARTS = ("train", "validation", "test")
FRACTIONS = (0.4, 0.2, 0.4)
SAME = 0.9  # least likeness of two requests that count as one
_LARGEST = 0.25  # a group larger than this share of all rows is cut
_PURGED = 0.2  # as long as no more than this share of rows is lost by the cut

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Which rows belong to which part.

    Attributes:
        train, validation, test: row positions, ascending; no group is in two of them.
        groups: group of each row, for clustered tests, shape (n,).
        purged: rows in no part, because they resemble a row of a later part whose group would have grown too large.
        near_duplicates: rows with at least one near-duplicate.
        seed: of the order of groups.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    groups: tuple[int, ...]
    purged: tuple[int, ...]
    near_duplicates: int
    seed: int

    def to_dict(self, ids: Sequence[str]) -> dict[str, Any]:
        """A JSON-ready mapping, with the rows' ids in place of their positions."""
        parts = {name: [ids[i] for i in getattr(self, name)] for name in (*PARTS, "purged")}
        return parts | {"near_duplicates": self.near_duplicates, "groups": len(set(self.groups)), "seed": self.seed}


def split(
    passed: Sequence[Hashable],
    sessions: Sequence[str | None],
    texts: Sequence[str],
    *,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    only_train: Sequence[bool] | None = None,
    requests: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
) -> Split:
    """Parts rows by group, with the same share of each label in each part as far as groups allow.

    Args:
        passed: label of each row, good or bad or any other kind, shape (n,).
        sessions: session id of each, None for a row on its own, shape (n,).
        texts: what the judge reads of each, by which near-duplicates are found, shape (n,); blank resembles none.
        fractions: of rows for training, validation and test, each above 0; they are scaled to sum to 1.
        seed: the same seed gives the same split.
        only_train: rows that may teach but not test; their whole group goes to training. Shape (n,).
        requests: what was asked in each; those that are practically the same go together, too. Shape (n,).
        pairs: near-duplicates found already, in place of those among texts and requests.

    Raises:
        ConfigError: lengths differ, or a fraction is not above 0.
        NotTrustedError: fewer than three groups to share out.

    Source: greedy stratification over groups, as in scikit-learn's StratifiedGroupKFold, with unequal parts.
    """
    n = len(passed)
    given = (sessions, texts, only_train, requests)
    if any(values is not None and len(values) != n for values in given):
        raise ConfigError("Labels, sessions and texts must be aligned, one each a trace.", found=f"{n} labels")
    if min(fractions) <= 0:
        raise ConfigError("Each part needs a fraction above 0.", found=fractions)
    labels = np.unique([str(kind) for kind in passed], return_inverse=True)[1]
    pinned = np.zeros(n, dtype=bool) if only_train is None else np.asarray(only_train, dtype=bool)
    alike = _alike(texts, requests or [""] * n) if pairs is None else pairs
    for found in _groupings(sessions, alike):
        parts = _parts(labels, found, pinned, np.asarray(fractions) / sum(fractions), seed)
        purged = np.setdiff1d(np.arange(n), np.concatenate(parts))
        if purged.size <= _PURGED * n:
            break
    return Split(
        train=tuple(parts[0].tolist()),
        validation=tuple(parts[1].tolist()),
        test=tuple(parts[2].tolist()),
        groups=tuple(found.codes.tolist()),
        purged=tuple(purged.tolist()),
        near_duplicates=found.duplicates,
        seed=seed,
    )


def _alike(texts: Sequence[str], requests: Sequence[str]) -> list[Pair]:
    likeness = {(i, j): c for i, j, c in (*near_duplicates(texts), *near_duplicates(requests, SAME))}
    return [(i, j, c) for (i, j), c in likeness.items()]


def _groupings(sessions: Sequence[str | None], pairs: Sequence[Pair]) -> Iterator[Groups]:
    """Groups, whole where none is large, else cut ever less; the last are whole in any case."""
    n = len(sessions)
    if not n:
        raise NotTrustedError("There is no labelled trace to split.")
    whole = group(sessions, pairs)
    if np.bincount(whole.codes).max() > max(2, _LARGEST * n):
        yield from (group(sessions, pairs, max(2, n // part)) for part in (10, 5, 3))
    yield whole


def _parts(labels: Any, found: Groups, pinned: Any, fractions: Any, seed: int) -> tuple[Ints, Ints, Ints]:
    """Rows of each part, without those that resemble a row of a later part."""
    free = np.unique(found.codes).size - np.unique(found.codes[pinned]).size
    if free < 2 or found.count < len(PARTS):
        raise NotTrustedError(
            "The labelled traces cannot be parted into training, validation and test.",
            found=f"{labels.size} labelled traces in {found.count} groups (sessions and near-duplicates)",
            valid="three groups or more; a few dozen are needed to prove anything",
            fix="Label traces of other sessions.",
        )
    part = _deal(labels, found.codes, pinned, fractions, seed)[found.codes]
    train, validation, test = (np.flatnonzero(part == i) for i in range(len(PARTS)))
    validation_kept = found.allowed(validation, test)
    return found.allowed(train, np.concatenate([validation, test])), validation_kept, test


def _deal(labels: Any, codes: Ints, pinned: Any, fractions: Any, seed: int) -> Ints:
    """The part of each group, shape (groups,): largest groups first, each to the part that lacks its labels most."""
    counts = np.stack([np.bincount(codes, weights=labels == kind) for kind in np.unique(labels)], axis=1)
    target = np.outer(fractions, counts.sum(0))
    target[target == 0] = 0.5
    held = np.zeros_like(target)
    dealt = np.zeros(len(counts), dtype=np.int64)
    first = {int(c) for c in codes[pinned]}
    order = np.lexsort((np.random.default_rng(seed).random(len(counts)), -counts.sum(1)))
    waiting = [g for g in order.tolist() if g not in first]
    for g in sorted(first):
        held[0] += counts[g]
    for position, g in enumerate(waiting):
        after = ((held[None] + np.eye(len(PARTS))[:, :, None] * counts[g] - target) / target) ** 2
        cost = after.sum((1, 2))
        empty = [p for p in range(len(PARTS)) if not held[p].sum()]
        choices = empty if len(waiting) - position <= len(empty) else range(len(PARTS))
        dealt[g] = min(choices, key=lambda p: (round(float(cost[p]), 12), p))
        held[dealt[g]] += counts[g]
    return dealt
