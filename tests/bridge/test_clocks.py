"""Nothing is lost or doubled whatever clocks say: MLflow's, the agents', or the worker's own, also when it jumps."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter

import pytest

from mlflow_assay.bridge import deliveries, following, judging, outbox
from mlflow_assay.bridge.deliveries import Deliveries, Retry
from mlflow_assay.bridge.following import Pace
from mlflow_assay.bridge.judging import Judged, Judging, Selection
from mlflow_assay.bridge.mlflow_reads import MlflowReads
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.contracts import Delivery

from .test_following import feedback
from .test_outbox import seen

HOUR, DAY = 3_600_000, 86_400_000
SKEWS = [-400 * DAY, -2 * HOUR, 2 * HOUR, 400 * DAY]


class WorkersClock:
    """The worker's wall clock; everything it does by the time of day asks this one."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return int(time.time() * 1000) + self.ahead_ms


@pytest.fixture
def clock(monkeypatch):
    made = WorkersClock()
    for module in (deliveries, following, judging, outbox):
        monkeypatch.setattr(module, "now_ms", made)
    return made


@pytest.fixture
def sql(store):
    """Runs a statement on MLflow's own tables, as if other clocks had written them."""

    def run(statement: str, *values: object) -> None:
        connection = sqlite3.connect(store.removeprefix("sqlite:///"))
        connection.execute(statement, values)
        connection.commit()
        connection.close()

    return run


def edit(trace_id: str, assessment_id: str, **says: object) -> None:
    import mlflow
    from mlflow.entities import Feedback

    mlflow.update_assessment(trace_id, assessment_id, Feedback(name="tone", **says))


def moved(sql, trace_id: str, by_ms: int) -> None:
    sql("UPDATE trace_info SET timestamp_ms = timestamp_ms + ? WHERE request_id = ?", by_ms, trace_id)
    sql("UPDATE assessments SET trace_timestamp_ms = trace_timestamp_ms + ? WHERE trace_id = ?", by_ms, trace_id)


@pytest.fixture(params=[False, True], ids=["database", "server"])
def bridge(request, make_bridge):
    return make_bridge(server=request.param)


def a_life(bridge, log_trace, after=lambda trace_id: None) -> None:
    """An assessment is created, edited in value, then in its words alone, and deleted: four revisions, each once."""
    import mlflow

    trace_id = log_trace()
    after(trace_id)
    one = feedback(trace_id)
    after(trace_id)
    assert [(r.assessment_id, r.change) for r in bridge.poll()] == [(one, "created")]
    edit(trace_id, one, value=False)
    after(trace_id)
    assert [(r.change, r.value) for r in bridge.poll()] == [("edited", False)]
    edit(trace_id, one, value=False, rationale="for a reason")
    after(trace_id)
    assert [(r.change, r.rationale) for r in bridge.poll()] == [("edited", "for a reason")]
    assert bridge.poll() == []
    mlflow.delete_assessment(trace_id, one)
    assert [(r.change, r.revision) for r in bridge.poll()] == [("deleted", 4)]
    assert bridge.poll() == []


# --- two clocks that differ -------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", SKEWS)
def test_the_workers_clock_is_wrong_all_the_while(bridge, log_trace, clock, skew):
    feedback(log_trace())
    assert len(bridge.poll()) == 1
    clock.ahead_ms = skew
    a_life(bridge, log_trace)


@pytest.mark.parametrize("skew", SKEWS)
def test_mlflows_clock_is_wrong_all_the_while(bridge, log_trace, sql, skew):
    """Every stamp MLflow writes is off, after one that was right."""
    feedback(log_trace())
    assert len(bridge.poll()) == 1

    def stamp(trace_id: str) -> None:
        both = "UPDATE assessments SET created_timestamp = ?1, last_updated_timestamp = ?1 WHERE trace_id = ?2"
        sql(both, int(time.time() * 1000) + skew, trace_id)

    a_life(bridge, log_trace, stamp)


@pytest.mark.parametrize("skew", [-50 * 365 * DAY, -2 * HOUR, 2 * HOUR, 60 * 365 * DAY])
def test_traces_of_the_past_and_of_the_future(bridge, log_trace, sql, skew):
    before: dict[str, int] = {}

    def move(trace_id: str) -> None:
        """Once the trace, and each time MLflow has copied its time to an assessment."""
        if trace_id not in before:
            moved(sql, trace_id, skew)
            before[trace_id] = skew

    a_life(bridge, log_trace, move)


