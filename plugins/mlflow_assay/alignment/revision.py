"""A proposal written down: the next version of the judge's YAML definition, and what lies beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlflow_assay.contracts import UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges import definition as definitions
from mlflow_assay.judges.definition import JudgeDefinition

if TYPE_CHECKING:
    from mlflow_assay.alignment.aligner import Proposal

__all__ = ["next_version", "to_yaml", "with_note", "write"]

_CLASSIFIER = "local/classifier"
_NOT_OF_A_CLASSIFIER = (
    *("instructions", "variables", "fields", "model", "parameters", "rationale_first", "cases", "panel", "cascade"),
)


def next_version(version: str) -> str:
    """`1` becomes `2`, `2.1` becomes `2.2`, and what ends in no number gets `.2` behind it."""
    found = re.fullmatch(r"(.*?)(\d+)", version)
    return f"{found[1]}{int(found[2]) + 1}" if found else f"{version}.2"


def write(definition: JudgeDefinition, proposal: Proposal, notes: str, folder: Path) -> Path:
    """Write the next version into a folder, checked as any definition is.

    Args:
        definition: the version in use.
        proposal: what changes.
        notes: put behind the definition's own notes.
        folder: where `NAME.yaml` goes, and a trained classifier beside it.

    Raises:
        ConfigError: the folder cannot be written.
        DefinitionError: the changed definition is not valid, such as instructions without any variable.
        NotTrustedError: a trained classifier must not be used.
    """
    content = _content(definition)
    content["version"] = next_version(definition.version)
    content["notes"] = " ".join(part for part in (definition.notes.strip(), notes) if part)
    if learnt_from := sorted({*definition.learnt_from, *proposal.used}):
        content["learnt_from"] = learnt_from
    _change(content, definition, proposal)
    if proposal.local is not None:
        from mlflow_assay.judges.local.storage import SUFFIX

        file = f"{definition.name}{SUFFIX}"
        content["with"] = {"model": file}
        proposal.local.save(folder / file)
    text = to_yaml(content)
    path = folder / f"{definition.name}.yaml"
    definitions.loads(text, str(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The new definition cannot be written to {path}: {error}.") from error
    return path


def with_note(text: str, note: str) -> str:
    """A definition's text with one more sentence in its notes."""
    content = yaml.safe_load(text)
    content["notes"] = " ".join(part for part in (content.get("notes", "").strip(), note) if part)
    return to_yaml(content)


def to_yaml(content: dict[str, Any]) -> str:
    """A definition as YAML, texts of several lines in block style."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def _content(definition: JudgeDefinition) -> dict[str, Any]:
    """The definition's keys as they would stand in a file; what is left at its default is left out."""
    found: dict[str, Any] = definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    found["value"] = {"type": definition.value.type, **found["value"]}
    found.setdefault("version", definition.version)
    order = ["name", "purpose", "version", "scope", "value"]
    return {k: found[k] for k in (*order, *(k for k in found if k not in order)) if k in found}


def _change(content: dict[str, Any], definition: JudgeDefinition, proposal: Proposal) -> None:
    if proposal.appendix is not None:
        content["instructions"] = f"{(definition.instructions or '').strip()}\n\n{proposal.appendix}\n"
    elif proposal.instructions is not None:
        content["instructions"] = f"{proposal.instructions.strip()}\n"
        content.pop("variables", None)  # their texts are part of the rewritten instructions now
    elif proposal.threshold is not None:
        content["value"] = {**content["value"], "threshold": float(proposal.threshold)}
        _keep_cases(content, definition.value.model_copy(update={"threshold": float(proposal.threshold)}).spec())
    elif proposal.local is not None:
        for key in _NOT_OF_A_CLASSIFIER:
            content.pop(key, None)
        content["value"] = {"type": "boolean", "good": proposal.local.good}
        content["uses"] = _CLASSIFIER
        content["needs"] = list(proposal.local.needs)


def _keep_cases(content: dict[str, Any], value: ValueSpec) -> None:
    """Leave out cases whose value no longer means what they say it means."""

    def holds(case: dict[str, Any]) -> bool:
        if case.get("expect") is None:
            return True
        try:
            passes = value.passes(value.read(case["expect"]))  # type: ignore[arg-type]
            return bool(passes == (case["kind"] == "good"))
        except UnscoredError:
            return False

    if cases := content.get("cases"):
        content["cases"] = [case for case in cases if holds(case)]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines are easier to read, and to compare in a diff, as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
