"""An outbox on a real PostgreSQL: several workers claim rows side by side, and the server may go away."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Deliveries, Retry
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.contracts import Delivery
from mlflow_assay.errors import StoreError

from .conftest import eventually
from .test_outbox import gone, seen

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def url(fresh_stack) -> str:
    return fresh_stack.new_database("outbox")


def test_workers_record_and_ship_side_by_side(url):
    """Four threads with connections of their own: every revision is recorded once and delivered once, in order."""
    far_end: list[tuple[str, str, int]] = []
    lock, failures = threading.Lock(), []
    recorded = Counter()
    Outbox(Database(url), ("sink",)).add_sinks()

    def work(name: str) -> None:
        try:
            database = Database(url)
            outbox, sending = Outbox(database, ("sink",)), Deliveries(database, Retry(first_s=0.0, most_s=0.0))
            for turn in range(12):
                content = "abc"[turn % 3]
                traces = [seen(n, content, at=turn) if (n + turn) % 5 else gone(n) for n in range(20)]
                recorded[name] += outbox.record("1", traces)
                claimed = sending.claim("sink", name, 7, 60)
                with lock:
                    far_end.extend((c.revision.key, c.revision.assessment_id, c.revision.revision) for c in claimed)
                sending.settle("sink", name, [(one, Delivery("delivered")) for one in claimed])
            database.close()
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    database = Database(url)
    sending = Deliveries(database)
    while claimed := sending.claim("sink", "last", 100, 60):
        far_end.extend((c.revision.key, c.revision.assessment_id, c.revision.revision) for c in claimed)
        sending.settle("sink", "last", [(one, Delivery("delivered")) for one in claimed])
    (status,) = sending.status()
    database.close()
    assert len(far_end) == len({key for key, _, _ in far_end}) == sum(recorded.values()) == status.delivered
    orders: dict[str, list[int]] = {}
    for _, assessment, number in far_end:
        orders.setdefault(assessment, []).append(number)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in orders.values())


def test_a_database_that_goes_away_is_an_error_and_comes_back(fresh_stack):
    url = fresh_stack.new_database("outbox")
    database = Database(url)
    outbox, sending = Outbox(database, ("sink",)), Deliveries(database)
    outbox.add_sinks()
    outbox.record("1", [seen(1)])
    claimed = sending.claim("sink", "me", 10, 60)
    service = fresh_stack.service("postgres")
    service.kill()
    with pytest.raises(StoreError, match="could not be written; nothing of this step counts as done"):
        sending.settle("sink", "me", [(one, Delivery("delivered")) for one in claimed])
    with pytest.raises(StoreError, match="could not be read"):
        outbox.standing("1")
    service.start()

    def settle() -> bool:
        try:
            sending.settle("sink", "me", [(one, Delivery("delivered")) for one in claimed])
        except StoreError:
            return False
        return True

    eventually(settle, 30)
    assert sending.status()[0].delivered == 1
    database.close()
