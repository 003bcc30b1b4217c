"""DeepEval's metrics with a judge model that answers in each metric's own reply formats, for better or worse."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_assay.contracts import BoundJudge
from mlflow_assay.engine import judging
from mlflow_assay.judges.third_party.deepeval_judges import DeepEvalJudges
from mlflow_assay.judges.third_party.deepeval_table import METRICS
from mlflow_assay.testing import JudgeRequest, filled


@pytest.fixture(autouse=True)
def _installed() -> None:
    """Looked for, not imported: that takes seconds in each process that collects tests."""
    if importlib.util.find_spec("deepeval") is None:
        pytest.skip("DeepEval is not installed: pip install 'mlflow-assay[deepeval]'")


LIBRARY = DeepEvalJudges()


def graph(*params: str) -> dict[str, Any]:
    return {
        "nodes": {
            "asked": {
                "type": "BinaryJudgementNode",
                "criteria": "Is it polite?",
                "evaluation_params": list(params),
                "children": ["polite", "rude"],
            },
            "polite": {"type": "VerdictNode", "verdict": True, "score": 10},
            "rude": {"type": "VerdictNode", "verdict": False, "score": 0},
        }
    }


# What the metrics that cannot do without are given.
PARAMS: dict[str, dict[str, Any]] = {
    "PatternMatchMetric": {"pattern": r"Order \d+ arrives.*"},
    "ToolPermissionMetric": {"allowed_tools": ["get_order"]},
    "JsonCorrectnessMetric": {
        "expected_schema": {"type": "object", "properties": {"due": {"type": "string"}}, "required": ["due"]}
    },
    "GEval": {"criteria": "Is the answer polite and right?"},
    "ConversationalGEval": {"criteria": "Is the assistant polite?"},
    "ArenaGEval": {"criteria": "Which answer helps more?"},
    "PromptAlignmentMetric": {"prompt_instructions": ["Be brief."]},
    "NonAdviceMetric": {"advice_types": ["legal"]},
    "MisuseMetric": {"domain": "parcels"},
    "RoleViolationMetric": {"role": "a parcel agent"},
    "TopicAdherenceMetric": {"relevant_topics": ["parcels"]},
    "DAGMetric": {"dag": graph("actual_output")},
    "ConversationalDAGMetric": {"dag": graph("content", "role")},
}
# Here a "yes" of the model speaks against the answer.
YES_IS_BAD = {
    "BiasMetric", "ToxicityMetric", "PIILeakageMetric", "NonAdviceMetric", "MisuseMetric", "RoleViolationMetric",
    "KnowledgeRetentionMetric",
}  # fmt: skip
OUT_OF_TEN = {"ReasonScore"}  # schemas whose score is 0 to 10; all others are 0 to 1


def replies(name: str, good: bool) -> Callable[[JudgeRequest], str]:
    """The judge model's side of one metric: replies by the schema of each request, all for or all against."""
    yes = good != (name in YES_IS_BAD)

    def reply(request: JudgeRequest) -> str:
        title = (request.body.get("response_format") or {}).get("json_schema", {}).get("name")

        def pick(field: str, schema: dict[str, Any]) -> Any:
            if schema.get("enum") == ["yes", "no"] or set(schema.get("enum") or ()) == {"yes", "no", "borderline"}:
                return "yes" if yes else "no"
            if "TP" in (schema.get("enum") or ()):  # answered on topic, or off it
                return "TP" if good else "FP"
            if field == "winner":
                return contestant(request.prompt, good)
            if field == "score" and schema.get("type") == "array":  # of images, one for each thing looked at
                return [10 if good else 0]
            if field == "score":
                return (10 if title in OUT_OF_TEN else 1) if good else 0
            if field == "verdict" and schema.get("type") in ("number", "boolean"):
                return type_of(schema)(good)
            if field == "data":
                return {"order": "7"}
            if title == "Answers" and field == "answers":  # of the text, then of the summary
                return ["yes" if good or "ORIGINAL" in request.prompt else "no"]
            if title == "OutOfCharacterResponseVerdicts" and field == "verdicts":
                return [] if good else [{"index": 1, "reason": "rude", "ai_message": "x"}]
            return None

        if request.schema:
            return json.dumps(filled(request.schema, pick))
        # What is asked for without a schema: facts under keys of the model's own choice, or plain words.
        return '{"data": {"order": "7"}}' if "Latest User Message" in request.prompt else "So it is."

    return reply


def type_of(schema: dict[str, Any]) -> Callable[[bool], Any]:
    return bool if schema["type"] == "boolean" else float


def contestant(prompt: str, ours: bool) -> str:
    """The name under which DeepEval hides the answer, or the baseline."""
    found = re.findall(r'"(\w+)": "\{(.*?)\}"', prompt)
    return next(who for who, said in found if ("arrives" in said) == ours)


def bind(name: str, judge_model: Any, /, **params: Any) -> BoundJudge:
    """A metric ready to run, with what it cannot do without."""
    metric = METRICS[name]
    given = {**PARAMS.get(name, {}), **params}
    scorer = LIBRARY.build(name, given, judge_model)
    calls_llm = LIBRARY.asks_model(name, given)
    contract = replace(metric.contract("deepeval", "deepeval"), needs=scorer.needs, calls_llm=calls_llm)
    return BoundJudge(contract, scorer, "0" * 16, judge_model if calls_llm else None)


def verdict(bound: BoundJudge, trace: Any, session: tuple[Any, ...] = ()) -> Any:
    return judging.judge(bound, judging.subject_of(bound, trace, session))


@pytest.fixture
def of() -> Any:
    """The helpers above, for test modules, which cannot import one another."""
    import types

    return types.SimpleNamespace(
        bind=bind, verdict=verdict, replies=replies, LIBRARY=LIBRARY, PARAMS=PARAMS, graph=graph
    )
