"""Everything the package raises on purpose.

    AssayError
    ├── ConfigError            something the user wrote or passed is wrong; nothing was judged or written
    │   ├── DefinitionError    a judge definition (YAML) is not valid; names file and line
    │   ├── PluginError        a plugin is unknown, broken, or claimed by two packages
    │   └── InputError         a file to import cannot be read in the format asked for
    ├── StoreError             MLflow (or another store) cannot be reached, or lacks what was asked for
    │   └── ConflictError      another writer was first; nothing was written
    ├── SinkError              a sink refused what it was given
    ├── IncompleteError        a run ended with fewer verdicts stored than planned; lists what is missing
    └── NotTrustedError        a number or a judge is refused because the evidence for it is too weak

A judge that could not reach a verdict on a trace is *not* an error: it is a `Feedback` that is unscored
with a reason (`contracts.Unscored`).
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AssayError",
    "ConfigError",
    "ConflictError",
    "DefinitionError",
    "IncompleteError",
    "InputError",
    "NotTrustedError",
    "PluginError",
    "SinkError",
    "StoreError",
]


class AssayError(Exception):
    """Base of the tree. The message has up to four parts: what, found, valid, do next.

    Args:
        what: what was asked for and did not work, identifiers quoted.
        found: what was there instead.
        valid: what would have been accepted.
        fix: what to do next, a command where there is one.
    """

    def __init__(
        self,
        what: str,
        *,
        found: object = None,
        valid: str | Iterable[str] | None = None,
        fix: str | None = None,
    ) -> None:
        parts = [what]
        if found is not None:
            parts.append(f"Found: {found}.")
        if valid is not None:
            listed = valid if isinstance(valid, str) else ", ".join(str(v) for v in valid) or "(none)"
            parts.append(f"Valid: {listed}.")
        if fix is not None:
            parts.append(fix)
        super().__init__(" ".join(parts))


class ConfigError(AssayError):
    """Something the user wrote or passed is wrong; nothing was judged or written."""


class DefinitionError(ConfigError):
    """A judge definition is not valid. The message starts with `file:line:`."""


class PluginError(ConfigError):
    """A plugin is unknown, cannot be imported, or its name is claimed by two packages."""


class InputError(ConfigError):
    """A file to import cannot be read in the format asked for."""


class StoreError(AssayError):
    """MLflow cannot be reached, or holds no such experiment, trace or assessment."""


class ConflictError(StoreError):
    """Another writer was first; nothing was written. Read the newer version and try again."""


class SinkError(AssayError):
    """A sink refused what it was given."""


class IncompleteError(AssayError):
    """A run ended with fewer verdicts in the store than planned; the message lists what is missing."""


class NotTrustedError(AssayError):
    """A number or a judge is refused because the evidence for it is too weak; says which evidence."""
