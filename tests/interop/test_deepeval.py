"""Our judges as DeepEval metrics, run by DeepEval itself; the documented pytest file is run as it stands."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
import types

import pytest

from mlflow_assay.contracts import UnscoredError
from mlflow_assay.testing import FakeJudgeServer, answer

# Looked for, not imported: that takes seconds in each process that collects tests.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepeval") is None,
    reason="DeepEval is not installed: pip install 'mlflow-assay[deepeval]'",
)


@pytest.fixture
def kit(monkeypatch):
    """DeepEval's classes and ours."""
    monkeypatch.setenv("DEEPEVAL_TELEMETRY_OPT_OUT", "YES")
    from deepeval import errors, test_case
    from deepeval.metrics.utils import copy_metrics

    from mlflow_assay.interop import deepeval_metric as ours

    case = test_case.LLMTestCase(input="When does it arrive?", actual_output="Tomorrow before noon.")
    return types.SimpleNamespace(
        **{name: getattr(test_case, name) for name in ("ConversationalTestCase", "LLMTestCase", "ToolCall", "Turn")},
        Missing=errors.MissingTestCaseParamsError,
        copy_metrics=copy_metrics,
        AssayMetric=ours.AssayMetric,
        AssayConversationalMetric=ours.AssayConversationalMetric,
        CASE=case,
    )


def test_the_verdict_its_reason_and_what_it_cost_are_deepevals(kit):
    with FakeJudgeServer([answer("yes", "it says when"), answer("no", "off topic")], tokens=(100, 10)) as server:
        metric = kit.AssayMetric("answer_relevance", judge_model=server.model)
        assert (metric.measure(kit.CASE), metric.is_successful(), metric.__name__) == (1.0, True, "answer_relevance")
        assert "it says when" in metric.reason
        assert (metric.input_tokens, metric.output_tokens) == (100, 10)
        assert (asyncio.run(metric.a_measure(kit.CASE)), metric.is_successful()) == (0.0, False)


def test_a_copy_as_deepeval_makes_one_for_each_case_judges_likewise(kit):
    with FakeJudgeServer(answer("yes")) as server:
        (copied,) = kit.copy_metrics([kit.AssayMetric("answer_relevance", judge_model=server.model)])
        assert copied.measure(kit.CASE) == 1.0


def test_a_missing_field_is_deepevals_own_error_and_nothing_is_asked(kit):
    with FakeJudgeServer(answer("yes")) as server:
        metric = kit.AssayMetric("answer_relevance", judge_model=server.model)
        with pytest.raises(kit.Missing, match=r"needs outputs \(found: inputs"):
            metric.measure(kit.LLMTestCase(input="When?"))
    assert server.requests == [] and metric.score is None and metric.success is None


def test_a_garbled_reply_is_an_error_not_a_zero(kit):
    with FakeJudgeServer("well …") as server:
        metric = kit.AssayMetric("answer_relevance", judge_model=server.model)
        with pytest.raises(UnscoredError, match="garbled_reply"):
            metric.measure(kit.CASE)
    assert metric.score is None and "garbled_reply" in metric.error


def test_tool_calls_reach_a_judge_that_reads_the_run(kit):
    called = [kit.ToolCall(name="get_order", input_parameters={"id": 7}, output="?")]
    looping, clean = (kit.LLMTestCase(input="?", actual_output="!", tools_called=called * n) for n in (4, 1))
    metric = kit.AssayMetric("repeated_steps")
    assert [metric.measure(case) for case in (looping, clean)] == [0.0, 1.0]
    assert metric.evaluation_model is None


def test_a_session_judge_reads_a_conversation(kit):
    turns = [
        kit.Turn(role="user", content="My SIM is dead."),
        kit.Turn(role="assistant", content="It works again now."),
    ]
    with FakeJudgeServer(lambda request: answer("yes" if "works again" in request.prompt else "no")) as server:
        metric = kit.AssayConversationalMetric("session_resolved", judge_model=server.model)
        assert metric.measure(kit.ConversationalTestCase(turns=turns)) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("said, passes", [("yes", True), ("no", False)])
def test_the_documented_pytest_file_asserts_as_pytest_does(tmp_path, said, passes):
    import mlflow_assay.interop as interop

    (code,) = re.findall(r"```python\n(from deepeval import.*?)```", interop.__doc__, re.S)
    (tmp_path / "test_support.py").write_text(code)
    with FakeJudgeServer(answer(said, "so it is")) as server:
        environment = {
            **os.environ, "ASSAY_JUDGE_MODEL": server.model.uri, "ASSAY_JUDGE_BASE_URL": server.url,
            "DEEPEVAL_TELEMETRY_OPT_OUT": "YES", "OPENAI_API_KEY": "",
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_support.py"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment, check=False
        )
    assert (done.returncode == 0) == passes, done.stdout[-2000:]
    assert ("1 passed" if passes else "AssertionError") in done.stdout
