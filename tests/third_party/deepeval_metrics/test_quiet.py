"""DeepEval as it is used here writes no file, reads no `.env`, and talks to nobody but the judge model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from mlflow_assay.testing import FakeJudgeServer

CODE = """
import json, socket, sys
away = []

def watch(event, args):
    if event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6):
        if not str(args[1][0]).startswith(("127.", "::1")):
            away.append(str(args[1]))
    if event == "socket.getaddrinfo" and str(args[0]) not in ("127.0.0.1", "localhost"):
        away.append(str(args[0]))

sys.addaudithook(watch)
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.judges.third_party.deepeval_judges import DeepEvalJudges
scorer = DeepEvalJudges().build("GEval", {"criteria": "Is it polite?"}, ModelSettings("openai:/x", sys.argv[1]))
values = [scorer(inputs={"q": "Where?"}, outputs="Here.").value for _ in range(3)]
from deepeval.telemetry import telemetry_opt_out
from deepeval.tracing import trace_manager
import os
print(json.dumps({"values": values, "away": away, "opt_out": telemetry_opt_out(),
                  "kept": len(trace_manager.traces), "secret": os.environ.get("PLANTED")}))
"""


def test_it_keeps_to_itself(tmp_path, of):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / ".env").write_text("PLANTED=1\n")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DEEPEVAL_", "DO_NOT_TRACK"))}
    with FakeJudgeServer(of.replies("GEval", True)) as server:
        done = subprocess.run(
            [sys.executable, "-c", CODE, server.url],
            cwd=work,
            env={**inherited, "HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=250,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"values": [1.0] * 3, "away": [], "opt_out": True, "kept": 0, "secret": None}
    assert [p.name for p in work.iterdir()] == [".env"]
    assert not [p for p in home.rglob("*") if "deepeval" in str(p).lower()]
