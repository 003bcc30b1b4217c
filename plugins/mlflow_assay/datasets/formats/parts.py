"""What formats share: one text for a value, rows from columns, a library that may be missing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_assay.datasets.canonical import canonical, plain
from mlflow_assay.datasets.columns import JSON_COLUMNS
from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.errors import AssayError, ConfigError, InputError

__all__ = ["CONTEXT", "EXPECTED", "FIELDS", "TOOLS", "from_columns", "from_mapping", "library", "one_text", "with_text"]

FIELDS = tuple(DatasetRow.__dataclass_fields__)
# The keys MLflow's own scorers expect these under.
EXPECTED, CONTEXT, TOOLS = "expected_response", "context", "expected_tool_calls"

_EXPECTATION = "expectations."


def library(module: str, extra: str) -> Any:
    """An optional library's module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"This format needs {module.split('.')[0]}, which cannot be imported: {error}.",
            fix=f"pip install 'mlflow-assay[{extra}]'",
        ) from error


def one_text(value: Any) -> str | None:
    """A value where a library takes text: a text as it is, the only text of a mapping, else JSON; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(only := next(iter(value.values())), str):
        return only
    return canonical(value)


def with_text(value: Any, text: str | None) -> Any:
    """The value `one_text` made a text of, where the text is still that; else the text in its place."""
    if one_text(value) == text:
        return value
    if isinstance(value, Mapping) and len(value) == 1 and text is not None:
        return {next(iter(value)): text}
    return text


def from_mapping(facts: Mapping[str, Any], where: str) -> DatasetRow:
    """A row from its fields by name.

    Raises:
        InputError: a field is missing, unknown or not valid; starts with `where`.
    """
    if "inputs" not in facts:
        raise InputError(f"{where}: a row has no inputs.", found=", ".join(map(str, facts)), valid=FIELDS)
    if strays := [name for name in facts if name not in FIELDS]:
        raise InputError(f"{where}: a row has no field {strays[0]!r}.", valid=FIELDS)
    try:
        return DatasetRow(**{name: value for name, value in facts.items() if value is not None or name == "outputs"})
    except (TypeError, ValueError, AssayError) as error:
        raise InputError(f"{where}: {error}") from error


def from_columns(cells: Mapping[str, Any], where: str) -> DatasetRow:
    """A row from a table's columns.

    Columns named like a field of a row are that field, JSON where it is one. `expectations.NAME` is an expectation.
    Where there is no column `inputs`, all other columns are the inputs by their names.
    """
    facts = {name: _cell(name, value) for name, value in cells.items() if name in FIELDS}
    facts = {name: value for name, value in facts.items() if value is not None}
    named = {n.removeprefix(_EXPECTATION): plain(v) for n, v in cells.items() if n.startswith(_EXPECTATION)}
    if named := {n: v for n, v in named.items() if v not in (None, "")}:
        facts["expectations"] = {**facts.get("expectations", {}), **named}
    others = {n: plain(v) for n, v in cells.items() if n not in FIELDS and not n.startswith(_EXPECTATION)}
    if "inputs" not in facts and others:
        return from_mapping({**facts, "inputs": others}, where)
    return from_mapping({**facts, **others}, where)


def _cell(name: str, value: Any) -> Any:
    if name in JSON_COLUMNS and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value or None
    if name == "weight" and value not in (None, ""):
        return float(value)
    return None if value == "" or value is None else plain(value)


def new_path(path: Path) -> Path:
    """The path if nothing is there yet, its folder made.

    Raises:
        ConfigError: something is there.
    """
    if path.exists():
        raise ConfigError(f"{path} exists already.", fix="Name another path, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
