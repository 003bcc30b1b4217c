"""Near-duplicates among many texts, by the Jaccard similarity of their character 5-grams.

It compares two texts whatever the others are, so a row counts as a duplicate in a large dataset as in a small one.
Up to `EXACT` texts every pair is compared. That takes time with the square of their number, so beyond it likely pairs
are found by locality-sensitive hashing, each checked; a pair of just the similarity asked for is missed about once in a
hundred times. The hash tables of libraries take kilobytes a text; here each band is sorted in its turn, and 256 bytes a
text are held.

Source: Broder 1997, doi:10.1109/SEQUEN.1997.666900; bands: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mlflow_assay.judges.local.examples import clip
from mlflow_assay.judges.local.groups import Pair

__all__ = ["EXACT", "method", "near_pairs"]

EXACT = 10_000

_PERMUTATIONS = 128
_MISSED = 0.01
_SLACK = 0.18  # four standard errors of the likeness that 128 permutations estimate
_NEIGHBOURS = 30
_COMPARED = 100_000
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_MOST = np.uint64(0xFFFFFFFFFFFFFFFF)
_LENGTH = 5
_READ = 8_000
_ROWS = 512
_BETWEEN = re.compile(r"\W+")

Ints = npt.NDArray[np.int64]


def method(n: int, near: float) -> str:
    """How `near_pairs` compares n texts, in words for the record."""
    how = (
        ""
        if n <= EXACT
        else f", of pairs brought together by MinHash with {_PERMUTATIONS} permutations, {_band(near)} to a band"
    )
    return f"Jaccard similarity of character {_LENGTH}-grams >= {near:g}{how}"


def near_pairs(texts: Sequence[str], near: float) -> list[Pair]:
    """Pairs (i, j, similarity), i < j, of texts that are nearly the same; blank texts pair with none.

    Args:
        texts: shape (n,); case, punctuation and all but the first and last 4,000 characters are disregarded.
        near: least similarity, in (0, 1].
    """
    return _exactly(texts, near) if len(texts) <= EXACT else _by_hash(texts, near)


def _words(text: str) -> str:
    return _BETWEEN.sub(" ", clip(text, _READ).lower()).strip()


def _grams(text: str) -> set[str]:
    words = _words(text)
    if not words:
        return set()
    return {words[i : i + _LENGTH] for i in range(max(1, len(words) - _LENGTH + 1))}


def _exactly(texts: Sequence[str], near: float) -> list[Pair]:
    from sklearn.feature_extraction.text import CountVectorizer

    grams = [_grams(text) for text in texts]
    if not any(grams):
        return []
    counts = CountVectorizer(analyzer=lambda found: found, dtype=np.float32).fit_transform(grams)
    sizes = np.asarray([len(found) for found in grams], dtype=np.float32)
    pairs: list[Pair] = []
    for start in range(0, len(texts), _ROWS):
        shared = (counts[start : start + _ROWS] @ counts.T).tocoo()
        rows, columns = shared.row + start, shared.col
        similar = shared.data / (sizes[rows] + sizes[columns] - shared.data)
        keep = (similar >= near) & (rows < columns)
        pairs += zip(rows[keep].tolist(), columns[keep].tolist(), similar[keep].tolist(), strict=True)
    return pairs


def _by_hash(texts: Sequence[str], near: float) -> list[Pair]:
    signatures = np.empty((len(texts), _PERMUTATIONS), np.uint16)
    rng = np.random.default_rng(0)
    factors = rng.integers(1, 1 << 63, size=_PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    blank = np.zeros(len(texts), bool)
    for i, text in enumerate(texts):
        codes = _codes(_words(text))
        blank[i] = not codes.size
        # The least are all small numbers, so their leading bits alone would tell little.
        signatures[i] = ((codes[:, None] * factors).min(axis=0, initial=_MOST) * _SPREAD) >> np.uint64(48)
    found: set[tuple[int, int]] = set()
    for left, right in _brought_together(signatures, np.flatnonzero(~blank), near):
        for start in range(0, len(left), _COMPARED):
            a, b = left[start : start + _COMPARED], right[start : start + _COMPARED]
            likely = (signatures[a] == signatures[b]).mean(axis=1) >= near - _SLACK
            found.update(zip(a[likely].tolist(), b[likely].tolist(), strict=True))
    return _checked(texts, sorted(found), near)


def _codes(words: str) -> npt.NDArray[np.uint64]:
    """A number for each different n-gram, evenly spread over 64 bits."""
    letters = np.frombuffer(words.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    if not letters.size:
        return letters
    width = min(_LENGTH, letters.size)
    codes = np.zeros(letters.size - width + 1, np.uint64)
    for k in range(width):
        codes = (codes ^ letters[k : k + codes.size]) * _SPREAD
        codes ^= codes >> np.uint64(29)
    return np.unique(codes)


def _brought_together(signatures: npt.NDArray[np.uint16], places: Ints, near: float) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of places whose signatures agree in one whole band, band by band."""
    rows = _band(near)
    for start in range(0, _PERMUTATIONS - rows + 1, rows):
        keys = np.zeros(len(places), np.uint64)
        for column in range(start, start + rows):
            keys = (keys ^ signatures[places, column]) * _SPREAD
            keys ^= keys >> np.uint64(29)
        order = np.argsort(keys, kind="stable")
        keys, by_key = keys[order], places[order]
        first = np.searchsorted(keys, keys)
        many = np.flatnonzero(np.arange(len(keys)) - first > _NEIGHBOURS)
        # In a crowd, who stands near and who stands first: what is alike in it is linked through them.
        yield by_key[first[many]], by_key[many]
        for step in range(1, _NEIGHBOURS + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not same.size:
                break
            yield by_key[same], by_key[same + step]


def _band(near: float) -> int:
    """Rows in a band: as many as let a pair that is just as similar as asked be missed once in a hundred times."""
    fits = [r for r in range(1, 17) if (1 - near**r) ** (_PERMUTATIONS // r) <= _MISSED]
    return max(fits, default=1)


def _checked(texts: Sequence[str], pairs: Sequence[tuple[int, int]], near: float) -> list[Pair]:
    found: list[Pair] = []
    last, grams = -1, set[str]()
    for i, j in pairs:
        if i != last:
            last, grams = i, _grams(texts[i])
        other = _grams(texts[j])
        similar = len(grams & other) / len(grams | other)
        if similar >= near:
            found.append((i, j, similar))
    return found
