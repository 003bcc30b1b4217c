"""What a linear model sees of a trace: one block of columns per field and way of reading it.

    words      TF-IDF of words and word pairs of a text          tokens   TF-IDF of names and pairs of names in order
    parts      TF-IDF of 2 to 5 characters within words          number   log of a number, or of how many names
    meaning    a text's embedding, when an embedder is given

Whether a route is right depends on request *and* route, which no weighted sum of the two can say: routes that
are each right half of the time teach such a model nothing (kappa 0.0). So the text is also read once more per
value of a category with few values (`by`): every word becomes one column for each route it was sent to, which
makes the same model learn one intent for each route. On random routes over five desks that gives kappa 0.38 from
200 labels and 0.69 from 400 (tests/benchmarks/local_judges.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlflow_assay.judges.local.examples import NONE, Field, Row, clip

__all__ = ["Block", "Encoder", "FittedBlock", "RawBlock", "crossing", "fit", "plan", "raw"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Encoder = Callable[[Sequence[str]], Floats]
BlockKind = Literal["words", "parts", "tokens", "number", "meaning"]

PARTS_LIMIT = 4_000
MAX_TERMS = 20_000
MAX_CROSSED = 12
_BESIDE_CROSSED = 0.7
_JOIN = "\x1f"


@dataclass(frozen=True)
class Block:
    """One way of reading one field.

    Attributes:
        kind: see the module.
        field: the trace field read.
        by: the category the text is read once more for each value of, or None.
        weight: factor on the columns, which otherwise have length 1 (numbers: standard deviation 1).
    """

    kind: BlockKind
    field: str
    by: str | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        """For example `words of first_user_message by tag:agent`."""
        return f"{self.kind} of {self.field}" + (f" by {self.by}" if self.by else "")


@dataclass(frozen=True)
class RawBlock:
    """A block counted over all training rows, before any of them is held out.

    Attributes:
        block: which.
        counts: shape (n, columns); sparse for words, parts and tokens.
        terms: the columns' names; empty for dense blocks.
    """

    block: Block
    counts: Any
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class FittedBlock:
    """A block with what was learnt from training rows.

    Attributes:
        block: which.
        terms: the columns' names, for words, parts and tokens; for crossed meanings the category's values.
        idf: weight of each term, shape (columns,); empty for dense blocks.
        mean, scale: of the columns of a number block; empty otherwise.
    """

    block: Block
    terms: tuple[str, ...]
    idf: Floats
    mean: Floats
    scale: Floats

    def columns(self, rows: Sequence[Row], encode: Encoder | None = None) -> Any:
        """The block's columns for rows, shape (n, k), sparse or dense; for one row at a time `entries` is faster."""
        if self.block.kind == "number":
            return self.weigh(_numbers(self.block, rows))
        if self.block.kind == "meaning":
            return self.weigh(_meanings(self.block, rows, self.terms, encode))
        return self._vectoriser.transform([_terms(self.block, r) for r in rows]) * self.block.weight

    def entries(self, row: Row, encode: Encoder | None = None) -> tuple[Ints, Floats]:
        """Numbers and values of one row's columns that are not zero: equal to `columns`, ten times as fast."""
        if self.block.kind in ("number", "meaning"):
            dense = self.columns([row], encode)[0]
            found = np.flatnonzero(dense)
            return found, dense[found]
        counted = Counter(c for t in _terms(self.block, row) if (c := self._column.get(t)) is not None)
        at = np.fromiter(counted.keys(), dtype=np.int64, count=len(counted))
        values = (1.0 + np.log(np.fromiter(counted.values(), dtype=np.float64, count=len(counted)))) * self.idf[at]
        length = np.sqrt(values @ values)
        return at, values * (self.block.weight / length if length else 0.0)

    def weigh(self, counts: Any) -> Any:
        """Counts (or dense values) with columns as fitted, turned into columns for the model."""
        if self.block.kind == "number":
            return np.clip((counts - self.mean) / self.scale, -3.0, 3.0) * self.block.weight
        if self.block.kind == "meaning":
            return counts * self.block.weight
        return self._transformer.transform(counts) * self.block.weight

    @property
    def width(self) -> int:
        """How many columns."""
        return int(self.idf.size or self.mean.size)

    @cached_property
    def _transformer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfTransformer

        transformer = TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = self.idf
        return transformer

    @cached_property
    def _column(self) -> dict[str, int]:
        return {term: column for column, term in enumerate(self.terms)}

    @cached_property
    def _vectoriser(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectoriser = TfidfVectorizer(analyzer=_as_is, vocabulary=self._column, sublinear_tf=True)
        vectoriser.idf_ = self.idf
        return vectoriser


def crossing(row: Row, field: str) -> str:
    """The value of a category as one name: its names in order."""
    value = row[field]
    return " > ".join(value) if isinstance(value, tuple) and value else NONE


def plan(fields: Sequence[Field], rows: Sequence[Row], *, embed: bool, cross: bool = True) -> list[Block]:
    """Which blocks to build.

    The first text field is crossed with each category of 2 to 12 values, not counting its order of naming.

    Args:
        fields: with their kinds settled.
        rows: the training rows.
        embed: read texts by meaning besides words; parts are then left out.
        cross: whether to cross at all.
    """
    texts = [f.name for f in fields if f.kind == "text"]
    names = [f.name for f in fields if f.kind == "category"]
    by = [n for n in names if 2 <= len({crossing(r, n) for r in rows}) <= MAX_CROSSED] if cross else []
    kinds: tuple[BlockKind, ...] = ("words", "meaning") if embed else ("words", "parts")
    blocks: list[Block] = []
    for position, text in enumerate(texts):
        crossed = by if position == 0 else []
        weight = _BESIDE_CROSSED if crossed else 1.0
        blocks += [Block(kind, text, weight=weight) for kind in kinds]
        blocks += [Block(kind, text, category) for category in crossed for kind in kinds]
    blocks += [Block("tokens", name) for name in names]
    blocks += [Block("number", n) for n in names if len({len(r[n] or ()) for r in rows}) > 1]  # type: ignore[arg-type]
    return blocks + [Block("number", f.name) for f in fields if f.kind == "number"]


def raw(block: Block, rows: Sequence[Row], encode: Encoder | None = None) -> RawBlock:
    """Count a block over rows once, so that folds need not read the texts again."""
    if block.kind == "number":
        return RawBlock(block, _numbers(block, rows))
    if block.kind == "meaning":
        values = tuple(sorted({crossing(r, block.by) for r in rows})) if block.by else ()
        return RawBlock(block, _meanings(block, rows, values, encode), values)
    from sklearn.feature_extraction.text import CountVectorizer

    documents = [_terms(block, r) for r in rows]
    counter = CountVectorizer(analyzer=_as_is, dtype=np.float64)
    counter.fit(documents if any(documents) else [[NONE]])
    return RawBlock(block, counter.transform(documents), tuple(counter.get_feature_names_out().tolist()))


def fit(found: RawBlock, train: Ints) -> tuple[FittedBlock, Any]:
    """Learn a block from some of its rows.

    Returns:
        The fitted block, and the counts of all rows in the fitted columns, for `weigh`.
    """
    nothing = np.zeros(0)
    if found.block.kind == "number":
        mean, scale = found.counts[train].mean(axis=0), found.counts[train].std(axis=0)
        return FittedBlock(found.block, (), nothing, mean, np.where(scale > 1e-9, scale, 1.0)), found.counts
    if found.block.kind == "meaning":
        width = np.zeros(found.counts.shape[1])
        return FittedBlock(found.block, found.terms, nothing, width, np.ones_like(width)), found.counts
    from sklearn.feature_extraction.text import TfidfTransformer

    columns = _kept(found.counts[train])
    counts = found.counts[:, columns]
    idf = TfidfTransformer(sublinear_tf=True).fit(counts[train]).idf_
    terms = tuple(found.terms[c] for c in columns)
    return FittedBlock(found.block, terms, np.asarray(idf, dtype=np.float64), nothing, nothing), counts


def _kept(counts: Any) -> Ints:
    """Terms of at least two rows (of one, where no term is in two), the most frequent `MAX_TERMS` of them."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    columns = np.flatnonzero(frequency >= min(2, frequency.max()))
    if columns.size > MAX_TERMS:
        columns = np.sort(columns[np.argsort(-frequency[columns], kind="stable")[:MAX_TERMS]])
    return columns.astype(np.int64)


def _terms(block: Block, row: Row) -> list[str]:
    value = row[block.field]
    if block.kind == "tokens":
        names = list(value) if isinstance(value, tuple) else []
        return names + [f"{a} > {b}" for a, b in pairwise(names)] or [NONE]
    text = value if isinstance(value, str) else ""
    found: list[str] = _words()(text) if block.kind == "words" else _parts()(clip(text, PARTS_LIMIT))
    if block.by is None:
        return found
    prefix = crossing(row, block.by) + _JOIN
    return [prefix + term for term in found]


def _numbers(block: Block, rows: Sequence[Row]) -> Floats:
    """Two columns: the number on a signed log scale (how many names, for a category), and whether it is absent."""
    found = np.zeros((len(rows), 2))
    for i, row in enumerate(rows):
        value = row[block.field]
        number = len(value) if isinstance(value, tuple) else value
        if isinstance(number, int | float):
            found[i, 0] = np.sign(number) * np.log1p(abs(number))
        else:
            found[i, 1] = 1.0
    return found


def _meanings(block: Block, rows: Sequence[Row], values: Sequence[str], encode: Encoder | None) -> Floats:
    """The embedding of the text; crossed, one copy of it per value of the category, zero but for the row's own."""
    if encode is None:
        raise RuntimeError("a judge that reads meaning was called without its embedder")
    found = encode([str(r[block.field] or "") for r in rows])
    if block.by is None:
        return found
    width = found.shape[1]
    crossed = np.zeros((len(rows), width * len(values)))
    for i, row in enumerate(rows):
        value = crossing(row, block.by)
        if value in values:
            start = list(values).index(value) * width
            crossed[i, start : start + width] = found[i]
    return crossed


def split_term(term: str) -> tuple[str | None, str]:
    """A crossed column's (value of the category, term); (None, term) for a plain one."""
    value, found, rest = term.partition(_JOIN)
    return (value, rest) if found else (None, term)


def with_state(block: Mapping[str, Any], terms: Sequence[str], arrays: Mapping[str, Floats]) -> FittedBlock:
    """A fitted block from its stored parts."""
    return FittedBlock(Block(**block), tuple(terms), arrays["idf"], arrays["mean"], arrays["scale"])


def _as_is(terms: list[str]) -> list[str]:
    return terms


@lru_cache(maxsize=1)
def _words() -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(ngram_range=(1, 2)).build_analyzer()


@lru_cache(maxsize=1)
def _parts() -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(analyzer="char_wb", ngram_range=(2, 5)).build_analyzer()
