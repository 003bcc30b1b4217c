"""The agent behind the prompts: one call of a model, a function, traced or not; and what the command says."""

from __future__ import annotations

import json
import threading

import mlflow
import pytest
from click.testing import CliRunner
from tests.optimizers.conftest import PROMPT, make_rows, route

from mlflow_assay.cli import assay
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.datasets.model import About
from mlflow_assay.datasets.store import open_store
from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.optimizers.agent import FunctionAgent, ModelAgent, read_function, trying
from mlflow_assay.optimizers.request import Request, load_prompts, rows_of
from mlflow_assay.optimizers.running import aliases_of, carry_out, looks_into_traces
from mlflow_assay.testing import FakeJudgeServer, JudgeRequest, Reply


def text_of(prompt: str) -> str:
    return str(mlflow.genai.load_prompt(prompt, cache_ttl_seconds=0).template)


def test_a_candidate_stands_in_for_the_prompt_in_every_thread_and_is_gone_afterwards(prompt):
    seen = []
    with trying({"router": "CANDIDATE {{request}}"}) as used:
        thread = threading.Thread(target=lambda: seen.append(text_of(prompt)))
        thread.start()
        thread.join()
        seen.append(mlflow.genai.load_prompt(prompt).format(request="x"))
    assert seen == ["CANDIDATE {{request}}", "CANDIDATE x"]
    assert used == {"router"}
    assert text_of(prompt) == PROMPT


def test_a_prompt_that_is_not_tried_stays_as_it_is(prompt):
    mlflow.genai.register_prompt(name="other", template=[{"role": "user", "content": "{{x}}"}])
    with trying({"router": "CANDIDATE"}):
        assert mlflow.genai.load_prompt("prompts:/other/1").template == [{"role": "user", "content": "{{x}}"}]


def test_a_chat_prompt_is_tried_as_messages(store):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{{q}}"}]
    mlflow.genai.register_prompt(name="chat", template=chat)
    with trying({"chat": json.dumps([{"role": "system", "content": "Be brief."}, chat[1]])}):
        filled = mlflow.genai.load_prompt("prompts:/chat/1").format(q="why")
    assert filled == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why"}]


def test_a_prompt_alone_is_sent_to_a_model_with_its_price(prompt):
    settings = {"usd_per_million": (1.0, 10.0)}
    with FakeJudgeServer("billing", tokens=(1000, 100)) as server:
        model = ModelSettings(server.model.uri, server.url, {"temperature": 0}, **settings)
        found = ModelAgent(mlflow.genai.load_prompt(prompt), model).ask({"request": "my invoice"})
        (asked,) = server.requests
    assert found.outputs == "billing"
    assert (found.usd, found.tokens) == (pytest.approx(0.002), 1100)
    assert asked.body["messages"] == [{"role": "user", "content": PROMPT.replace("{{request}}", "my invoice")}]
    assert asked.body["temperature"] == 0


DESK_SAID = """
name: desk_said
purpose: Did the model name the desk that was expected?
value: {type: boolean}
uses: expected_value
with: {expectation: desk}
"""


def knows(request: JudgeRequest) -> str:
    """A model that names the product desk only where its prompt speaks of handsets."""
    text = request.prompt
    said = text.rpartition("Request:")[2]
    if any(word in said for word in ("handset", "camera", "tariff", "delivery")):
        return "product" if "- product" in text else "billing"
    return "support" if any(word in said for word in ("broken", "slow", "outage", "signal")) else "billing"


def test_a_prompt_alone_is_optimized_on_a_model(prompt, judges_folder, experiment, rows):
    from mlflow_assay.judges.catalogue import Catalogue

    (judges_folder / "desk_said.yaml").write_text(DESK_SAID)
    with FakeJudgeServer(knows, tokens=(100, 1)) as server:
        model = ModelSettings(server.model.uri, server.url, usd_per_million=(1.0, 1.0))
        request = Request(
            load_prompts([prompt]),
            rows,
            [Catalogue([judges_folder]).build("desk_said")],
            "categories",
            model=model,
            max_usd=1.0,
        )
        report, outcome = carry_out(request, experiment, {"router": "production"})
        asked = len(server.requests)
    assert report.accepted, report.reason
    assert report.spent.calls == asked
    assert report.spent.usd == pytest.approx(asked * 101 / 1e6)
    assert report.unpriced == 0
    assert outcome.registered == {"router": 2}


def test_a_model_that_is_down_during_the_test_decides_nothing(prompt, judges_folder, experiment, rows):
    """Rows whose answer failed from outside are left out; with too few left, the old prompt stays."""
    from mlflow_assay.judges.catalogue import Catalogue

    (judges_folder / "desk_said.yaml").write_text(DESK_SAID)
    held = {row.inputs["request"] for row in rows.part("test")}

    def failing(request: JudgeRequest) -> str | Reply:
        said = request.prompt.rpartition("Request:")[2].strip()
        return Reply("no", status=401) if said in held else knows(request)

    with FakeJudgeServer(failing) as server:
        judge = Catalogue([judges_folder]).build("desk_said")
        request = Request(load_prompts([prompt]), rows, [judge], "categories", model=server.model)
        report, _ = carry_out(request, experiment, {"router": "production"})
    assert report.failed_outside == len(held)
    assert not report.accepted
    assert "Too few test rows: 0" in report.reason
    assert text_of(prompt) == PROMPT


