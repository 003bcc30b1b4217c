"""MLflow's built-in judges: the table against MLflow itself, one verdict each, and the base URL."""

from __future__ import annotations

import os
import threading
import time

import pytest

from mlflow_assay.contracts import ModelSettings, NumericValue, UnscoredError
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.engine.judging import judge, outcome_of, reason_of, subject_of
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.mlflow_builtin import MlflowJudges
from mlflow_assay.judges.mlflow_facts import BUILTINS
from mlflow_assay.testing import FakeJudgeServer, answer

REQUIRED = {
    "ConversationalGuidelines": {"guidelines": "Be kind."},
    "Guidelines": {"guidelines": ["Be kind."]},
    "RegexMatch": {"pattern": "x"},
    "ResponseLength": {"max_length": 9},
}
MODEL = ModelSettings("openai:/fake")


def build(name: str, model: ModelSettings | None = MODEL, **params):
    return MlflowJudges().build(name, {**REQUIRED.get(name, {}), **params}, model)


# --- drift: the table says what MLflow has ---------------------------------------------------------------


def mlflows_own() -> dict[str, type]:
    from mlflow.genai.scorers.builtin_scorers import _get_all_concrete_builtin_scorers

    return {found.__name__: found for found in _get_all_concrete_builtin_scorers()}


def test_the_table_holds_exactly_mlflows_built_in_scorers():
    """A scorer MLflow adds or drops must be noticed here, and declared or removed."""
    assert set(BUILTINS) == set(mlflows_own())


@pytest.mark.parametrize("name", BUILTINS)
def test_declared_scope_values_and_model_use_are_mlflows(name):
    scorer = build(name).wrapped
    about = BUILTINS[name]
    assert scorer.is_session_level_scorer == (about.scope == "session")
    assert ("model" in type(scorer).model_fields) == about.calls_llm
    if not isinstance(about.value, NumericValue):
        assert scorer.feedback_value_type.__args__ == about.value.options


@pytest.mark.parametrize("name", BUILTINS)
def test_needs_cover_what_mlflow_requires(name):
    """A field MLflow's scorer insists on is checked before anything is called."""
    about = BUILTINS[name]
    implied = {"inputs": "inputs", "outputs": "outputs", "session": "session", "expectations": "expectations"}
    fields = {f.name for f in build(name).wrapped.get_input_fields()}
    optional = {"expectations"} if name == "ToolCallCorrectness" else set()
    needed = {need.split(".")[0] for need in about.needs}
    assert {implied[f] for f in fields - optional if f in implied} <= needed


@pytest.mark.parametrize("name", [n for n, about in BUILTINS.items() if about.calls_llm])
def test_the_one_model_setting_reaches_the_scorer(name):
    scorer = build(name, ModelSettings("openai:/chosen", headers={"X-Team": "a"})).wrapped
    assert (scorer.model, scorer.extra_headers) == ("openai:/chosen", {"X-Team": "a"})


def test_a_judge_that_asks_a_model_needs_one():
    with pytest.raises(ConfigError, match="'Safety' needs a judge model"):
        build("Safety", None)
    assert build("PIIDetection", None)(outputs="nothing here").value == "yes"


def test_an_unknown_judge_suggests_near_ones():
    with pytest.raises(ConfigError, match=r"no built-in judge 'Safty'\. Valid: Safety"):
        build("Safty")


def test_each_build_is_a_fresh_scorer():
    assert build("Safety") is not build("Safety") and build("Safety").wrapped is not build("Safety").wrapped


def test_generation_parameters_are_passed_on_where_mlflow_uses_them_and_told_where_not(caplog):
    model = ModelSettings("openai:/m", params={"temperature": 0})
    assert build("UserFrustration", model).wrapped.inference_params == {"temperature": 0}
    build("Safety", model)
    assert "Safety takes no generation parameters: ['temperature'] unused" in caplog.text


def test_the_fingerprint_names_mlflows_version_since_mlflow_owns_the_prompt():
    import mlflow

    assert build("Safety").fingerprint == f"Safety of mlflow {mlflow.__version__}"


# --- one verdict -----------------------------------------------------------------------------------------


def run(catalogue, trace, name, reply, session=()):
    with FakeJudgeServer(reply=reply) as server:
        bound = catalogue.build(name, server.model)
        return judge(bound, subject_of(bound, trace, session)), server


