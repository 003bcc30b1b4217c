"""SIMBA, GEPA, MIPROv2 and MemAlign against a scripted model: what they are shown, what they cost, what they end in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.alignment.conftest import learner

from mlflow_assay.alignment.procedure import Request, align
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, JudgeRequest, answer

pytestmark = pytest.mark.slow
pytest.importorskip("dspy", reason="the extra `dspy` is not installed")

REASON = "Shrugging a customer off is impolite."
OPTIONS = {
    "gepa": {"max_metric_calls": 120, "threads": 2},
    "memalign": {},
    "miprov2": {"candidates": 2, "trials": 2, "threads": 2},
    "simba": {"steps": 1, "candidates": 2, "batch": 10, "threads": 2},
}


def is_verdict(request: JudgeRequest) -> bool:
    schema = request.body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return "result" in schema.get("properties", {})


def model(request: JudgeRequest) -> str:
    """Judges as `learner` does; asked for instructions, it passes on what the experts said, if it was told."""
    if is_verdict(request):
        return learner(request)
    told = REASON if REASON in request.prompt else "Be careful."
    if '"guidelines"' in request.prompt:
        return json.dumps({"guidelines": [{"guideline_text": told, "source_trace_ids": [0]}]})
    text = f"Judge whether {{{{ outputs }}}} answers {{{{ inputs }}}} politely. {told}"
    asked = request.prompt.rpartition("Respond with ")[2]
    if asked.startswith("a JSON object"):
        return json.dumps(dict.fromkeys(re.findall(r"`(\w+)`", asked), text))
    fields = dict.fromkeys(re.findall(r"\[\[ ## (\w+) ## \]\]", asked))
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name in fields if name != "completed")


def request_for(optimizer: str, server: FakeJudgeServer, folder: Path, **more) -> Request:
    more.setdefault("model", server.model)
    return Request("polite", optimizer, paths=[folder], options=OPTIONS[optimizer], **more)


@pytest.mark.parametrize("optimizer", ["gepa", "memalign"])
def test_the_experts_reasons_reach_the_model_that_writes_instructions(optimizer, labelled, folder, store):
    """Neither would learn from "wrong" alone: this model only ever repeats the reason it was told."""
    with FakeJudgeServer(model) as server:
        report = align(MlflowSource("test", max_traces=60), request_for(optimizer, server, folder))
        asked = list(server.requests)
    assert report.decision.accepted, report.decision.reason
    assert REASON in report.new.text
    assert any(REASON in r.prompt for r in asked if not is_verdict(r))
    assert sum(report.calls.values()) == len(asked)


@pytest.mark.parametrize("optimizer", ["simba", "miprov2"])
def test_the_others_come_to_a_judge_that_the_gate_can_test(optimizer, labelled, folder, store):
    """Whether they learn anything from a scripted model is chance; that it ends in a verdict of the gate is not."""
    with FakeJudgeServer(model) as server:
        try:
            report = align(MlflowSource("test", max_traces=60), request_for(optimizer, server, folder))
        except NotTrustedError as error:
            assert "found no better instructions" in str(error)
            return
        asked = list(server.requests)
    assert report.decision.reason
    assert "{{ outputs }}" in report.new.text
    assert sum(report.calls.values()) == len(asked)


@pytest.mark.parametrize("optimizer", sorted(OPTIONS))
def test_no_test_trace_is_shown_while_learning_and_the_limit_holds(optimizer, labelled, folder, store):
    with FakeJudgeServer(model) as server:
        found = request_for(optimizer, server, folder, max_calls=110)
        try:
            report = align(MlflowSource("test", max_traces=60), found)
        except NotTrustedError as error:
            assert "the limit of model calls was reached" in str(error) or "no better instructions" in str(error)
            report = None
        asked = list(server.requests)
    assert len(asked) <= 110
    if report is not None:
        answers = {_answer(i) for i in report.split["test"]}
        shown = [r for r in asked if any(text in r.prompt for text in answers)]
        assert len(shown) == 2 * len(answers)  # once by the old judge, once by the new, and never otherwise
        assert all(is_verdict(r) for r in shown)


def _answer(trace_id: str) -> str:
    import mlflow

    return json.loads(mlflow.get_trace(trace_id).data.response)["answer"]


def test_without_dspy_the_error_says_what_to_install(labelled, folder, store, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "dspy", None)
    with FakeJudgeServer(model) as server, pytest.raises(ConfigError, match=r"pip install 'mlflow-assay\[dspy\]'"):
        align(MlflowSource("test", max_traces=60), request_for("memalign", server, folder))


def test_a_judge_model_that_is_down_leaves_everything_unchanged(labelled, folder, store):
    from mlflow_assay.errors import AssayError

    dead = ModelSettings("openai:/fake-judge", base_url="http://127.0.0.1:9/v1/chat/completions", timeout_s=1)
    with FakeJudgeServer(model) as server, pytest.raises(AssayError):
        align(MlflowSource("test", max_traces=60), request_for("memalign", server, folder, model=dead))


def test_simba_learns_from_answers_that_vary(labelled, folder, store):
    """The judge wavers on shrugs; SIMBA must ask again rather than be served from the cache, and be told of both."""
    from mlflow_assay.engine.cache import VerdictCache

    asked: dict[str, int] = {}

    def wavering(request: JudgeRequest) -> str:
        if not is_verdict(request):
            return model(request)
        case = str(request.body["messages"][-1]["content"])
        asked[request.prompt] = asked.get(request.prompt, 0) + 1
        if REASON in request.prompt or "SHRUG" not in case:
            return learner(request)
        return answer(asked[request.prompt] % 2 == 0)

    cache = VerdictCache()
    with FakeJudgeServer(wavering) as server:
        try:
            align(MlflowSource("test", max_traces=60), request_for("simba", server, folder), cache=cache)
        except NotTrustedError as error:
            assert "no better instructions" in str(error)
        finally:
            cache.close()
        assert any(not is_verdict(r) for r in server.requests)  # it reflected on answers that differ
    assert max(asked.values()) > 1
