"""Each optimizer against a scripted model: what it is shown, costs and comes to. It says nothing of real gains."""

from __future__ import annotations

import json
import re

import mlflow
import pytest
from tests.optimizers.conftest import PROMPT, WORDS, make_rows, route

from mlflow_assay import registry
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.optimizers.categories import Categories, CategoryList
from mlflow_assay.optimizers.journal import Journal
from mlflow_assay.optimizers.procedure import make_optimizer
from mlflow_assay.optimizers.request import Request, load_prompts, rows_of
from mlflow_assay.optimizers.rollouts import Purse
from mlflow_assay.optimizers.running import carry_out
from mlflow_assay.optimizers.task import Example, Score, Task
from mlflow_assay.optimizers.template import Template
from mlflow_assay.optimizers.writer import Writer
from mlflow_assay.testing import FakeJudgeServer, JudgeRequest, Reply

ALIASES = {"router": "production"}
NEEDED = "- product: handset, camera, tariff, delivery"
OPTIONS = {
    "categories": {},
    "knn_few_shot": {"sizes": [4]},
    "bootstrap_few_shot": {"sizes": [4]},
    "gepa": {"max_metric_calls": 120},
    "miprov2": {"candidates": 3, "trials": 3},
}


def rewritten(request: JudgeRequest) -> str:
    """The instructions with a product desk, if the model was told that one was expected; else the old ones."""
    told = '"product"' in request.prompt or "product" in request.prompt
    head = Template.read(PROMPT).instructions
    return f"{head}\n{NEEDED}" if told else head


def writing(request: JudgeRequest) -> str:
    """A scripted writer that answers in whatever form it is asked for."""
    text = rewritten(request)
    asked = request.prompt.rpartition("Respond with ")[2]
    if asked.startswith("a JSON object"):
        return json.dumps(dict.fromkeys(re.findall(r"`(\w+)`", asked), text))
    fields = dict.fromkeys(re.findall(r"\[\[ ## (\w+) ## \]\]", asked))
    if fields:
        return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name in fields if name != "completed")
    return f"```\n{text}\n```"


def needs(name: str) -> None:
    if name in ("gepa", "miprov2", "bootstrap_few_shot"):
        pytest.importorskip("dspy", reason="the extra `dspy` is not installed")


def example(number: int, text: str, desk: str) -> Example:
    return Example(str(number), {"request": text}, {"desk": desk})


def toy_task(prompts=None, writer=None, attempt=None, each: int = 20, **more) -> Task:
    from tests.optimizers.conftest import choose

    def tried(candidate, examples):
        found = [choose(candidate["router"], e.inputs["request"])["desk"] for e in examples]
        pairs = zip(found, examples, strict=True)
        return [
            Score(float(d == e.expectations["desk"]), {"desk": d}, f"expected {e.expectations['desk']}")
            for d, e in pairs
        ]

    rows = [example(i, r.inputs["request"], r.expectations["desk"]) for i, r in enumerate(make_rows(each))]
    cut = len(rows) * 2 // 3
    return Task(prompts or {"router": PROMPT}, rows[:cut], rows[cut:], attempt or tried, writer=writer, **more)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_optimizer_ends_in_a_decision_of_the_gate(name, request_for, experiment):
    needs(name)
    with FakeJudgeServer(writing) as server:
        report, outcome = carry_out(request_for(name, writer=server.model, options=OPTIONS[name]), experiment, ALIASES)
        asked = len(server.requests)
    assert report.calls.get("writer", 0) == asked
    assert report.candidates[0].prompts == {"router": PROMPT}
    assert all("{{request}}" in c.prompts["router"] for c in report.candidates)
    assert report.reason
    assert (outcome.registered != {}) == report.accepted


@pytest.mark.parametrize("name", ["categories", "gepa", "miprov2"])
def test_those_that_can_say_what_is_missing_are_accepted(name, request_for, experiment):
    needs(name)
    with FakeJudgeServer(writing) as server:
        report, _ = carry_out(request_for(name, writer=server.model, options=OPTIONS[name]), experiment, ALIASES)
    assert report.accepted, report.reason
    assert "- product:" in report.changed["router"]


def test_gepa_is_told_the_judges_reasons():
    """A model that learns only from what it is told writes the missing desk, so it was told."""
    needs("gepa")
    with FakeJudgeServer(writing) as server:
        task = toy_task(writer=Writer(server.model, Purse(), Journal()))
        best = make_optimizer("gepa", OPTIONS["gepa"], 0).run(task)
        asked = [r.prompt for r in server.requests]
    assert best.score == 1.0
    assert any("Wrong. expected product" in prompt for prompt in asked)


def test_gepa_chooses_on_the_validation_rows():
    """A rewriting that helps in training alone is not what it returns."""
    needs("gepa")
    rows = toy_task()
    train = {e.id for e in rows.train}

    def only_in_training(candidate, examples):
        helped = "- product" in candidate["router"]
        return [Score(float(helped == (e.id in train)), {"desk": "x"}, "expected product") for e in examples]

    with FakeJudgeServer(writing) as server:
        task = toy_task(writer=Writer(server.model, Purse(), Journal()), attempt=only_in_training)
        best = make_optimizer("gepa", {"max_metric_calls": 80}, 0).run(task)
    assert best.number == 0
    assert len(task.candidates) > 1