def test_counts_alone_find_it_on_a_trace_of_the_future(make_bridge, log_trace, sql):
    """Through a server, between two sweeps."""
    bridge = make_bridge(server=True, pace=Pace(counts_every_s=0, sweep_every_s=1e9, busy_share=1.0))
    trace_id = log_trace()
    bridge.poll()
    moved(sql, trace_id, 5 * 365 * DAY)
    written = feedback(trace_id)
    assert [r.assessment_id for r in bridge.poll()] == [written]


# --- a clock that jumps -----------------------------------------------------------------------------------


def test_a_watermark_from_before_the_clock_went_back_hides_nothing(make_bridge, log_trace, clock, sql):
    """By last changes alone: neither counts nor sweep come to its help."""
    bridge = make_bridge(pace=Pace(counts_every_s=1e9, sweep_every_s=1e9, overlap_s=1))
    bridge.poll()
    clock.ahead_ms = 2 * DAY
    ahead = feedback(log_trace())
    sql("UPDATE assessments SET last_updated_timestamp = last_updated_timestamp + ?", 2 * DAY)
    assert [r.assessment_id for r in bridge.poll()] == [ahead]
    clock.ahead_ms = 0
    bridge.poll()
    later = feedback(log_trace())
    assert [r.assessment_id for r in bridge.poll()] == [later]


@pytest.mark.parametrize("seed", range(2))
def test_the_workers_clock_jumps_back_and_forth(bridge, log_trace, clock, seed):
    """While people write: in the end every assessment has arrived as it stands, each revision once and in order."""
    import mlflow

    chance = random.Random(seed)  # noqa: S311
    trace_ids, standing, arrived = [log_trace() for _ in range(3)], {}, []
    for _ in range(25):
        clock.ahead_ms = chance.choice([0, 0, *SKEWS, 3 * DAY, -50 * 365 * DAY])
        draw, chosen = chance.random(), chance.choice([*standing, None])
        if draw < 0.5 or chosen is None:
            trace_id = chance.choice(trace_ids)
            standing[feedback(trace_id, value=chance.random() < 0.5)] = trace_id
        elif draw < 0.8:
            edit(standing[chosen], chosen, value=chance.random() < 0.5, rationale=str(draw))
        else:
            mlflow.delete_assessment(standing.pop(chosen), chosen)
        if chance.random() < 0.6:
            arrived += bridge.poll()
    arrived += bridge.poll() + bridge.poll()
    last = {r.assessment_id: r for r in arrived}
    assert {i for i, r in last.items() if r.change != "deleted"} == set(standing)
    for trace_id in trace_ids:
        for one in mlflow.get_trace(trace_id).info.assessments:
            assert (last[one.assessment_id].value, last[one.assessment_id].rationale or None) == (
                one.value,
                one.rationale or None,
            )
    assert set(Counter(r.key for r in arrived).values()) == {1}
    for assessment in last:
        numbers = [r.revision for r in arrived if r.assessment_id == assessment]
        assert numbers == list(range(1, len(numbers) + 1))


# --- sending ----------------------------------------------------------------------------------------------


@pytest.fixture
def sending(make_bridge):
    """An outbox with three revisions to go to `memory`, and what sends them."""
    bridge = make_bridge()
    bridge.outbox.record("1", [seen(n) for n in range(3)])
    return Deliveries(bridge.deliveries.database, Retry(first_s=60, most_s=60, jitter=0, give_up_after=3))


def failed(sending) -> int:
    claimed = sending.claim("memory", "me", 10, 60)
    sending.settle("memory", "me", [(one, Delivery("retry", "503")) for one in claimed])
    return len(claimed)


def test_a_retry_noted_before_the_clock_went_back_is_not_waited_for(sending, clock):
    clock.ahead_ms = 30 * DAY
    assert failed(sending) == 3
    assert failed(sending) == 0, "it waits its minute"
    clock.ahead_ms = 0
    assert failed(sending) == 3


