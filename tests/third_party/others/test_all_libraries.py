"""What holds for every adapter alike: threads, failures of the model, deadlines, parameters, silence."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from mlflow_assay import registry
from mlflow_assay.errors import ConfigError

# A metric of each library whose verdict takes one or more calls of the model.
METRIC_OF = {
    "ragas": "Faithfulness",
    "phoenix": "Faithfulness",
    "trulens": "relevance",
    "openevals": "correctness",
    "agentevals": "trajectory_llm_as_judge",
    "autoevals": "Factuality",
}
MORE_IN_THREADS = [("ragas", "classic.AnswerAccuracy"), ("ragas", "session.AgentGoalAccuracyWithoutReference"),
                   ("trulens", "groundedness_measure"), ("autoevals", "Faithfulness")]  # fmt: skip


def library(name):
    found = registry.load("judges", name)()
    top = found.module.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        pytest.skip(f"{name} is not installed: pip install 'mlflow-assay[{found.extra}]'")
    found.imported()
    return found


@pytest.mark.parametrize("name, metric", [*METRIC_OF.items(), *MORE_IN_THREADS])
def test_ten_threads_find_what_one_finds(of, name, metric):
    of.check_threads(library(name), metric)


@pytest.mark.parametrize(
    "failure",
    ["prose for an answer", "an empty answer", "a refusal", "a cut answer", "no access", "a context too long"],
)
@pytest.mark.parametrize("name", METRIC_OF)
def test_a_failure_of_the_model_is_unscored_with_its_reason(of, name, failure):
    of.check_failure(library(name), METRIC_OF[name], failure)


@pytest.mark.parametrize("name", METRIC_OF)
def test_a_deadline_is_kept(of, name):
    of.check_deadline(library(name), METRIC_OF[name])


@pytest.mark.parametrize("name", [*METRIC_OF, "guardrails"])
def test_a_parameter_the_metric_does_not_have_is_refused_with_those_it_has(of, name):
    found = library(name)
    metric = METRIC_OF.get(name, "Validator")
    with pytest.raises(ConfigError, match=r"has no parameter 'stricktness'\. Valid: .*fields"):
        of.bind(found, metric, None if name == "guardrails" else a_model(), {"stricktness": 1})


@pytest.mark.parametrize(
    "name, metric, given",
    [
        ("autoevals", "LLMClassifier", {"prompt_template": "Is it good?", "choice_scores": {"yes": 1, "no": 0}}),
        ("phoenix", "ClassificationEvaluator", {"prompt_template": "Is it good?", "choices": {"yes": 1, "no": 0}}),
        ("openevals", "llm_as_judge", {"prompt": "Is it good?"}),
    ],
)
def test_a_prompt_that_shows_nothing_of_the_run_is_refused(of, name, metric, given):
    with pytest.raises(ConfigError, match="does not name what it reads"):
        of.bind(library(name), metric, a_model(), given)


@pytest.mark.parametrize("name", METRIC_OF)
def test_without_a_model_it_is_refused(of, name):
    with pytest.raises(ConfigError, match="needs a judge model"):
        library(name).build(METRIC_OF[name], {}, None)


PASSES = "name: clean\npurpose: Is the answer free of toxic words?\nuses: openevals/toxicity\nvalue: "


@pytest.mark.parametrize(
    "value, refused",
    [
        ("{type: boolean, good: false}", False),
        ("{type: boolean}", True),
        ("{type: numeric, low: 0, high: 1, threshold: 0.3, better: lower}", False),
        ("{type: numeric, low: 0, high: 1, threshold: 0.3}", True),
    ],
)
def test_a_definition_cannot_turn_the_good_end_of_a_librarys_true_and_false_round(of, tmp_path, value, refused):
    """True says toxic. As a number it is asked for as one, and passes where it is low."""
    from mlflow_assay.errors import DefinitionError
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.testing import FakeJudgeServer

    library("openevals")
    (tmp_path / "clean.yaml").write_text(PASSES + value)
    if refused:
        with pytest.raises(DefinitionError, match="gives another value"):
            Catalogue([tmp_path]).get("clean")
        return
    number = "numeric" in value
    with FakeJudgeServer(json.dumps({"score": 0.1 if number else False, "reasoning": "kind words"})) as server:
        found = of.verdict(Catalogue([tmp_path]).build("clean", server.model))
    assert (found.value, found.metadata["assay.outcome"]) == (0.1 if number else False, "pass")
    asked = server.requests[0].schema["properties"]["score"]["type"]
    assert asked == ("number" if number else "boolean")


def a_model():
    from mlflow_assay.contracts import ModelSettings

    return ModelSettings("openai:/fake", base_url="http://127.0.0.1:9/v1/chat/completions")


WATCHED = """
import json, sys
hosts = set()
def watch(event, args):
    if event == "socket.getaddrinfo":
        hosts.add(str(args[0]))
    elif event == "socket.connect" and isinstance(args[1], tuple):
        hosts.add(str(args[1][0]))
sys.addaudithook(watch)
import atexit, time
def told():
    time.sleep(2)
    print("HOSTS " + json.dumps(sorted(hosts - {"127.0.0.1", "localhost", "None"})))
atexit.register(told)
from mlflow_assay import registry
from mlflow_assay.testing import FakeJudgeServer, Reply, filled, sample_trace
def reply(request):
    if tools := request.body.get("tools"):
        about = tools[0]["function"]
        made = {"name": about["name"], "arguments": json.dumps(filled(about["parameters"]))}
        return Reply(tool_calls=[{"id": "1", "type": "function", "function": made}])
    return json.dumps(filled(request.schema) if request.schema else {"rating": 4})
values = {}
with FakeJudgeServer(reply) as server:
    for name, metric in json.loads(sys.argv[1]).items():
        scorer = registry.load("judges", name)().build(metric, {}, server.model)
        said = {"inputs": "Where?", "outputs": "There.", "expectations": {"expected_response": "There."}}
        values[name] = scorer(**said, trace=sample_trace()).value
print("VALUES " + json.dumps(values))
"""


@pytest.mark.slow
def test_verdicts_go_to_the_judge_model_and_to_nobody_else(tmp_path):
    """No telemetry, no download: every connection and name look-up of the process is watched, to its very end."""
    asked = {
        "ragas": "AnswerAccuracy", "phoenix": "Conciseness", "trulens": "relevance", "openevals": "conciseness",
        "agentevals": "trajectory_llm_as_judge", "autoevals": "Humor",
    }  # fmt: skip
    for name in asked:
        library(name)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(asked)],
        capture_output=True, text=True, timeout=280, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("VALUES", "HOSTS")))
    assert json.loads(lines["HOSTS"]) == []
    assert set(json.loads(lines["VALUES"])) == set(asked)
