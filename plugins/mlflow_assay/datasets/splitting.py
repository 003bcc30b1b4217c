"""Splits by group: rows of one session, or with nearly the same inputs, are never in two splits.

`alignment.split` does the work. Beyond `MANY` groups its greedy dealing is no better than chance and slow, so there
groups are dealt at random, each slice on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_assay.alignment.split import split
from mlflow_assay.datasets.model import SPLITS
from mlflow_assay.datasets.near import EXACT, method, near_pairs
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges.local.groups import NEAR, Groups, Pair, group, near_duplicates

__all__ = ["Assigned", "assign", "assign_beside", "parse_fractions"]

MANY = 20_000
_ALIKE = 0.5  # of large sets, where the other measure takes too long


@dataclass(frozen=True)
class Assigned:
    """Which split each row is in.

    Attributes:
        splits: of each row; None where it resembles rows of two splits and is therefore in none, shape (n,).
        groups: of each row: the smallest row id of the group, shape (n,).
        record: counts and method, for the manifest.
    """

    splits: tuple[str | None, ...]
    groups: tuple[str, ...]
    record: dict[str, Any]


def parse_fractions(text: str) -> tuple[float, float, float] | None:
    """`60/20/20` as fractions that sum to 1; `none` as None.

    Raises:
        ConfigError: it is neither.
    """
    if text.strip().lower() == "none":
        return None
    try:
        a, b, c = (float(part) for part in text.split("/"))
    except ValueError as error:
        raise ConfigError(
            f"--split {text!r} cannot be read.", valid="60/20/20 (train/validation/test), none"
        ) from error
    if min(a, b, c) <= 0:
        raise ConfigError(f"--split {text!r}: each part needs a share above 0.", valid="60/20/20, none")
    return a / (a + b + c), b / (a + b + c), c / (a + b + c)


def assign(
    ids: Sequence[str],
    sessions: Sequence[str | None],
    texts: Sequence[str],
    slices: Sequence[str | None],
    *,
    fractions: tuple[float, float, float],
    seed: int = 0,
) -> Assigned:
    """A split for each row, with the same share of each slice in each split as far as groups allow.

    Args:
        ids, sessions, texts, slices: of each row, shape (n,).
        fractions: for training, validation and test.
        seed: the same rows and seed give the same split.

    Raises:
        NotTrustedError: fewer than three groups.
    """
    pairs, how = _pairs(texts)
    if len(ids) > MANY:
        found = group(sessions, pairs)
        if found.count > MANY // 2:
            return _dealt(ids, found, slices, fractions, seed, how)
    try:
        parts = split([s or "" for s in slices], sessions, texts, fractions=fractions, seed=seed, pairs=pairs)
    except NotTrustedError as error:
        raise NotTrustedError(
            "The rows cannot be parted into training, validation and test.",
            found=f"{len(ids)} rows, in fewer than three groups (sessions and near-duplicates)",
            fix="Take in more traces, or make the dataset without splits (--split none).",
        ) from error
    splits: list[str | None] = [None] * len(ids)
    for name in SPLITS:
        for i in getattr(parts, name):
            splits[i] = name
    return Assigned(
        tuple(splits),
        tuple(_named(ids, parts.groups)),
        {"groups": len(set(parts.groups)), "in_no_split": len(parts.purged), "by": f"session; {how}"},
    )


def assign_beside(
    ids: Sequence[str],
    sessions: Sequence[str | None],
    texts: Sequence[str],
    fixed: Sequence[str | None],
    names: Sequence[str | None],
    *,
    fractions: tuple[float, float, float],
    seed: int = 0,
) -> Assigned:
    """Splits for rows that join a dataset: a row goes where its session or near-duplicates are already.

    A row that belongs to rows of two splits is in none. Rows with no relatives are dealt at random.

    Args:
        ids, sessions, texts: of all rows, old and new, shape (n,).
        fixed: split of each old row; None for the new ones, shape (n,).
        names: group of each old row, None for the new ones, shape (n,).
        fractions: in which new groups are dealt.
        seed: of the dealing.
    """
    pairs, how = _pairs(texts)
    codes = group(sessions, pairs).codes.tolist()
    met: dict[int, set[str]] = {}
    named: dict[int, str] = {}
    for code, part, name in zip(codes, fixed, names, strict=True):
        if part is not None:
            met.setdefault(code, set()).add(part)
            named.setdefault(code, name or "")
    free = sorted({c for c in codes if c not in met})
    rng = np.random.default_rng(seed)
    dealt = dict(zip(free, rng.choice(len(SPLITS), size=len(free), p=np.asarray(fractions)).tolist(), strict=True))
    splits: list[str | None] = []
    for code, part in zip(codes, fixed, strict=True):
        there = met.get(code)
        splits.append(
            part or (SPLITS[dealt[code]] if there is None else next(iter(there)) if len(there) == 1 else None)
        )
    own = _named(ids, codes)
    groups = [named.get(code) or own[i] for i, code in enumerate(codes)]
    lost = sum(s is None for s in splits)
    return Assigned(tuple(splits), tuple(groups), {"in_no_split": lost, "by": f"session; {how}; beside the rows there"})


def _pairs(texts: Sequence[str]) -> tuple[list[Pair], str]:
    """Rows too alike to be told apart, found as for the alignment of judges while that is quick."""
    if len(texts) <= EXACT:
        return near_duplicates(texts), f"cosine of character 3- to 5-gram TF-IDF >= {NEAR:g}"
    return near_pairs(texts, _ALIKE), method(len(texts), _ALIKE)


def _named(ids: Sequence[str], codes: Sequence[int]) -> list[str]:
    """Each row's group under a name that depends on its rows alone."""
    first: dict[int, str] = {}
    for code, row in zip(codes, ids, strict=True):
        first[code] = min(first.get(code, row), row)
    return [first[code] for code in codes]


def _dealt(
    ids: Sequence[str],
    found: Groups,
    slices: Sequence[str | None],
    fractions: tuple[float, float, float],
    seed: int,
    how: str,
) -> Assigned:
    """Groups in random order, cut where the fractions of rows are reached; slices one after the other."""
    kinds = np.unique([s or "" for s in slices], return_inverse=True)[1]
    first = np.full(found.count, -1, dtype=np.int64)
    first[found.codes[::-1]] = kinds[::-1]
    sizes = np.bincount(found.codes)
    part = np.empty(found.count, dtype=np.int64)
    rng = np.random.default_rng(seed)
    for kind in np.unique(first):
        own = rng.permutation(np.flatnonzero(first == kind))
        reached = (np.cumsum(sizes[own]) - sizes[own] / 2) / sizes[own].sum()
        part[own] = np.searchsorted(np.cumsum(fractions)[:2], reached, side="right")
    splits = tuple(SPLITS[p] for p in part[found.codes].tolist())
    record = {"groups": found.count, "in_no_split": 0, "by": f"session; {how}", "rows": dict(Counter(splits))}
    return Assigned(splits, tuple(_named(ids, found.codes.tolist())), record)
