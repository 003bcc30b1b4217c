"""`pipeline.score`: what it promises of a run, against a real store and a real loopback judge server."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from mlflow_assay import pipeline, semconv
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.budget import Budget
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.limits import RetryPolicy
from mlflow_assay.engine.run import Options
from mlflow_assay.errors import ConfigError, IncompleteError, StoreError
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, MemorySink, Reply, answer

QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.05)
SESSION = """
name: calm_session
purpose: Did the customer stay calm over the whole session?
scope: session
value: {type: categorical, options: [calm, upset], good: [calm]}
instructions: Read the {{ conversation }} and answer how the customer felt.
"""


@pytest.fixture
def folder(folder: Path) -> Path:
    """With a session-level judge as well."""
    (folder / "calm_session.yaml").write_text(SESSION)
    return folder


def reword(folder: Path, old: str = "", new: str = "", more: str = "") -> None:
    """Another version of the judge's definition."""
    path = folder / "looks_right.yaml"
    path.write_text((path.read_text().replace(old, new) if old else path.read_text()) + more)


def run(folder: Path, server: FakeJudgeServer, judge: str = "looks_right", **options):
    options.setdefault("retry", QUICK)
    sinks = options.pop("sinks", ())
    timeout = options.pop("timeout_s", 5.0)
    model = ModelSettings("openai:/fake-judge", server.url, timeout_s=timeout)
    judges = pipeline.build_judges([judge], model=model, paths=[folder])
    return pipeline.score(MlflowSource("test"), judges, options=Options(**options), sinks=sinks)


def verdicts(trace_id: str, *, valid_only: bool = True):
    found = mlflow.get_trace(trace_id).info.assessments
    return [a for a in found if a.valid is not False or not valid_only]


def test_verdicts_are_stored_on_their_traces_with_provenance(folder, log_trace):
    ids = [log_trace(request=f"question {i}") for i in range(5)]
    with FakeJudgeServer(answer(True, "fits")) as server:
        report = run(folder, server)
    assert (report.traces, report.stored) == (5, 5)
    (tally,) = report.tallies
    assert (tally.passed, tally.failed, tally.judged) == (5, 0, 5)
    (verdict,) = verdicts(ids[0])
    assert (verdict.value, verdict.rationale) == (True, "fits")
    assert (verdict.source.source_type, verdict.source.source_id) == ("LLM_JUDGE", "openai:/fake-judge")
    assert verdict.metadata[semconv.OUTCOME] == "pass"
    assert verdict.metadata[semconv.JUDGE_DIGEST] == tally.digest
    assert int(verdict.metadata["mlflow.assessment.judgeInputTokens"]) > 0


def test_running_twice_doubles_nothing_and_asks_nothing(folder, log_trace):
    ids = [log_trace(request=f"question {i}") for i in range(4)]
    with FakeJudgeServer(answer(True)) as server:
        run(folder, server)
        again = run(folder, server)
        assert len(server.requests) == 4
    assert (again.stored, again.tallies[0].standing) == (0, 4)
    assert [len(verdicts(i, valid_only=False)) for i in ids] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("not json at all", "garbled_reply"),
        ("", "empty_reply"),
        (Reply('{"result": tr', finish_reason="length"), "truncated"),
        (Reply(None, refusal="I cannot judge that"), "refused"),
        (answer("perhaps"), "off_menu"),
        ('{"rationale": "no result"}', "garbled_reply"),
        ("[1, 2]", "garbled_reply"),
        (Reply("no key", 401), "unauthorized"),
        (Reply("no such model", 404), "not_found"),
        (Reply("prompt too long", 400), "bad_request"),
        (Reply("slow down", 429, {"Retry-After": "0"}), "rate_limited"),
        (Reply("broken", 500), "provider_error"),
        (Reply(body=b"<html>"), "garbled_reply"),
        (Reply(body=b'{"choices": []}'), "empty_reply"),
        (Reply(disconnect=True), "unreachable"),
        (Reply(answer(True), delay_s=3), "timeout"),
    ],
)
def test_every_failure_of_the_judge_is_unscored_with_its_reason(folder, log_trace, reply, reason):
    trace_id = log_trace()
    with FakeJudgeServer(reply) as server:
        report = run(folder, server, timeout_s=0.2)
    assert dict(report.tallies[0].unscored) == {reason: 1}
    (verdict,) = verdicts(trace_id)
    assert verdict.value is None
    assert verdict.error.error_code == reason
    assert verdict.metadata[semconv.UNSCORED_REASON] == reason


def test_a_passing_failure_is_retried_and_judged(folder, log_trace):
    log_trace()
    with FakeJudgeServer([Reply("busy", 503), Reply("slow", 429, {"Retry-After": "0"}), answer(False)]) as server:
        report = run(folder, server)
    assert report.tallies[0].failed == 1


def test_what_is_not_retriable_is_asked_once(folder, log_trace):
    log_trace()
    with FakeJudgeServer(Reply("no key", 401)) as server:
        run(folder, server)
        assert len(server.requests) == 1


