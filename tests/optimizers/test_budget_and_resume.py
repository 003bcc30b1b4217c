"""What a run may cost, and what becomes of one that is stopped, killed or started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from tests.optimizers.conftest import DEFINITION, PROMPT, make_rows, route

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.datasets.model import About
from mlflow_assay.datasets.store import open_store
from mlflow_assay.errors import AssayError, ConfigError, StoreError
from mlflow_assay.optimizers.agent import FunctionAgent
from mlflow_assay.optimizers.journal import Journal
from mlflow_assay.optimizers.request import rows_of
from mlflow_assay.optimizers.rollouts import Purse, SpentError
from mlflow_assay.optimizers.running import StoppedError, carry_out
from mlflow_assay.testing import FakeJudgeServer, answer

ALIASES = {"router": "production"}


class Counting:
    """The toy agent, counting its calls."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self._stop = 0, stop_at
        self.__module__, self.__qualname__ = "toy", "agent"

    def __call__(self, request: str):
        self.calls += 1
        if self.calls == self._stop:
            raise KeyboardInterrupt
        return route(request)


@pytest.mark.parametrize("limit", [140, 200, 260])
def test_a_limit_of_calls_is_kept_and_the_test_is_still_paid_for(request_for, experiment, limit):
    """48 test rows are held back twice; the search gets what is left of the limit."""
    agent = Counting()
    report, _ = carry_out(request_for(function=agent, max_calls=limit), experiment, ALIASES)
    assert agent.calls <= limit
    assert report.spent.calls == agent.calls
    if report.chosen.number:
        assert report.decision is not None
        assert report.stopped
        assert "budget" in report.stopped


def test_a_judge_that_reads_a_mistyped_path_is_said_before_the_search(request_for, experiment, judges_folder):
    """With the path it asks for and what there is: the agent's answers are not wrong, the judge cannot find them."""
    (judges_folder / "desk.yaml").write_text(DEFINITION.replace("output: desk", "output: dsek"))
    agent = Counting()
    with pytest.raises(AssayError, match=r"scored no answer.*needs outputs\.dsek \(found: .*keys desk, short"):
        carry_out(request_for(function=agent), experiment, ALIASES)
    assert agent.calls == 24  # the validation rows


def test_a_limit_that_covers_no_test_is_refused_at_once(request_for, experiment):
    agent = Counting()
    with pytest.raises(ConfigError, match=r"does not suffice: .* takes \d+, testing old and new \d+"):
        carry_out(request_for(function=agent, max_calls=100), experiment, ALIASES)
    assert agent.calls == 0


def test_a_limit_in_money_is_kept_by_what_calls_cost(request_for, experiment):
    agent = Counting()
    dear = FunctionAgent(agent, usd_per_call=0.01)
    report, _ = carry_out(request_for(agent=dear, max_usd=3.0), experiment, ALIASES)
    assert report.spent.usd == pytest.approx(0.01 * agent.calls)
    assert report.spent.usd <= 3.0
    assert report.unpriced == 0
    assert report.decision is not None  # the test was paid for


def test_a_price_that_is_known_is_set_aside_before_the_first_call(request_for, experiment):
    agent = Counting()
    with pytest.raises(AssayError, match="did not last for the prompts as they are"):
        carry_out(request_for(agent=FunctionAgent(agent, usd_per_call=0.01), max_usd=0.0), experiment, ALIASES)
    assert agent.calls == 0


def test_a_limit_in_money_that_cannot_count_the_agents_calls_says_so(request_for, experiment):
    told: list[str] = []
    carry_out(request_for(max_usd=1.0), experiment, ALIASES, stage=told.append)
    assert any("does not count them" in line for line in told)


def test_a_model_without_a_known_price_is_refused_under_a_limit_in_money(request_for):
    from mlflow_assay.optimizers.procedure import plan

    unknown = ModelSettings("openai:/homemade", base_url="http://127.0.0.1:9/v1/chat/completions")
    with pytest.raises(ConfigError, match=r"needs the price of 'openai:/homemade'"):
        plan(request_for(agent=None, model=unknown, max_usd=1.0))


def test_calls_whose_cost_is_not_known_are_said(request_for, experiment):
    report, _ = carry_out(request_for(), experiment, ALIASES)
    assert report.unpriced == report.spent.calls > 0
    assert "is not known" in report.money


def test_what_is_held_back_cannot_be_spent():
    purse = Purse(max_calls=10)
    purse.hold(purse.spent + type(purse.spent)(calls=8))
    for _ in range(2):
        purse.settle("agent", purse.reserve("agent"), None)
    with pytest.raises(SpentError):
        purse.reserve("agent")
    purse.hold(None)
    assert purse.left == 8
    purse.reserve("agent")


