"""Near-duplicates among many texts, by the Jaccard similarity of their character 5-grams.

It compares two texts whatever the others are, so a row counts as a duplicate in a large dataset as in a small one.
Up to `EXACT` texts every pair is compared. That takes time with the square of their number, so beyond it likely pairs
are found by locality-sensitive hashing (datasketch), each checked; a pair hashing does not bring together is missed.

Source: Broder 1997, doi:10.1109/SEQUEN.1997.666900
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local.examples import clip
from mlflow_assay.judges.local.groups import Pair

__all__ = ["EXACT", "method", "near_pairs"]

EXACT = 10_000

_PERMUTATIONS = 64
_SLACK = 0.15
_LENGTH = 5
_READ = 8_000
_ROWS = 512
_BETWEEN = re.compile(r"\W+")


def method(n: int, near: float) -> str:
    """How `near_pairs` compares n texts, in words for the record."""
    how = "" if n <= EXACT else f", of pairs brought together by MinHash with {_PERMUTATIONS} permutations"
    return f"Jaccard similarity of character {_LENGTH}-grams >= {near:g}{how}"


def near_pairs(texts: Sequence[str], near: float) -> list[Pair]:
    """Pairs (i, j, similarity), i < j, of texts that are nearly the same; blank texts pair with none.

    Args:
        texts: shape (n,); case, punctuation and all but the first and last 4,000 characters are disregarded.
        near: least similarity, in (0, 1].

    Raises:
        ConfigError: more than `EXACT` texts, and datasketch is not installed.
    """
    return _exactly(texts, near) if len(texts) <= EXACT else _by_hash(texts, near)


def _grams(text: str) -> set[str]:
    words = _BETWEEN.sub(" ", clip(text, _READ).lower()).strip()
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
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise ConfigError(
            f"Near-duplicates among {len(texts)} rows need a package that is not installed.",
            fix="pip install 'mlflow-assay[datasets]', or leave out exact duplicates only (--duplicates exact).",
        ) from error
    # A lower threshold than asked for: what is brought together needlessly costs a check, what is not is missed.
    index = MinHashLSH(threshold=max(0.1, near - _SLACK), num_perm=_PERMUTATIONS)
    pairs: list[Pair] = []
    for i, text in enumerate(texts):
        if not (grams := _grams(text)):
            continue
        hashed: Any = MinHash(num_perm=_PERMUTATIONS)
        hashed.update_batch([gram.encode() for gram in grams])
        for j in index.query(hashed):
            other = _grams(texts[j])
            similar = len(grams & other) / len(grams | other)
            if similar >= near:
                pairs.append((j, i, similar))
        index.insert(i, hashed)
    return pairs
