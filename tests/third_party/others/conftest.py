"""Metrics of seven libraries with a judge model that answers in each one's own reply formats, for better or worse."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, BoundJudge, NumericValue, Unscored
from mlflow_assay.engine import judging
from mlflow_assay.judges.case_traces import session_of, trace_of
from mlflow_assay.judges.definition import Case
from mlflow_assay.testing import FakeJudgeServer, JudgeRequest, Reply, filled, sample_trace

PASSAGES = ("Orders take two days.", "Parcels travel by night.")
PICTURE = "data:image/png;base64,iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "get_order", "description": "Finds an order.", "parameters": {}}}
QUESTION, ANSWER, REFERENCE = "Where is order {}?", "Order {} arrives tomorrow.", "It arrives tomorrow."


def turn(number: int) -> dict[str, Any]:
    documents = [{"page_content": text, "metadata": {"doc_uri": f"doc-{n}"}} for n, text in enumerate(PASSAGES)]
    return {
        "inputs": {"question": QUESTION.format(number)},
        "outputs": {"answer": ANSWER.format(number), "map": PICTURE},
        "spans": [
            {"name": "chat", "type": "CHAT_MODEL", "outputs": {}, "attributes": {"mlflow.chat.tools": [TOOL]}},
            {"name": "get_order", "inputs": {"order": number}, "outputs": {"due": "tomorrow"}},
            {"name": "search", "type": "RETRIEVER", "outputs": documents},
        ],
    }


def expectations(number: int) -> dict[str, Any]:
    return {
        "expected_response": REFERENCE,
        "context": ["Orders take two days.", "A courier brings them."],
        "expected_tool_calls": [{"name": "get_order", "arguments": {"order": number}}],
        "baseline_response": "No idea.",
        "reference_topics": ["parcels"],
        "reference_context_ids": ["doc-0", "doc-1"],
        "rubrics": {"score1_description": "rude", "score5_description": "polite"},
        "plan": "Look the order up, then answer.",
        "expected_steps": ["chat", "get_order", "search"],
        "expected_trajectory": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}],
    }


def a_trace(number: int = 7, **said: Any) -> Any:
    name = f"t{number}"
    case = {"name": name, "kind": "good", "expect": "x", **turn(number), "expectations": expectations(number), **said}
    return trace_of(Case.model_validate(case), name)


def a_session(number: int = 7, exchanges: int = 2) -> tuple[Any, ...]:
    turns = [turn(number + i) for i in range(exchanges)]
    case = {"name": "s", "kind": "good", "expect": "x", "turns": turns, "expectations": expectations(number)}
    return tuple(session_of(Case.model_validate(case), f"s{number}"))


# What the metrics that cannot do without are given, by name.
PARAMS: dict[str, dict[str, Any]] = {
    "embeddings": {"embeddings": "lexical"},
    "definition": {"definition": "The answer is polite."},
    "prompt": {"prompt": "Is this polite? {outputs}"},
    "criteria": {"criteria": "It is polite."},
    "language": {"language": "French"},
    "pattern": {"pattern": "arrives"},
    "prompt_template": {"prompt_template": "Polite? {{output}}"},
    "choice_scores": {"choice_scores": {"yes": 1, "no": 0}},
    "choices": {"choices": {"polite": 1, "rude": 0}},
    "validator": {"validator": "RegexMatch", "arguments": {"regex": ".*"}},
}


def params_of(library: Any, name: str) -> dict[str, Any]:
    found = {k: v for key in library.metrics[name].required for k, v in PARAMS[key].items()}
    if library.name == "ragas" and "prompt" in found:
        found["prompt"] = "Is this polite? {response}"
    if library.name == "phoenix" and "prompt_template" in found:
        found["prompt_template"] = "Polite? {output}"
    return found


def bind(library: Any, name: str, model: Any, params: dict[str, Any] | None = None) -> BoundJudge:
    """A metric ready to run, with what it cannot do without, as the catalogue binds it."""
    metric = library.metrics[name]
    scorer = library.build(name, {**params_of(library, name), **(params or {})}, model if metric.calls_llm else None)
    contract = replace(metric.contract(library.name, library.package), needs=scorer.needs)
    scorer.declare(contract)
    return BoundJudge(contract, scorer, "0" * 16, model if metric.calls_llm else None)


def verdict(bound: BoundJudge, number: int = 7, **said: Any) -> Any:
    if bound.contract.scope == "session":
        session = a_session(number)
        return judging.judge(bound, judging.subject_of(bound, session[0], session))
    return judging.judge(bound, judging.subject_of(bound, a_trace(number, **said)))


# --- the judge model's side -----------------------------------------------------------------------------


def schema_in(request: JudgeRequest) -> tuple[dict[str, Any], str | None]:
    """The JSON Schema a request asks to be filled, and the name of the tool it is of; `{}` where there is none."""
    if request.schema:
        return request.schema, None
    if tools := request.body.get("tools"):
        return tools[0]["function"]["parameters"], tools[0]["function"]["name"]
    text = request.prompt
    for start in re.finditer(r"\{", text):
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start.start() :])
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("properties"), dict):
            return found, None
    return {}, None


def filling(pick: Callable[[str, dict[str, Any], JudgeRequest], Any], plain: Callable[[JudgeRequest], str]) -> Any:
    """A script that fills whatever schema a request brings, or answers in plain text where it brings none."""

    def reply(request: JudgeRequest) -> Reply | str:
        schema, tool = schema_in(request)
        if not schema:
            return plain(request)

        def choose(field: str, about: dict[str, Any]) -> Any:
            found = pick(field, about, request)
            if found is None and about.get("type") == "string" and "enum" not in about:
                return ANSWER.format(order_in(request))  # so that what is asked next is of the same run
            return found

        text = json.dumps(filled(schema, choose))
        if tool is None:
            return text
        return Reply(tool_calls=[{"id": "1", "type": "function", "function": {"name": tool, "arguments": text}}])

    return reply


def order_in(request: JudgeRequest) -> int:
    """The number of the order the run is about; 7 where a request does not say."""
    return int(([7, *re.findall(r"[Oo]rder (\d+)", request.prompt)])[-1])


def for_ragas(name: str, value: Any, good: bool) -> Any:
    short = name.rpartition(".")[2]
    high = {"AnswerAccuracy": 4, "ContextRelevance": 2, "ResponseGroundedness": 2}.get(short, 5)

    def pick(field: str, about: dict[str, Any], request: JudgeRequest) -> Any:
        if short == "NoiseSensitivity" and field == "verdict":
            # Wrong is what the reference does not bear out and the passages do.
            return int(good or not shows(request, REFERENCE))
        if short == "ContextEntityRecall" and field == "entities" and not good:
            return ["parcel"] if shows(request, REFERENCE) else ["night"]
        if field == "classifications" and about.get("items", {}).get("type") != "boolean":
            return None
        table: dict[str, Any] = {
            "verdict": ("1" if good else "0") if "enum" in about or about.get("type") == "string" else int(good),
            "attributed": int(good), "noncommittal": int(not good), "refused_to_answer": False,
            "rating": high if good else 0, "score": high if good else (0 if short == "SimpleCriteriaScore" else 1),
            "TP": [{"statement": "s", "reason": "r"}] if good else [],
            "FP": [] if good else [{"statement": "s", "reason": "r"}],
            "FN": [] if good else [{"statement": "s", "reason": "r"}],
            "classifications": [good], "answers": ["1" if good else "0"],
            "question": QUESTION.format(order_in(request)),
            "faithful": good, "relevant": good, "equivalent": good, "equivalence": good, "equals": good,
            "value": ("pass" if good else "fail") if short == "DiscreteMetric" else float(good),
        }  # fmt: skip
        return table.get(field)

    return filling(pick, lambda _: str(high if good else 0))


def shows(request: JudgeRequest, text: str) -> bool:
    """Whether the last part of the prompt, after the library's own examples, holds a text."""
    return text in request.prompt[-600:]