def test_a_stopped_run_keeps_the_best_so_far_promotes_nothing_and_goes_on(request_for, experiment, tmp_path):
    whole = Counting()
    carry_out(request_for(function=whole), experiment, {"router": "elsewhere"})
    before = len(mlflow.MlflowClient().search_prompt_versions("router"))

    first = Counting(stop_at=whole.calls // 2)
    with pytest.raises(StoppedError, match=r"nothing was promoted.*of\s+the validation rows"):
        carry_out(request_for(function=first, threads=1), experiment, ALIASES, state=tmp_path)
    (run,) = mlflow.MlflowClient().search_runs([experiment], "attributes.status = 'KILLED'")
    kept = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/best_so_far/router.txt")
    assert "- product:" in kept
    assert len(mlflow.MlflowClient().search_prompt_versions("router")) == before

    second = Counting()
    report, outcome = carry_out(request_for(function=second, threads=1), experiment, ALIASES, state=tmp_path)
    assert outcome.run_id == run.info.run_id
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"
    assert report.accepted
    assert first.calls - 1 + second.calls == whole.calls  # nothing was asked twice
    assert report.spent.calls == whole.calls  # and what the first attempt paid counts


def test_a_finished_run_costs_nothing_again_and_comes_to_the_same(request_for, experiment, tmp_path):
    agent = Counting()
    first, _ = carry_out(request_for(function=agent), experiment, {"router": "a"}, state=tmp_path)
    calls = agent.calls
    second, outcome = carry_out(request_for(function=agent), experiment, {"router": "b"}, state=tmp_path)
    assert agent.calls == calls
    assert outcome.attempt == 1  # the same test told again is no second try at passing it
    assert [c.prompts for c in second.candidates] == [c.prompts for c in first.candidates]
    assert second.reason == first.reason


@pytest.mark.parametrize("kept", [True, False], ids=["from the journal", "all asked anew"])
def test_the_same_work_again_registers_no_second_version_and_says_which_stands(request_for, experiment, tmp_path, kept):
    state = tmp_path if kept else None
    request = request_for()
    _, first = carry_out(request, experiment, ALIASES, state=state)
    _, again = carry_out(request, experiment, ALIASES, state=state)
    assert (first.registered, first.standing, first.aliases) == ({"router": 2}, {}, ALIASES)
    assert (again.registered, again.standing, again.aliases) == ({}, {"router": 2}, ALIASES)
    assert again.run_id != first.run_id
    assert first.run_id in again.notes[0]
    assert "no second one was made" in again.notes[0]
    client = mlflow.MlflowClient()
    assert [int(v.version) for v in client.search_prompt_versions("router")] == [2, 1]
    assert client.get_run(again.run_id).data.tags["assay.optimize.registered.router"] == "2"


def test_a_run_killed_while_it_registered_makes_no_second_version(request_for, experiment, tmp_path):
    _, first = carry_out(request_for(), experiment, ALIASES, state=tmp_path)
    client = mlflow.MlflowClient()
    client.update_run(first.run_id, status="RUNNING")  # killed before its end was noted
    client.set_prompt_alias("router", "production", 1)  # and before the alias was moved
    _, again = carry_out(request_for(), experiment, ALIASES, state=tmp_path)
    assert again.run_id == first.run_id
    assert (again.standing, again.aliases) == ({"router": 2}, ALIASES)
    assert int(client.get_prompt_version_by_alias("router", "production").version) == 2


def test_the_same_text_on_other_evidence_or_with_other_settings_is_a_new_version(request_for, experiment):
    request = request_for()
    _, first = carry_out(request, experiment, ALIASES)
    mlflow.genai.register_prompt(name="router", template=PROMPT, model_config={"temperature": 0.5})
    other = replace(request, prompts={"router": mlflow.genai.load_prompt("prompts:/router/3")})
    _, second = carry_out(other, experiment, {})
    assert second.registered == {"router": 4}
    _, third = carry_out(replace(request, rows=rows_of(make_rows(41))), experiment, {})
    assert first.registered == {"router": 2}
    assert third.registered == {"router": 5}


def test_another_dataset_or_judge_or_seed_starts_anew(request_for):
    from mlflow_assay.optimizers.procedure import plan

    first = plan(request_for()).key
    others = [
        request_for(seed=1),
        request_for(judges=("desk", "short")),
        request_for(rows=rows_of(make_rows(41))),
        request_for(options={"least": 3}),
        request_for(optimizer="knn_few_shot"),
    ]
    assert plan(request_for()).key == first
    assert len({first, *(plan(r).key for r in others)}) == 6


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "j" / "run.jsonl"
    journal = Journal(path)
    journal.put("answer", "a", {"outputs": {"x": "ä"}})
    journal.put("answer", "b", {"outputs": 2})
    path.write_bytes(path.read_bytes()[:-7])
    again = Journal(path)
    assert again.get("answer", "a") == {"outputs": {"x": "ä"}}
    assert again.get("answer", "b") is None
    again.put("answer", "b", {"outputs": 3})
    assert Journal(path).get("answer", "b") == {"outputs": 3}
    assert (path.stat().st_mode & 0o077, path.parent.stat().st_mode & 0o077) == (0, 0)


def test_a_journal_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--state"):
        Journal(tmp_path / "file" / "run.jsonl")


# --- the command, stopped by real signals --------------------------------------------------------------------

AGENT = """
import time, mlflow
from tests.optimizers.conftest import choose

def route(request):
    time.sleep(0.02)
    with open("asked.txt", "a") as file:
        file.write(request + "\\n")
    version = mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False)
    return choose(str(version.template), request)
"""


def command(store: str, folder: Path) -> list[str]:
    code = "import sys; from mlflow_assay.cli import main; main()"
    arguments = ["optimize", "prompts:/router@production", "-d", "toy", "-j", "desk", "-o", "categories"]
    arguments += ["--predict", "slow_agent:route", "--path", str(folder), "--threads", "1", "--json"]
    return [sys.executable, "-c", code, *arguments]


def start(store: str, folder: Path, tmp_path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}", "MLFLOW_TRACKING_URI": store, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command(store, folder),
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_answers(path: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and len(path.read_text().splitlines()) >= count):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline, "the command asked nothing"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_promotes_nothing_and_the_same_command_goes_on(signum, prompt, store, judges_folder, tmp_path):
    open_store().write("toy", make_rows(), About())
    (tmp_path / "slow_agent.py").write_text(AGENT)
    asked = tmp_path / "asked.txt"
    running = start(store, judges_folder, tmp_path)
    try:
        wait_for_answers(asked, 110, running)
        running.send_signal(signum)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    if signum == signal.SIGINT:
        assert "nothing was promoted" in err
        assert "The same command goes on from here" in err
    assert [int(v.version) for v in mlflow.MlflowClient().search_prompt_versions("router")] == [1]
    before = len(asked.read_text().splitlines())

    again = start(store, judges_folder, tmp_path)
    out, err = again.communicate(timeout=180)
    assert again.returncode == 0, err
    result = json.loads(out)
    assert result["accepted"] is True
    assert result["registered"] == {"router": 2}
    total = len(asked.read_text().splitlines())
    assert total > before
    assert total - result["spent"]["calls"] in (0, 1)  # at most the one call in flight was paid twice
    assert "- product:" in str(mlflow.genai.load_prompt("prompts:/router/2").template)
    assert str(mlflow.genai.load_prompt("prompts:/router/1").template) == PROMPT
    runs = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("assay-optimize").experiment_id])
    assert [r.info.status for r in runs] == ["FINISHED"]


