"""What texts have in common and what sets them apart, counted; no model is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.optimizers.task import Example

__all__ = ["distinctive_terms", "nearest", "representatives", "strings", "text_of"]

Floats = npt.NDArray[np.float64]
_SURE = 1.0  # least z-score of a word that counts as distinctive


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


def distinctive_terms(texts: Sequence[str], others: Sequence[str], count: int) -> list[str]:
    """Words and word pairs that these texts use more than the others, most distinctive first.

    Args:
        texts: those to describe; none gives no word.
        others: those to tell them apart from.
        count: at most so many.

    Source: log-odds ratio with an informative Dirichlet prior, Monroe, Colaresi & Quinn 2008, Political Analysis
        16:372; the prior is the use of the words in all texts.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(t.strip() for t in texts) or count < 1:
        return []
    vectorizer = CountVectorizer(ngram_range=(1, 2), stop_words="english", binary=True)
    try:
        counts = vectorizer.fit_transform([*texts, *others])
    except ValueError:  # nothing but stop words
        return []
    names = vectorizer.get_feature_names_out().tolist()
    mine = np.asarray(counts[: len(texts)].sum(0), dtype=np.float64).ravel()
    rest = np.asarray(counts[len(texts) :].sum(0), dtype=np.float64).ravel()
    z, least = _log_odds(mine, rest), min(2, len(texts))
    order = np.lexsort((np.arange(z.size), -mine, -z))
    return _without_parts([names[i] for i in order.tolist() if z[i] >= _SURE and mine[i] >= least], count)


def _log_odds(mine: Floats, rest: Floats) -> Floats:
    prior = (mine + rest) / max(1.0, (mine + rest).sum()) * 10.0 + 0.01
    a, b = mine + prior, rest + prior
    n_a, n_b = a.sum(), b.sum()
    delta = np.log(a / (n_a - a + 1e-9)) - np.log(b / (n_b - b + 1e-9))
    return np.asarray(delta / np.sqrt(1 / a + 1 / b), dtype=np.float64)


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


def representatives(texts: Sequence[str], count: int) -> list[str]:
    """Texts that together lie nearest to all, the most useful first; short ones of equals.

    Source: greedy facility location, Nemhauser, Wolsey & Fisher 1978, Mathematical Programming 14:265.
    """
    listed = sorted({t.strip() for t in texts if t.strip()}, key=lambda t: (len(t), t))
    if not listed or count < 1:
        return []
    near = _likeness(listed, listed)
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


def _likeness(texts: Sequence[str], others: Sequence[str]) -> Floats:
    from sklearn.feature_extraction.text import TfidfVectorizer

    pattern = r"(?u)\b\w+\b"
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=pattern)
    vectors.fit([t or "nothing" for t in (*texts, *others)])
    a, b = (vectors.transform([t or "nothing" for t in side]) for side in (texts, others))
    return np.asarray((a @ b.T).toarray(), dtype=np.float64)