def test_few_shot_cases_stand_in_the_prompt_with_their_right_answers():
    for name in ("knn_few_shot", "bootstrap_few_shot"):
        needs(name)

        def likes_cases(candidate, examples):
            shown = candidate["router"].count("answer: product")
            return [Score(float(shown > 0 or e.expectations["desk"] != "product"), {"desk": "?"}, "") for e in examples]

        task = toy_task(attempt=likes_cases)
        best = make_optimizer(name, OPTIONS[name], 0).run(task)
        text = best.prompts["router"]
        assert "answer: product" in text, name
        assert text.index("answer: product") < text.index("{{request}}")
        assert not any(e.inputs["request"] in text for e in task.validation)


def test_knn_cases_are_those_near_the_failures():
    """Only handset questions fail; the cases shown are about handsets."""
    rows = [
        example(i, f"about my {'handset' if i % 3 else 'invoice'} number{i}", "x" if i % 3 else "y") for i in range(40)
    ]

    def tried(candidate, examples):
        return [Score(float("handset" not in e.inputs["request"]), "y", "") for e in examples]

    task = Task({"router": PROMPT}, rows[:30], rows[30:], tried)
    make_optimizer("knn_few_shot", {"sizes": [4]}, 0).run(task)
    shown = task.candidates[1].prompts["router"]
    assert (shown.count("handset"), shown.count("invoice number")) == (4, 0)


# --- categories ----------------------------------------------------------------------------------------------


def test_categories_describe_what_is_missing_by_its_own_words():
    task = toy_task()
    best = Categories().run(task)
    described = CategoryList.read(best.prompts["router"])
    start, end = described.found["product"]
    line = described.text[start:end]
    assert best.score == 1.0
    assert all(word in line for word in WORDS["product"])
    assert not any(word in line for word in WORDS["billing"] + WORDS["support"])


def test_categories_can_quote_nothing():
    best = Categories(examples=[0]).run(toy_task())
    assert "Examples:" not in best.prompts["router"]
    assert best.score == 1.0


def test_categories_extend_a_category_that_is_missed():
    partly = PROMPT.replace(
        "- support: broken, slow, outage, signal", "- support: broken\n- product: handset, camera, tariff, delivery"
    )
    best = Categories().run(toy_task(prompts={"router": partly}))
    assert best.score == 1.0
    assert "\n  Also: " in best.prompts["router"]


def test_categories_need_a_label_and_failures():
    unlabelled = [Example(str(i), {"request": f"r{i}"}, {}) for i in range(10)]
    task = Task({"router": PROMPT}, unlabelled[:6], unlabelled[6:], lambda p, e: [Score(0.0, None, "")] * len(e))
    with pytest.raises(NotTrustedError, match=r"No expectation .* names a category"):
        Categories().run(task)
    with pytest.raises(NotTrustedError, match="fails no training row"):
        Categories().run(toy_task(attempt=lambda p, e: [Score(1.0, "x", "")] * len(e)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("- a: x\n- b: y", ["a", "b"]),
        ("* **Big desk**: x\n  more of it\n* **b**: y", ["Big desk", "b"]),
        ("1. a: x\n2. b: y", ["a", "b"]),
        ("Choose: a or b", []),
    ],
)
def test_lists_of_categories_are_read_in_the_usual_forms(text, names):
    assert list(CategoryList.read(text).found) == names


def test_a_new_category_follows_the_form_of_the_others():
    assert CategoryList.read("1. a: x\n2. b: y\nEnd").extended("c", "z") == "1. a: x\n2. b: y\n3. c: z\nEnd"
    assert CategoryList.read("* **a**: x\n  more\nEnd").extended("c", "z") == "* **a**: x\n  more\n* **c**: z\nEnd"
    assert "- c: z" in CategoryList.read("Answer in one word.").extended("c", "z")


@pytest.mark.parametrize("options", [{"terms": []}, {"examples": [-1]}, {"terms": "many"}, {"unknown": 1}])
def test_wrong_options_are_refused_with_what_was_given(options):
    with pytest.raises(ConfigError):
        make_optimizer("categories", options, 0)


def test_an_unknown_option_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"Valid: label, inputs, prompt, terms, examples, least"):
        make_optimizer("categories", {"unknown": 1}, 0)


# --- several prompts -----------------------------------------------------------------------------------------


def two_step(request: str):
    """Two prompts: the first routes, the second signs the answer."""
    found = route(request)
    signature = str(mlflow.genai.load_prompt("prompts:/signature@latest", link_to_model=False).template)
    return {**found, "short": "yes" if "brief" in signature else "no"}


