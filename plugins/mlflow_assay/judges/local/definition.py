"""The YAML definition beside a trained judge, so that `assay score --judge NAME --path FOLDER` finds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mlflow_assay.errors import ConfigError
from mlflow_assay.judges import definition as definitions
from mlflow_assay.judges.local.judge import LocalJudge
from mlflow_assay.judges.local.storage import SUFFIX

__all__ = ["check_name", "save_with_definition"]

_NAME = re.compile(r"[a-z][a-z0-9_]{1,99}")


def check_name(name: str) -> str:
    """The name, if it can be a judge's.

    Raises:
        ConfigError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a judge's name.", valid="a letter, then letters, digits and _ (lower case)"
        )
    return name


def save_with_definition(judge: LocalJudge, folder: str | Path) -> tuple[Path, Path]:
    """Write `NAME.judge.zip` and `NAME.yaml` into a folder.

    Returns:
        The paths of both.

    Raises:
        NotTrustedError: the judge must not be used, and use was not forced.
        ConfigError: the name cannot be a judge's, or the folder cannot be written.
    """
    judge.require_trust()
    base = Path(folder)
    text = _text(judge, f"{check_name(judge.name)}{SUFFIX}")
    definitions.loads(text, f"{judge.name}.yaml")
    model = judge.save(base / f"{judge.name}{SUFFIX}")
    path = base / f"{judge.name}.yaml"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The definition {str(path)!r} could not be written: {error}") from error
    return model, path


def _text(judge: LocalJudge, file: str) -> str:
    report = judge.report
    kappa = (
        f"{report.kappa:.2f} [{report.kappa_low:.2f}, {report.kappa_high:.2f}]"
        if report.kappa_low is not None
        else "unknown"
    )
    notes = (
        f"Trained on {report.n} labels {report.label!r}; kappa {kappa} on unseen traces; answers "
        f"{report.coverage:.0%} of traces. Reads {', '.join(report.reads)}."
    )
    if report.refusals:
        notes += f" Used by force although: {' '.join(report.refusals)}"
    content: dict[str, Any] = {
        "name": judge.name,
        "purpose": judge.purpose,
        "version": judge.digest[:12],
        "value": {"type": "boolean", "good": judge.good},
        "uses": "local/classifier",
        "with": {"model": file},
        "needs": list(judge.needs),
        "notes": notes,
        "cases": _cases(judge),
    }
    kept = {k: v for k, v in content.items() if v not in ([], "")}
    return "# Written by `assay judges train`; `model` lies beside this file.\n" + yaml.safe_dump(
        kept, sort_keys=False, allow_unicode=True, width=110
    )


def _cases(judge: LocalJudge) -> list[dict[str, Any]]:
    """A trace without what the judge reads must stay unscored."""
    if all(f.optional for f in judge.fields):
        return []
    return [{"name": "nothing to read", "kind": "unscorable", "unscored": "missing_field"}]
