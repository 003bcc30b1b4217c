"""The judge library `local`, named by the entry point of that name; a YAML judge says `uses: local/classifier`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BooleanValue, JudgeContract, ModelSettings
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

__all__ = ["LocalJudges"]

_PARAMETERS = ("model", "embedder")


class LocalJudges:
    """Classifiers trained by `assay judges train`.

    The one judge, `classifier`, needs `model`, the path of a trained judge, and takes `embedder`, the folder of its
    embedding model where that has moved.
    """

    path_parameters = _PARAMETERS

    def contracts(self) -> list[JudgeContract]:
        """The one judge of the family."""
        return [
            JudgeContract(
                name="classifier",
                purpose="Would the people who labelled its training traces pass this one?",
                value=BooleanValue(),
                kind="local",
                notes="A text classifier trained from labelled traces: assay judges train. Abstains when unsure.",
            )
        ]

    def build(self, name: str, params: Mapping[str, Any], model: ModelSettings | None) -> Scorer:
        """The scorer of a trained judge.

        Raises:
            ConfigError: unknown judge or parameter, no `model`, or its file cannot be read.
            NotTrustedError: the judge was refused in training and not forced.
        """
        from mlflow_assay.judges.local.scorer import load

        if name != "classifier":
            raise ConfigError(f"The library 'local' has no judge {name!r}.", valid="classifier")
        if stray := sorted(set(params) - set(_PARAMETERS)):
            raise ConfigError(f"The judge local/classifier has no parameter {stray[0]!r}.", valid=_PARAMETERS)
        for key, value in params.items():
            if not isinstance(value, str) or not value:
                raise ConfigError(f"The parameter {key!r} of local/classifier is a path.", found=repr(value))
        if "model" not in params:
            raise ConfigError(
                "The judge local/classifier needs `model`, the path of a trained judge.",
                fix="Train one (assay judges train --help); that also writes a definition to use.",
            )
        return load(params["model"], params.get("embedder"))
