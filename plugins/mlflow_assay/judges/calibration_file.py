"""What labels showed about a panel or cascade, kept beside its definition: written by `assay judges calibrate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlflow_assay.errors import DefinitionError, NotTrustedError

__all__ = ["read", "write"]

_KEYS = {"panel": ("improves", "summary", "weights", "bias"), "cascade": ("gates", "summary")}


def write(
    path: Path,
    judge: str,
    kind: Literal["panel", "cascade"],
    digests: Sequence[str],
    result: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> None:
    """Keep a calibration.

    Args:
        path: the file, replaced if it exists.
        judge: the composite's name.
        kind: what it is.
        digests: of the judges it was made for, in order; for a cascade those of the gated tiers.
        result: what was found: `trust.CascadeGate.to_dict()` or `trust.PanelWeights.to_dict()`.
        evidence: where the labels came from.
    """
    data = {"judge": judge, "kind": kind, "digests": list(digests), "evidence": dict(evidence), "result": dict(result)}
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path, judge: str, kind: Literal["panel", "cascade"], digests: Sequence[str]) -> dict[str, Any]:
    """A calibration of this judge for these very members.

    Raises:
        NotTrustedError: there is none, or it was made for other members.
        DefinitionError: the file cannot be read.
    """
    fix = f"Run: assay judges calibrate {judge} --experiment EXPERIMENT --label NAME"
    if not path.is_file():
        raise NotTrustedError(f"The {kind} {judge!r} is not calibrated: there is no {path}.", fix=fix)
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = data["kind"] == kind and all(key in data["result"] for key in _KEYS[kind])
        known = list(data["digests"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DefinitionError(f"{path}:1: not a calibration of a {kind}: {type(error).__name__} {error}.") from error
    if not complete:
        raise DefinitionError(f"{path}:1: not a calibration of a {kind}.", valid=_KEYS[kind])
    if known != list(digests):
        raise NotTrustedError(
            f"The calibration {path} is of other judges than those of {judge!r}: one of them, or its model, changed.",
            found=", ".join(known),
            valid=", ".join(digests),
            fix=fix,
        )
    return data
