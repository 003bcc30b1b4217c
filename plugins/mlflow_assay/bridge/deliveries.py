"""The durable outbox, sending side: who sends what to which sink, and what came of it.

A delivery is `pending` until it is `delivered`, `skipped` or `dead`. Whoever sends it holds it by a lease that is
renewed while it is being sent; what nobody renews for the length of a lease is sent again by somebody else, whatever
any clock says (`owner.Tenure`). No delivery is handed out while an earlier revision of the same assessment waits for
the same sink: order is kept.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from mlflow_assay.bridge import codec
from mlflow_assay.bridge import database as db
from mlflow_assay.bridge.outbox import now_ms
from mlflow_assay.bridge.owner import Tenure
from mlflow_assay.contracts import AssessmentRevision, Delivery, SinkStatus

__all__ = ["Claimed", "DeadLetter", "Deliveries", "Retry"]

_CHUNK = 500
_LONGEST_DETAIL = 1000
_AHEAD_MS = 5_000  # an attempt noted so far ahead of now: the clock has gone back since, and its wait means nothing


@dataclass(frozen=True)
class Retry:
    """When to try again.

    Attributes:
        first_s, most_s: the wait after the first failure, which doubles up to the most; seconds.
        jitter: share by which a wait is shortened at random, in [0, 1].
        give_up_after: failures after which a delivery is dead, counting only those while the sink took others: an
            outage of the whole sink kills none.
    """

    first_s: float = 1.0
    most_s: float = 300.0
    jitter: float = 0.5
    give_up_after: int = 30

    def wait_s(self, attempts: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after so many failed attempts."""
        full = min(self.most_s, self.first_s * 2.0 ** min(attempts - 1, 30))
        return full * (1 - self.jitter * draw())


@dataclass(frozen=True)
class Claimed:
    """A delivery handed out.

    Attributes:
        id: the delivery's.
        revision: what to send.
        attempts: how often it has failed before.
        uncertain: whether another worker had it and was never heard of again: the sink may hold it already.
    """

    id: int
    revision: AssessmentRevision
    attempts: int = 0
    uncertain: bool = False


@dataclass(frozen=True)
class DeadLetter:
    """A delivery given up.

    Attributes:
        superseded: whether a later revision of the assessment has reached the sink, or is on its way.
    """

    sink: str
    revision: AssessmentRevision
    attempts: int
    detail: str
    died_ms: int
    superseded: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "sink": self.sink,
            "key": self.revision.key,
            "assessment_id": self.revision.assessment_id,
            "trace_id": self.revision.trace.trace_id,
            "name": self.revision.name,
            "change": self.revision.change,
            "attempts": self.attempts,
            "reason": self.detail,
            "died_ms": self.died_ms,
            "superseded": self.superseded,
        }