def for_phoenix(name: str, value: Any, good: bool) -> Any:
    from phoenix.evals import metrics

    short = name.rpartition(".")[2]
    if short == "ClassificationEvaluator":
        choices = PARAMS["choices"]["choices"]
    else:
        choices = getattr(metrics, f"{short}Evaluator").CHOICES
    wanted = 1.0 if (value.better == "higher") == good else 0.0
    label = next(label for label, score in choices.items() if score == wanted)
    return filling(lambda field, about, request: label if field == "label" else None, lambda _: label)


def for_openevals(name: str, value: BooleanValue, good: bool) -> Any:
    return filling(lambda field, *_: (good == value.good) if field == "score" else None, lambda _: "true")


def for_autoevals(name: str, value: Any, good: bool) -> Any:
    import autoevals

    scores = PARAMS["choice_scores"]["choice_scores"]
    if isinstance(cls := getattr(autoevals, name), type) and issubclass(cls, autoevals.LLMClassifier):
        scores = scores if name == "LLMClassifier" else cls(client=None).choice_scores
    best = (max if good else min)(scores, key=scores.__getitem__)

    def pick(field: str, about: dict[str, Any], request: JudgeRequest) -> Any:
        statement = [{"sentence": request.prompt, "reasons": ["r"]}]
        table: dict[str, Any] = {
            "choice": best, "verdict": int(good), "attributed": int(good), "noncommittal": int(not good),
            "question": QUESTION.format(order_in(request)), "TP": ["s"] if good else [], "FP": [] if good else ["s"],
            "FN": [] if good else ["s"], "sentences": statement if good else [],
            "entities": ["order"] if good or shows(request, REFERENCE) else ["zebra"],
        }  # fmt: skip
        return table.get(field)

    return filling(pick, lambda _: "yes")


