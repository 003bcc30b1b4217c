"""What texts have in common and what sets them apart, counted; no model is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.optimizers.task import Example

__all__ = ["distinctive_terms", "nearest", "representatives", "strings", "text_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_FALSE = 0.1  # share of the words named that may be there by chance
_LEADS = 0.16  # chance below which a word leads at all, one standard error


def text_of(example: Example, fields: Collection[str] = ()) -> str:
    """What an example's inputs say, as one text.

    Args:
        example: the row.
        fields: inputs to read where the example has any of them; else all are read.
    """
    chosen = {k: v for k, v in example.inputs.items() if k in fields}
    return " ".join(strings(chosen or example.inputs))


def strings(value: Any) -> list[str]:
    """All texts in a JSON-like value, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [s for v in value.values() for s in strings(v)]
    return [s for v in value for s in strings(v)] if isinstance(value, list | tuple) else []


def distinctive_terms(texts: Sequence[str], others: Sequence[str], count: int, *, unproven: bool = False) -> list[str]:
    """Words and word pairs that these texts use more than the others, most distinctive first.

    A word counts when its lead is more than chance would give one of so many: greetings that happen to stand in three
    texts of one kind and in none of another are no clue. Of few texts that may leave no word at all.

    Args:
        texts: those to describe; none gives no word.
        others: those to tell them apart from.
        count: at most so many.
        unproven: where no word counts, those that lead by no more than chance might give them stand in. Of few texts
            they are all there is, and often right; what they are worth is to be seen on other rows.

    Source: one-sided exact test by Fisher of each word's share of texts, false discovery rate by Benjamini & Hochberg
        1995, doi:10.1111/j.2517-6161.1995.tb02031.x; which words are tested is decided by their use in all texts, so
        that the choice does not favour any kind.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(t.strip() for t in texts) or count < 1:
        return []
    vectorizer = CountVectorizer(ngram_range=(1, 2), stop_words="english", binary=True, min_df=min(2, len(texts)))
    try:
        counts = vectorizer.fit_transform([*texts, *others])
    except ValueError:  # nothing but stop words, or no word twice
        return []
    names = vectorizer.get_feature_names_out().tolist()
    mine = np.asarray(counts[: len(texts)].sum(0), dtype=np.int64).ravel()
    p_values = _chance(mine, np.asarray(counts.sum(0), dtype=np.int64).ravel(), len(texts), len(texts) + len(others))
    order = np.lexsort((np.arange(p_values.size), -mine, p_values))
    most = _cut(p_values)
    if most < 0 and unproven:
        most = _LEADS
    return _without_parts([names[i] for i in order.tolist() if p_values[i] <= most], count)


def _chance(mine: Ints, every: Ints, texts: int, all_texts: int) -> Floats:
    """Probability that so many of a word's texts are among these, were they drawn at random."""
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.sf(mine - 1, all_texts, every, texts), dtype=np.float64)


def _cut(p_values: Floats) -> float:
    """The largest p-value that still counts; -1 where none does."""
    ordered = np.sort(p_values)
    below = np.flatnonzero(ordered <= _FALSE * np.arange(1, ordered.size + 1) / ordered.size)
    return float(ordered[below[-1]]) if below.size else -1.0


def _without_parts(terms: Sequence[str], count: int) -> list[str]:
    """The first terms, none of them a part of another that is kept."""
    kept: list[str] = []
    for term in terms:
        words = set(term.split())
        if not any(words <= set(k.split()) for k in kept):
            kept = [k for k in kept if not set(k.split()) < words]
            kept.append(term)
        if len(kept) >= count:
            break
    return kept


def representatives(texts: Sequence[str], count: int, others: Sequence[str] = ()) -> list[str]:
    """Texts that together lie nearest to all, the most useful first; short ones of equals.

    Args:
        texts: those to choose from.
        count: at most so many.
        others: texts of other kinds: what these share with them, such as greetings, makes texts less alike.

    Source: greedy facility location, Nemhauser, Wolsey & Fisher 1978, Mathematical Programming 14:265.
    """
    listed = sorted({t.strip() for t in texts if t.strip()}, key=lambda t: (len(t), t))
    if not listed or count < 1:
        return []
    near = _likeness(listed, listed, others)
    covered, chosen = np.zeros(len(listed)), list[int]()
    while len(chosen) < min(count, len(listed)):
        gain = np.maximum(near - covered, 0).sum(1)
        gain[chosen] = -1
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        chosen.append(best)
        covered = np.maximum(covered, near[best])
    return [listed[i] for i in chosen]


def nearest(texts: Sequence[str], others: Sequence[str]) -> Floats:
    """How alike each text is to each of the others, cosine in [0, 1], shape (texts, others)."""
    return _likeness(texts, others)


def _likeness(texts: Sequence[str], others: Sequence[str], more: Sequence[str] = ()) -> Floats:
    from sklearn.feature_extraction.text import TfidfVectorizer

    pattern = r"(?u)\b\w+\b"
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=pattern)
    vectors.fit([t or "nothing" for t in (*texts, *others, *more)])
    a, b = (vectors.transform([t or "nothing" for t in side]) for side in (texts, others))
    return np.asarray((a @ b.T).toarray(), dtype=np.float64)
