"""New traces are judged as they end: sampled, filtered, within the budget, once, and none is left behind."""

from __future__ import annotations

import time

import pytest

from mlflow_assay.bridge.judging import Judged, Judging, Selection
from mlflow_assay.bridge.mlflow_reads import MlflowReads
from mlflow_assay.errors import ConfigError
from mlflow_assay.sampling import chosen


@pytest.fixture
def make_judging(make_bridge):
    """Builds a `Judging` with real judges on experiment `test`; `asked` on it lists what reached the judge."""
    from mlflow_assay import pipeline

    def make(*names: str, stopped: str | None = None, **selection: object) -> Judging:
        bridge = make_bridge()
        judges = pipeline.build_judges(list(names or ("latency_limit",)))
        asked: list[str] = []
        told: list[dict[str, int]] = []

        def score(infos, scope):
            asked.extend(info.trace_id for info in infos)
            if made.refuse:
                return Judged(stopped=made.refuse)
            report = pipeline.score_infos("test", infos, [j for j in judges if j.contract.scope == scope])
            return Judged(report.stored, report.stopped)

        settings = Selection(**{"settle_s": 0.0, "sweep_every_s": 0.0, "busy_share": 1.0, **selection})
        location = bridge.following.experiment_id
        scopes = frozenset(j.contract.scope for j in judges)
        made = Judging(location, MlflowReads(location), bridge.outbox, score, scopes, settings, told.append)
        made.asked, made.told_counts, made.refuse = asked, told, stopped
        return made

    return make


def verdicts(trace_id: str) -> list[str]:
    import mlflow

    return [a.name for a in mlflow.get_trace(trace_id).info.assessments]


def test_each_trace_gets_one_verdict_however_often_it_is_looked_at(make_judging, log_trace):
    trace_ids = [log_trace() for _ in range(5)]
    judging = make_judging()
    assert judging.step() == 5
    assert [judging.step() for _ in range(3)] == [0, 0, 0]
    assert make_judging().step() == 0, "nor by another worker"
    assert [verdicts(t) for t in trace_ids] == [["latency_limit"]] * 5


def test_a_sample_is_by_id_and_the_same_everywhere(make_judging, log_trace):
    trace_ids = [log_trace() for _ in range(30)]
    judging = make_judging(rate=0.3)
    judging.step()
    wanted = {t for t in trace_ids if chosen(t, 0.3)}
    assert set(judging.asked) == wanted
    assert judging.told_counts[0] == {"judged": len(wanted), "sampled_out": 30 - len(wanted)}


def test_a_share_is_that_share_and_shares_are_nested():
    ids = [f"tr-{n:032x}" for n in range(20_000)]
    tenth, half = ({i for i in ids if chosen(i, rate)} for rate in (0.1, 0.5))
    assert abs(len(tenth) / len(ids) - 0.1) < 0.01
    assert tenth < half
    assert all(chosen(i, 1.0) and not chosen(i, 0.0) for i in ids[:100])
    assert chosen("tr-" + "ab" * 16, 0.5) == chosen("ab" * 16, 0.5)
    with pytest.raises(ConfigError, match="0 to 1"):
        chosen("tr-1", 2)


def test_a_filter_is_mlflows_own(make_judging, log_trace):
    wanted = log_trace(tags={"env": "prod"})
    log_trace(tags={"env": "dev"})
    judging = make_judging(filter="tag.env = 'prod'")
    judging.step()
    assert set(judging.asked) == {wanted}


def test_an_unfinished_trace_is_waited_for(make_judging, store):
    import mlflow

    mlflow.set_experiment("test")
    client = mlflow.MlflowClient()
    judging = make_judging()
    span = client.start_trace("long run", inputs={"q": 1})
    assert judging.step() == 0
    client.end_trace(span.trace_id, outputs={"a": 1})
    assert judging.step() == 1
    assert set(judging.asked) == {span.trace_id}


