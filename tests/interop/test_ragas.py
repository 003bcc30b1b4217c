"""Our judges as Ragas metrics, run by Ragas itself."""

from __future__ import annotations

import importlib.util
import math

import pytest

from mlflow_assay.testing import FakeJudgeServer, answer

# Looked for, not imported: that takes seconds in each process that collects tests.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ragas") is None, reason="Ragas is not installed: pip install 'mlflow-assay[ragas]'"
)


def AssayMetric(*args, **more):  # noqa: N802 - the class, imported when it is wanted
    from mlflow_assay.interop.ragas_metric import AssayMetric as Metric

    return Metric(*args, **more)


def test_ragas_scores_a_judge_and_batches_it():
    with FakeJudgeServer(lambda request: answer("yes" if "Tomorrow" in request.prompt else "no", "as seen")) as server:
        metric = AssayMetric("answer_relevance", judge_model=server.model)
        one = metric.score(user_input="When?", response="Tomorrow.")
        rows = [{"user_input": "When?", "response": text} for text in ("Tomorrow.", "Hello.")]
        many = metric.batch_score(rows)
    assert (one.value, one.reason) == (1.0, "yes (yes/no, yes passes). as seen")
    assert [r.value for r in many] == [1.0, 0.0]


def test_an_unscored_verdict_is_ragas_nan_with_the_reason_and_nothing_is_asked():
    with FakeJudgeServer(answer("yes")) as server:
        found = AssayMetric("answer_relevance", judge_model=server.model).score(user_input="When?")
    assert math.isnan(found.value)
    assert found.reason.startswith("unscored (missing_field): needs outputs")
    assert server.requests == []


def test_messages_and_tool_calls_reach_a_judge_that_reads_the_run():
    """`repeated_steps` is code: the same call with the same result three times over is one too many repeats."""
    from ragas.messages import AIMessage, HumanMessage, ToolCall, ToolMessage

    calls = [AIMessage(content="", tool_calls=[ToolCall(name="get_order", args={"id": 7})]), ToolMessage(content="?")]
    messages = [HumanMessage(content="Where is it?"), *calls * 4, AIMessage(content="I do not know.")]
    clean = [HumanMessage(content="Where is it?"), *calls, AIMessage(content="On its way.")]
    metric = AssayMetric("repeated_steps")
    assert [metric.score(user_input=m).value for m in (messages, clean)] == [0.0, 1.0]


def test_a_number_is_put_on_0_to_1_with_its_own_words(tmp_path):
    (tmp_path / "strain.yaml").write_text(
        "name: strain\npurpose: How strained is the answer, from 1 to 5?\n"
        "instructions: Grade the strain of {{ outputs }} from 1 to 5.\n"
        "value: {type: numeric, low: 1, high: 5, threshold: 2, better: lower}\n"
        "needs: [outputs]\n"
    )
    with FakeJudgeServer(answer(2, "calm")) as server:
        found = AssayMetric("strain", judge_model=server.model, paths=[tmp_path]).score(response="Fine.")
    assert found.value == pytest.approx(0.75)
    assert "calm" in found.reason and "2" in found.reason
