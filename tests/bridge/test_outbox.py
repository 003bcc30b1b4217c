"""The outbox keeps every revision, in order, until it is delivered, skipped or dead, whoever dies in between."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlflow_assay.bridge import codec, deliveries
from mlflow_assay.bridge import database as db
from mlflow_assay.bridge.changes import Known, Observed, ObservedTrace
from mlflow_assay.bridge.database import Database, default_url
from mlflow_assay.bridge.deliveries import Deliveries, Retry
from mlflow_assay.bridge.outbox import LeaseLostError, Outbox
from mlflow_assay.contracts import Delivery, EvaluatedTrace, Outcome
from mlflow_assay.errors import StoreError
from mlflow_assay.testing.bridge_conformance import sample_revision

ONE = "1"


def seen(number: int, content: str = "a", *, valid: bool = True, at: int = 1) -> ObservedTrace:
    """A trace with one assessment that says `content`."""
    trace_id = f"tr-{number:032x}"
    state = Known(f"a-{number}", trace_id, content * 32, valid, 0, "", at, "tone", content * 16, number)
    says = replace(sample_revision(number), key="", rationale=content, assessment_id=f"a-{number}")
    return ObservedTrace(trace_id, (Observed(state, says),))


def gone(number: int) -> ObservedTrace:
    return ObservedTrace(f"tr-{number:032x}")


@pytest.fixture
def database(outbox_url):
    opened = Database(outbox_url)
    yield opened
    opened.close()


@pytest.fixture
def outbox(database):
    made = Outbox(database, ("one", "two"))
    made.add_sinks()
    return made


@pytest.fixture
def sending(database):
    return Deliveries(database, Retry(first_s=0.0, most_s=0.0))


def ok(claimed):
    return [(one, Delivery("delivered")) for one in claimed]


# --- the basics -----------------------------------------------------------------------------------------


def test_each_sink_gets_its_own_delivery(outbox, sending):
    assert outbox.record(ONE, [seen(1), seen(2)]) == 2
    first = sending.claim("one", "me", 10, 60)
    sending.settle("one", "me", ok(first))
    assert [s.delivered for s in sending.status()] == [2, 0]
    assert [s.pending for s in sending.status()] == [0, 2]


def test_recording_the_same_twice_is_nothing(outbox):
    assert outbox.record(ONE, [seen(1)]) == 1
    assert outbox.record(ONE, [seen(1)]) == 0


def test_a_claim_is_not_handed_out_twice(outbox, sending):
    outbox.record(ONE, [seen(1)])
    assert len(sending.claim("one", "me", 10, 60)) == 1
    assert sending.claim("one", "you", 10, 60) == []


def test_what_a_dead_worker_held_comes_again_and_is_uncertain(outbox, sending):
    outbox.record(ONE, [seen(1)])
    (first,) = sending.claim("one", "dead", 10, 0.0)
    (again,) = sending.claim("one", "me", 10, 0.0)
    assert (first.uncertain, again.uncertain) == (False, True)
    assert first.revision.key == again.revision.key


def test_a_worker_known_to_be_dead_is_not_waited_for(outbox, sending):
    outbox.record(ONE, [seen(1)])
    sending.claim("one", "dead", 10, 3600)
    assert sending.release(lambda owner: owner == "dead") == 1
    assert [one.uncertain for one in sending.claim("one", "me", 10, 60)] == [True]


def test_who_lost_its_claim_settles_nothing(outbox, sending):
    outbox.record(ONE, [seen(1)])
    late = sending.claim("one", "slow", 10, 0.0)
    mine = sending.claim("one", "me", 10, 0.0)
    sending.settle("one", "slow", ok(late))
    assert sending.status(["one"])[0].delivered == 0
    sending.settle("one", "me", ok(mine))
    assert sending.status(["one"])[0].delivered == 1


def test_a_renewed_claim_holds_and_one_that_is_not_does_not(outbox, database):
    outbox.record(ONE, [seen(1)])
    steady = [0.0]
    me, you = (Deliveries(database, clock=lambda: steady[0]) for _ in range(2))
    mine = me.claim("one", "me", 10, 60)
    for _ in range(20):
        assert you.claim("one", "you", 10, 60) == []
        steady[0] += 30
        me.renew("me", [one.id for one in mine], 60 + steady[0])
    assert you.claim("one", "you", 10, 60) == []
    steady[0] += 61
    assert [one.uncertain for one in you.claim("one", "you", 10, 60)] == [True]


def test_a_later_revision_waits_for_the_earlier(outbox, sending):
    outbox.record(ONE, [seen(1, "a")])
    outbox.record(ONE, [seen(1, "b", at=2)])
    first = sending.claim("one", "me", 10, 60)
    assert [one.revision.revision for one in first] == [1]
    assert sending.claim("one", "me", 10, 60) == []
    sending.settle("one", "me", ok(first))
    assert [one.revision.revision for one in sending.claim("one", "me", 10, 60)] == [2]


def test_refused_is_dead_with_its_reason_and_can_be_replayed(outbox, sending):
    outbox.record(ONE, [seen(1)])
    claimed = sending.claim("one", "me", 10, 60)
    sending.settle("one", "me", [(claimed[0], Delivery("rejected", "no such project"))])
    (letter,) = sending.dead()
    assert (letter.detail, letter.sink, letter.superseded) == ("no such project", "one", False)
    assert sending.claim("one", "me", 10, 60) == []
    assert sending.replay("one") == 1
    assert len(sending.claim("one", "me", 10, 60)) == 1


def test_a_dead_letter_overtaken_by_a_later_revision_is_left_unless_asked_for(outbox, sending):
    outbox.record(ONE, [seen(1, "a")])
    claimed = sending.claim("one", "me", 10, 60)
    sending.settle("one", "me", [(claimed[0], Delivery("rejected", "no"))])
    outbox.record(ONE, [seen(1, "b", at=2)])
    sending.settle("one", "me", ok(sending.claim("one", "me", 10, 60)))
    assert sending.replay("one") == 0
    assert sending.replay("one", superseded=True) == 1


def test_an_outage_kills_nothing_and_a_poison_dies(outbox, database):
    strict = Deliveries(database, Retry(first_s=0.0, most_s=0.0, give_up_after=3))
    outbox.record(ONE, [seen(1), seen(2)])
    for _ in range(10):  # the whole sink is away
        strict.settle("one", "me", [(one, Delivery("retry", "503")) for one in strict.claim("one", "me", 10, 60)])
    assert strict.status(["one"])[0].dead == 0
    for number in range(3, 8):  # the sink takes others, not this one
        outbox.record(ONE, [seen(number)])
        claimed = strict.claim("one", "me", 10, 60)
        strict.settle(
            "one",
            "me",
            [
                (c, Delivery("retry", "400?") if c.revision.assessment_id == "a-1" else Delivery("delivered"))
                for c in claimed
            ],
        )
    assert [letter.detail for letter in strict.dead()] == ["given up after 3 failures while the sink took others: 400?"]


def test_a_new_sink_gets_all_that_stands(outbox, database, sending):
    outbox.record(ONE, [seen(1, "a"), seen(2), seen(3)])
    outbox.record(ONE, [seen(1, "b", at=2), gone(2)])
    later = Outbox(database, ("one", "two", "three"))
    assert later.add_sinks() == {"three": 2}
    assert [(c.revision.assessment_id, c.revision.rationale) for c in sending.claim("three", "me", 10, 60)] == [
        ("a-1", "b"),
        ("a-3", "a"),
    ]


def test_who_does_not_hold_the_reading_lease_records_nothing(outbox):
    assert outbox.lease("read:1", "me", 60)
    assert not outbox.lease("read:1", "you", 60)
    assert outbox.record(ONE, [seen(1)], reader="me") == 1
    assert outbox.lease("read:1", "you", 60, alive=lambda owner: owner != "me")
    with pytest.raises(LeaseLostError, match="Another worker"):
        outbox.record(ONE, [gone(1)], reader="me")
    assert outbox.standing(ONE) == 1


def test_a_position_moves_only_with_what_was_recorded(outbox, database):
    with pytest.raises(StoreError):
        outbox.record(ONE, [seen(1), ObservedTrace("tr-2", (replace_name_with_null(),))], {"watermark": "9"})
    assert outbox.mark(ONE, "watermark") is None
    assert outbox.known([seen(1).trace_id]) == {}


def replace_name_with_null() -> Observed:
    one = seen(2).assessments[0]
    return Observed(replace(one.state, name=None), one.says)


def test_pruning_spares_what_stands_what_waits_and_what_is_known(outbox, sending):
    outbox.record(ONE, [seen(1, "a"), seen(2, "a")])
    outbox.record(ONE, [seen(1, "b", at=2), gone(2)])
    for sink in ("one", "two"):
        while claimed := sending.claim(sink, "me", 10, 60):
            sending.settle(sink, "me", ok(claimed))
    outbox.record(ONE, [seen(1, "c", at=3)])
    assert sending.prune(0) == 0
    assert sending.prune(2**53) == 3, "two of the first, whose third waits; the creation of the deleted one"
    assert outbox.record(ONE, [seen(1, "c", at=3), gone(2)]) == 0
    assert [c.revision.rationale for c in sending.claim("one", "me", 10, 60)] == ["c"]


def test_waits_grow_shrink_at_random_and_end(monkeypatch):
    retry = Retry(first_s=1, most_s=60, jitter=0.5)
    assert [retry.wait_s(n, lambda: 0.0) for n in (1, 2, 3, 10, 1000)] == [1, 2, 4, 60, 60]
    assert retry.wait_s(3, lambda: 1.0) == 2


def test_a_revision_survives_being_kept():
    for value in (True, None, 3, 0.25, "yes", {"a": [1, None]}):
        revision = sample_revision(value=value, reason="timeout" if value is None else None)
        assert codec.decode(codec.encode(revision)) == revision
    bare = replace(sample_revision(), trace=EvaluatedTrace("tr-1", "1"), outcome=Outcome.FAIL)
    assert codec.decode(codec.encode(bare)) == bare


# --- the database ---------------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_only(outbox_url):
    Database(outbox_url).close()
    assert stat.S_IMODE(Path(outbox_url.removeprefix("sqlite:///")).stat().st_mode) == 0o600


def test_the_default_is_in_the_state_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ASSAY_OUTBOX_URL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_url() == f"sqlite:///{tmp_path}/mlflow-assay/outbox.db"


def test_a_newer_outbox_is_refused(outbox_url):
    first = Database(outbox_url)
    with first.write() as connection:
        connection.execute(db.schema.insert().values(version=99))
    first.close()
    with pytest.raises(StoreError, match="newer version of mlflow-assay"):
        Database(outbox_url)


def test_a_full_disk_is_said_and_nothing_is_noted(outbox, sending, database):
    outbox.record(ONE, [seen(n) for n in range(50)])
    claimed = sending.claim("one", "me", 10, 60)
    with database.write() as connection:
        pages = connection.execute(sa.text("PRAGMA page_count")).scalar()
    database._engine.dispose()

    def full(connection, _record):
        connection.execute(f"PRAGMA max_page_count={pages}")

    sa.event.listen(database._engine, "connect", full)
    with pytest.raises(StoreError, match=r"could not be written; nothing of this step counts as done.*full"):
        outbox.record(ONE, [seen(n) for n in range(100, 2000)])
    sa.event.remove(database._engine, "connect", full)
    database._engine.dispose()
    assert outbox.standing(ONE) == 50
    sending.settle("one", "me", ok(claimed))
    assert sending.status(["one"])[0].delivered == 10


# --- any order of events --------------------------------------------------------------------------------


class OutboxMachine(RuleBasedStateMachine):
    """Two workers, one sink, five assessments, and everything that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{self.folder.name}/outbox.db")
        self.outbox = Outbox(self.database, ("sink",))
        self.outbox.add_sinks()
        self.steady = 0.0
        self.workers = {name: self.deliveries() for name in ("w1", "w2")}
        self.sending = self.workers["w1"]
        self.now, self.clock = 10**12, deliveries.now_ms
        deliveries.now_ms = lambda: self.now
        self.mlflow: dict[int, tuple[str, bool]] = {}
        self.held: dict[str, list] = {"w1": [], "w2": []}
        self.far_end: list = []
        self.recorded = 0

    def deliveries(self) -> Deliveries:
        return Deliveries(self.database, Retry(first_s=0.0, most_s=0.0), clock=lambda: self.steady)

    def teardown(self) -> None:
        self.look()
        self.drain()
        orders: dict[str, list[int]] = defaultdict(list)
        for revision in self.far_end:
            if revision.revision not in orders[revision.assessment_id]:
                orders[revision.assessment_id].append(revision.revision)
        assert all(numbers == sorted(numbers) for numbers in orders.values()), orders
        assert len({r.key for r in self.far_end}) == self.recorded, "every revision arrives"
        net = Counter()
        for revision in {r.key: r for r in self.far_end}.values():
            net[revision.assessment_id] += {"created": 1, "deleted": -1, "edited": 0}[revision.change]
        standing = {f"a-{n}" for n, (_, valid) in self.mlflow.items() if valid}
        assert {a for a, count in net.items() if count} == standing
        self.database.close()
        self.folder.cleanup()

    def drain(self) -> None:
        self.held = {}
        last = self.deliveries()
        last.claim("sink", "last", 0, 60)  # sees who holds what
        self.steady += 61
        while claimed := last.claim("sink", "last", 10, 60):
            self.far_end += [one.revision for one in claimed]
            last.settle("sink", "last", ok(claimed))
        deliveries.now_ms = self.clock

    @rule(number=st.integers(1, 5), content=st.sampled_from("abc"), valid=st.booleans())
    def mlflow_changes(self, number, content, valid):
        self.mlflow[number] = (content, valid)

    @rule(number=st.integers(1, 5))
    def mlflow_loses(self, number):
        self.mlflow.pop(number, None)

    @rule()
    def read(self):
        self.look()

    def look(self) -> None:
        traces = [seen(n, c, valid=v) for n, (c, v) in self.mlflow.items()]
        traces += [gone(n) for n in range(1, 6) if n not in self.mlflow]
        self.recorded += self.outbox.record(ONE, traces)

    @rule(worker=st.sampled_from(["w1", "w2"]), count=st.integers(1, 4))
    def claim(self, worker, count):
        if not self.held[worker]:
            self.held[worker] = self.workers[worker].claim("sink", worker, count, 60)
            (other,) = {"w1", "w2"} - {worker}
            both = {one.id for one in self.held[worker]} & {one.id for one in self.held[other]}
            assert not both, "what a live worker holds is nobody else's, whatever the clock says"
            names = [one.revision.assessment_id for one in self.held[worker]]
            assert len(set(names)) == len(names), "never two revisions of one assessment at once"

    @rule(worker=st.sampled_from(["w1", "w2"]), state=st.sampled_from(["delivered", "retry"]))
    def deliver_and_settle(self, worker, state):
        claimed, self.held[worker] = self.held[worker], []
        if state == "delivered":
            self.far_end += [one.revision for one in claimed]
        self.workers[worker].settle("sink", worker, [(one, Delivery(state, "x")) for one in claimed])

    @rule(hours=st.integers(-50, 50))
    def the_clock_jumps(self, hours):
        self.now += hours * 3_600_000 + 1

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds):
        """Live workers renew what they hold within the time; nobody else gets it."""
        self.steady, self.now = self.steady + seconds, self.now + seconds * 1000
        for name, claimed in self.held.items():
            self.workers[name].renew(name, [one.id for one in claimed], 60)

    @rule(worker=st.sampled_from(["w1", "w2"]), sent=st.booleans())
    def killed(self, worker, sent):
        """Before or after the far end had taken it; never before it is noted. The other takes over after a lease."""
        if sent:
            self.far_end += [one.revision for one in self.held[worker]]
        self.held[worker] = []
        self.steady, self.now = self.steady + 61, self.now + 61_000
        for name, claimed in self.held.items():
            self.workers[name].renew(name, [one.id for one in claimed], 60)

    @precondition(lambda self: self.recorded)
    @invariant()
    def nothing_is_lost(self):
        status = self.sending.status(["sink"])[0]
        assert status.pending + status.retrying + status.delivered + status.dead + status.skipped == self.recorded


OutboxMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOutboxMachine = OutboxMachine.TestCase


def test_the_machine_names_this_process(monkeypatch):
    from mlflow_assay.bridge.owner import is_gone, make_owner

    me = make_owner()
    place, pid, _ = me.split("|")
    assert pid == str(os.getpid())
    assert not is_gone(me, me)
    assert is_gone(f"{place}|{pid}|other", me), "an earlier process that bore this number"
    assert not is_gone(f"elsewhere|{pid}|other", me)
    assert not is_gone(f"{place}|1|other", me), "it lives"
    assert is_gone(f"{place}|4194303|other", me)
