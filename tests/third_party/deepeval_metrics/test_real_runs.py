"""The real telecom runs scored by DeepEval metrics through `assay score`. The judge model is a fake: it says nothing
about the runs; what is held is that real conversations reach the metrics whole."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import assay
from mlflow_assay.sources.importing import import_runs, plan
from mlflow_assay.sources.tau2 import Tau2Importer
from mlflow_assay.testing import FakeJudgeServer, filled

PACK = {
    "helped": """
name: helped
purpose: Was the customer's problem solved in a friendly way?
scope: session
value: {type: numeric, low: 0, high: 1, threshold: 0.5}
uses: deepeval/ConversationalGEval
with:
  criteria: The assistant solves the customer's problem and stays friendly.
  evaluation_params: [content, role, tools_called]
""",
    "no_loop": """
name: no_loop
purpose: Is the run free of loops?
value: {type: numeric, low: 0, high: 1, threshold: 0.5}
uses: deepeval/AgentLoopDetectionMetric
""",
}


@pytest.mark.slow
@pytest.mark.integration
def test_forty_real_conversations_are_scored(shared_data, store, tmp_path):
    path = shared_data / "tau2_telecom" / "gpt41_telecom.json.gz"
    importer = Tau2Importer()
    import_runs(importer, [path], plan(importer, [path]), "telecom")
    pack = tmp_path / "pack"
    pack.mkdir()
    for name, text in PACK.items():
        (pack / f"{name}.yaml").write_text(text)

    with FakeJudgeServer(lambda r: json.dumps(filled(r.schema, lambda f, _: 8 if f == "score" else None))) as server:
        arguments = ["score", "-e", "telecom", "--path", str(pack), "--model", "openai:/fake", "--base-url", server.url]
        done = CliRunner().invoke(assay, [*arguments, "-j", "helped", "-j", "no_loop", "--json"])
    assert done.exit_code == 0, done.output
    found = {judge["judge"]: judge for judge in json.loads(done.stdout[done.stdout.index("{") :])["judges"]}
    assert (found["helped"]["passed"], found["helped"]["unscored"]) == (40, {})
    assert found["no_loop"]["judged"] == 40 and found["no_loop"]["unscored"] == {}
    talks = [r.prompt for r in server.requests if "tools_called" in r.prompt and "get_customer_by" in r.prompt]
    assert len(server.requests) == 80 and len(talks) >= 35