def for_trulens(name: str, value: NumericValue, good: bool) -> Any:
    top = 1 if name in ("agent_goal_accuracy", "citation_attribution") else 3
    wanted = top if (value.better == "higher") == good else 0

    def pick(field: str, about: dict[str, Any], request: JudgeRequest) -> Any:
        if field == "score":
            # Asked first whether the statement abstains; it does not.
            return 0 if "abstain" in request.prompt.lower() else wanted
        if field == "requirements" and about.get("items", {}).get("type") == "string":
            return ["Says when it arrives."]
        table = {"verdict": "met" if good else "not_met", "requirement": "Says when it arrives."}
        return table.get(field)

    def plain(request: JudgeRequest) -> str:
        if name == "GroundTruthAgreement":
            return "10" if good else "0"
        if name.startswith("groundedness"):
            return ANSWER.format(order_in(request))
        return str(wanted) if "Score" in request.prompt or "score" in request.prompt else "Orders take two days."

    return filling(pick, plain)


REPLIES: dict[str, Callable[[str, Any, bool], Any]] = {
    "ragas": for_ragas, "phoenix": for_phoenix, "openevals": for_openevals, "agentevals": for_openevals,
    "autoevals": for_autoevals, "trulens": for_trulens,
}  # fmt: skip


def replies(library: Any, name: str, good: bool) -> Any:
    """The judge model's side of one metric: replies in the library's own formats, all for the run or all against it."""
    return REPLIES[library.name](name, library.metrics[name].value, good)


# --- what holds for each metric of each library -----------------------------------------------------------


def declared(calls: str) -> int:
    """`1 + 2 per passage, …` as a number, for the runs of these tests."""
    units = {"": 1, "passage": len(PASSAGES), "topic": 1, "statement": 1, "point": 1}
    terms = [re.fullmatch(r"(\d+)(?: per (.+))?", term) for term in calls.partition(",")[0].split(" + ")]
    return sum(int(term[1]) * units[term[2] or ""] for term in terms)  # type: ignore[index]


def judged(library: Any, name: str, script: Any, number: int = 7) -> tuple[Any, list[JudgeRequest]]:
    """One verdict by a judge model that answers by a script, and the requests it got."""
    with FakeJudgeServer(script) as server:
        found = verdict(bind(library, name, server.model), number)
    return found, server.requests