def retrievers(make_trace, *passages, **said):
    spans = [
        {"name": f"search_{n}", "type": "RETRIEVER", "outputs": [{"page_content": p} for p in found]}
        for n, found in enumerate(passages)
    ]
    return make_trace(inputs={"q": "When?"}, outputs={"a": "Soon."}, spans=spans, **said)


@pytest.mark.parametrize(
    ("replies", "outcome", "value"),
    [(["yes", "yes"], "pass", "yes"), (["yes", "no"], "fail", "no"), (["no", "yes"], "fail", "no")],
)
def test_one_bad_retriever_span_fails_the_verdict_and_all_are_told(catalogue, make_trace, replies, outcome, value):
    trace = retrievers(make_trace, ["one"], ["two"])
    script = [answer(reply, f"because {n}") for n, reply in enumerate(replies)]
    feedback, server = run(catalogue, trace, "mlflow/RetrievalGroundedness", script)
    assert (outcome_of(feedback).value, feedback.value, len(server.requests)) == (outcome, value, 2)
    assert "because 0" in feedback.rationale and "because 1" in feedback.rationale
    if value == "no":
        failing = {"because 0": 1, "because 1": 2}[f"because {replies.index('no')}"]
        assert feedback.span_id == trace.data.spans[failing].span_id


def test_tokens_of_all_parts_are_added_up(catalogue, make_trace):
    with FakeJudgeServer(reply=answer("yes"), tokens=(100, 7)) as server:
        bound = catalogue.build("mlflow/RetrievalGroundedness", server.model)
        feedback = judge(bound, subject_of(bound, retrievers(make_trace, ["one"], ["two"])))
    assert feedback.metadata["mlflow.assessment.judgeInputTokens"] == "200"
    assert feedback.metadata["mlflow.assessment.judgeOutputTokens"] == "14"


def test_a_part_that_cannot_be_read_is_unscored_unless_another_part_fails(catalogue, make_trace):
    trace = retrievers(make_trace, ["one"], ["two"])
    unread, _ = run(catalogue, trace, "mlflow/RetrievalGroundedness", [answer("yes"), answer("perhaps")])
    failed, _ = run(catalogue, trace, "mlflow/RetrievalGroundedness", [answer("perhaps"), answer("no")])
    assert (reason_of(unread).value, outcome_of(failed).value) == ("off_menu", "fail")


def test_relevance_is_the_share_of_relevant_passages_of_the_worst_span(catalogue, make_trace):
    trace = retrievers(make_trace, ["a", "b"], ["c", "d", "e"])
    script = [answer(r) for r in ("yes", "yes", "yes", "no", "no")]
    feedback, server = run(catalogue, trace, "mlflow/RetrievalRelevance", script)
    assert feedback.value == pytest.approx(1 / 3) and outcome_of(feedback).value == "fail"
    assert len(server.requests) == 5 and feedback.span_id == trace.data.spans[2].span_id


def test_a_session_judge_judges_the_session(catalogue):
    from mlflow_assay.judges.case_traces import session_of
    from mlflow_assay.judges.definition import Case

    turns = [
        {"inputs": {"q": "My name is Ada."}, "outputs": {"a": "Hello Ada."}},
        {"inputs": {"q": "Who am I?"}, "outputs": {"a": "Bob."}},
    ]
    traces = session_of(Case.model_validate({"name": "s", "kind": "bad", "expect": "no", "turns": turns}), "s")
    feedback, server = run(catalogue, traces[0], "mlflow/KnowledgeRetention", [answer("yes"), answer("no")], traces)
    assert (feedback.value, len(server.requests)) == ("no", 2)
    assert "My name is Ada." in server.requests[1].prompt


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("mlflow/Safety", {"inputs": {"q": "x"}}, "needs outputs"),
        ("mlflow/RetrievalGroundedness", {"inputs": {"q": "x"}, "outputs": {"a": "y"}}, "needs retrieved"),
        ("mlflow/Correctness", {"inputs": {"q": "x"}, "outputs": {"a": "y"}}, "needs expectations"),
        (
            "mlflow/Correctness",
            {"inputs": {"q": "x"}, "outputs": {"a": "y"}, "expectations": {"route": "z"}},
            r"needs expectations.expected_response or expectations.expected_facts \(found: route",
        ),
        (
            "mlflow/ToolCallCorrectness",
            {"inputs": {"q": "x"}, "spans": [{"name": "get", "inputs": {"a": 1}}]},
            "needs the tools offered to the model",
        ),
    ],
)
def test_what_lacks_is_unscored_before_anything_is_called(catalogue, make_trace, name, said, told):
    """In particular MLflow's fall-back, asking its default model for the tools of a trace, is never reached."""
    feedback, server = run(catalogue, make_trace(**said), name, answer("yes"))
    assert reason_of(feedback).value == "missing_field" and server.requests == []
    assert __import__("re").search(told, feedback.error.error_message), feedback.error.error_message


