"""The verdict cache: a verdict already paid for is never paid for again.

Content-addressed: the key is a hash of the judge's digest (instructions, model, parameters, library version)
and the canonical content it was shown, so an entry is never out of date, only unused. Shared by processes
through a SQLite file in the user's cache folder, or by a team through any database SQLAlchemy reaches.

    cache = VerdictCache()
    key = cache.key(bound.digest, prompt)
    found = cache.get_many([key])
    cache.put_many({key: CachedVerdict(True, "because", {}, "polite", bound.digest, now_ms)})
    cache.close()
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from mlflow_assay.errors import ConfigError, StoreError

__all__ = ["CacheError", "CacheStats", "CachedVerdict", "JudgeUse", "VerdictCache", "default_url", "key", "open_engine"]

_log = logging.getLogger(__name__)
_CHUNK = 500  # keys in one IN (...): below every database's limit of bound parameters
_BUSY_S = 10.0  # how long SQLite waits for another process's write
_WITHOUT = "Run without it (--no-cache), or name another cache in ASSAY_CACHE_URL."

_tables = sa.MetaData()
_verdicts = sa.Table(
    "assay_verdicts",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("judge", sa.String(250), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("payload", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("hits", sa.BigInteger, nullable=False, default=0),
    sa.Index("ix_assay_verdicts_judge", "judge", "digest"),
)


class CacheError(StoreError):
    """The cache opened but then could not be read or written. The run can go on without it: the verdicts hold."""


@dataclass(frozen=True)
class CachedVerdict:
    """A scored verdict as it is kept.

    Attributes:
        value: what the judge answered: a bool, number, string, or anything else JSON can hold. Never None.
        rationale: why, or None.
        metadata: the verdict's own metadata (tokens and cost of the call that was paid, raw value, …).
        judge: the judge's name.
        digest: the judge's digest.
        created_ms: when it was judged, milliseconds since 1970.

    Raises:
        ConfigError: `value` is None. An unscored verdict is never cached, so that it is tried again.
    """

    value: Any
    rationale: str | None
    metadata: dict[str, str]
    judge: str
    digest: str
    created_ms: int

    def __post_init__(self) -> None:
        if self.value is None:
            raise ConfigError(f"The verdict of judge {self.judge!r} has no value: only scored verdicts are cached.")


@dataclass(frozen=True)
class JudgeUse:
    """What the cache holds of one judge in one version (digest); see `CacheStats` for the units."""

    judge: str
    digest: str
    entries: int
    bytes: int
    hits: int
    oldest_ms: int
    newest_ms: int


@dataclass(frozen=True)
class CacheStats:
    """What the cache holds.

    Attributes:
        location: the database's URL, its password hidden.
        entries: verdicts held.
        bytes: size of the verdicts themselves, without indexes and free space.
        hits: verdicts handed out since the entries were made; a process adds its own when it next writes or closes.
        oldest_ms, newest_ms: when the first and last were judged, milliseconds since 1970; None when empty.
        judges: the same by judge and digest, in order of judge name.
    """

    location: str
    entries: int = 0
    bytes: int = 0
    hits: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    judges: tuple[JudgeUse, ...] = field(default=())


def key(digest: str, content: str) -> str:
    """The cache key of one judge shown one content: 64 hex digits (SHA-256).

    Args:
        digest: the judge's digest; must hold no NUL character.
        content: everything the judge is shown, in canonical form (for example the rendered messages as JSON).
    """
    return hashlib.sha256(f"{digest}\0{content}".encode("utf-8", "surrogatepass")).hexdigest()


def default_url() -> str:
    """`ASSAY_CACHE_URL`, or a SQLite file `mlflow-assay/verdicts.db` under `XDG_CACHE_HOME` (else `~/.cache`)."""
    if url := os.environ.get("ASSAY_CACHE_URL"):
        return url
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return f"sqlite:///{Path(folder) / 'mlflow-assay' / 'verdicts.db'}"


class VerdictCache:
    """Verdicts by key, in a database that several threads and processes may use at once.

    A new SQLite file gets mode 0600, for it holds what judges said about people's conversations; an existing
    one keeps the mode it has. What `put_many` returned from survives `kill -9`; on SQLite the last commits may
    be lost when the machine itself loses power (WAL with `synchronous=NORMAL`).

    Args:
        url: a SQLAlchemy database URL; None takes `default_url()`.

    Raises:
        StoreError: it cannot be opened (bad URL, driver missing, corrupt, locked, no permission).
    """

    key = staticmethod(key)

    def __init__(self, url: str | None = None) -> None:
        self._engine = open_engine(url or default_url(), _tables, "verdict cache", _WITHOUT)
        self._hits: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def url(self) -> str:
        """The database's URL with its password, for another process to open it; not for printing."""
        return self._engine.url.render_as_string(hide_password=False)

    @property
    def location(self) -> str:
        """The database's URL, its password hidden."""
        return self._engine.url.render_as_string(hide_password=True)

    def get_many(self, keys: Sequence[str]) -> dict[str, CachedVerdict]:
        """The verdicts held for these keys; keys it does not hold are absent from the answer.

        Raises:
            CacheError: the database could not be read.
        """
        found: dict[str, CachedVerdict] = {}
        with self._errors("read"), self._engine.connect() as connection:
            for start in range(0, len(keys), _CHUNK):
                chunk = sa.select(_verdicts).where(_verdicts.c.key.in_(keys[start : start + _CHUNK]))
                found.update((row.key, _decoded(row)) for row in connection.execute(chunk))
        with self._lock:
            self._hits.update(found.keys())
        return found

    def put_many(self, items: Mapping[str, CachedVerdict]) -> None:
        """Keep these verdicts, replacing what was held under the same keys, in one committed transaction.

        Raises:
            CacheError: nothing of `items` was kept.
        """
        rows = [_encoded(name, items[name]) for name in sorted(items)]  # one order for all: no deadlocks
        for last_try in (False, True):
            try:
                with self._errors("write"), self._engine.begin() as connection:
                    _upsert(connection, rows)
                    self._record_hits(connection)
                return
            except CacheError as error:
                if last_try or not isinstance(error.__cause__, IntegrityError):
                    raise  # an IntegrityError is a lost race with another writer: once more

    def stats(self) -> CacheStats:
        """Counts, sizes and ages by judge and digest.

        Raises:
            CacheError: the database could not be read.
        """
        c = _verdicts.c
        sums = sa.func.count(), sa.func.sum(c.bytes), sa.func.sum(c.hits)
        ages = sa.func.min(c.created_ms), sa.func.max(c.created_ms)
        query = sa.select(c.judge, c.digest, *sums, *ages).group_by(c.judge, c.digest).order_by(c.judge, c.digest)
        with self._errors("read"), self._engine.connect() as connection:
            # PostgreSQL sums BIGINT into a decimal
            judges = tuple(JudgeUse(row[0], row[1], *(int(n) for n in row[2:])) for row in connection.execute(query))
        if not judges:
            return CacheStats(self.location)
        return CacheStats(
            self.location,
            entries=sum(j.entries for j in judges),
            bytes=sum(j.bytes for j in judges),
            hits=sum(j.hits for j in judges),
            oldest_ms=min(j.oldest_ms for j in judges),
            newest_ms=max(j.newest_ms for j in judges),
            judges=judges,
        )

    def count(self, *, older_than_ms: int | None = None, judge: str | None = None, digest: str | None = None) -> int:
        """How many entries match all that is given; see `prune`.

        Raises:
            CacheError: the database could not be read.
        """
        query = sa.select(sa.func.count()).select_from(_verdicts).where(*_matching(older_than_ms, judge, digest))
        with self._errors("read"), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def prune(
        self,
        *,
        older_than_ms: int | None = None,
        judge: str | None = None,
        digest: str | None = None,
        keep: int | None = None,
    ) -> int:
        """Delete the entries that match all that is given, and hand the space back; without arguments, all.

        Args:
            older_than_ms: only those judged longer ago than this many milliseconds.
            judge, digest: only those of this judge, of this digest.
            keep: spare this many, the most recently judged, among those that match.

        Returns:
            How many were deleted.

        Raises:
            CacheError: the database could not be written; nothing was deleted.
        """
        matching = _matching(older_than_ms, judge, digest)
        c = _verdicts.c
        with self._errors("write"), self._engine.begin() as connection:
            if keep is not None:
                order = sa.select(c.key, c.created_ms).where(*matching).order_by(c.created_ms.desc(), c.key)
                edge = connection.execute(order.offset(keep).limit(1)).first()
                if edge is None:
                    return 0
                # key breaks ties, so that exactly `keep` stay
                tie = sa.and_(c.created_ms == edge.created_ms, c.key >= edge.key)
                matching.append(sa.or_(c.created_ms < edge.created_ms, tie))
            deleted = connection.execute(sa.delete(_verdicts).where(*matching)).rowcount
        self._compact()
        return int(deleted)

    def close(self) -> None:
        """Record the hits of this process and close the connections. The cache cannot be used afterwards."""
        try:
            if self._hits:
                with self._errors("write"), self._engine.begin() as connection:
                    self._record_hits(connection)
        except CacheError as error:
            _log.warning("%s Only the count of hits in `assay cache stats` is affected.", error)
        finally:
            self._engine.dispose()

    def __enter__(self) -> VerdictCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _record_hits(self, connection: sa.Connection) -> None:
        with self._lock:
            hits, self._hits = self._hits, Counter()
        if hits:
            more = _verdicts.c.hits + sa.bindparam("n", type_=sa.BigInteger)
            update = sa.update(_verdicts).where(_verdicts.c.key == sa.bindparam("k")).values(hits=more)
            connection.execute(update, [{"k": name, "n": hits[name]} for name in sorted(hits)])

    def _compact(self) -> None:
        if self._engine.dialect.name != "sqlite":
            return
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text("VACUUM"))
        except DBAPIError as error:
            _log.warning("The cache file was not made smaller (%s); its free space will be used again.", error.orig)

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise CacheError(
                f"The verdict cache {self.location} could not be {verb if verb == 'read' else 'written'}.",
                found=_cause(error),
                fix=_WITHOUT,
            ) from error