def check_metric(library: Any, name: str) -> None:
    """All speaks for the run, or all against it: the value moves to the good end, and passes there.

    It takes as many calls of the model as declared, and all of them are on the bill.
    """
    (well, asked), (ill, _) = (judged(library, name, replies(library, name, good)) for good in (True, False))
    assert well.error is None, well.error
    assert ill.error is None, ill.error
    value = library.metrics[name].value
    assert judging.outcome_of(ill).value == "fail"
    assert judging.outcome_of(well).value == "pass"
    if isinstance(value, NumericValue):
        assert (well.value > ill.value) == (value.better == "higher") and well.value != ill.value
    assert len(asked) == declared(library.metrics[name].calls)
    assert well.metadata[semconv.JUDGE_CALLS] == str(len(asked))
    assert int(well.metadata["mlflow.assessment.judgeInputTokens"]) > 0


def check_missing(library: Any, name: str) -> None:
    """Without what it reads it is unscored, says what it needs and what it found, and nothing is asked."""
    with FakeJudgeServer() as server:
        bound = bind(library, name, server.model)
        found = judging.judge(bound, judging.subject_of(bound, sample_trace(spans=False)))
    assert judging.reason_of(found) is Unscored.MISSING_FIELD
    assert re.match(r"needs .+ \(found: .+\)", found.error.error_message)
    assert server.requests == []


def check_threads(library: Any, name: str, rows: int = 40, workers: int = 10) -> None:
    """Ten workers on forty runs, half of them good, find what one worker finds one at a time."""
    good, bad = replies(library, name, True), replies(library, name, False)

    def by_order(request: JudgeRequest) -> Any:
        return (good if order_in(request) % 2 else bad)(request)

    with FakeJudgeServer(by_order, record=False, latency_s=0.01) as server:
        bound = bind(library, name, server.model)
        one_by_one = [verdict(bound, number) for number in range(100, 100 + rows)]
        with ThreadPoolExecutor(workers) as pool:
            together = list(pool.map(lambda number: verdict(bound, number), range(100, 100 + rows)))
    seen = [(f.value, f.rationale, judging.outcome_of(f).value) for f in one_by_one]
    assert [(f.value, f.rationale, judging.outcome_of(f).value) for f in together] == seen
    assert {outcome for *_, outcome in seen} == {"pass", "fail"}


FAILURES: dict[str, tuple[Reply | str, Unscored]] = {
    "prose for an answer": ("I would say that it is fine.", Unscored.GARBLED_REPLY),
    "an empty answer": ("", Unscored.EMPTY_REPLY),
    "a refusal": (Reply(refusal="I cannot judge this."), Unscored.REFUSED),
    "a cut answer": (Reply('{"la', finish_reason="length"), Unscored.TRUNCATED),
    "no access": (Reply("no such key", 401), Unscored.UNAUTHORIZED),
    "a context too long": (Reply("maximum context length", 400), Unscored.BAD_REQUEST),
}


def check_failure(library: Any, name: str, failure: str) -> None:
    """What the model's side does wrong is unscored with its reason, with what was paid."""
    script, reason = FAILURES[failure]
    found, requests = judged(library, name, script)
    assert judging.reason_of(found) is reason, found.error
    assert found.value is None and requests
    answered = 0 if isinstance(script, Reply) and script.status >= 400 else len(requests)
    assert found.metadata[semconv.JUDGE_CALLS] == str(answered)


def check_deadline(library: Any, name: str) -> None:
    """A model that does not answer in time is asked once, and the verdict is unscored."""
    with FakeJudgeServer(Reply("late", delay_s=3)) as server:
        found = verdict(bind(library, name, replace(server.model, timeout_s=0.5)))
    assert judging.reason_of(found) is Unscored.TIMEOUT, found.error
    assert "no answer within 0.5 s" in found.error.error_message


@pytest.fixture(scope="session")
def of() -> Any:
    """The helpers above, for test modules, which cannot import one another."""
    return types.SimpleNamespace(
        bind=bind, verdict=verdict, replies=replies, declared=declared, a_trace=a_trace, a_session=a_session,
        expectations=expectations, params_of=params_of, ANSWER=ANSWER, QUESTION=QUESTION, judged=judged,
        check_metric=check_metric, check_missing=check_missing,
        filling=filling, check_threads=check_threads, check_failure=check_failure, check_deadline=check_deadline,
    )  # fmt: skip