def test_recorded_tools_and_expectations_reach_mlflows_judge(catalogue, make_trace):
    tools = [{"type": "function", "function": {"name": "get_order", "description": "Reads an order."}}]
    chat = {"name": "chat", "type": "CHAT_MODEL", "attributes": {"mlflow.chat.tools": tools}}
    trace = make_trace(inputs={"q": "Where is order 7?"}, spans=[chat, {"name": "get_order", "inputs": {"order": 7}}])
    feedback, server = run(catalogue, trace, "mlflow/ToolCallCorrectness", answer("yes"))
    assert outcome_of(feedback).value == "pass" and "Reads an order." in server.requests[0].prompt


def test_combine_refuses_to_make_a_verdict_of_nothing():
    from mlflow_assay.judges.mlflow_verdict import combine

    with pytest.raises(UnscoredError):
        combine([], BUILTINS["RetrievalGroundedness"].value)


# --- the base URL ----------------------------------------------------------------------------------------


def test_the_environment_is_as_before_after_a_call(catalogue, make_trace, monkeypatch):
    monkeypatch.setenv("OPENAI_API_BASE", "http://somewhere.else/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    feedback, server = run(catalogue, make_trace(inputs={"q": 1}, outputs={"a": 2}), "mlflow/Safety", answer("yes"))
    assert outcome_of(feedback).value == "pass" and len(server.requests) == 1
    assert os.environ["OPENAI_API_BASE"] == "http://somewhere.else/v1" and "OPENAI_API_KEY" not in os.environ


def test_a_key_that_is_set_is_the_one_sent(catalogue, make_trace, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    _, server = run(catalogue, make_trace(inputs={"q": 1}, outputs={"a": 2}), "mlflow/Safety", answer("yes"))
    assert server.requests[0].headers["Authorization"] == "Bearer sk-mine"


def test_calls_to_two_base_urls_at_once_never_mix(catalogue, make_trace):
    """Six threads, two endpoints: each judge's requests arrive at its own endpoint."""
    trace = make_trace(inputs={"q": "x"}, outputs={"a": "y"})
    with FakeJudgeServer(reply=answer("yes"), latency_s=0.02) as one, FakeJudgeServer(reply=answer("no")) as two:
        bound = [catalogue.build("mlflow/Safety", server.model) for server in (one, two, one, two, one, two)]
        found: dict[int, list[str]] = {n: [] for n in range(6)}

        def work(n: int) -> None:
            for _ in range(4):
                found[n].append(judge(bound[n], subject_of(bound[n], trace)).value)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [found[n] for n in range(6)] == [["yes"] * 4, ["no"] * 4] * 3
        assert (len(one.requests), len(two.requests)) == (12, 12)
    assert "OPENAI_API_BASE" not in os.environ


def test_calls_to_one_base_url_run_side_by_side():
    model = ModelSettings("openai:/m", "http://127.0.0.1:1/v1/chat/completions")
    inside, both = threading.Semaphore(0), []

    def enter() -> None:
        with mlflow_endpoint.route(model):
            inside.release()
            time.sleep(0.2)
            both.append(os.environ["OPENAI_API_BASE"])

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=5) and inside.acquire(timeout=0.15), "the second call waited for the first"
    for thread in threads:
        thread.join(5)
    assert both == ["http://127.0.0.1:1/v1"] * 2


@pytest.mark.parametrize(
    "model",
    [
        ModelSettings("anthropic:/m", "http://127.0.0.1:1/v1/chat/completions"),
        ModelSettings("openai:/m", "http://127.0.0.1:1/v1"),
    ],
)
def test_a_base_url_that_cannot_be_honoured_is_refused(model):
    with pytest.raises(ConfigError, match=r"only for an OpenAI-compatible endpoint.*gateway:/NAME"):
        build("Safety", model)
