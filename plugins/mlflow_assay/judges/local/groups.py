"""Which traces belong together when judging a judge: one session, or nearly the same text.

A split that puts one wording of a request into training and its twin into the test measures memory. On CEBaB a
random split showed kappa 0.93 where grouping the edited copies of one review gave 0.53.

Sessions that share a wording chain into one another until half the traces are one group. So a union that would
make a group larger than a cap is not made, and what it would have kept together is purged from training instead:
no trace is ever judged by a model trained on its session-mates or near-duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.judges.local.examples import clip

__all__ = ["NEAR", "Groups", "Pair", "group", "near_duplicates"]

NEAR = 0.55
_ROWS = 512
_READ = 8_000

Ints = npt.NDArray[np.int64]
Pair = tuple[int, int, float]


@dataclass(frozen=True)
class Groups:
    """Groups of traces, and the links that the groups do not hold together.

    Attributes:
        codes: group number of each trace, from 0, shape (n,).
        cut: pairs of traces that are near-duplicates and yet in two groups, shape (k, 2).
        duplicates: number of traces with at least one near-duplicate.
    """

    codes: Ints
    cut: Ints
    duplicates: int

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.codes.max()) + 1

    def allowed(self, train: Ints, test: Ints) -> Ints:
        """The training traces left when those linked to a test trace are purged."""
        tested = np.zeros(self.codes.size, dtype=bool)
        tested[test] = True
        a, b = self.cut[:, 0], self.cut[:, 1]
        return np.setdiff1d(train, np.concatenate([a[tested[b]], b[tested[a]]]))


class _Forest:
    """Union-find whose trees do not grow beyond a size."""

    def __init__(self, n: int, cap: int) -> None:
        self._parent, self._size, self._cap = list(range(n)), [1] * n, cap

    def find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = i = self._parent[self._parent[i]]
        return i

    def unite(self, i: int, j: int, *, always: bool = False) -> None:
        a, b = sorted((self.find(i), self.find(j)))
        if a != b and (always or self._size[a] + self._size[b] <= self._cap):
            self._parent[b] = a
            self._size[a] += self._size[b]


def group(sessions: Sequence[str | None], pairs: Sequence[Pair], cap: int | None = None) -> Groups:
    """Unite sessions, then near-duplicates from the most similar down.

    Args:
        sessions: session ids, None for a trace on its own, shape (n,), n >= 1.
        pairs: near-duplicates as `near_duplicates` gives them.
        cap: no union of near-duplicates makes a group larger than this; a session is never split. None unites all.
    """
    n = len(sessions)
    forest = _Forest(n, n if cap is None else cap)
    first: dict[str, int] = {}
    for i, session in enumerate(sessions):
        if session is not None:
            forest.unite(i, first.setdefault(session, i), always=True)
    for i, j, _ in sorted(pairs, key=lambda p: -p[2]):
        forest.unite(i, j)
    codes = np.unique([forest.find(i) for i in range(n)], return_inverse=True)[1].astype(np.int64)
    cut = [(i, j) for i, j, _ in pairs if codes[i] != codes[j]]
    return Groups(codes, np.array(cut, dtype=np.int64).reshape(-1, 2), len({k for i, j, _ in pairs for k in (i, j)}))


def near_duplicates(texts: Sequence[str], near: float = NEAR) -> list[Pair]:
    """Pairs (i, j, cosine), i < j, of texts that are nearly the same; blank texts pair with none.

    What all texts share, such as the results of the same tool call, weighs next to nothing: n-grams are weighted
    by log((n + 1) / df) without the usual constant.

    Args:
        texts: what the traces are compared by, shape (n,); the first and last 4,000 characters are read.
        near: least cosine of character 3- to 5-gram TF-IDF vectors, in (0, 1].
    """
    if not any(t.strip() for t in texts):
        return []
    vectors = _vectors([clip(t, _READ) for t in texts])
    pairs: list[Pair] = []
    for start in range(0, len(texts), _ROWS):
        similar = (vectors[start : start + _ROWS] @ vectors.T).tocoo()
        keep = (similar.data >= near) & (similar.row + start < similar.col)
        rows, columns, cosines = similar.row[keep] + start, similar.col[keep], similar.data[keep]
        pairs += zip(rows.tolist(), columns.tolist(), cosines.tolist(), strict=True)
    return pairs


def _vectors(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    counts = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    weighting = TfidfTransformer(sublinear_tf=True)
    weighting.idf_ = np.log((counts.shape[0] + 1) / np.bincount(counts.indices, minlength=counts.shape[1]))
    return weighting.transform(counts)