def test_an_agent_of_several_prompts_is_optimized_as_one(prompt, judges_folder, experiment):
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.optimizers.agent import FunctionAgent

    mlflow.genai.register_prompt(name="signature", template="Sign for {{desk}}.")
    request = Request(
        load_prompts([prompt, "signature"]),
        rows_of(make_rows(), reference="toy@v1"),
        [Catalogue([judges_folder]).build("desk")],
        "categories",
        agent=FunctionAgent(two_step),
    )
    report, outcome = carry_out(request, experiment, {**ALIASES, "signature": "production"})
    assert report.accepted
    assert list(report.changed) == ["router"]
    assert outcome.registered == {"router": 2}  # what did not change gets no new version
    assert report.old["signature"] == "Sign for {{desk}}."


@pytest.mark.parametrize("name", ["gepa", "miprov2"])
def test_every_prompt_of_an_agent_may_be_rewritten(name):
    """The second prompt must be brief, and the first must know the product desk: both are needed for a full score."""
    needs(name)

    def both(request: JudgeRequest) -> str:
        text = writing(request)
        return text.replace(NEEDED, f"{NEEDED}\nBe brief.")

    def tried(candidate, examples):
        good = 0.5 * ("- product" in candidate["router"]) + 0.5 * ("brief" in candidate["signature"])
        return [Score(good, {"desk": "x"}, "expected product, and to be brief") for _ in examples]

    with FakeJudgeServer(both) as server:
        writer = Writer(server.model, Purse(), Journal())
        task = toy_task({"router": PROMPT, "signature": "Sign.\n\nFor {{desk}}."}, writer, tried)
        best = make_optimizer(name, {**OPTIONS[name], **({"max_metric_calls": 400} if name == "gepa" else {})}, 0).run(
            task
        )
    assert best.score == 1.0
    assert "{{request}}" in best.prompts["router"] and "{{desk}}" in best.prompts["signature"]


# --- MLflow's own door, and strangers ------------------------------------------------------------------------


def data(each: int = 12) -> list[dict]:
    return [{"inputs": dict(r.inputs), "expectations": dict(r.expectations)} for r in make_rows(each)]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_mlflow_takes_every_optimizer(name, prompt, experiment):
    needs(name)
    from mlflow.genai import scorer

    @scorer
    def desk(outputs, expectations):
        return outputs["desk"] == expectations["desk"]

    mlflow.set_experiment(experiment_id=experiment)
    with FakeJudgeServer(writing) as server:
        optimizer = registry.load("optimizers", name)(writer_model=server.model, **OPTIONS[name])
        result = mlflow.genai.optimize_prompts(
            predict_fn=route, train_data=data(), prompt_uris=[prompt], optimizer=optimizer, scorers=[desk]
        )
    assert result.optimizer_name == type(optimizer).__name__
    assert result.final_eval_score >= result.initial_eval_score
    assert "{{request}}" in result.optimized_prompts[0].template
    (run,) = mlflow.MlflowClient().search_runs([experiment])
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "eval_score")) >= 1


def test_a_strangers_optimizer_runs_under_the_gate(request_for, experiment, monkeypatch):
    """A plain `BasePromptOptimizer` gets the training rows, and what it returns is tested like everything else."""
    from mlflow.genai.optimize.optimizers import BasePromptOptimizer
    from mlflow.genai.optimize.types import PromptOptimizerOutput

    class Stranger(BasePromptOptimizer):
        def optimize(self, eval_fn, train_data, target_prompts, enable_tracking=True):
            head = Template.read(target_prompts["router"])
            better = {"router": head.with_instructions(f"{head.instructions}\n{NEEDED}")}
            scores = [sum(r.score for r in eval_fn(p, train_data)) for p in (target_prompts, better)]
            assert scores[1] > scores[0]
            return PromptOptimizerOutput(optimized_prompts=better)

    real = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Stranger if name == "stranger" else real(kind, name))
    report, outcome = carry_out(request_for("stranger"), experiment, ALIASES)
    assert report.accepted
    assert outcome.registered == {"router": 2}


def test_without_dspy_the_error_says_what_to_install(request_for, experiment, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "dspy", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlflow-assay\[dspy\]'"):
        carry_out(request_for("bootstrap_few_shot"), experiment, ALIASES)


def test_an_optimizer_that_writes_needs_a_model(request_for, experiment):
    with pytest.raises(ConfigError, match="--writer"):
        carry_out(request_for("gepa"), experiment, ALIASES)


@pytest.mark.parametrize("name", ["gepa", "miprov2"])
def test_a_writer_that_is_down_ends_the_run_and_promotes_nothing(name, request_for, experiment):
    needs(name)
    from mlflow_assay.errors import AssayError

    with FakeJudgeServer(Reply("no such key", status=401)) as server:
        with pytest.raises(AssayError, match=r"did not answer; nothing was changed.*401"):
            carry_out(request_for(name, writer=server.model, options=OPTIONS[name]), experiment, ALIASES)
        assert len(server.requests) <= 4
    assert len(mlflow.MlflowClient().search_prompt_versions("router")) == 1
