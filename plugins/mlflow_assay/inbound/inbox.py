"""What has arrived and is not in MLflow yet: a SQLite file, so that what was acknowledged survives `kill -9`."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from mlflow_assay.errors import StoreError
from mlflow_assay.inbound.evaluation import Evaluation

__all__ = ["FullError", "Inbox", "default_path"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    id TEXT PRIMARY KEY, body TEXT NOT NULL, arrived REAL NOT NULL, due REAL NOT NULL, tries INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting_due ON waiting (due);
CREATE TABLE IF NOT EXISTS done (id TEXT PRIMARY KEY, at REAL NOT NULL, reason TEXT);
"""
_REMEMBERED_S = 7 * 24 * 3600


class FullError(Exception):
    """So much is waiting that no more is taken; the sender shall come again."""


def default_path() -> Path:
    """`ASSAY_INBOX`, or `mlflow-assay/inbox.db` under `XDG_STATE_HOME` (else `~/.local/state`)."""
    if path := os.environ.get("ASSAY_INBOX"):
        return Path(path)
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(folder) / "mlflow-assay" / "inbox.db"


class Inbox:
    """Evaluations waiting to be stored, and the ids of those stored or given up in the last seven days.

    Safe to use from several threads, and by several processes: what two of them store is one assessment. A new file
    gets mode 0600. Explanations may quote people; they are deleted from here once stored.

    Args:
        path: of the SQLite file; folders are made.
        capacity: how many may wait.

    Raises:
        StoreError: the file cannot be opened.
    """

    def __init__(self, path: Path, capacity: int = 10_000) -> None:
        self._capacity, self._lock = capacity, Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"The inbox {str(path)!r} cannot be opened: {error}.") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def put(self, evaluations: Sequence[Evaluation]) -> int:
        """Keep what is new, all or nothing; how many were new. What was given up and comes again is new.

        Raises:
            FullError: there is no room for them.
        """
        now, new = time.time(), 0
        with self._transaction() as db:
            for one in evaluations:
                if db.execute("SELECT 1 FROM done WHERE id = ? AND reason IS NULL", (one.id,)).fetchone():
                    continue
                row = (one.id, one.to_json(), now, now)
                new += db.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?, 0)", row).rowcount
            if new and self._waiting(db) > self._capacity:
                raise FullError
        return new

    def due(self, most: int = 200) -> list[tuple[Evaluation, int, float]]:
        """Evaluations to be tried now, oldest first, each with the tries so far and when it arrived."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT body, tries, arrived FROM waiting WHERE due <= ? ORDER BY due, id LIMIT ?", (time.time(), most)
            ).fetchall()
        return [(Evaluation.from_json(body), tries, arrived) for body, tries, arrived in rows]

    def done(self, batch: Sequence[Evaluation], reason: str | None = None) -> None:
        """These are stored, or given up for a reason: their content goes, their ids stay for a while."""
        now = time.time()
        with self._transaction() as db:
            db.executemany("DELETE FROM waiting WHERE id = ?", [(one.id,) for one in batch])
            db.executemany("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", [(one.id, now, reason) for one in batch])

    def later(self, one: Evaluation, wait_s: float) -> None:
        """Try it again after a while."""
        with self._transaction() as db:
            db.execute("UPDATE waiting SET due = ?, tries = tries + 1 WHERE id = ?", (time.time() + wait_s, one.id))

    def forget_old(self) -> None:
        """Let go of ids older than seven days."""
        with self._transaction() as db:
            db.execute("DELETE FROM done WHERE at < ?", (time.time() - _REMEMBERED_S,))

    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return self._waiting(self._connection)

    def given_up(self) -> dict[str, int]:
        """How many were given up in the last seven days, by reason."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT reason, COUNT(*) FROM done WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
            ).fetchall()
        return dict(rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @staticmethod
    def _waiting(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT COUNT(*) FROM waiting").fetchone()[0])
