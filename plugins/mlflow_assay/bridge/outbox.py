"""The durable outbox, reading side: what is known of MLflow's assessments, and the revisions to be shipped.

What is known, the revisions and one delivery for each sink are written in one transaction, under a lock that
makes workers record one after the other: a revision is recorded once however many workers see it, and none is
lost between two writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from mlflow_assay.bridge import codec
from mlflow_assay.bridge import database as db
from mlflow_assay.bridge.changes import Known, ObservedTrace, revisions
from mlflow_assay.bridge.owner import Tenure
from mlflow_assay.contracts import AssessmentRevision
from mlflow_assay.errors import StoreError

__all__ = ["LeaseLostError", "Outbox", "now_ms", "reading"]

_CHUNK = 500


def now_ms() -> int:
    """Unix time by this machine's clock, milliseconds."""
    return int(time.time() * 1000)


def reading(experiment_id: str) -> str:
    """The name of the lease to read an experiment."""
    return f"read:{experiment_id}"


class LeaseLostError(StoreError):
    """Another worker has taken over what this one was doing; nothing was noted."""


class Outbox:
    """What is known of MLflow, by experiment.

    Args:
        database: the outbox's tables.
        sinks: the sinks each new revision is for; a worker that only looks gives none.
        clock: seconds that only go forward, by which the leases of others are timed.
    """

    def __init__(
        self, database: db.Database, sinks: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.database, self._sinks, self._clock = database, tuple(dict.fromkeys(sinks)), clock
        self._tenures: dict[str, Tenure[tuple[str, int]]] = {}

    # --- what is known ----------------------------------------------------------------------------------

    def known(self, trace_ids: Sequence[str]) -> dict[str, dict[str, Known]]:
        """What is known of these traces' assessments, by trace id and assessment id.

        Raises:
            OutboxError: the outbox could not be read.
        """
        with self.database.read() as connection:
            return _known(connection, trace_ids)

    def standing(self, experiment_id: str) -> int:
        """How many assessments of an experiment stand and are shipped, as far as is known."""
        query = sa.select(sa.func.count()).where(
            db.known.c.experiment_id == experiment_id, db.known.c.standing, db.known.c.revision > 0
        )
        with self.database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def traces_between(self, experiment_id: str, from_ms: int, to_ms: int) -> set[str]:
        """Ids of traces that started in [from_ms, to_ms) and have an assessment that stands, as far as is known."""
        query = (
            sa.select(db.known.c.trace_id)
            .where(db.known.c.experiment_id == experiment_id, db.known.c.standing)
            .where(db.known.c.trace_ms >= from_ms, db.known.c.trace_ms < to_ms)
            .distinct()
        )
        with self.database.read() as connection:
            return {str(row.trace_id) for row in connection.execute(query)}

    def counts(self, experiment_id: str, from_ms: int, to_ms: int, bucket_ms: int) -> dict[tuple[int, str, str], int]:
        """Standing assessments of traces started in [from_ms, to_ms), by (start of bucket, name, digest of value)."""
        bucket = db.known.c.trace_ms - db.known.c.trace_ms % bucket_ms
        query = (
            sa.select(bucket.label("bucket"), db.known.c.name, db.known.c.value, sa.func.count().label("count"))
            .where(db.known.c.experiment_id == experiment_id, db.known.c.standing)
            .where(db.known.c.trace_ms >= from_ms, db.known.c.trace_ms < to_ms)
            .group_by(bucket, db.known.c.name, db.known.c.value)
        )
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return {(int(row[0]), str(row[1]), str(row[2])): int(row[3]) for row in rows}

    def current(self, experiment_id: str, page: int = _CHUNK) -> Iterator[list[AssessmentRevision]]:
        """The last revision of every assessment that stands, in pages ordered by assessment id."""
        query = (
            sa.select(db.known.c.assessment_id, db.revisions.c.payload)
            .join(db.revisions, db.revisions.c.key == db.known.c.key)
            .where(db.known.c.experiment_id == experiment_id, db.known.c.standing)
        )
        for rows in self.database.pages(query, db.known.c.assessment_id, page):
            yield [codec.decode(row.payload) for row in rows]

    # --- recording --------------------------------------------------------------------------------------

    def record(
        self,
        experiment_id: str,
        traces: Sequence[ObservedTrace],
        positions: Mapping[str, str] | None = None,
        reader: str | None = None,
    ) -> int:
        """Note what MLflow holds on these traces, and what became of it since, for every sink.

        Args:
            experiment_id: theirs.
            traces: each with all its assessments.
            positions: marks to be moved in the same transaction.
            reader: who has held the experiment's reading lease since before the traces were read; where somebody
                else has taken it meanwhile, what was read may be out of date and is not noted.

        Returns:
            How many revisions are new.

        Raises:
            OutboxError: nothing was noted.
            LeaseLostError: the same; another worker reads the experiment now.
        """
        with self.database.write() as connection:
            _lock(connection, self.database)
            if reader is not None:
                _check_reader(connection, experiment_id, reader)
            known = _known(connection, [trace.trace_id for trace in traces])
            made = 0
            if traces:
                said = _said(connection, _to_be_deleted(traces, known))
                made = self._keep(connection, experiment_id, _steps(traces, known, said), known)
            for name, value in (positions or {}).items():
                _put_mark(connection, experiment_id, name, value)
        return made

    def _keep(
        self, connection: sa.Connection, experiment_id: str, steps: Iterable[Any], before: Mapping[str, Any]
    ) -> int:
        now = now_ms()
        there = {assessment: known for trace in before.values() for assessment, known in trace.items()}
        fresh, changed, said = [], [], []
        for step in steps:
            row = {"experiment_id": experiment_id, **vars(step.known)}
            if step.known.assessment_id not in there:
                fresh.append(row)
            elif there[step.known.assessment_id] != step.known:
                changed.append({f"_{name}": value for name, value in row.items()})
            said += step.made
        if fresh:
            connection.execute(db.known.insert(), fresh)
        if changed:
            names = [column.name for column in db.known.c if column.name != "assessment_id"]
            values: dict[str, Any] = {name: sa.bindparam(f"_{name}") for name in names}
            connection.execute(
                db.known.update().where(db.known.c.assessment_id == sa.bindparam("_assessment_id")).values(values),
                changed,
            )
        if said:
            connection.execute(db.revisions.insert(), [_revision_row(r, experiment_id, now) for r in said])
            if self._sinks:
                rows = [_delivery_row(r.key, r.assessment_id, r.revision, s, now) for r in said for s in self._sinks]
                connection.execute(db.deliveries.insert(), rows)
        return len(said)

    def add_sinks(self) -> dict[str, int]:
        """Make sure every sink is owed the last revision of each standing assessment; a new sink gets them all.

        Returns:
            How many revisions each sink new to the outbox is owed for a start.

        Raises:
            OutboxError: nothing was changed.
        """
        now, owed = now_ms(), {}
        with self.database.write() as connection:
            _lock(connection, self.database)
            there = {row.sink for row in connection.execute(sa.select(db.sinks.c.sink))}
            for sink in self._sinks:
                if sink in there:
                    continue
                connection.execute(db.sinks.insert().values(sink=sink, added_ms=now, ok_ms=0, delivered=0, skipped=0))
                current = sa.select(db.known.c.key, db.known.c.assessment_id, db.known.c.revision).where(
                    db.known.c.standing, db.known.c.revision > 0
                )
                rows = [
                    _delivery_row(r.key, r.assessment_id, r.revision, sink, now) for r in connection.execute(current)
                ]
                if rows:
                    connection.execute(db.deliveries.insert(), rows)
                owed[sink] = len(rows)
        return owed

    # --- positions, leases, waiting -----------------------------------------------------------------------

    def mark(self, experiment_id: str, name: str) -> str | None:
        """A position noted before; None where there is none."""
        query = sa.select(db.marks.c.value).where(db.marks.c.experiment_id == experiment_id, db.marks.c.name == name)
        with self.database.read() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else str(found)

    def belongs(self, experiment_id: str, created: str) -> bool:
        """Whether an experiment is the one the outbox knows by that id; one it does not know yet is noted.

        Ids of experiments are small numbers that every MLflow gives anew: read against what is known of another's,
        everything would seem deleted.

        Args:
            created: when it was created, by MLflow.
        """
        known = self.mark(experiment_id, "created")
        if known is None:
            self.put_mark(experiment_id, "created", created)
        return known in (None, created)

    def put_mark(self, experiment_id: str, name: str, value: str) -> None:
        """Note a position.

        Raises:
            OutboxError: it is not noted.
        """
        with self.database.write() as connection:
            _put_mark(connection, experiment_id, name, value)

    def lease(self, name: str, owner: str, seconds: float, alive: Callable[[str], bool] | None = None) -> bool:
        """Take or keep the right to do something alone; False while another owner holds it.

        A lease that a wrong clock seems to end too early is no harm: who has lost it records nothing (`record`). One
        that a clock far ahead of ours has written ends when it has stood unrenewed for its length.

        Args:
            alive: tells whether another owner may still be at work; one that is not loses its lease at once.
        """
        now, until = now_ms(), now_ms() + int(seconds * 1000)
        query = sa.select(db.leases.c.owner, db.leases.c.until_ms).where(db.leases.c.name == name)
        with self.database.write() as connection:
            _lock(connection, self.database)
            held = connection.execute(query).first()
            if held is None:
                connection.execute(db.leases.insert().values(name=name, owner=owner, until_ms=until))
                return True
            tenure = self._tenures.setdefault(name, Tenure(self._clock))
            stands = held.until_ms > now and not tenure.unrenewed([(held.owner, held.until_ms)], seconds)
            if held.owner != owner and stands and (alive is None or alive(held.owner)):
                return False
            connection.execute(db.leases.update().where(db.leases.c.name == name).values(owner=owner, until_ms=until))
            return True

    def renew(self, owner: str, seconds: float) -> None:
        """Keep all leases an owner holds for so many more seconds."""
        update = db.leases.update().where(db.leases.c.owner == owner)
        with self.database.write() as connection:
            connection.execute(update.values(until_ms=now_ms() + int(seconds * 1000)))

    def release(self, owner: str) -> None:
        """Let go of all leases an owner holds."""
        with self.database.write() as connection:
            connection.execute(db.leases.delete().where(db.leases.c.owner == owner))

    def wait_for(self, experiment_id: str, sessions: Iterable[str]) -> None:
        """Note sessions to be judged when they have been quiet for a while; those noted already stay so."""
        wanted = list(dict.fromkeys(session[:250] for session in sessions))
        if not wanted:
            return
        here = db.waiting.c.experiment_id == experiment_id
        with self.database.write() as connection:
            _lock(connection, self.database)
            query = sa.select(db.waiting.c.session).where(here, db.waiting.c.session.in_(wanted))
            there = {row.session for row in connection.execute(query)}
            rows = [
                {"experiment_id": experiment_id, "session": session, "since_ms": now_ms()}
                for session in wanted
                if session not in there
            ]
            if rows:
                connection.execute(db.waiting.insert(), rows)

    def waiting(self, experiment_id: str, limit: int = _CHUNK) -> list[str]:
        """Sessions waited for, the longest first."""
        query = sa.select(db.waiting.c.session).where(db.waiting.c.experiment_id == experiment_id)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(db.waiting.c.since_ms).limit(limit))
            return [str(row.session) for row in rows]

    def waited(self, experiment_id: str, session: str) -> None:
        """Wait no longer for a session."""
        this = (db.waiting.c.experiment_id == experiment_id) & (db.waiting.c.session == session)
        with self.database.write() as connection:
            connection.execute(db.waiting.delete().where(this))