def test_a_traced_answer_is_in_mlflow_and_its_cost_is_counted(prompt, experiment):
    mlflow.set_experiment(experiment_id=experiment)

    @mlflow.trace(span_type="CHAT_MODEL")
    def asked(request: str):
        span = mlflow.get_current_active_span()
        span.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10})
        span.set_attribute("mlflow.llm.cost", {"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.3})
        return route(request)

    found = FunctionAgent(asked, traced=True).ask({"request": "x"})
    assert found.tokens == 10
    assert found.usd == pytest.approx(0.3)
    assert mlflow.get_trace(found.trace.info.trace_id).info.experiment_id == experiment
    assert [s.name for s in found.trace.data.spans] == ["candidate", "asked"]


def test_an_untraced_answer_leaves_no_trace(prompt, experiment):
    mlflow.set_experiment(experiment_id=experiment)
    found = FunctionAgent(mlflow.trace(route)).ask({"request": "x"})
    assert found.outputs["desk"] == "billing"
    assert mlflow.MlflowClient().search_traces(locations=[experiment]) == []


@pytest.mark.slow
def test_judges_that_look_into_the_trace_get_one(request_for, experiment, judges_folder):
    """A judge of tool calls needs the spans of each answer."""
    from mlflow_assay.judges.catalogue import Catalogue

    steps = Catalogue().build("repeated_steps")
    desk = Catalogue([judges_folder]).build("desk")
    assert looks_into_traces([desk, steps])
    assert not looks_into_traces([desk])

    def looping(request: str):
        version = mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False)
        for _ in range(4 if "- product" in version.template else 1):
            with mlflow.start_span("look_up", span_type="TOOL") as span:
                span.set_inputs({"q": 1})
        return route(request)

    from dataclasses import replace

    few, options = (
        rows_of(make_rows(20), reference="few@v1"),
        {"terms": [12], "examples": [12], "label": "desk", "least": 3},
    )
    agent = FunctionAgent(looping, traced=True)
    request = replace(request_for(rows=few, options=options), judges=[desk, steps], agent=agent)
    report, _ = carry_out(request, experiment, {"router": "production"})
    assert not report.accepted
    assert "by repeated_steps it is worse" in report.reason


@pytest.mark.parametrize("address", ["nothing", "no_such_module:f", "json:no_such_function", ":f", "json:decoder"])
def test_a_function_that_cannot_be_had_is_named(address):
    with pytest.raises(ConfigError, match=address.split(":")[0] or ":f"):
        read_function(address)


def test_a_missing_prompt_is_named(store):
    with pytest.raises(StoreError, match=r"'prompts:/nobody/1' cannot be loaded"):
        load_prompts(["prompts:/nobody/1"])


def test_the_alias_is_the_one_that_was_named():
    given = ["prompts:/a@production", "b", "prompts:/c/3", "prompts:/d@latest"]
    names = ["a", "b", "c", "d"]
    assert aliases_of(given, names) == {"a": "production", "b": "optimized", "c": "optimized", "d": "optimized"}
    assert set(aliases_of(given, names, "x").values()) == {"x"}


# --- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def command(prompt, judges_folder, tmp_path, experiment):
    open_store().write("toy", make_rows(), About())
    (tmp_path / "my_agent.py").write_text("from tests.optimizers.conftest import route\n")

    def run(*more: str, predict: tuple[str, ...] = ("--predict", "my_agent:route"), judge: str = "desk"):
        fixed = ["optimize", prompt, "-d", "toy", "-j", judge, "-o", "categories", *predict]
        return CliRunner().invoke(assay, [*fixed, "--path", str(judges_folder), "-e", "optimizing", *more])

    return run


def test_the_command_says_what_it_did(command):
    done = command()
    assert done.exit_code == 0, done.output
    said = done.output
    for words in (
        "0   ",
        "as they are",
        "describes product",
        "Testing old and new on",
        "Accepted. The new is better on test rows no optimizer saw",
        "+- product:",
        "Registered router version 2, alias 'production'.",
        "Logged to MLflow run",
    ):
        assert words in said, words


def test_the_command_says_no_with_exit_code_1(command):
    done = command("--option", "least=1000")
    assert done.exit_code == 1
    assert "Not accepted; nothing changed." in done.output
    assert len(mlflow.MlflowClient().search_prompt_versions("router")) == 1


def test_a_dry_run_calls_and_changes_nothing(command, tmp_path):
    (tmp_path / "my_agent.py").write_text("def route(request): raise AssertionError('called')\n")
    done = command("--dry-run", "--json")
    facts = json.loads(done.stdout)
    assert (facts["train"], facts["validation"], facts["test"]) == (48, 24, 48)
    assert (facts["calls_before_search"], facts["calls_of_test"]) == (24, 96)
    assert mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("optimizing").experiment_id]) == []


def test_two_ways_to_use_the_prompt_are_one_too_many(command):
    done = command("--agent-model", "openai:/x")
    assert isinstance(done.exception, ConfigError)
    assert "two ways" in str(done.exception)


def test_no_way_to_use_the_prompt_is_too_few(command):
    done = command(predict=())
    assert isinstance(done.exception, ConfigError)
    assert "--predict module:function" in str(done.exception)
