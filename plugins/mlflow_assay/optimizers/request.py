"""What an optimization starts from: registered prompts, rows that are parted, judges, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BoundJudge, ModelSettings
from mlflow_assay.errors import ConfigError, NotTrustedError, StoreError
from mlflow_assay.optimizers.agent import Agent
from mlflow_assay.optimizers.journal import digest
from mlflow_assay.trust.prompt_gate import PromptGate

if TYPE_CHECKING:
    from mlflow.entities.model_registry import PromptVersion

    from mlflow_assay.datasets.model import DatasetRow

__all__ = ["FRACTIONS", "PARTS", "Request", "Rows", "load_prompts", "rows_of", "text_of"]

FRACTIONS = (0.4, 0.2, 0.4)
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """The rows of a dataset, parted.

    Attributes:
        reference, digest, uri: which dataset: `NAME@v3`, its content digest, its address.
        rows: all of them, each with its part and group.
        own_split: whether the dataset came parted; else it was parted here.
    """

    reference: str
    digest: str
    uri: str
    rows: tuple[DatasetRow, ...]
    own_split: bool

    def part(self, name: str) -> tuple[DatasetRow, ...]:
        """The rows of `train`, `validation` or `test`."""
        return tuple(row for row in self.rows if row.split == name)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        prompts: registered versions to improve, by name.
        rows: the dataset.
        judges: those who judge; the first is to improve, by the others it must not get worse.
        optimizer: an optimizer's name.
        agent: whose prompts they are; None calls the model `model` with the one prompt.
        model: model of the built-in call.
        writer: model that writes prompts; None takes `model`.
        options: parameters of the optimizer.
        max_usd, max_calls: limits over everything, earlier attempts of the same run included.
        seed: of split and optimizer.
        gate: the rule of acceptance.
        threads: calls of the agent side by side.
    """

    prompts: Mapping[str, PromptVersion]
    rows: Rows
    judges: Sequence[BoundJudge]
    optimizer: str
    agent: Agent | None = None
    model: ModelSettings | None = None
    writer: ModelSettings | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    max_usd: float | None = None
    max_calls: int | None = None
    seed: int = 0
    gate: PromptGate = field(default_factory=PromptGate)
    threads: int = 4


def load_prompts(names: Sequence[str]) -> dict[str, PromptVersion]:
    """Registered prompts by name, from `NAME`, `prompts:/NAME/3` or `prompts:/NAME@alias`.

    Raises:
        ConfigError: one is named twice.
        StoreError: there is no such prompt.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    found: dict[str, PromptVersion] = {}
    for name in names:
        try:
            version = mlflow.genai.load_prompt(name, link_to_model=False, cache_ttl_seconds=0)
        except MlflowException as error:
            raise StoreError(
                f"The prompt {name!r} cannot be loaded: {error.message}",
                valid="NAME, prompts:/NAME/3, prompts:/NAME@alias",
            ) from error
        if version.name in found:
            raise ConfigError(f"The prompt {version.name!r} is named twice.")
        found[version.name] = version
    return found


def text_of(version: PromptVersion) -> str:
    """A prompt's text as optimizers take it: a chat prompt's messages as JSON."""
    template: Any = version.template
    return str(template) if version.is_text_prompt else json.dumps(template, ensure_ascii=False)


def rows_of(
    rows: Sequence[DatasetRow],
    *,
    reference: str = "rows",
    content: str | None = None,
    uri: str = "",
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
) -> Rows:
    """Rows parted by group: as the dataset has it, or here where it has none.

    Args:
        rows: of the dataset.
        reference, uri: what to call it.
        content: its content digest; None computes one over the rows.
        fractions: for training, validation and test, where it comes without parts.
        seed: of that split.

    Raises:
        ConfigError: inputs are no mappings, some parts are there and some are not, or a group is in two parts.
        NotTrustedError: too few groups to part.
    """
    from mlflow_assay.optimizers.parts import parted

    if not rows:
        raise NotTrustedError(f"The dataset {reference} has no rows.")
    if odd := [row.id for row in rows if not isinstance(row.inputs, Mapping)]:
        raise ConfigError(
            f"{len(odd)} rows of {reference} have inputs that are no mapping of names to values.", found=odd[:3]
        )
    parts = {row.split for row in rows} - {None}
    if parts and parts != set(PARTS):
        raise ConfigError(
            f"The dataset {reference} has only the parts {sorted(str(p) for p in parts)}.",
            valid=PARTS,
            fix="Build it with all three, or with none.",
        )
    given = list(rows) if parts else parted(rows, fractions, seed)
    _check_groups(reference, given)
    found = content or digest(sorted(row.content for row in rows))
    return Rows(reference, found, uri, tuple(given), bool(parts))


def _check_groups(reference: str, rows: Sequence[DatasetRow]) -> None:
    """Refuse a split by which the optimizer would meet what the test is about."""
    homes: dict[str, str] = {}
    for row in rows:
        for kind, name in (("group", row.group), ("session", row.session)):
            if name is None or row.split is None:
                continue
            home = homes.setdefault(f"{kind} {name}", row.split)
            if home != row.split:
                raise ConfigError(
                    f"The {kind} {name!r} of {reference} is in {home} and {row.split}: the test would prove nothing.",
                    fix="Split the dataset by group.",
                )
