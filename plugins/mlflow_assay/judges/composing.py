"""From a definition and its built members to the panel or cascade it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.cascade import make_cascade
from mlflow_assay.judges.composite import check_scales
from mlflow_assay.judges.panel import check_panel, make_panel

if TYPE_CHECKING:
    from mlflow_assay.contracts import BoundJudge, Composite, JudgeContract
    from mlflow_assay.judges.definition import JudgeDefinition

__all__ = ["check_members", "make_composite"]


def check_members(contract: JudgeContract, definition: JudgeDefinition, members: Sequence[BoundJudge]) -> None:
    """See that the members judge the same thing and that their values can be put together.

    Raises:
        ConfigError: they cannot.
    """
    for member in members:
        if member.contract.scope != contract.scope:
            raise ConfigError(
                f"The members of {contract.name!r} must judge a {contract.scope}, as it does.",
                found=f"{member.name} judges a {member.contract.scope}",
            )
    if definition.panel is not None:
        check_panel(contract.name, contract.value, definition.panel, members)
    else:
        check_scales(contract.name, members, contract.value)


def make_composite(
    contract: JudgeContract, definition: JudgeDefinition, members: Sequence[BoundJudge], folder: Path
) -> tuple[Composite, Mapping[str, Any]]:
    """The panel or cascade, and what its digest depends on beside the contract.

    Args:
        folder: where its calibration lies.

    Raises:
        NotTrustedError: it needs a calibration and has none that fits.
    """
    name, value = contract.name, contract.value
    if definition.panel is not None:
        return make_panel(name, value, definition.panel, members, folder)
    assert definition.cascade is not None  # noqa: S101 - a definition of members is one of the two
    return make_cascade(name, value, definition.cascade, members, folder)
