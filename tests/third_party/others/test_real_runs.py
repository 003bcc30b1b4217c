"""The real telecom runs scored by a metric of every library through `assay score`. The judge model is a fake: it says
nothing about the runs; what is held is that real conversations reach each library whole and come back as verdicts."""

from __future__ import annotations

import importlib.util
import json

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import assay
from mlflow_assay.sources.importing import import_runs, plan
from mlflow_assay.sources.tau2 import Tau2Importer
from mlflow_assay.testing import FakeJudgeServer

JUDGES = {
    "ragas": ["ragas/session.AgentGoalAccuracyWithoutReference", "ragas_tone"],
    "phoenix": ["phoenix/session.Completeness"],
    "trulens": ["trulens/conversation_helpfulness", "trulens/tool_calling"],
    "openevals": ["openevals/task_completion"],
    "agentevals": ["agentevals/session.trajectory_llm_as_judge"],
    "autoevals": ["autoevals/Possible"],
    "guardrails": ["no_promise"],
}
CALLS = {"ragas/session.AgentGoalAccuracyWithoutReference": 2, "no_promise": 0}
PACK = {
    "no_promise": """
name: no_promise
purpose: Does the answer promise no refund?
value: {type: boolean}
uses: guardrails/Validator
with: {validator: "telecom_validators:NoPromise", arguments: {word: guaranteed}}
""",
    "ragas_tone": """
name: ragas_tone
purpose: Is the answer friendly, by a prompt of one's own?
value: {type: categorical, options: [friendly, rude], good: [friendly]}
uses: ragas/DiscreteMetric
with: {prompt: "Is this answer friendly or rude? {response}"}
""",
}
VALIDATOR = """
from guardrails.validators import FailResult, PassResult, Validator, register_validator

@register_validator(name="telecom/no_promise", data_type="string")
class NoPromise(Validator):
    def __init__(self, word, on_fail=None):
        super().__init__(on_fail=on_fail, word=word)
        self.word = word

    def _validate(self, value, metadata):
        return FailResult(error_message=f"says {self.word}") if self.word in value else PassResult()
"""


@pytest.mark.slow
@pytest.mark.integration
def test_forty_real_conversations_are_scored_by_every_library(of, shared_data, store, tmp_path, monkeypatch):
    present = [name for name in JUDGES if importlib.util.find_spec(name) is not None]
    if not present:
        pytest.skip("none of the libraries is installed: pip install 'mlflow-assay[judges]'")
    path = shared_data / "tau2_telecom" / "gpt41_telecom.json.gz"
    importer = Tau2Importer()
    import_runs(importer, [path], plan(importer, [path]), "telecom")
    (tmp_path / "telecom_validators.py").write_text(VALIDATOR)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack").mkdir()
    for name, text in PACK.items():
        (tmp_path / "pack" / f"{name}.yaml").write_text(text)

    judges = [judge for name in present for judge in JUDGES[name]]
    with FakeJudgeServer(of.filling(lambda *_: None, lambda _: "yes")) as server:
        arguments = ["score", "-e", "telecom", "--path", str(tmp_path / "pack"), "--model", "openai:/fake"]
        named = [part for judge in judges for part in ("-j", judge)]
        done = CliRunner().invoke(assay, [*arguments, "--base-url", server.url, *named, "--json"])
    assert done.exit_code == 0, done.output
    found = {judge["judge"]: judge for judge in json.loads(done.stdout[done.stdout.index("{") :])["judges"]}
    assert len(found) == len(judges)
    for judge, tally in found.items():
        assert (tally["judged"], tally["unscored"]) == (40, {}), (judge, tally)
    assert len(server.requests) == sum(40 * CALLS.get(judge, 1) for judge in judges)
