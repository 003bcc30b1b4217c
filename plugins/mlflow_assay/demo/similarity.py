"""Which text resembles another: the demo agent's stand-in for a language model. Deterministic; no model is called.

TF-IDF over words, word pairs and character n-grams (so that a typo still matches), compared by cosine
(Salton & Buckley 1988). Weights are learnt from the texts compared with and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion

__all__ = ["CONTEXT_WEIGHT", "Similarity", "Vector", "unit"]

CONTEXT_WEIGHT = 0.5  # how much the customer's previous message counts beside the present one

Vector = np.ndarray[Any, np.dtype[np.float64]]


class Similarity:
    """Compares short texts with a fixed list of texts.

    Args:
        texts: what is compared with; one score each.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        words = TfidfVectorizer(stop_words="english", ngram_range=(1, 2), sublinear_tf=True)
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 5), sublinear_tf=True)
        self._features = FeatureUnion([("words", words), ("letters", letters)]).fit(list(texts))
        self._vector = lru_cache(maxsize=64)(self._compute)  # router and desk ask for the same text
        self._texts = np.stack([self._vector(text) for text in texts])

    def scores(self, text: str, previous: str = "") -> Vector:
        """Cosine in [0, 1] of a text with each of the fixed texts, in their order; shape (texts,).

        Args:
            text: what the customer wrote.
            previous: what the customer wrote before, mixed in at `CONTEXT_WEIGHT`; empty for nothing.
        """
        mixed = self._vector(text)
        if previous:
            mixed = unit(mixed + CONTEXT_WEIGHT * self._vector(previous))
        return np.asarray(self._texts @ mixed, dtype=np.float64)

    def _compute(self, text: str) -> Vector:
        return unit(np.asarray(self._features.transform([text]).toarray()[0], dtype=np.float64))


def unit(vector: Vector) -> Vector:
    """The vector at length 1; a vector of zeros stays as it is."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float64)
