"""The company's handbook: retrieval for the desks, and a space in which the router compares texts.

`Handbook.concepts` is explicit semantic analysis (Gabrilovich & Markovitch 2007) with the handbook in place
of Wikipedia: a text is described by how much it resembles each article. No model is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from mlflow_assay.demo.similarity import Similarity, Vector, unit
from mlflow_assay.demo.telecom import read_data

__all__ = ["Article", "Handbook", "handbook"]


@dataclass(frozen=True)
class Article:
    """One article: which desk may act on it, what it says, which tools answer it and how."""

    id: str
    desk: str
    title: str
    text: str
    tools: tuple[str, ...]
    answer: str


class Handbook:
    """Articles of all desks, searchable."""

    def __init__(self, articles: tuple[Article, ...]) -> None:
        self.articles = articles
        self._similarity = Similarity([f"{a.title}. {a.text}" for a in articles])

    def search(self, text: str, previous: str = "", k: int = 3) -> list[tuple[Article, float]]:
        """The `k` articles most like the text, best first, each with its cosine in [0, 1]."""
        scores = self._similarity.scores(text, previous)
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self.articles[i], round(float(scores[i]), 4)) for i in best]

    def concepts(self, text: str, previous: str = "", sharpness: float = 1.0) -> Vector:
        """The text as a unit vector over articles, shape (articles,); zeros if it resembles none.

        Args:
            text: the text.
            previous: earlier text mixed in, see `Similarity.scores`.
            sharpness: exponent on the scores; above 1 the best articles count for more.
        """
        return unit(np.maximum(self._similarity.scores(text, previous), 0.0) ** sharpness)


@cache
def handbook() -> Handbook:
    """The demo company's handbook."""
    return Handbook(
        tuple(
            Article(a["id"], desk, a["title"], a["text"], tuple(a["tools"]), a["answer"])
            for desk, articles in read_data("knowledge").items()
            for a in articles
        )
    )
