"""The outbox's database: its tables, their version, and short exclusive transactions on any SQLAlchemy URL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mlflow_assay.engine.cache import open_engine
from mlflow_assay.errors import StoreError

__all__ = [
    "Database",
    "OutboxError",
    "default_url",
    "deliveries",
    "known",
    "leases",
    "marks",
    "revisions",
    "sinks",
    "waiting",
]

VERSION = 1
_READ_ONLY = "assay_read_only"
_FIX = "Name another outbox with --outbox or ASSAY_OUTBOX_URL."

tables = sa.MetaData()
_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_long = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

# What version of these tables a database holds.
schema = sa.Table("assay_bridge_schema", tables, sa.Column("version", sa.Integer, primary_key=True))

# Positions in MLflow, by experiment: the watermark and the cursors of the sweeps.
marks = sa.Table(
    "assay_bridge_marks",
    tables,
    sa.Column("experiment_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(500), nullable=False),
)

# One row per assessment ever seen.
known = sa.Table(
    "assay_bridge_known",
    tables,
    sa.Column("assessment_id", sa.String(64), primary_key=True),
    sa.Column("experiment_id", sa.String(32), nullable=False),
    sa.Column("trace_id", sa.String(64), nullable=False, index=True),
    sa.Column("trace_ms", sa.BigInteger, nullable=False),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("value", sa.String(16), nullable=False),
    sa.Column("content", sa.String(32), nullable=False),
    sa.Column("standing", sa.Boolean, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_assay_bridge_known_time", "experiment_id", "trace_ms"),
)

# One row per revision of an assessment.
revisions = sa.Table(
    "assay_bridge_revisions",
    tables,
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("assessment_id", sa.String(64), nullable=False, index=True),
    sa.Column("experiment_id", sa.String(32), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("recorded_ms", sa.BigInteger, nullable=False),
    sa.Column("payload", _long, nullable=False),
)

# One row per revision and sink. `owner` and `leased_ms` say who is sending it and until when that may be believed.
deliveries = sa.Table(
    "assay_bridge_deliveries",
    tables,
    sa.Column("id", _id, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("sink", sa.String(100), nullable=False),
    sa.Column("assessment_id", sa.String(64), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),  # pending | delivered | skipped | dead
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("due_ms", sa.BigInteger, nullable=False),
    sa.Column("recorded_ms", sa.BigInteger, nullable=False),
    sa.Column("tried_ms", sa.BigInteger),  # last attempt
    sa.Column("strikes", sa.Integer, nullable=False, default=0),  # failures while the sink took others
    sa.Column("done_ms", sa.BigInteger),
    sa.Column("owner", sa.String(200)),
    sa.Column("leased_ms", sa.BigInteger),
    sa.Column("detail", sa.String(1000)),
    sa.UniqueConstraint("key", "sink", name="uq_assay_bridge_deliveries"),
    sa.Index("ix_assay_bridge_deliveries_state", "sink", "state", "id"),
    sa.Index("ix_assay_bridge_deliveries_order", "assessment_id", "sink", "revision"),
)

# One row per sink ever served, with its sums, so that status needs no count over all deliveries.
sinks = sa.Table(
    "assay_bridge_sinks",
    tables,
    sa.Column("sink", sa.String(100), primary_key=True),
    sa.Column("added_ms", sa.BigInteger, nullable=False),
    sa.Column("ok_ms", sa.BigInteger, nullable=False, default=0),
    sa.Column("delivered", sa.BigInteger, nullable=False, default=0),
    sa.Column("skipped", sa.BigInteger, nullable=False, default=0),
)

# Who does what alone: reads or judges an experiment. The row `record` is locked while revisions are recorded.
leases = sa.Table(
    "assay_bridge_leases",
    tables,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
)

# Sessions to be judged once they have been quiet for a while.
waiting = sa.Table(
    "assay_bridge_waiting",
    tables,
    sa.Column("experiment_id", sa.String(32), primary_key=True),
    sa.Column("session", sa.String(250), primary_key=True),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
)


class OutboxError(StoreError):
    """The outbox could not be read or written. Nothing was marked as delivered that the outbox did not note."""


def default_url() -> str:
    """`ASSAY_OUTBOX_URL`, or a SQLite file `mlflow-assay/outbox.db` under `XDG_STATE_HOME` (else `~/.local/state`)."""
    if url := os.environ.get("ASSAY_OUTBOX_URL"):
        return url
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return f"sqlite:///{Path(folder) / 'mlflow-assay' / 'outbox.db'}"


class Database:
    """A connection pool to the outbox's tables, which are made where they are missing.

    A new SQLite file gets mode 0600, for it holds what people's conversations were judged to be.

    Args:
        url: a SQLAlchemy database URL; None takes `default_url()`.

    Raises:
        StoreError: it cannot be opened, or holds tables of a newer version of this package.
    """

    def __init__(self, url: str | None = None) -> None:
        self._engine = open_engine(url or default_url(), tables, "outbox", _FIX)
        if self.sqlite:
            sa.event.listen(self._engine, "connect", _manual_begin)
            sa.event.listen(self._engine, "begin", _begin_immediate)
            self._engine.dispose()  # connections made before know nothing of it
        self._check_version()

    @property
    def sqlite(self) -> bool:
        """Whether it is SQLite, whose writers wait for one another."""
        return bool(self._engine.dialect.name == "sqlite")

    @property
    def location(self) -> str:
        """The database's URL, its password hidden."""
        return str(self._engine.url.render_as_string(hide_password=True))

    @property
    def url(self) -> str:
        """The database's URL with its password; not for printing."""
        return str(self._engine.url.render_as_string(hide_password=False))

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: all of it is kept, or none.

        Raises:
            OutboxError: it could not be kept: the disk is full, the database locked or gone.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise OutboxError(
                f"The outbox {self.location} could not be written; nothing of this step counts as done.",
                found=_cause(error),
                fix="Free space or give access; the worker goes on by itself.",
            ) from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection to read from.

        Raises:
            OutboxError: it could not be read.
        """
        try:
            with self._engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise OutboxError(f"The outbox {self.location} could not be read.", found=_cause(error)) from error

    def pages(self, query: sa.Select[Any], by: sa.Column[Any], size: int) -> Iterator[Sequence[sa.Row[Any]]]:
        """A query's rows in pages, each a short read of its own: what comes meanwhile is met or not, none is missed.

        Args:
            by: a unique column the query selects; pages are in its order.
            size: rows a page.

        Raises:
            OutboxError: it could not be read.
        """
        page = query.order_by(by).limit(size)
        with self.read() as connection:
            rows = connection.execute(page).all()
        while rows:
            yield rows
            with self.read() as connection:
                rows = connection.execute(page.where(by > getattr(rows[-1], by.key))).all()

    def locking(self, query: sa.Select[Any], *, skip: bool = False) -> sa.Select[Any]:
        """The query, its rows locked until the transaction ends where that is not the database's own way.

        Args:
            skip: leave out rows somebody else has locked, rather than wait for them.
        """
        return query if self.sqlite else query.with_for_update(skip_locked=skip)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _check_version(self) -> None:
        with self.read() as connection:
            found = connection.execute(sa.select(sa.func.max(schema.c.version))).scalar()
        if found is None:
            try:
                with self._engine.begin() as connection:
                    connection.execute(schema.insert().values(version=VERSION))
                    connection.execute(leases.insert().values(name="record", owner="", until_ms=0))
            except IntegrityError:
                return  # another process did so meanwhile
            except SQLAlchemyError as error:
                raise OutboxError(f"The outbox {self.location} could not be set up.", found=_cause(error)) from error
        elif found > VERSION:
            raise StoreError(
                f"The outbox {self.location} was made by a newer version of mlflow-assay.",
                found=f"tables of version {found}",
                valid=f"version {VERSION}",
                fix="Upgrade mlflow-assay, or name another outbox.",
            )


def _manual_begin(connection: Any, _record: Any) -> None:
    connection.isolation_level = None


def _begin_immediate(connection: sa.Connection) -> None:
    """Writers queue up at the beginning, where waiting is possible, not in the middle, where it is a deadlock."""
    reads = connection.get_execution_options().get(_READ_ONLY)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _cause(error: SQLAlchemyError) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300].rstrip(".")
