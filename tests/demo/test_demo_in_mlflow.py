from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from mlflow_assay import semconv
from mlflow_assay.demo import expert, prompt, runner, writer
from mlflow_assay.errors import ConfigError, IncompleteError, StoreError

COUNT = 60


@pytest.fixture(scope="module")
def shared_store(_empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One MLflow for all tests here; each that writes uses an experiment or an expert of its own."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copy(_empty_store, folder / "mlflow.db")
    uri, before = f"sqlite:///{folder}/mlflow.db", mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.chdir(folder)
        mlflow.set_tracking_uri(uri)
        yield uri
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def run(shared_store: str, now: datetime) -> runner.DemoRun:
    return runner.run("demo", requests=COUNT, seed=7, days=10, now=now)


def _stored(run):
    return {t.info.trace_id: t for t in writer.simulated(run.experiment_id)}


def _by(trace, source):
    return [a for a in trace.info.assessments if a.source.source_id == source]


def test_every_trace_and_span_is_in_mlflow_as_played(run, now):
    stored = _stored(run)

    assert set(stored) == set(run.trace_ids)
    assert sum(len(t.data.spans) for t in stored.values()) == run.spans
    for turn in run.turns:
        info, spans = stored[turn.trace_id].info, stored[turn.trace_id].data.spans
        root, router = spans[0], next(s for s in spans if s.name == "router")
        assert info.tags[semconv.TAG_AGENT] == turn.reply.route == router.outputs["route"]
        assert info.tags[semconv.SIMULATED] == "true"
        assert info.trace_metadata["mlflow.trace.session"] == turn.session_id
        assert info.trace_metadata["mlflow.trace.user"] == turn.request.customer
        assert info.request_time == int(turn.started.timestamp() * 1000)
        assert info.execution_duration == pytest.approx((root.end_time_ns - root.start_time_ns) / 1e6, abs=1)
        assert info.state.value == ("OK" if turn.reply.answer is not None else "ERROR")
        assert root.inputs == {"request": turn.request.text}
        assert [(s.name, s.span_type) for s in spans if s.span_type == "AGENT"] == [
            ("telecom_support", "AGENT"),
            (turn.reply.route, "AGENT"),
        ]
        assert [(s.start_time_ns, s.end_time_ns) for s in spans] == [(s.start_ns, s.end_ns) for s in turn.reply.spans]


def test_traces_are_spread_over_the_period_in_sessions(run, now):
    assert all(now - timedelta(days=10) <= turn.started < now for turn in run.turns)
    assert len(run.by_day()) >= 8
    assert sum(total for total, _ in run.by_day().values()) == COUNT
    assert COUNT * 0.5 < len(run.session_ids) < COUNT
    assert run.prevalence == sum(bad for _, bad in run.by_day().values()) / COUNT


def test_token_usage_adds_up_and_nothing_is_said_to_have_cost_money(run):
    stored = _stored(run)
    for turn in run.turns[:5]:
        trace = stored[turn.trace_id]
        usages = [s.attributes.get("mlflow.chat.tokenUsage") for s in turn.reply.spans]
        assert trace.info.token_usage["total_tokens"] == sum(u["total_tokens"] for u in usages if u)
        assert not (trace.info.cost or {}).get("total_cost")


def test_failed_tools_are_error_spans_with_an_exception_event(run):
    failed = [s for t in _stored(run).values() for s in t.data.spans if s.span_type == "TOOL" and s.outputs is None]

    assert failed
    for span in failed:
        assert span.status.status_code.value == "ERROR"
        assert span.events[0].attributes["exception.type"] == "ToolError"


def test_the_prompt_is_registered_used_and_linked(run):
    assert run.prompt_uri == f"prompts:/{prompt.PROMPT_NAME}/1"
    assert prompt.load(f"prompts:/{prompt.PROMPT_NAME}@{prompt.ALIAS}").text == prompt.FIRST_PROMPT
    linked = mlflow.MlflowClient().search_traces(
        locations=[run.experiment_id], filter_string=f'prompt = "{prompt.PROMPT_NAME}/1"', max_results=COUNT + 1
    )
    assert {t.info.trace_id for t in linked} == set(run.trace_ids)


def test_a_better_registered_prompt_changes_what_the_agent_does(run, fixed_prompt, now):
    better = prompt.register(fixed_prompt)
    uri = f"prompts:/{better.name}/{better.version}"
    again = runner.run("better", requests=COUNT, seed=7, days=10, now=now, prompt_uri=uri)

    assert [t.request for t in again.turns] == [t.request for t in run.turns]
    assert again.prevalence < 0.5 * run.prevalence
    assert not set(again.trace_ids) & set(run.trace_ids)
    assert prompt.register().version == 1
    assert prompt.load(f"prompts:/{prompt.PROMPT_NAME}@{prompt.ALIAS}").text == prompt.FIRST_PROMPT


def test_the_same_run_twice_doubles_nothing_and_a_later_one_adds(run, now):
    first, again = (runner.run("twice", requests=10, now=now) for _ in range(2))
    assert again.turns == first.turns
    assert set(_stored(first)) == set(first.trace_ids)

    later = runner.run("twice", requests=10, now=now + timedelta(days=1))
    assert set(_stored(first)) == {*first.trace_ids, *later.trace_ids}
    assert len(_stored(first)) == 20
    assert not set(later.session_ids) & set(first.session_ids)


def test_a_lost_trace_is_noticed(run, now):
    small = runner.run("lost", requests=5, now=now)
    expected = {t.trace_id: len(t.reply.spans) for t in small.turns}
    writer.check(small.experiment_id, expected)
    mlflow.MlflowClient().delete_traces(small.experiment_id, trace_ids=[small.trace_ids[3]])

    with pytest.raises(IncompleteError, match=rf"1 of 5 traces .*{small.trace_ids[3]} \(0 of"):
        writer.check(small.experiment_id, expected)


def test_labels_are_human_feedback_and_expectations_that_say_they_are_simulated(run):
    labels = expert.label(run, sample=25, seed=3)

    stored = _stored(run)
    truth = {turn.trace_id: expert.opinion(turn, seed=3) for turn in run.turns}
    for label in labels:
        found = {a.name: a for a in _by(stored[label.trace_id], "simulated-expert")}
        thumb, route = found["routing_accuracy"], found["expected_route"]
        assert (thumb.value, thumb.rationale) == (label.value, label.rationale)
        assert route.value == truth[label.trace_id].expected
        assert label.value is truth[label.trace_id].correct
        for assessment in (thumb, route):
            assert assessment.source.source_type == "HUMAN"
            assert assessment.metadata[semconv.SIMULATED] == "true"
    assert len(labels) == sum(bool(_by(t, "simulated-expert")) for t in stored.values()) == 25


def test_labelling_again_adds_nothing_and_another_expert_labels_the_same_traces(run):
    first = expert.label(run, sample=12, expert="simulated-a")
    assert expert.label(run, sample=12, expert="simulated-a") == first
    second = expert.label(run, sample=12, expert="simulated-b")

    assert [label.trace_id for label in second] == [label.trace_id for label in first]
    for trace in _stored(run).values():
        assert len(_by(trace, "simulated-a")) == len(_by(trace, "simulated-b")) in (0, 2)


def test_all_traces_labelled_estimate_the_true_prevalence(run):
    seen: list[tuple[int, int]] = []
    labels = expert.label(run, sample=10_000, expert="simulated-c", progress=lambda done, of: seen.append((done, of)))

    assert len(labels) == COUNT
    assert seen[-1] == (COUNT, COUNT)
    assert sum(not label.value for label in labels) / COUNT == pytest.approx(run.prevalence, abs=0.1)


def test_progress_reaches_the_end(shared_store, now):
    seen: list[tuple[int, int]] = []
    runner.run("progress", requests=55, now=now, progress=lambda done, of: seen.append((done, of)))

    assert seen == [(50, 55), (55, 55)]


def test_an_expert_who_hides_the_simulation_and_a_naive_now_are_refused(run, now):
    with pytest.raises(ConfigError, match="begins with 'simulated'"):
        expert.label(run, expert="anna@example.org")
    with pytest.raises(ConfigError, match="needs traces"):
        expert.label(run, sample=0)
    with pytest.raises(ConfigError, match="time zone"):
        runner.run("demo", now=now.replace(tzinfo=None))


def test_a_missing_prompt_is_named(shared_store, now):
    with pytest.raises(StoreError, match="prompts:/nobody/3"):
        runner.run("nobody", requests=5, now=now, prompt_uri="prompts:/nobody/3")


def test_the_demo_leaves_a_folder_that_is_not_its_own_alone(tmp_path):
    """A user's mlflow.db in the folder given with --out must survive."""
    from mlflow_assay.demo import loop
    from mlflow_assay.errors import ConfigError

    mine = tmp_path / "mlflow.db"
    mine.write_text("precious")
    with pytest.raises(ConfigError, match="was not made by the demo"), loop._own_store(tmp_path):
        pass
    assert mine.read_text() == "precious"
