"""Cases: real traces in memory, judged through the engine's door, and failures that show."""

from __future__ import annotations

import pytest

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.case_traces import session_of, trace_of
from mlflow_assay.judges.cases import example_texts, run_cases, run_offline
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.judges.definition import Case
from mlflow_assay.testing import FakeJudgeServer, Reply, answer

JUDGE = """\
name: polite
purpose: Is the answer polite to the customer?
value: {type: categorical, options: ["yes", "no", cannot_tell], good: ["yes"], undecided: [cannot_tell]}
instructions: "Decide whether {{ outputs }} is polite."
cases:
  - {name: thanks, kind: good, outputs: {answer: Thank you!}, expect: "yes"}
  - {name: rude, kind: bad, outputs: {answer: Go away.}, expect: "no"}
  - {name: mumbled, kind: unscorable, outputs: {answer: Hm.}, unscored: undecided}
  - {name: prose, kind: unscorable, outputs: {answer: Hm.}, reply: It is fine., unscored: garbled_reply}
  - {name: nothing, kind: unscorable, unscored: missing_field}
"""


@pytest.fixture
def own(write, tmp_path):
    """A catalogue with one judge of that text."""

    def own(text: str = JUDGE) -> Catalogue:
        write(text, "own/polite.yaml")
        return Catalogue([tmp_path / "own"])

    return own


def statuses(results):
    return {r.case: (r.status, r.got) for r in results}


def case(**said):
    return Case.model_validate({"name": "n", "kind": "good", "expect": "x", **said})


# --- traces ----------------------------------------------------------------------------------------------


def test_a_case_is_a_real_trace_that_mlflow_can_write_and_read_back():
    """The trace survives MLflow's own serialisation with spans, errors, times, tags and expectations."""
    from mlflow.entities import Trace

    made = trace_of(
        case(
            inputs={"q": "Größe?"},
            outputs={"a": "XL"},
            spans=[{"name": "get", "inputs": {"id": 1}, "error": "timeout", "seconds": 2}],
            tags={"domain": "shop"},
            expectations={"size": "XL"},
        ),
        "n",
    )
    found = Trace.from_json(made.to_json())
    root, tool = found.data.spans
    assert (root.inputs, root.outputs, tool.parent_id) == ({"q": "Größe?"}, {"a": "XL"}, root.span_id)
    assert (tool.span_type, tool.status.status_code.value, tool.status.description) == ("TOOL", "ERROR", "timeout")
    assert tool.events[0].attributes["exception.message"] == "timeout"
    assert (found.info.execution_duration, found.info.state.value) == (2000, "ERROR")
    assert found.info.tags == {"domain": "shop"}
    assert [(a.name, a.value) for a in found.info.assessments] == [("size", "XL")]


def test_turns_are_one_session_oldest_first():
    turns = session_of(case(turns=[{"inputs": 1}, {"inputs": 2}]), "n")
    assert [t.data.spans[0].inputs for t in turns] == [1, 2]
    assert len({t.info.trace_metadata["mlflow.trace.session"] for t in turns}) == 1
    assert len({t.info.trace_id for t in turns}) == 2
    assert turns[0].info.timestamp_ms < turns[1].info.timestamp_ms


def test_a_case_that_recorded_nothing_has_no_spans_and_no_duration():
    trace = trace_of(case(), "n")
    assert (trace.data.spans, trace.info.execution_duration) == ([], None)


def test_usage_and_cost_are_summed_over_spans():
    spans = [
        {"name": "a", "attributes": {"mlflow.llm.cost": {"input_cost": 1.0, "output_cost": 2.0, "total_cost": 3.0}}},
        {"name": "b", "attributes": {"mlflow.llm.cost": {"input_cost": 0.5, "output_cost": 0.5, "total_cost": 1.0}}},
    ]
    assert trace_of(case(inputs=1, spans=spans), "n").info.cost == {
        "input_cost": 1.5,
        "output_cost": 2.5,
        "total_cost": 4.0,
    }


# --- offline ---------------------------------------------------------------------------------------------