def test_a_run_that_began_long_before_others_ended_is_judged_when_it_ends(make_judging, log_trace, store):
    """A cursor over starts would have passed it by."""
    import sqlite3

    trace_id = log_trace()
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute(
        "UPDATE trace_info SET timestamp_ms = timestamp_ms - 7200000, execution_time_ms = execution_time_ms + 7200000"
    )
    connection.commit()
    judging = make_judging(sweep_every_s=1e9)
    judging.outbox.put_mark(judging.experiment_id, "judged", str(int(time.time() * 1000)))
    judging.outbox.put_mark(judging.experiment_id, "ended", str(int((time.time() - 30) * 1000)))
    assert judging.step() == 1
    assert judging.asked == [trace_id]


def test_a_trace_just_ended_is_given_time_to_settle(make_judging, log_trace):
    log_trace()
    judging = make_judging(settle_s=60.0)
    assert judging.step() == 0
    assert judging.asked == []


def test_a_backlog_of_weeks_is_caught_up(make_judging, log_trace, store):
    import sqlite3

    for _ in range(7):
        log_trace()
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute("UPDATE trace_info SET timestamp_ms = timestamp_ms - 86400000 * 40")
    connection.commit()
    judging = make_judging(batch=3)
    assert judging.step() == 7


def test_a_trace_written_with_an_old_time_is_found_by_the_sweep(make_judging, log_trace, store):
    import sqlite3

    log_trace()
    judging = make_judging()
    judging.step()
    late = log_trace()
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute("UPDATE trace_info SET timestamp_ms = timestamp_ms - 86400000 WHERE request_id = ?", (late,))
    connection.commit()
    assert judging.step() == 1
    assert verdicts(late) == ["latency_limit"]


def test_a_spent_budget_pauses_and_nothing_is_passed_over(make_judging, log_trace):
    trace_ids = [log_trace() for _ in range(3)]
    judging = make_judging(stopped="the budget of 1 call is spent")
    assert judging.step() == 0
    assert judging.stopped == "the budget of 1 call is spent"
    judging.refuse = None
    assert judging.step() == 3
    assert [verdicts(t) for t in trace_ids] == [["latency_limit"]] * 3


def test_everything_once_judges_what_is_owed(make_judging, log_trace):
    for _ in range(7):
        log_trace()
    judging = make_judging(batch=3)
    assert judging.everything() == 7
    assert judging.everything() == 0


def test_a_session_is_judged_when_it_has_become_quiet(make_judging, log_trace, monkeypatch):
    from mlflow_assay.bridge import judging as module

    first, second = log_trace(session="s'1"), log_trace(session="s'1")
    log_trace()
    judging = make_judging(quiet_s=60.0, sweep_every_s=1e9)
    judging.outbox.put_mark(judging.experiment_id, "judged", str(int(time.time() * 1000)))
    judging.scopes = frozenset({"session"})
    seen = []
    judging.score = lambda infos, scope: (seen.append((scope, [i.trace_id for i in infos])), Judged(1))[1]
    judging.step()
    assert seen == []
    real = module.now_ms
    monkeypatch.setattr(module, "now_ms", lambda: real() + 61_000)
    judging.step()
    assert seen == [("session", [first, second])]
    judging.step()
    assert len(seen) == 1


def test_a_daily_budget_is_shared_and_begins_anew(outbox_url, monkeypatch):
    from mlflow_assay.bridge import daily_budget
    from mlflow_assay.engine.budget import Spend

    one, other = (daily_budget.DailyBudget(outbox_url, "support", max_calls=4) for _ in range(2))
    assert one.today().reserve(Spend(calls=3))
    one.today().settle(Spend(calls=3), Spend(calls=3))
    assert one.share == other.share == 0.75
    assert not other.today().reserve(Spend(calls=2))
    assert "4 calls" in (other.exhausted or "") or other.exhausted
    one.__dict__["_day"] = "2020-01-01"
    monkeypatch.setattr(daily_budget, "datetime", _Tomorrow)
    assert one.share == 0.0 and one.exhausted is None
    one.close()
    other.close()


class _Tomorrow:
    @staticmethod
    def now(zone):
        from datetime import datetime, timedelta

        return datetime.now(zone) + timedelta(days=1)