# --- rows ------------------------------------------------------------------------------------------------------


def _lock(connection: sa.Connection, database: db.Database) -> None:
    """Wait until no other worker records; SQLite's own lock does that already."""
    connection.execute(database.locking(sa.select(db.leases.c.name).where(db.leases.c.name == "record")))


def _check_reader(connection: sa.Connection, experiment_id: str, reader: str) -> None:
    owner = connection.execute(sa.select(db.leases.c.owner).where(db.leases.c.name == reading(experiment_id))).scalar()
    if owner != reader:
        raise LeaseLostError(f"Another worker ({owner}) reads experiment {experiment_id} now.")


def _known(connection: sa.Connection, trace_ids: Sequence[str]) -> dict[str, dict[str, Known]]:
    found: dict[str, dict[str, Known]] = {}
    columns = [column for column in db.known.c if column.name != "experiment_id"]
    for start in range(0, len(trace_ids), _CHUNK):
        query = sa.select(*columns).where(db.known.c.trace_id.in_(list(trace_ids[start : start + _CHUNK])))
        for row in connection.execute(query):
            found.setdefault(row.trace_id, {})[row.assessment_id] = Known(**row._mapping)
    return found


def _to_be_deleted(traces: Sequence[ObservedTrace], known: Mapping[str, Mapping[str, Known]]) -> list[str]:
    """Keys of the last revisions of what stood and is not in MLflow any more."""
    keys = []
    for trace in traces:
        seen = {one.state.assessment_id for one in trace.assessments}
        keys += [k.key for i, k in known.get(trace.trace_id, {}).items() if i not in seen and k.standing and k.key]
    return keys


