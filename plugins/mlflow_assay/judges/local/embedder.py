"""Sentence embeddings from a local BERT-type model folder, in NumPy: no torch, no download.

Works with folders as sentence-transformers writes them (`tokenizer.json`, `model.safetensors`, `config.json`),
for example all-MiniLM-L6-v2. Needs the extra `embeddings` (`tokenizers`, `safetensors`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local.examples import clip

__all__ = ["Embedder", "EmbedderRef"]

_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_CHARACTERS = 8_000
_BATCH = 16

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbedderRef:
    """Which embedding model a judge was trained with: a folder, and the SHA-256 of its files."""

    path: str
    digest: str

    @classmethod
    def of(cls, folder: str | Path) -> EmbedderRef:
        """The reference to a model folder.

        Raises:
            ConfigError: a file is missing.
        """
        path = Path(folder)
        if missing := [f for f in _FILES if not (path / f).is_file()]:
            raise ConfigError(
                f"{str(path)!r} is not an embedding model folder.", found=f"no {missing[0]}", valid=_FILES
            )
        digest = hashlib.sha256()
        for name in _FILES:
            digest.update(hashlib.sha256((path / name).read_bytes()).digest())
        return cls(str(path.resolve()), digest.hexdigest())

    def load(self) -> Embedder:
        """The model, read once per process.

        Raises:
            ConfigError: the folder is gone, or holds another model than the judge was trained with.
        """
        return _load(self.path, self.digest)


@lru_cache(maxsize=4)
def _load(path: str, digest: str) -> Embedder:
    found = EmbedderRef.of(path)
    if found.digest != digest:
        raise ConfigError(
            f"The embedding model in {path!r} is not the one the judge was trained with.",
            found=f"sha256 {found.digest[:16]}",
            valid=digest[:16],
        )
    return Embedder(Path(path))


class Embedder:
    """Mean-pooled, length-1 embeddings of texts.

    Args:
        folder: holds `tokenizer.json`, `model.safetensors` and `config.json`.

    Raises:
        ConfigError: the extra is not installed, or the model is not of a kind that is read here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._check()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Embeddings of length 1, shape (n, hidden); a text longer than the model reads counts by both its ends.

        A blank text has the zero vector.
        """
        windows = [(i, ids) for i, text in enumerate(texts) if text.strip() for ids in self._windows(text)]
        windows.sort(key=lambda w: len(w[1]))
        found = np.zeros((len(texts), int(self._config["hidden_size"])))
        for start in range(0, len(windows), _BATCH):
            batch = windows[start : start + _BATCH]
            for (i, _), vector in zip(batch, self._pooled([ids for _, ids in batch]), strict=True):
                found[i] += vector
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(length > 0, length, 1.0)

    def _windows(self, text: str) -> list[list[int]]:
        encoding = self._tokenizer.encode(clip(text, _CHARACTERS))
        ends = [encoding, *encoding.overflowing[-1:]]
        return [list(e.ids) for e in ends]

    def _pooled(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Mean of the last layer over each row's tokens, length 1, shape (rows, hidden)."""
        longest = max(map(len, ids))
        padded = np.zeros((len(ids), longest), dtype=np.int64)
        mask = np.zeros((len(ids), longest), dtype=np.float32)
        for i, row in enumerate(ids):
            padded[i, : len(row)], mask[i, : len(row)] = row, 1.0
        hidden = self._forward(padded, mask)
        mean = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)

    def _forward(self, ids: npt.NDArray[np.int64], mask: Floats) -> Floats:
        """The last hidden layer, shape (rows, tokens, hidden). Source: Devlin et al. 2019, arXiv 1810.04805."""
        w = self._weights
        e = "embeddings."
        x = w[f"{e}word_embeddings.weight"][ids] + w[f"{e}position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(x + w[f"{e}token_type_embeddings.weight"][0], f"{e}LayerNorm")
        hide = (1.0 - mask[:, None, None, :]) * np.float32(-1e9)
        for layer in range(int(self._config["num_hidden_layers"])):
            at = f"encoder.layer.{layer}."
            x = self._norm(x + self._attention(x, hide, at), f"{at}attention.output.LayerNorm")
            inner = self._linear(_gelu(self._linear(x, f"{at}intermediate.dense")), f"{at}output.dense")
            x = self._norm(x + inner, f"{at}output.LayerNorm")
        return np.asarray(x, dtype=np.float32)

    def _attention(self, x: Floats, hide: Floats, at: str) -> Floats:
        rows, tokens, hidden = x.shape
        heads = int(self._config["num_attention_heads"])

        def split(name: str) -> Floats:
            flat = self._linear(x, f"{at}attention.self.{name}")
            return np.asarray(flat.reshape(rows, tokens, heads, hidden // heads).transpose(0, 2, 1, 3))

        scores = split("query") @ split("key").transpose(0, 1, 3, 2) / np.float32(np.sqrt(hidden // heads)) + hide
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ split("value")).transpose(0, 2, 1, 3).reshape(rows, tokens, hidden)
        return self._linear(mixed, f"{at}attention.output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        return np.asarray(x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(self._config["layer_norm_eps"]))
        return np.asarray(centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])

    @cached_property
    def _weights(self) -> Mapping[str, Floats]:
        try:
            from safetensors.numpy import load_file
        except ImportError as error:
            raise _extra_missing(error) from error
        found = load_file(self._folder / "model.safetensors")
        return {
            k.removeprefix("bert."): np.asarray(v, dtype=np.float32) for k, v in found.items() if v.dtype.kind == "f"
        }

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise _extra_missing(error) from error
        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._most_tokens())
        return tokenizer

    def _most_tokens(self) -> int:
        most = int(self._config["max_position_embeddings"])
        file = self._folder / "sentence_bert_config.json"
        if file.is_file():
            most = min(most, int(json.loads(file.read_text(encoding="utf-8")).get("max_seq_length") or most))
        return min(most, 256)

    def _check(self) -> None:
        expected = {
            "model_type": ("bert",),
            "hidden_act": ("gelu",),
            "position_embedding_type": ("absolute", None),
        }
        for key, valid in expected.items():
            if self._config.get(key) not in valid:
                raise ConfigError(
                    f"The embedding model in {str(self._folder)!r} is of a kind that is not read here.",
                    found=f"{key} {self._config.get(key)!r}",
                    valid=f"{key} {valid[0]!r}",
                )
        pooling = self._folder / "1_Pooling" / "config.json"
        if pooling.is_file() and not json.loads(pooling.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
            raise ConfigError(f"The embedding model in {str(self._folder)!r} does not pool by the mean of its tokens.")


def _gelu(x: Floats) -> Floats:
    from scipy.special import erf

    return np.asarray(x * 0.5 * (1.0 + erf(x / np.float32(np.sqrt(2.0)))), dtype=np.float32)


def _extra_missing(error: ImportError) -> ConfigError:
    return ConfigError(f"Embeddings need {error.name}.", fix="pip install 'mlflow-assay[embeddings]'")