def test_unscored_verdicts_are_judged_again_and_the_old_one_is_overridden(folder, log_trace):
    trace_id = log_trace()
    with FakeJudgeServer("garbage") as server:
        run(folder, server)
    with FakeJudgeServer(answer(True)) as server:
        report = run(folder, server)
    assert report.tallies[0].passed == 1
    (standing,) = verdicts(trace_id)
    assert standing.value is True
    assert len(verdicts(trace_id, valid_only=False)) == 2


def test_the_same_reason_again_stores_nothing_new(folder, log_trace):
    trace_id = log_trace(answer=None)
    with FakeJudgeServer(answer(True)) as server:
        first, second = run(folder, server), run(folder, server)
        assert not server.requests
    assert dict(first.tallies[0].unscored) == dict(second.tallies[0].unscored) == {"missing_field": 1}
    assert (first.stored, second.stored) == (1, 0)
    assert len(verdicts(trace_id, valid_only=False)) == 1
    assert "needs outputs (found: inputs, 2 spans)" in verdicts(trace_id)[0].error.error_message


def test_a_changed_judge_judges_again(folder, log_trace):
    trace_id = log_trace()
    with FakeJudgeServer(answer(True)) as server:
        run(folder, server)
        reword(folder, "fit.", "fit well.")
        report = run(folder, server)
    assert (report.tallies[0].standing, report.stored) == (0, 1)
    assert len(verdicts(trace_id)) == 1


def test_cached_verdicts_are_marked_and_cost_nothing(folder, log_trace, tmp_path):
    first, second = log_trace(request="same"), log_trace(request="same")
    with VerdictCache(f"sqlite:///{tmp_path}/cache.db") as cache, FakeJudgeServer(answer(True)) as server:
        report = run(folder, server, cache=cache, concurrency=4)
        assert len(server.requests) == 1
        for trace_id in (first, second):
            mlflow.delete_assessment(trace_id, verdicts(trace_id)[0].assessment_id)
        again = run(folder, server, cache=cache)
        assert len(server.requests) == 1
    assert report.tallies[0].cache_hits == 1
    assert (again.tallies[0].cache_hits, again.tallies[0].passed, again.tallies[0].calls) == (2, 2, 0)
    verdict = verdicts(first)[0]
    assert verdict.metadata[semconv.CACHE_HIT] == "true"
    assert "mlflow.assessment.judgeInputTokens" not in verdict.metadata


def test_a_spent_budget_leaves_the_rest_unscored_and_the_next_run_goes_on(folder, log_trace):
    for i in range(6):
        log_trace(request=f"question {i}")
    with FakeJudgeServer(answer(True)) as server:
        report = run(folder, server, budget=Budget(max_calls=4))
        assert len(server.requests) == 4
        assert (report.tallies[0].passed, dict(report.tallies[0].unscored)) == (4, {"budget": 2})
        assert report.stopped
        rest = run(folder, server)
    assert (rest.tallies[0].passed, rest.tallies[0].standing) == (2, 4)


def test_sessions_are_judged_once_on_their_first_trace(folder, log_trace):
    first = log_trace(request="hello", session="s1")
    later = log_trace(request="and now?", session="s1")
    log_trace(request="alone")
    with FakeJudgeServer(answer("upset")) as server:
        report = run(folder, server, "calm_session")
        assert "hello" in server.requests[0].prompt
        assert "and now?" in server.requests[0].prompt
    assert (report.tallies[0].failed, report.tallies[0].no_session) == (1, 1)
    assert verdicts(first)[0].metadata["mlflow.trace.session"] == "s1"
    assert not verdicts(later)


def test_a_failing_sink_stops_neither_the_run_nor_the_others(folder, log_trace):
    class Broken(MemorySink):
        name = "broken"

        def write(self, feedback):
            raise OSError("disk on fire")

    log_trace()
    kept = MemorySink()
    with FakeJudgeServer(answer(True)) as server:
        report = run(folder, server, sinks=[Broken(), kept])
    assert report.sink_failures == {"broken": "disk on fire"}
    assert len(kept.written) == report.stored == 1


def test_two_megabytes_of_text_and_binary_are_judged(folder, log_trace):
    log_trace(request="x" * 2_000_000)
    log_trace(request={"image": "iVBORw0KGgo" * 1000, "bytes": str(b"\x00\xff")})
    with FakeJudgeServer(answer(True)) as server:
        assert run(folder, server).tallies[0].passed == 2


def test_a_human_label_of_the_same_name_stays_and_does_not_count_as_judged(folder, log_trace):
    from mlflow.entities import AssessmentSource

    trace_id = log_trace()
    mlflow.log_feedback(
        trace_id=trace_id, name="looks_right", value=False, source=AssessmentSource("HUMAN", "expert@example.com")
    )
    with FakeJudgeServer(answer(True)) as server:
        report = run(folder, server)
    assert (report.tallies[0].passed, report.tallies[0].foreign) == (1, 0)
    assert sorted(a.value for a in verdicts(trace_id)) == [False, True]