def _said(connection: sa.Connection, keys: Sequence[str]) -> dict[str, AssessmentRevision]:
    found = {}
    for start in range(0, len(keys), _CHUNK):
        query = sa.select(db.revisions.c.payload).where(db.revisions.c.key.in_(list(keys[start : start + _CHUNK])))
        for row in connection.execute(query):
            revision = codec.decode(row.payload)
            found[revision.key] = revision
    return found


def _steps(
    traces: Sequence[ObservedTrace],
    known: Mapping[str, Mapping[str, Known]],
    said: Mapping[str, AssessmentRevision],
) -> Iterator[Any]:
    now = now_ms()
    for trace in {trace.trace_id: trace for trace in traces}.values():
        there = known.get(trace.trace_id, {})
        for seen in trace.assessments:
            yield revisions(there.get(seen.state.assessment_id), seen, None, now)
        present = {seen.state.assessment_id for seen in trace.assessments}
        for assessment_id, held in there.items():
            if assessment_id not in present and held.standing:
                yield revisions(held, None, said.get(held.key), now)


def _revision_row(revision: AssessmentRevision, experiment_id: str, now: int) -> dict[str, Any]:
    return {
        "key": revision.key,
        "assessment_id": revision.assessment_id,
        "experiment_id": experiment_id,
        "revision": revision.revision,
        "recorded_ms": now,
        "payload": codec.encode(revision),
    }


def _delivery_row(key: str, assessment_id: str, revision: int, sink: str, now: int) -> dict[str, Any]:
    return {
        "key": key,
        "sink": sink,
        "assessment_id": assessment_id,
        "revision": revision,
        "state": "pending",
        "attempts": 0,
        "strikes": 0,
        "due_ms": 0,
        "recorded_ms": now,
    }


def _put_mark(connection: sa.Connection, experiment_id: str, name: str, value: str) -> None:
    this = (db.marks.c.experiment_id == experiment_id) & (db.marks.c.name == name)
    if not connection.execute(db.marks.update().where(this).values(value=value)).rowcount:
        connection.execute(db.marks.insert().values(experiment_id=experiment_id, name=name, value=value))
