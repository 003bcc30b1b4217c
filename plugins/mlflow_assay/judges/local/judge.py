"""A trained local judge: verdict, confidence and reasons for one trace after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_assay import semconv
from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import NotTrustedError
from mlflow_assay.judges.local import examples, features, storage
from mlflow_assay.judges.local.examples import Example, Field, Row
from mlflow_assay.judges.local.features import FittedBlock
from mlflow_assay.judges.local.trained import Trained

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["LocalJudge", "Prediction"]

_REASONS = 3

# a block, the columns of it that are not zero, and what each adds to the score
Share = tuple[FittedBlock, npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Prediction:
    """What a judge makes of one trace.

    Attributes:
        passed: its verdict.
        confidence: chance that the label agrees, in (0, 1).
        score: log-odds-like distance from the boundary; above 0 passes.
        towards_pass, towards_fail: what spoke for either, strongest first, in plain words.
    """

    passed: bool
    confidence: float
    score: float
    towards_pass: tuple[str, ...] = ()
    towards_fail: tuple[str, ...] = ()


class LocalJudge(Trained):
    """A text classifier trained on labelled traces, at work; see `Trained` for what it is made of."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything the verdicts and their evidence depend on, 64 hex digits."""
        return storage.digest(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """What a definition should list under `needs`."""
        return ("spans",) if any(features_need_spans(f) for f in self.fields) else ()

    def require_trust(self) -> None:
        """Do nothing if the judge may be used.

        Raises:
            NotTrustedError: the evidence is too weak, and use was not forced; says which evidence.
        """
        if self.report.refusals and not self.report.forced:
            raise NotTrustedError(
                f"The local judge {self.name!r} must not be used: {' '.join(self.report.refusals)}",
                fix="Label more traces, or other fields may tell more; --force uses it all the same and says so.",
            )

    def judge(self, trace: Trace) -> Prediction:
        """The verdict on one trace.

        Raises:
            UnscoredError: MISSING_FIELD, or LOW_CONFIDENCE where it abstains.
        """
        return self.predict(examples.read(trace, self.fields))

    def predict(self, example: Example) -> Prediction:
        """The verdict on what was read of one trace; raises as `judge`."""
        row = examples.row(example, self.fields)
        self._refuse_the_unseen(row)
        shares = self._shares(row)
        score = self.model.intercept + sum(float(share.sum()) for _, _, share in shares)
        sure = float(self.confidence.of(np.array([score]))[0])
        verdict = "pass" if score > 0 else "fail"
        if sure < self.threshold:
            raise UnscoredError(
                Unscored.LOW_CONFIDENCE,
                f"{verdict} with confidence {sure:.2f}; it answers from {self.threshold:.2f} up",
                {semconv.CONFIDENCE: f"{sure:.4f}", semconv.RAW_VALUE: verdict},
            )
        return Prediction(score > 0, sure, score, *_reasons(shares, row))

    def scores(self, found: Sequence[Example]) -> npt.NDArray[np.float64]:
        """Scores of several examples without abstaining, shape (n,); above 0 passes."""
        columns = self.columns([examples.row(e, self.fields) for e in found])
        return np.asarray(columns @ self.model.coef + self.model.intercept)

    def columns(self, rows: Sequence[Row]) -> Any:
        """The model's columns for rows, shape (n, k), sparse."""
        from scipy.sparse import csr_matrix, hstack

        encode = self.embedder.load().encode if self.embedder else None
        return csr_matrix(hstack([csr_matrix(b.columns(rows, encode)) for b in self.model.blocks]))

    def save(self, path: str | Path) -> Path:
        """Write the judge as one file; data only.

        Raises:
            NotTrustedError: it must not be used, and use was not forced.
            ConfigError: the file cannot be written.
        """
        self.require_trust()
        return storage.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, embedder: str | Path | None = None) -> LocalJudge:
        """Read a judge written by `save`. Executes no code from the file.

        Args:
            path: the file.
            embedder: folder of the embedding model, if it has moved.

        Raises:
            ConfigError: no such file, another format or version, or it was changed since it was written.
        """
        found = storage.load(Path(path), Path(embedder) if embedder else None)
        return cls(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})

    def _refuse_the_unseen(self, row: Row) -> None:
        for field, values in self.seen.items():
            value = features.crossing(row, field)
            if value not in values:
                raise UnscoredError(
                    Unscored.LOW_CONFIDENCE,
                    f"no labelled trace had {field} = {value}; label some and train again",
                    {semconv.CONFIDENCE: "0.0000"},
                )

    def _shares(self, row: Row) -> list[Share]:
        """What each column adds to the score, block by block."""
        encode = self.embedder.load().encode if self.embedder else None
        found, start = [], 0
        for block in self.model.blocks:
            at, values = block.entries(row, encode)
            found.append((block, at, values * self.model.coef[start + at]))
            start += block.width
        return found


def _reasons(shares: Sequence[Share], row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Plain words for the strongest contributions towards pass and towards fail."""
    ranked = sorted(_in_words(shares, row), key=lambda c: -abs(c[0]))
    return tuple(_distinct(w for c, w in ranked if c > 0)), tuple(_distinct(w for c, w in ranked if c < 0))


def _in_words(shares: Sequence[Share], row: Row) -> Iterator[tuple[float, str]]:
    """(contribution to the score, words for it) of everything that can be put in words."""
    for fitted, at, share in shares:
        if fitted.block.kind in ("meaning", "number"):
            yield float(share.sum()), _dense_words(fitted.block, row)
        elif fitted.block.kind != "parts":
            for column, value in zip(at.tolist(), share.tolist(), strict=True):
                yield value, _term_words(fitted.block, fitted.terms[column])


def features_need_spans(field: Field) -> bool:
    """Whether reading the field needs spans and the trace is unscored without them."""
    from mlflow_assay import trace_fields

    return trace_fields.needs_spans(field.name) and not field.optional


def _term_words(block: features.Block, term: str) -> str:
    value, plain = features.split_term(term)
    if block.kind == "tokens":
        return f"{block.field} = {plain}"
    words = f"“{plain}” in {block.field}"
    return f"{words} with {block.by} = {value}" if value is not None else words


def _dense_words(block: features.Block, row: Row) -> str:
    value = row[block.field]
    if block.kind == "meaning":
        beside = f" with {block.by} = {features.crossing(row, block.by)}" if block.by else ""
        return f"the meaning of {block.field}{beside}"
    if isinstance(value, tuple):
        return f"{len(value)} name{'' if len(value) == 1 else 's'} in {block.field}"
    return f"{block.field} = {value:g}" if isinstance(value, float) else f"no {block.field}"


def _distinct(found: Iterable[str]) -> Iterator[str]:
    """The first few, leaving out those whose quoted words another holds or that are all function words of English."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    kept: list[str] = []
    for words in found:
        quoted = _quoted(words)
        if quoted and quoted <= ENGLISH_STOP_WORDS:
            continue
        if not any(quoted and (quoted & _quoted(k)) for k in kept):
            kept.append(words)
            yield words
        if len(kept) == _REASONS:
            return


def _quoted(words: str) -> set[str]:
    return set(words.partition("“")[2].partition("”")[0].split())
