"""What a dataset is: rows, and for each version a manifest that says what the rows are and where they came from.

A row is one test case. A version is an immutable set of rows; its digest is over their content alone, so the same
rows have the same digest in any order, store and file encoding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from mlflow_assay.datasets.canonical import canonical, plain, sha256
from mlflow_assay.errors import ConfigError

__all__ = ["SPLITS", "About", "DataFile", "DatasetRow", "Manifest", "row_id"]

SPLITS = ("train", "validation", "test")

_DAYS = re.compile(r"([0-9]{1,5})\s*d")
_ID = re.compile(r"[0-9a-f]{32}")
Cells = tuple[str | float | None, ...]


def row_id(inputs: Any, trace_id: str | None = None) -> str:
    """A row's identity, 32 hex digits: its inputs, and the trace where one input is kept more than once."""
    return sha256(canonical(inputs) if trace_id is None else canonical([inputs, trace_id]))[:32]


@dataclass(frozen=True)
class DatasetRow:
    """One test case.

    Attributes:
        inputs: what the agent was asked, as its root span recorded it: usually a dict.
        outputs: what it answered; None where not kept.
        expectations: what should have been, by name, from people's labels and corrections.
        trace_id: the trace it was made from, `tr-<32 hex>`; None for an imported row.
        session: session id of that trace, or None.
        slice: which part of the population it belongs to (the stratum it was sampled from), or None.
        split: `train`, `validation`, `test`, or None where the dataset was not split.
        group: rows of one group are never in two splits: one session, one set of near-duplicates; None: on its own.
        tags: anything else worth keeping, text by name.
        weight: how many rows of the population it stands for, 1 / sampling probability; >= 1, 1.0 where all were kept.
        redacted: how many pieces of personal data were replaced, by kind; empty where none were, or none were sought.
        id: identity within a version, 32 hex digits; computed from the inputs where not given.
    """

    inputs: Any
    outputs: Any = None
    expectations: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str | None = None
    session: str | None = None
    slice: str | None = None
    split: str | None = None
    group: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    redacted: Mapping[str, int] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if self.inputs is None:
            raise ConfigError("A row needs inputs.", found="None", valid="what the agent is asked")
        for name in ("trace_id", "session", "slice", "split", "group"):
            if getattr(self, name) == "":
                object.__setattr__(self, name, None)
        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"A row's split cannot be {self.split!r}.", valid=[*SPLITS, "None"])
        if not self.id:
            object.__setattr__(self, "id", row_id(self.inputs))
        elif not _ID.fullmatch(self.id):
            raise ConfigError(f"A row's id cannot be {self.id!r}.", valid="32 hex digits, or none: see `row_id`")

    @cached_property
    def cells(self) -> Cells:
        """What is stored of the row, a cell for each field in order, then its content digest."""
        cells: Cells = (
            self.id,
            canonical(self.inputs),
            None if self.outputs is None else canonical(self.outputs),
            canonical(dict(self.expectations)),
            self.trace_id,
            self.session,
            self.slice,
            self.split,
            self.group,
            canonical(dict(self.tags)),
            float(self.weight),
            canonical(dict(self.redacted)),
        )
        # Lengths before the texts: no two rows give one text by moving a character from cell to cell.
        text = "".join("-;" if c is None else f"{len(str(c))}:{c};" for c in cells)
        return (*cells, sha256(text))

    @property
    def content(self) -> str:
        """SHA-256 over everything in the row, 64 hex digits: equal exactly when nothing changed."""
        return str(self.cells[-1])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping of all fields."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: plain(dict(v) if isinstance(v, Mapping) else v) for name, v in facts.items()}

    def moved(self, **changes: Any) -> DatasetRow:
        """The same row with some fields replaced; its id stays."""
        return replace(self, **changes)


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a version, named after its bytes and shared by the versions that hold the same rows.

    Attributes:
        path: relative to the dataset's folder.
        sha256: of the file's bytes, 64 hex digits.
        bytes: its size.
        rows: how many rows it holds.
    """

    path: str
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class About:
    """What whoever makes a version says about it; everything may be left out.

    Attributes:
        how: `build`, `append`, `import`, `sync` or any other word for how the version came about.
        query: what built it, enough to build it again: experiment, conditions, sampling, splitting, seed.
        redaction: which redactor ran and what it replaced, by kind; None when no redactor ran.
        licence: an SPDX id or a sentence.
        owner: who answers for the data.
        retention: how long it may be kept: days such as `90d`, or a date `2027-01-31`.
        pii: class of personal data in it, the organisation's own word, such as `none`, `redacted`, `personal`.
        by: who made it; None takes the name of the process's user.
        tags: further facts, text by name.
    """

    how: str = "write"
    query: Mapping[str, Any] = field(default_factory=dict)
    redaction: Mapping[str, Any] | None = None
    licence: str | None = None
    owner: str | None = None
    retention: str | None = None
    pii: str | None = None
    by: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.retention is not None:
            _last_day(self.retention, datetime.now(timezone.utc))


def _last_day(retention: str, start: datetime) -> datetime:
    if days := _DAYS.fullmatch(retention.strip()):
        return start + timedelta(days=int(days[1]))
    try:
        return datetime.fromisoformat(retention.strip()).replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise ConfigError(
            f"The retention {retention!r} cannot be read.", valid="days, 90d; a date, 2027-01-31"
        ) from error


@dataclass(frozen=True)
class Manifest:
    """What one version holds; written once, never changed.

    Attributes:
        name, version: the dataset's name; versions count from 1.
        digest: SHA-256 over ids and contents of all rows, whatever their order, 64 hex digits.
        rows: how many.
        splits: rows in each split, those in none left out.
        schema: column to its type, as stored.
        files: where the rows are.
        parent, parent_digest: the version it followed; None for the first.
        created_at: when, ISO 8601 in UTC.
        created_by: who.
        about: what its maker says about it.
        software: versions of what wrote it.
        uid: a random word of this very manifest, by which its writer knows it again.
    """

    name: str
    version: int
    digest: str
    rows: int
    splits: Mapping[str, int]
    schema: Mapping[str, str]
    files: tuple[DataFile, ...]
    parent: int | None
    parent_digest: str | None
    created_at: str
    created_by: str
    about: About
    software: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""

    @property
    def reference(self) -> str:
        """`NAME@v3`: names exactly this version."""
        return f"{self.name}@v{self.version}"

    @property
    def expires(self) -> datetime | None:
        """Until when it may be kept, in UTC; None where that was not said. Nothing is deleted by itself."""
        retention = self.about.retention
        return None if retention is None else _last_day(retention, datetime.fromisoformat(self.created_at))

    @property
    def short(self) -> str:
        """The first 12 digits of the digest."""
        return self.digest[:12]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Manifest:
        """The manifest `to_dict` gave. Keys of a newer release are left out."""
        known = {k: v for k, v in facts.items() if k in cls.__dataclass_fields__}
        about = {k: v for k, v in known.pop("about").items() if k in About.__dataclass_fields__}
        files = tuple(DataFile(**f) for f in known.pop("files"))
        known["splits"] = {split: known["splits"][split] for split in SPLITS if split in known["splits"]}
        return cls(**known, files=files, about=About(**about))