@dataclass
class Deliveries:
    """The deliveries of an outbox.

    Args:
        database: the outbox's tables.
        retry: when to try again.
        clock: seconds that only go forward, by which the leases of others are timed.
    """

    database: db.Database
    retry: Retry = field(default_factory=Retry)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._looked: dict[str, float] = {}
        self._left: dict[str, list[tuple[str, int]]] = {}
        self._tenures: dict[str, Tenure[tuple[str, int]]] = {}

    def claim(self, sink: str, owner: str, limit: int, lease_s: float) -> list[Claimed]:
        """Deliveries that are due, oldest first, now this owner's for so many seconds.

        What another worker holds is left to it until it has stood unrenewed for as long.

        Raises:
            OutboxError: none was claimed.
        """
        now, left = now_ms(), self._left_behind(sink, lease_s)
        mine, earlier = db.deliveries.alias("mine"), db.deliveries.alias("earlier")
        before = (
            sa.select(earlier.c.id)
            .where(earlier.c.assessment_id == mine.c.assessment_id, earlier.c.sink == sink)
            .where(earlier.c.revision < mine.c.revision, earlier.c.state == "pending")
        )
        due = (
            sa.select(mine.c.id, mine.c.attempts, mine.c.owner, mine.c.key)
            .where(mine.c.sink == sink, mine.c.state == "pending")
            .where(sa.or_(mine.c.due_ms <= now, mine.c.tried_ms > now + _AHEAD_MS))
            .where(sa.or_(mine.c.leased_ms.is_(None), mine.c.leased_ms <= 0, *(_holds(mine, one) for one in left)))
            .where(~before.exists())
            .order_by(mine.c.id)
            .limit(limit)
        )
        with self.database.write() as connection:
            rows = connection.execute(self.database.locking(due, skip=True)).all()
            if not rows:
                return []
            ids = [row.id for row in rows]
            connection.execute(
                db.deliveries.update()
                .where(db.deliveries.c.id.in_(ids))
                .values(owner=owner, leased_ms=now + int(lease_s * 1000))
            )
            said = _payloads(connection, [row.key for row in rows])
        return [Claimed(row.id, said[row.key], row.attempts, row.owner is not None) for row in rows]

    def _left_behind(self, sink: str, lease_s: float) -> list[tuple[str, int]]:
        """(owner, stamp) of claims nobody has renewed for the length of a lease; looked for four times in it."""
        if self.clock() - self._looked.get(sink, -math.inf) < lease_s / 4:
            return self._left[sink]
        self._looked[sink] = self.clock()
        held = sa.select(db.deliveries.c.owner, db.deliveries.c.leased_ms).where(db.deliveries.c.leased_ms > 0)
        held = held.where(db.deliveries.c.sink == sink, db.deliveries.c.state == "pending").distinct()
        with self.database.read() as connection:
            found = [(str(row.owner), int(row.leased_ms)) for row in connection.execute(held)]
        left = self._left[sink] = self._tenures.setdefault(sink, Tenure(self.clock)).unrenewed(found, lease_s)
        return left

    def renew(self, owner: str, ids: Sequence[int], lease_s: float) -> None:
        """Hold on to claimed deliveries for so many more seconds."""
        update = db.deliveries.update().where(db.deliveries.c.id.in_(list(ids)), db.deliveries.c.owner == owner)
        with self.database.write() as connection:
            connection.execute(update.values(leased_ms=now_ms() + int(lease_s * 1000)))

    def settle(self, sink: str, owner: str, outcomes: Sequence[tuple[Claimed, Delivery]]) -> None:
        """Note what became of claimed deliveries, all or none.

        Raises:
            OutboxError: nothing was noted; call it again.
        """
        now = now_ms()
        groups: dict[str, list[tuple[Claimed, Delivery]]] = defaultdict(list)
        for claimed, delivery in outcomes:
            groups[delivery.state].append((claimed, delivery))
        with self.database.write() as connection:
            done = self._finish(connection, owner, groups, now)
            ok_ms = connection.execute(sa.select(db.sinks.c.ok_ms).where(db.sinks.c.sink == sink)).scalar() or 0
            # Never ahead of now: once the clock went back, failures in an outage would be held against a delivery.
            ok_ms = now if done["delivered"] else min(ok_ms, now)
            for claimed, delivery in groups["retry"]:
                self._try_again(connection, owner, claimed, delivery, now, ok_ms)
            connection.execute(
                db.sinks.update()
                .where(db.sinks.c.sink == sink)
                .values(
                    ok_ms=ok_ms,
                    delivered=db.sinks.c.delivered + done["delivered"],
                    skipped=db.sinks.c.skipped + done["skipped"],
                )
            )

    def _finish(
        self,
        connection: sa.Connection,
        owner: str,
        groups: Mapping[str, Sequence[tuple[Claimed, Delivery]]],
        now: int,
    ) -> dict[str, int]:
        """Note those that need no further attempt; how many of each state are newly done."""
        done = {"delivered": 0, "skipped": 0, "rejected": 0}
        for state in done:
            update = db.deliveries.update().where(db.deliveries.c.state == "pending", db.deliveries.c.owner == owner)
            kept = {"state": "dead" if state == "rejected" else state, "owner": None, "leased_ms": None, "done_ms": now}
            by_detail: dict[str, list[int]] = defaultdict(list)
            for claimed, delivery in groups.get(state, ()):
                by_detail[delivery.detail[:_LONGEST_DETAIL]].append(claimed.id)
            for detail, ids in by_detail.items():
                values = {**kept, "detail": detail or None, "attempts": db.deliveries.c.attempts + 1}
                for some in _chunks(ids):
                    done[state] += connection.execute(
                        update.where(db.deliveries.c.id.in_(some)).values(values)
                    ).rowcount
        return done

    def _try_again(
        self, connection: sa.Connection, owner: str, claimed: Claimed, delivery: Delivery, now: int, ok_ms: int
    ) -> None:
        attempts = claimed.attempts + 1
        this = (db.deliveries.c.id == claimed.id) & (db.deliveries.c.owner == owner)
        this &= db.deliveries.c.state == "pending"
        held = connection.execute(sa.select(db.deliveries.c.tried_ms, db.deliveries.c.strikes).where(this)).first()
        if held is None:
            return  # another worker has taken it over
        strikes = held.strikes + (ok_ms > (held.tried_ms if held.tried_ms is not None else now - 1))
        values = {"attempts": attempts, "tried_ms": now, "strikes": strikes, "owner": None, "leased_ms": None}
        detail = delivery.detail[:_LONGEST_DETAIL] or None
        if strikes >= self.retry.give_up_after:
            given_up = f"given up after {strikes} failures while the sink took others: {delivery.detail}"[
                :_LONGEST_DETAIL
            ]
            values |= {"state": "dead", "done_ms": now, "detail": given_up}
        else:
            wait = max(self.retry.wait_s(attempts), delivery.retry_after_s or 0.0)
            values |= {"due_ms": now + int(wait * 1000), "detail": detail}
        connection.execute(db.deliveries.update().where(this).values(values))

    def release(self, gone: Callable[[str], bool]) -> int:
        """Free what owners that are gone for certain have claimed, without waiting for their leases to run out.

        Args:
            gone: tells whether an owner is dead for certain.

        Returns:
            How many deliveries are free again; they stay marked as uncertain.
        """
        held = (
            (db.deliveries.c.state == "pending") & db.deliveries.c.owner.is_not(None) & (db.deliveries.c.leased_ms > 0)
        )
        with self.database.write() as connection:
            owners = [row.owner for row in connection.execute(sa.select(db.deliveries.c.owner).where(held).distinct())]
            dead = [owner for owner in owners if gone(owner)]
            if not dead:
                return 0
            freed = db.deliveries.update().where(held, db.deliveries.c.owner.in_(dead)).values(leased_ms=0)
            return int(connection.execute(freed).rowcount)

    # --- looking --------------------------------------------------------------------------------------------

    def status(self, sinks: Sequence[str] | None = None) -> list[SinkStatus]:
        """How each sink stands, in order of name.

        Args:
            sinks: only these; None takes all the outbox knows.
        """
        with self.database.read() as connection:
            rows = {row.sink: row for row in connection.execute(sa.select(db.sinks))}
            wanted = sorted(rows if sinks is None else (s for s in sinks if s in rows))
            return [_status(connection, rows[sink]) for sink in wanted]

    def next_due_ms(self, sinks: Sequence[str]) -> int | None:
        """When the next delivery for these sinks is due, Unix milliseconds; None when nothing is pending."""
        due = sa.func.min(
            sa.case(
                (db.deliveries.c.leased_ms > db.deliveries.c.due_ms, db.deliveries.c.leased_ms),
                else_=db.deliveries.c.due_ms,
            )
        )
        query = sa.select(due).where(db.deliveries.c.sink.in_(list(sinks)), db.deliveries.c.state == "pending")
        with self.database.read() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else int(found)

    def dead(self, sink: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """Deliveries given up, the latest first."""
        query = (
            sa.select(db.deliveries, db.revisions.c.payload, _superseded().label("superseded"))
            .join(db.revisions, db.revisions.c.key == db.deliveries.c.key)
            .where(db.deliveries.c.state == "dead")
            .order_by(db.deliveries.c.done_ms.desc(), db.deliveries.c.id.desc())
            .limit(limit)
        )
        if sink is not None:
            query = query.where(db.deliveries.c.sink == sink)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [
            DeadLetter(
                r.sink, codec.decode(r.payload), r.attempts, r.detail or "", int(r.done_ms or 0), bool(r.superseded)
            )
            for r in rows
        ]

    def delivered(self, sink: str, keys: Sequence[str]) -> dict[str, str]:
        """The state of these revisions at a sink, by key; absent where the outbox owes the sink nothing of it."""
        found: dict[str, str] = {}
        with self.database.read() as connection:
            for some in _chunks(list(keys)):
                query = sa.select(db.deliveries.c.key, db.deliveries.c.state)
                query = query.where(db.deliveries.c.sink == sink, db.deliveries.c.key.in_(some))
                found |= {str(row.key): str(row.state) for row in connection.execute(query)}
        return found

    def everything(self, sink: str, state: str, page: int = _CHUNK) -> Iterable[list[AssessmentRevision]]:
        """All revisions in one state at a sink, in pages, oldest first."""
        query = (
            sa.select(db.deliveries.c.id, db.revisions.c.payload)
            .join(db.revisions, db.revisions.c.key == db.deliveries.c.key)
            .where(db.deliveries.c.sink == sink, db.deliveries.c.state == state)
        )
        for rows in self.database.pages(query, db.deliveries.c.id, page):
            yield [codec.decode(row.payload) for row in rows]

    # --- mending --------------------------------------------------------------------------------------------

    def replay(self, sink: str, keys: Sequence[str] | None = None, *, superseded: bool = False) -> int:
        """Make dead deliveries due again.

        Args:
            sink: whose.
            keys: only these revisions; None takes all.
            superseded: also those of which a later revision went out; a sink that keeps the last it is told
                would then hold what no longer holds.

        Returns:
            How many are due again.
        """
        query = sa.select(db.deliveries.c.key).where(db.deliveries.c.sink == sink, db.deliveries.c.state == "dead")
        with self.database.read() as connection:
            found = connection.execute(query if superseded else query.where(~_superseded()))
            wanted = {str(row.key) for row in found}
        return self._again(sink, wanted if keys is None else wanted & set(keys), "dead")

    def prune(self, before_ms: int) -> int:
        """Forget revisions recorded before a time that are no assessment's last and that no sink waits for.

        What stands, what waits and what is dead stays; so does what is known of each assessment.

        Returns:
            How many revisions are forgotten.
        """
        current = sa.select(db.known.c.assessment_id).where(db.known.c.key == db.revisions.c.key)
        wanted = sa.select(db.deliveries.c.id).where(
            db.deliveries.c.key == db.revisions.c.key, db.deliveries.c.state.in_(("pending", "dead"))
        )
        old = sa.select(db.revisions.c.key).where(db.revisions.c.recorded_ms < before_ms)
        old = old.where(~current.exists(), ~wanted.exists())
        with self.database.write() as connection:
            keys = [str(row.key) for row in connection.execute(old)]
            for some in _chunks(keys):
                connection.execute(db.deliveries.delete().where(db.deliveries.c.key.in_(some)))
                connection.execute(db.revisions.delete().where(db.revisions.c.key.in_(some)))
        return len(keys)

    def requeue(self, sink: str, keys: Iterable[str]) -> int:
        """Make deliveries noted as delivered due again: the sink does not hold them."""
        return self._again(sink, set(keys), "delivered")

    def _again(self, sink: str, keys: set[str], state: str) -> int:
        values = {
            "state": "pending",
            "attempts": 0,
            "strikes": 0,
            "due_ms": 0,
            "tried_ms": None,
            "done_ms": None,
            "owner": None,
            "leased_ms": None,
        }
        update = db.deliveries.update().where(db.deliveries.c.sink == sink, db.deliveries.c.state == state)
        count = 0
        with self.database.write() as connection:
            for some in _chunks(sorted(keys)):
                count += connection.execute(update.where(db.deliveries.c.key.in_(some)).values(values)).rowcount
            if state == "delivered":
                less = db.sinks.update().where(db.sinks.c.sink == sink)
                connection.execute(less.values(delivered=db.sinks.c.delivered - count))
        return count


def _status(connection: sa.Connection, row: Any) -> SinkStatus:
    this = db.deliveries.c.sink == row.sink
    tried = sa.case((db.deliveries.c.attempts > 0, 1), else_=0)
    query = sa.select(sa.func.count(), sa.func.sum(tried), sa.func.min(db.deliveries.c.recorded_ms))
    total, retrying, oldest = connection.execute(query.where(this, db.deliveries.c.state == "pending")).one()
    dead = connection.execute(sa.select(sa.func.count()).where(this, db.deliveries.c.state == "dead")).scalar()
    error = sa.select(db.deliveries.c.detail).where(
        this, db.deliveries.c.state == "pending", db.deliveries.c.attempts > 0
    )
    detail = connection.execute(error.order_by(db.deliveries.c.id).limit(1)).scalar() if retrying else None
    return SinkStatus(
        sink=row.sink,
        pending=int(total or 0) - int(retrying or 0),
        retrying=int(retrying or 0),
        dead=int(dead or 0),
        delivered=int(row.delivered),
        skipped=int(row.skipped),
        lag_s=max(0.0, (now_ms() - oldest) / 1000) if oldest is not None else 0.0,
        oldest_error=detail,
    )


def _superseded() -> sa.Exists:
    """Whether a later revision of a delivery's assessment has reached its sink, or is on its way."""
    later = db.deliveries.alias("later")
    return (
        sa.select(later.c.id)
        .where(later.c.assessment_id == db.deliveries.c.assessment_id, later.c.sink == db.deliveries.c.sink)
        .where(later.c.revision > db.deliveries.c.revision, later.c.state != "dead")
        .exists()
    )


def _holds(row: sa.FromClause, one: tuple[str, int]) -> sa.ColumnElement[bool]:
    return sa.and_(row.c.owner == one[0], row.c.leased_ms == one[1])


def _payloads(connection: sa.Connection, keys: Sequence[str]) -> dict[str, AssessmentRevision]:
    found: dict[str, AssessmentRevision] = {}
    for some in _chunks(keys):
        query = sa.select(db.revisions.c.key, db.revisions.c.payload).where(db.revisions.c.key.in_(some))
        found |= {row.key: codec.decode(row.payload) for row in connection.execute(query)}
    return found


def _chunks(items: Sequence[Any]) -> list[list[Any]]:
    return [list(items[start : start + _CHUNK]) for start in range(0, len(items), _CHUNK)]