def test_offline_each_case_gets_its_own_reply_over_http(own):
    catalogue = own()
    found = statuses(run_offline(catalogue, catalogue.get("polite")))
    assert found == {
        "thanks": ("passed", "yes"),
        "rude": ("passed", "no"),
        "mumbled": ("passed", "unscored: undecided"),
        "prose": ("passed", "unscored: garbled_reply"),
        "nothing": ("passed", "unscored: missing_field"),
    }


def test_offline_a_case_whose_reply_means_something_else_fails(own):
    """The offline run is no formality: a reply that reads differently than expected is a failure."""
    catalogue = own(JUDGE.replace("reply: It is fine.", """reply: '{"result": "yes", "rationale": ""}'"""))
    (prose,) = [r for r in run_offline(catalogue, catalogue.get("polite")) if r.case == "prose"]
    assert (prose.status, prose.expected, prose.got) == ("failed", "unscored: garbled_reply", "yes")


def test_offline_a_missing_field_that_the_judge_does_not_miss_fails(own):
    """A case that ought to be unscored for lack of a field must not reach the model."""
    catalogue = own(
        JUDGE.replace("kind: unscorable, unscored: missing", "kind: unscorable, outputs: {a: x}, unscored: missing")
    )
    (nothing,) = [r for r in run_offline(catalogue, catalogue.get("polite")) if r.case == "nothing"]
    assert (nothing.status, nothing.detail) == ("failed", "the judge model was called")


def test_offline_a_good_case_that_lacks_a_field_fails(own):
    catalogue = own(JUDGE.replace("kind: good, outputs: {answer: Thank you!},", "kind: good,"))
    (thanks,) = [r for r in run_offline(catalogue, catalogue.get("polite")) if r.case == "thanks"]
    assert (thanks.status, thanks.got) == ("failed", "unscored: missing_field")


def test_offline_leaves_the_environment_as_it_was(own, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    catalogue = own()
    before = dict(__import__("os").environ)
    run_offline(catalogue, catalogue.get("polite"))
    assert dict(__import__("os").environ) == before


def test_a_judge_without_definition_has_no_cases(catalogue):
    with pytest.raises(ConfigError, match="'mlflow/Safety' has no cases"):
        run_offline(catalogue, catalogue.get("mlflow/Safety"))


# --- against a model -------------------------------------------------------------------------------------


def bound_to(catalogue, server):
    return catalogue.build("polite", server.model, example_texts(catalogue.get("polite").definition))


def test_a_model_that_judges_badly_fails_its_cases(own, monkeypatch):
    """With a model the cases measure the model: one that calls everything polite fails the bad case."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    catalogue = own()
    with FakeJudgeServer(reply=answer("yes", "looks fine to me")) as server:
        results = run_cases(bound_to(catalogue, server), catalogue.get("polite").definition)
    found = statuses(results)
    assert found["thanks"] == ("passed", "yes") and found["rude"] == ("failed", "yes")
    assert found["nothing"] == ("passed", "unscored: missing_field")
    assert [r.detail for r in results if r.case == "rude"] == ["looks fine to me"]


def test_a_scripted_reply_is_skipped_against_a_model(own, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    catalogue = own()
    with FakeJudgeServer(reply=answer("cannot_tell")) as server:
        results = run_cases(bound_to(catalogue, server), catalogue.get("polite").definition)
    assert statuses(results)["prose"] == ("skipped", "") and statuses(results)["mumbled"][0] == "passed"


def test_a_refusing_endpoint_fails_cases_with_its_reason(own, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    catalogue = own()
    with FakeJudgeServer(reply=Reply("no such key", 401)) as server:
        results = run_cases(bound_to(catalogue, server), catalogue.get("polite").definition)
    (rude,) = [r for r in results if r.case == "rude"]
    assert (rude.status, rude.got) == ("failed", "unscored: unauthorized") and "no such key" in rude.detail


def test_an_unknown_model_still_judges_code(catalogue):
    entry = catalogue.get("repeated_steps")
    bound = catalogue.build("repeated_steps", ModelSettings("openai:/never-asked"))
    assert all(r.status == "passed" for r in run_cases(bound, entry.definition))
