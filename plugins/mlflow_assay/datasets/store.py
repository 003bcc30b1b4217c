"""Versions of datasets as immutable, content-addressed Parquet snapshots in a folder or an object store.

    NAME/data/<sha256>.parquet    rows; named after their bytes, shared by versions, never changed
    NAME/versions/000003.json     the manifest of version 3; created once: the moment the version exists
    NAME/events/000007.json       an alias moved or a tag set, by whom and when; created once

Rows are put there first and the manifest last, by a put that fails where another writer was first. So a version
exists whole or not at all, and no writer overwrites another. Files that a killed writer left are in no manifest;
`sweep` removes them.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version as package_version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay import registry
from mlflow_assay.datasets import columns, references
from mlflow_assay.datasets.appending import among, compare, only, without
from mlflow_assay.datasets.blobs import Blobs, scheme_of
from mlflow_assay.datasets.dataset import Dataset
from mlflow_assay.datasets.model import SPLITS, About, DataFile, DatasetRow, Manifest
from mlflow_assay.datasets.snapshot import Index, Staged, file_sha256, stage
from mlflow_assay.errors import ConfigError, ConflictError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset

    from mlflow_assay.contracts import DatasetStore

__all__ = ["STORE_VARIABLE", "SnapshotStore", "load_dataset", "open_store"]

STORE_VARIABLE = "ASSAY_DATASETS"

_DEFAULT = "assay-datasets"
_ATTEMPTS = 50
_NUMBERED = re.compile(r"([0-9]{6})\.json")
_RULES = ("licence", "owner", "retention", "pii")


def open_store(url: str | None = None) -> DatasetStore:
    """The store at a URL: a local folder, `s3://`, `abfs://`, `gs://`, or the scheme of an installed plugin.

    Args:
        url: None takes the environment variable ASSAY_DATASETS, else the folder `assay-datasets`.

    Raises:
        PluginError: no plugin keeps datasets at such a URL.
        ConfigError: a package it needs is not installed.
    """
    where = url or os.environ.get(STORE_VARIABLE) or _DEFAULT
    store: DatasetStore = registry.load("dataset_stores", scheme_of(where))(where)
    return store


def load_dataset(reference: str, store: str | DatasetStore | None = None) -> Dataset:
    """One version of a dataset.

    Args:
        reference: `NAME`, `NAME@latest`, `NAME@v3`, `NAME@<alias>`, `NAME@<start of the digest>`; with the store's
            URL before it where `store` is not given, such as `s3://bucket/datasets/misrouted@golden`.
        store: its URL, or an open store; None as in `open_store`.

    Raises:
        StoreError: there is no such version; what there is, is listed.
    """
    if store is None:
        store, reference = references.split_url(reference)
    opened = open_store(store) if store is None or isinstance(store, str) else store
    return Dataset(opened.find(reference), opened)


@dataclass(frozen=True)
class _Content:
    """What a new version is made of: files already named, files still to be put, and what all of them come to."""

    files: tuple[DataFile, ...]
    staged: Staged
    digest: str
    rows: int
    splits: Mapping[str, int]


class SnapshotStore:
    """Entry point `file`, `s3`, `abfs`, `abfss`, `az`, `gs` and `memory` of `mlflow_assay.dataset_stores`.

    Args:
        url: see `open_store`. Credentials and endpoints come from the environment, as the file system's own
            library reads them (AWS_…, AZURE_STORAGE_…, GOOGLE_…, FSSPEC_…).
    """

    def __init__(self, url: str) -> None:
        self._blobs = Blobs(url)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._blobs.url

    # --- reading ---

    def names(self) -> list[str]:
        """All datasets that have a version, sorted."""
        return [name for name in self._blobs.names("") if self._numbers(name)]

    def versions(self, name: str) -> list[Manifest]:
        """Every version of one dataset, oldest first; empty when there is no such dataset."""
        return [self._manifest(name, number) for number in self._numbers(references.check_name(name))]

    def find(self, reference: str) -> Manifest:
        """The version meant; see `contracts.DatasetStore.find`."""
        wanted = references.parse(reference)
        numbers = self._numbers(wanted.name)
        if not numbers:
            raise StoreError(
                f"There is no dataset {wanted.name!r} at {self.url}.",
                valid=self.names(),
                fix=f"Build one (assay dataset build), or name the store (--store, {STORE_VARIABLE}).",
            )
        number = self._number(wanted, numbers)
        if number in numbers:
            return self._manifest(wanted.name, number)
        raise StoreError(
            f"The dataset {wanted.name!r} has no version {wanted.at!r}.",
            valid=[references.LATEST, *self.aliases(wanted.name), *(f"v{n}" for n in numbers[-10:])],
        )

    def rows(self, version: Manifest, *, split: str | None = None) -> Iterator[DatasetRow]:
        """The version's rows, or those of one split, without holding them all in memory."""
        import pyarrow.compute as pc

        keep = None if split is None else pc.field("split") == split
        for batch in self.arrow(version).to_batches(columns=list(columns.COLUMNS), filter=keep, **columns.READING):
            yield from columns.rows_of(batch)

    def arrow(self, version: Manifest) -> pyarrow.dataset.Dataset:
        """The version's rows as an Arrow dataset, read lazily."""
        from pyarrow import dataset

        if not version.files:
            return dataset.dataset(columns.schema().empty_table())
        paths = [self._blobs.path(f"{version.name}/{file.path}") for file in version.files]
        return dataset.dataset(
            paths, schema=columns.schema(), format="parquet", filesystem=self._blobs.arrow_filesystem()
        )

    def verify(self, version: Manifest) -> None:
        """Read every file again and compare it with the manifest.

        Raises:
            StoreError: a file is gone, or its bytes are not what was written.
        """
        with tempfile.TemporaryDirectory() as folder:
            for file in version.files:
                local = Path(folder) / "file"
                self._blobs.fetch(f"{version.name}/{file.path}", local)
                if (found := file_sha256(local)) != file.sha256:
                    raise StoreError(
                        f"{version.reference}: the file {file.path} is not what was written.",
                        found=f"SHA-256 {found[:12]}…",
                        valid=f"{file.sha256[:12]}…",
                        fix="Restore it from a backup of the store.",
                    )
        index = self._index(version)
        if index.digest() != version.digest:
            raise StoreError(f"{version.reference}: its rows do not add up to the digest in its manifest.")

    # --- writing ---

    def write(self, name: str, rows: Iterable[DatasetRow], about: About, *, expect: int | None = None) -> Manifest:
        """Store the rows as a new version; see `contracts.DatasetStore.write`."""
        references.check_name(name)
        self._expected(name, expect)
        with tempfile.TemporaryDirectory(prefix="assay-dataset-") as folder:
            staged = stage(rows, Path(folder))
            made = _Content((), staged, staged.index.digest(), len(staged.index), staged.splits)
            return self._commit(name, lambda latest: made, lambda latest: about, expect)

    def append(
        self, name: str, rows: Iterable[DatasetRow], about: About, *, replace: bool = False, expect: int | None = None
    ) -> Manifest:
        """Store the latest version's rows and these; see `contracts.DatasetStore.append`.

        Files of the latest version are shared with the new one, so this costs what the new rows cost. What `about`
        leaves open of licence, owner, retention and personal data is taken over from it.
        """
        references.check_name(name)
        self._expected(name, expect)
        with tempfile.TemporaryDirectory(prefix="assay-dataset-") as folder:
            given = stage(rows, Path(folder))
            given.index.digest()  # refuses two rows with one id

            def content(latest: Manifest | None) -> _Content:
                return self._appended(latest, given, Path(tempfile.mkdtemp(dir=folder)), replace)

            return self._commit(name, content, lambda latest: _inherit(about, latest), expect)

    def _appended(self, latest: Manifest | None, given: Staged, folder: Path, replacing: bool) -> _Content:
        """The latest version's content with the given rows; files that hold a replaced row are written anew."""
        if latest is None:
            return _Content((), given, given.index.digest(), len(given.index), given.splits)
        old = self._index(latest)
        found = compare(old, given.index)
        changed, wanted = given.index.kept(found.changed), given.index.kept(found.added | found.changed)
        if len(changed) and not replacing:
            raise ConfigError(
                f"{len(changed)} rows are in {latest.reference} with other contents, first {changed.keys[0].decode()}.",
                fix="Leave them out, or let them take the place of the old ones (replace=True, --replace).",
            )
        touched = {file for file in latest.files if len(changed) and self._holds(latest, file, changed)}
        kept = tuple(file for file in latest.files if file not in touched)
        staged = given
        if touched or len(wanted) < len(given.index):
            rest = without(self._batches(latest, [f for f in latest.files if f in touched]), changed)
            staged = stage(chain(rest, only(given.batches(), wanted)), folder)
        index = Index.joined([old.kept(~among(old, changed)), wanted])
        splits = Counter(self._splits(latest, kept)) + Counter(staged.splits)
        return _Content(kept, staged, index.digest(), len(index), dict(splits))

    def _commit(
        self,
        name: str,
        content: Callable[[Manifest | None], _Content],
        about: Callable[[Manifest | None], About],
        expect: int | None,
    ) -> Manifest:
        """Put the files, then create the manifest; where another writer was first, on top of that writer's version."""
        self._blobs.require_exclusive()
        there: set[str] = set()
        for _ in range(_ATTEMPTS):
            latest = self._expected(name, expect)
            made, said = content(latest), about(latest)
            if latest is not None and latest.digest == made.digest and _same_rules(latest.about, said):
                return latest
            for path, file in made.staged.files:
                if file.path not in there:
                    self._blobs.put(f"{name}/{file.path}", path)
                    there.add(file.path)
            manifest = _manifest(name, latest, made, said)
            data = json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False).encode()
            if self._blobs.create(f"{name}/versions/{manifest.version:06}.json", data):
                return manifest
        raise ConflictError(
            f"{name!r}: other writers were first {_ATTEMPTS} times; nothing was written.", fix="Try again later."
        )

    def _expected(self, name: str, expect: int | None) -> Manifest | None:
        numbers = self._numbers(name)
        latest = numbers[-1] if numbers else 0
        if expect is not None and latest != expect:
            raise ConflictError(
                f"{name!r} was to follow version {expect}, but another writer was first; nothing was written.",
                found=f"version {latest}",
                fix="Look at what has changed (assay dataset diff) and make the new version from that one.",
            )
        return self._manifest(name, latest) if latest else None

    # --- aliases and tags ---

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version number; `latest` is not among them."""
        found: dict[str, int] = {}
        for event in self.history(name):
            if event["kind"] == "alias":
                found.pop(event["alias"], None)
                if event["version"] is not None:
                    found[event["alias"]] = event["version"]
        return dict(sorted(found.items()))

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or remove it (None).

        Raises:
            StoreError: there is no such version.
            ConfigError: the alias could be mistaken for a version or a digest.
        """
        alias = references.check_alias(alias)
        if version is not None:
            self.find(f"{name}@v{version}")
        self._note(name, {"kind": "alias", "alias": alias, "version": version})

    def tags(self, name: str) -> dict[int, dict[str, str]]:
        """Tags of each version that has any."""
        found: dict[int, dict[str, str]] = {}
        for event in self.history(name):
            if event["kind"] == "tags":
                kept = found.get(event["version"], {}) | event["tags"]
                found[event["version"]] = {key: value for key, value in kept.items() if value is not None}
        return {version: tags for version, tags in sorted(found.items()) if tags}

    def set_tags(self, name: str, version: int, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one.

        Raises:
            StoreError: there is no such version.
        """
        self.find(f"{name}@v{version}")
        self._note(name, {"kind": "tags", "version": version, "tags": dict(tags)})

    def history(self, name: str) -> list[dict[str, Any]]:
        """Every move of an alias and change of a tag, oldest first, with `at` and `by`."""
        folder = f"{references.check_name(name)}/events"
        read = (
            self._blobs.read(f"{folder}/{event}") for event in self._blobs.names(folder) if _NUMBERED.fullmatch(event)
        )
        return [json.loads(data) for data in read if data is not None]

    def sweep(self, name: str, *, older_than_s: float = 86_400.0) -> list[str]:
        """Remove files that no version holds, left by writers that were killed.

        Args:
            older_than_s: younger files stay, for their writer may still be about to create its manifest.

        Returns:
            The removed files' paths.
        """
        found = [f"{name}/data/{file}" for file in self._blobs.names(f"{name}/data")]
        held = {f"{name}/{file.path}" for version in self.versions(name) for file in version.files}
        found = [path for path in found if path not in held]
        for folder in ("data", "versions", "events"):
            found += [f"{name}/{folder}/{file}" for file in self._blobs.names(f"{name}/{folder}", unfinished=True)]
        removed = []
        for path in found:
            if time.time() - self._blobs.modified(path) > older_than_s:
                self._blobs.remove(path)
                removed.append(path)
        return removed

    # --- helpers ---

    def _note(self, name: str, event: Mapping[str, Any]) -> None:
        self._blobs.require_exclusive()
        data = json.dumps({**event, "at": _now(), "by": _user(), "uid": uuid.uuid4().hex}).encode()
        for _ in range(_ATTEMPTS):
            known = [m[1] for file in self._blobs.names(f"{name}/events") if (m := _NUMBERED.fullmatch(file))]
            number = int(known[-1]) + 1 if known else 1
            if self._blobs.create(f"{name}/events/{number:06}.json", data):
                return
        raise ConflictError(f"{name!r}: other writers were first {_ATTEMPTS} times.", fix="Try again later.")

    def _numbers(self, name: str) -> list[int]:
        return [int(m[1]) for file in self._blobs.names(f"{name}/versions") if (m := _NUMBERED.fullmatch(file))]

    def _number(self, wanted: references.Reference, numbers: list[int]) -> int | None:
        if wanted.version is not None:
            return wanted.version
        if wanted.at == references.LATEST:
            return numbers[-1]
        if (aliased := self.aliases(wanted.name).get(wanted.at)) is not None:
            return aliased
        if not wanted.may_be_digest:
            return None
        found = [v for v in self.versions(wanted.name) if v.digest.startswith(wanted.at)]
        if len({v.digest for v in found}) > 1:
            raise StoreError(
                f"Several versions of {wanted.name!r} have a digest that starts with {wanted.at}.",
                valid=[v.digest for v in found],
            )
        return found[-1].version if found else None

    def _manifest(self, name: str, number: int) -> Manifest:
        data = self._blobs.read(f"{name}/versions/{number:06}.json")
        if data is None:
            raise StoreError(f"Version {number} of {name!r} has been removed from {self.url}.")
        try:
            return Manifest.from_dict(json.loads(data))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"The manifest of version {number} of {name!r} at {self.url} cannot be read.") from error

    def _index(self, version: Manifest) -> Index:
        found = self.arrow(version).to_batches(columns=["id", "content"], **columns.READING)
        return Index.joined(Index.of(batch) for batch in found)

    def _batches(self, version: Manifest, files: Sequence[DataFile]) -> Iterator[pa.RecordBatch]:
        return iter(self.arrow(replace(version, files=tuple(files))).to_batches(**columns.READING))

    def _holds(self, version: Manifest, file: DataFile, some: Index) -> bool:
        return bool(among(self._index(replace(version, files=(file,))), some).any())

    def _splits(self, version: Manifest, files: Sequence[DataFile]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for batch in self.arrow(replace(version, files=tuple(files))).to_batches(columns=["split"], **columns.READING):
            counts.update(split for split in batch.column("split").to_pylist() if split is not None)
        return dict(counts)


def _manifest(name: str, latest: Manifest | None, made: _Content, about: About) -> Manifest:
    fields = columns.schema()
    return Manifest(
        name=name,
        version=latest.version + 1 if latest else 1,
        digest=made.digest,
        rows=made.rows,
        splits={split: made.splits[split] for split in SPLITS if made.splits.get(split)},
        schema={field.name: "json" if field.name in columns.JSON_COLUMNS else str(field.type) for field in fields},
        files=(*made.files, *(file for _, file in made.staged.files)),
        parent=latest.version if latest else None,
        parent_digest=latest.digest if latest else None,
        created_at=_now(),
        created_by=about.by or _user(),
        about=about,
        software={package: package_version(package) for package in ("mlflow-assay", "mlflow", "pyarrow")},
        uid=uuid.uuid4().hex,
    )


def _inherit(about: About, latest: Manifest | None) -> About:
    """What is left open of the rules for the data is as in the version appended to."""
    if latest is None:
        return about
    open_ = {rule: getattr(latest.about, rule) for rule in _RULES if getattr(about, rule) is None}
    return replace(about, **open_)


def _same_rules(a: About, b: About) -> bool:
    return all(getattr(a, rule) == getattr(b, rule) for rule in _RULES)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have a user id without a name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