def test_a_machine_assessment_of_the_same_name_is_reported(folder, log_trace):
    trace_id = log_trace()
    mlflow.log_feedback(trace_id=trace_id, name="looks_right", value=True)
    with FakeJudgeServer(answer(True)) as server:
        assert run(folder, server).tallies[0].foreign == 1


def test_under_a_rate_limit_no_verdict_is_lost_and_the_limit_is_respected(folder, log_trace):
    """Two seconds' worth of calls at 20 a second; how near the limit it comes is tests/engine/test_limits.py's."""
    for i in range(45):
        log_trace(request=f"question {i}", tools=())
    with FakeJudgeServer(answer(True), requests_per_s=20) as server:
        report = run(folder, server, retry=RetryPolicy())
        at = [request.at for request in server.requests]
    assert report.tallies[0].passed == len(at) == 45
    assert all(later - earlier >= 1.0 for earlier, later in zip(at, at[20:], strict=False))


def test_one_call_in_twenty_failing_loses_nothing(folder, log_trace):
    """Scattered 500s are retried; each verdict is stored once."""
    ids = [log_trace(request=f"question {i}", tools=()) for i in range(40)]
    count = iter(range(10_000))
    with FakeJudgeServer(lambda _: Reply("broken", 500) if next(count) % 20 == 7 else answer(True)) as server:
        report = run(folder, server)
    assert report.tallies[0].passed == 40
    assert [len(verdicts(i, valid_only=False)) for i in ids] == [1] * 40


def test_an_unknown_experiment_names_the_near_ones(log_trace):
    log_trace()
    with pytest.raises(StoreError, match=r"no experiment 'tset'.*Valid: test"):
        list(MlflowSource("tset").infos())


def test_an_unreachable_server_says_so_at_once(monkeypatch):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(StoreError, match="does not answer"):
            list(MlflowSource("test").infos())
    finally:
        mlflow.set_tracking_uri(before)


def test_a_model_without_its_key_is_refused_before_anything_is_called(folder, log_trace, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        pipeline.build_judges(["looks_right"], model=ModelSettings("openai:/gpt-4.1-mini"), paths=[folder])


def test_a_verdict_missing_afterwards_is_an_error_with_the_list(folder, log_trace, monkeypatch):
    trace_id = log_trace()
    with FakeJudgeServer(answer(True)) as server:
        run(folder, server)
    with pytest.raises(IncompleteError, match=rf"1 of 1 verdicts are not in the store.*{trace_id}"):
        pipeline._check_complete([(trace_id, "a-" + "0" * 32)])


def test_the_run_report_is_json(folder, log_trace):
    log_trace()
    with FakeJudgeServer(answer(True)) as server:
        report = run(folder, server)
    assert json.loads(json.dumps(report.to_dict()))["judges"][0]["passed"] == 1


def test_verdicts_on_traces_a_judge_learnt_from_say_so(folder, log_trace):
    """An aligned judge names them in its definition; agreement and corrected numbers leave them out."""
    taught, fresh = log_trace(request="taught"), log_trace(request="fresh")
    reword(folder, more=f"learnt_from: [{taught}]\n")
    with FakeJudgeServer(answer(True)) as server:
        run(folder, server)
    assert verdicts(taught)[0].metadata[semconv.TRAINED_ON] == "true"
    assert semconv.TRAINED_ON not in verdicts(fresh)[0].metadata


@pytest.mark.parametrize("failure", [Reply("broken", 500), "garbage", Reply("no key", 401)])
def test_a_scored_verdict_is_not_lost_to_a_failure_from_outside(folder, log_trace, failure):
    """Another model, a typo or an outage: the older version's verdict stays until there is a newer one."""
    trace_id = log_trace()
    with FakeJudgeServer(answer(True)) as server:
        run(folder, server)
    reword(folder, "fit.", "fit well.")
    with FakeJudgeServer(failure) as server:
        report = run(folder, server)
    assert (report.stored, report.tallies[0].unscored.total(), report.tallies[0].unchanged) == (0, 1, 1)
    assert [v.value for v in verdicts(trace_id)] == [True]
    with FakeJudgeServer(answer(False)) as server:
        run(folder, server)
    assert [v.value for v in verdicts(trace_id)] == [False]


def test_a_model_no_provider_serves_is_refused_up_front(folder, log_trace):
    with pytest.raises(ConfigError, match=r"no provider for the judge model 'foo:/bar'"):
        pipeline.build_judges(["looks_right"], model=ModelSettings("foo:/bar"), paths=[folder])


def test_the_command_fails_when_a_judge_gets_nowhere_and_says_why(folder, log_trace):
    from click.testing import CliRunner

    from mlflow_assay.cli.score import score

    log_trace()
    with FakeJudgeServer(Reply("no such model", 404)) as server:
        arguments = [
            "-e",
            "test",
            "-j",
            "looks_right",
            "--path",
            str(folder),
            "--model",
            "openai:/x",
            "--base-url",
            server.url,
        ]
        done = CliRunner().invoke(score, arguments)
    assert done.exit_code == 1
    assert "no such model" in done.output