def test_journals_hold_no_secret(request_for, experiment, tmp_path):
    """A model's headers may hold keys; the journal names the model and no header."""
    from tests.optimizers.test_optimizers import writing

    with FakeJudgeServer(writing) as server:
        writer = ModelSettings(server.model.uri, server.url, headers={"X-Key": "s3cr3t"})
        carry_out(
            request_for("gepa", writer=writer, options={"max_metric_calls": 60}), experiment, ALIASES, state=tmp_path
        )
        assert any(r.headers.get("X-Key") == "s3cr3t" for r in server.requests)
    assert all("s3cr3t" not in path.read_text() for path in tmp_path.rglob("*.jsonl"))


ASKED = """
name: asked
purpose: Does the answer name the desk that the request is about?
value: {type: boolean}
instructions: Read {{ inputs }}, {{ outputs }} and {{ expectations }}. Is it the right desk?
"""


def right(request) -> str:
    """A judge model that compares what it is shown."""
    text = str(request.body["messages"][-1]["content"]).replace("\\", "")
    said, expected = [*re.findall(r'"desk": ?"(\w+)"', text), "", ""][:2]
    return answer(said == expected, "compared")


@pytest.mark.parametrize("limit", [300, 420])
def test_calls_of_judges_count_as_well(limit, request_for, experiment, judges_folder):
    """Agent and judge together keep to the limit, and the test of both is held back from the search."""
    from mlflow_assay.judges.catalogue import Catalogue

    (judges_folder / "asked.yaml").write_text(ASKED)
    agent = Counting()
    with FakeJudgeServer(right) as server:
        judge = Catalogue([judges_folder]).build("asked", server.model)
        request = replace(request_for(function=agent, max_calls=limit), judges=[judge])
        report, _ = carry_out(request, experiment, ALIASES)
        asked = len(server.requests)
    assert agent.calls + asked <= limit
    assert report.spent.calls == agent.calls + asked
    assert report.calls == {"agent": agent.calls, "judge asked": asked}
    if report.chosen.number:
        assert report.accepted, report.reason
