"""The one setting for embeddings that metrics of other libraries need: lexical, a local model's folder, or a service.

Given as the parameter `embeddings` in a definition's `with:`, one of

    lexical                               no model, no network: hashed words and character n-grams, TF-weighted
    path/to/model                         a sentence-embedding model's folder (extra `embeddings`, no network)
    openai:/text-embedding-3-small        an embedding model by MLflow URI
    {model: openai:/NAME, base_url: URL}  an OpenAI-compatible service

`lexical` says how alike two texts are written, not whether they mean the same; it is never chosen silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError

__all__ = ["Embeddings", "embeddings_of"]

_CHAT = "/chat/completions"
_VALID = "lexical, the folder of a sentence-embedding model, openai:/NAME, or {model: URI, base_url: URL}"


class Embeddings(Protocol):
    """Turns texts into vectors."""

    @property
    def identity(self) -> str:
        """What the vectors depend on that the setting does not tell: a digest of a folder's files; else empty."""
        ...

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, all of one length."""
        ...


def embeddings_of(setting: Any) -> Embeddings:
    """The embeddings a definition asks for.

    Raises:
        ConfigError: the setting is none of the forms above, or the folder holds no model.
    """
    if setting == "lexical":
        return _Lexical()
    if isinstance(setting, str) and ":/" in setting:
        return _Service(ModelSettings(setting))
    if isinstance(setting, str) and setting:
        return _Folder(setting)
    if isinstance(setting, Mapping) and set(setting) in ({"model"}, {"model", "base_url"}):
        base = setting.get("base_url")
        url = None if base is None else str(base).rstrip("/").removesuffix(_CHAT) + _CHAT
        return _Service(ModelSettings(str(setting["model"]), base_url=url))
    raise ConfigError("The parameter `embeddings` is not understood.", found=repr(setting), valid=_VALID)


class _Lexical:
    """Words, word pairs and character n-grams, hashed: stateless, so equal texts have equal vectors in every run."""

    identity = ""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of length 1, shape (n, 4096)."""
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.pipeline import make_union

        words = HashingVectorizer(n_features=2048, ngram_range=(1, 2), alternate_sign=False, norm="l2")
        characters = HashingVectorizer(
            n_features=2048, analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False, norm="l2"
        )
        found: list[list[float]] = (make_union(words, characters).transform(list(texts)).toarray() / 2**0.5).tolist()
        return found


class _Folder:
    """A sentence-embedding model's folder, as local judges use it."""

    def __init__(self, path: str) -> None:
        from mlflow_assay.judges.local.embedder import EmbedderRef

        self._model = EmbedderRef.of(path)
        self.identity = f"embeddings {self._model.digest[:16]}"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of length 1."""
        found: list[list[float]] = self._model.load().encode(list(texts)).tolist()
        return found


class _Service:
    """An embedding model behind an OpenAI-compatible endpoint, through the same transport as the judge model."""

    identity = ""

    def __init__(self, model: ModelSettings) -> None:
        self._model = model

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The service's vectors."""
        from mlflow_assay.judges.third_party.client import JudgeClient

        client = JudgeClient(self._model)
        answered = client.openai().embeddings.create(model=client.model, input=list(texts), encoding_format="float")
        return [list(item.embedding) for item in answered.data]