def _matching(older_than_ms: int | None, judge: str | None, digest: str | None) -> list[sa.ColumnElement[bool]]:
    c = _verdicts.c
    conditions: list[sa.ColumnElement[bool]] = []
    if older_than_ms is not None:
        conditions.append(c.created_ms < int(time.time() * 1000) - older_than_ms)
    if judge is not None:
        conditions.append(c.judge == judge)
    if digest is not None:
        conditions.append(c.digest == digest)
    return conditions


def _encoded(name: str, verdict: CachedVerdict) -> dict[str, Any]:
    try:
        # ASCII JSON: lone surrogates and NUL, which text columns refuse, travel escaped
        payload = json.dumps([verdict.value, verdict.rationale, verdict.metadata], separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise CacheError(
            f"The verdict of judge {verdict.judge!r} cannot be kept: it is not JSON.", found=error
        ) from error
    return {
        "key": name,
        "judge": verdict.judge,
        "digest": verdict.digest,
        "payload": payload,
        "created_ms": verdict.created_ms,
        "bytes": len(payload),
        "hits": 0,
    }


def _decoded(row: Any) -> CachedVerdict:
    try:
        value, rationale, metadata = json.loads(row.payload)
    except (TypeError, ValueError) as error:
        raise CacheError(
            f"The cached verdict {row.key[:12]}… of judge {row.judge!r} is not readable.",
            found=error,
            fix=f"Delete that judge's entries: assay cache prune --judge {row.judge}",
        ) from error
    return CachedVerdict(value, rationale, metadata, row.judge, row.digest, row.created_ms)


def _upsert(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    changed = ("judge", "digest", "payload", "created_ms", "bytes")
    dialect = connection.dialect.name
    if dialect in ("sqlite", "postgresql"):
        insert = (sqlite if dialect == "sqlite" else postgresql).insert(_verdicts)
        replace = insert.on_conflict_do_update(
            index_elements=["key"], set_={name: insert.excluded[name] for name in changed}
        )
        connection.execute(replace, rows)
        return
    for start in range(0, len(rows), _CHUNK):
        names = [row["key"] for row in rows[start : start + _CHUNK]]
        connection.execute(sa.delete(_verdicts).where(_verdicts.c.key.in_(names)))
    connection.execute(sa.insert(_verdicts), rows)


# --- opening a database of our own (also the shared budget's) -------------------------------------------------


def open_engine(url: str, tables: sa.MetaData, what: str, fix: str) -> sa.Engine:
    """Connect to a database and make sure the tables are there, however many processes do so at once.

    Args:
        url: SQLAlchemy database URL. A SQLite file is created with mode 0600 in a folder of mode 0700.
        tables: the tables needed.
        what: what it is, for messages.
        fix: what to do instead, for messages.

    Raises:
        StoreError: it cannot be opened; says why and what to do. Passwords are not shown.
    """
    engine = _engine(url, what, fix)
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            _create(engine, tables)
            return engine
        except SQLAlchemyError as error:
            # switching a new file to WAL does not wait for other processes doing the same
            if "locked" in str(error) and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            engine.dispose()
            where = engine.url.render_as_string(hide_password=True)
            raise StoreError(f"The {what} {where} cannot be opened.", found=_cause(error), fix=fix) from error


def _engine(url: str, what: str, fix: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except SQLAlchemyError as error:
        valid = "a SQLAlchemy URL, for example sqlite:////tmp/verdicts.db or postgresql://user@host/database"
        raise StoreError(f"The {what}'s address is not a database URL.", valid=valid, fix=fix) from error
    try:
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
        engine = sa.create_engine(parsed, hide_parameters=True, connect_args={"timeout": _BUSY_S})
        _prepare_file(parsed.database)
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        if isinstance(error, ImportError):
            fix = f"Install that database driver. {fix}"
        where = parsed.render_as_string(hide_password=True)
        raise StoreError(f"The {what} {where} cannot be opened.", found=_cause(error), fix=fix) from error
    sa.event.listen(engine, "connect", _use_wal)
    return engine


def _prepare_file(database: str | None) -> None:
    if not database or database == ":memory:" or database.startswith("file:"):
        raise ValueError("a SQLite database needs a plain file, since threads and processes share it")
    path = Path(database)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal and -shm the same mode


def _use_wal(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _create(engine: sa.Engine, tables: sa.MetaData) -> None:
    try:
        tables.create_all(engine)
    except DBAPIError:
        # another process may have created them in the meantime
        if not set(tables.tables) <= set(sa.inspect(engine).get_table_names()):
            raise
    with engine.connect() as connection:
        for table in tables.tables.values():
            connection.execute(sa.select(table).limit(1))


def _cause(error: BaseException) -> str:
    """What the database driver said, without the statement."""
    found = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(str(found).split())
    return text[:300].rstrip(".") or type(found).__name__