def test_an_outage_kills_nothing_after_the_clock_went_back(sending, clock):
    """What the sink took last was tomorrow; still it has taken nothing since."""
    clock.ahead_ms = DAY
    (one, *_) = claimed = sending.claim("memory", "me", 10, 60)
    rest = [(other, Delivery("retry", "503")) for other in claimed[1:]]
    sending.settle("memory", "me", [(one, Delivery("delivered")), *rest])
    clock.ahead_ms = 0
    for minute in range(10):
        clock.ahead_ms = minute * 61_000
        assert failed(sending) == 2
    assert sending.dead() == []


@pytest.mark.parametrize("jump", [-400 * DAY, -HOUR, HOUR, 400 * DAY])
def test_what_a_live_worker_sends_is_not_sent_by_another_however_the_clock_jumps(sending, clock, jump):
    """And what a dead one held is taken over in the time of a lease, whatever stamp it bears."""
    steady = [0.0]
    other = Deliveries(sending.database, clock=lambda: steady[0])
    held = sending.claim("memory", "me", 10, 60)
    for _ in range(8):
        clock.ahead_ms = jump - clock.ahead_ms
        assert other.claim("memory", "you", 10, 60) == []
        sending.renew("me", [one.id for one in held], 60)
        steady[0] += 15
    assert other.claim("memory", "you", 10, 60) == []
    clock.ahead_ms, steady[0] = jump, steady[0] + 61
    assert len(other.claim("memory", "you", 10, 60)) == 3


def test_a_lease_from_a_clock_far_ahead_ends_when_it_stands_unrenewed(make_bridge, clock):
    steady = [0.0]
    database = make_bridge().outbox.database
    mine, yours = Outbox(database), Outbox(database, clock=lambda: steady[0])
    clock.ahead_ms = 400 * DAY
    assert mine.lease("read:1", "me", 60)
    clock.ahead_ms = 0
    for _ in range(4):
        assert not yours.lease("read:1", "you", 60)
        steady[0] += 30
        mine.renew("me", 60 + steady[0])
    assert not yours.lease("read:1", "you", 60)
    steady[0] += 61
    assert yours.lease("read:1", "you", 60)


# --- judging ----------------------------------------------------------------------------------------------


@pytest.fixture
def make_judging(make_bridge):
    def make(**selection: object) -> Judging:
        bridge = make_bridge()
        asked: list[str] = []

        def score(infos, scope):
            asked.extend(f"{scope} {info.trace_id}" for info in infos if f"{scope} {info.trace_id}" not in asked)
            return Judged(len(infos))

        location = bridge.following.experiment_id
        settings = Selection(**{"settle_s": 5.0, "sweep_every_s": 0.0, "busy_share": 1.0, **selection})
        made = Judging(location, MlflowReads(location), bridge.outbox, score, frozenset({"trace", "session"}), settings)
        made.asked = asked
        return made

    return make


@pytest.mark.parametrize("skew", [-400 * DAY, -HOUR, HOUR, 400 * DAY, 60 * 365 * DAY])
def test_a_trace_of_the_past_or_the_future_is_judged(make_judging, log_trace, sql, skew):
    trace_id = log_trace()
    moved(sql, trace_id, skew)
    made = make_judging()
    made.step()
    assert made.asked == [f"trace {trace_id}"]


@pytest.mark.parametrize("skew", SKEWS)
def test_a_workers_wrong_clock_keeps_no_trace_from_being_judged(make_judging, log_trace, clock, skew):
    trace_id = log_trace()
    clock.ahead_ms = skew
    made = make_judging()
    made.step()
    assert made.asked == [f"trace {trace_id}"]


def test_after_the_clock_went_back_new_traces_are_found_as_they_end(make_judging, log_trace, clock, sql):
    """Without the help of a sweep, which may be a quarter of an hour away."""
    made = make_judging(settle_s=0.0, sweep_every_s=1e9)
    made.outbox.put_mark(made.experiment_id, "judged", str(clock()))
    clock.ahead_ms = 2 * DAY
    first = log_trace()
    moved(sql, first, 2 * DAY)
    made.ended()
    clock.ahead_ms = 0
    second = log_trace()
    made.ended()
    assert made.asked == [f"trace {first}", f"trace {second}"]


@pytest.mark.parametrize("skew", [-400 * DAY, 400 * DAY])
def test_a_session_of_the_past_or_the_future_is_judged(make_judging, log_trace, sql, skew):
    trace_id = log_trace(session="s-1")
    moved(sql, trace_id, skew)
    made = make_judging()
    made.step()
    made.step()
    assert f"session {trace_id}" in made.asked
