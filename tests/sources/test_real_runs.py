"""The real τ²-bench telecom runs: what the files are known to hold must be what arrives."""

from __future__ import annotations

from collections import Counter

import pytest

from mlflow_assay import semconv
from mlflow_assay.sources.dialogue import Result, Said
from mlflow_assay.sources.importing import import_runs, plan
from mlflow_assay.sources.tau2 import Tau2Importer
from mlflow_assay.sources.tau2_files import load
from mlflow_assay.sources.tau2_transcript import events, split

SIMULATED = {"gpt41": (40, 18, 2238 + 40), "ftgpt41": (40, 30, 2935 + 40)}
JUDGED = {"triage": 35, "customer_outcome": 50, "policy_conv": 34, "policy_cot": 30}


@pytest.fixture
def folder(shared_data):
    return shared_data / "tau2_telecom"


@pytest.mark.parametrize("name", SIMULATED)
def test_simulations_are_read_with_their_ground_truth(folder, name):
    runs, solved, spans = SIMULATED[name]
    found = list(Tau2Importer().runs(folder / f"{name}_telecom.json.gz"))

    assert len(found) == len({r.id for r in found}) == runs
    assert sum(a.value for r in found for a in r.assessments if a.name == "task_success") == solved
    assert sum(len(r.spans) for r in found) == spans


@pytest.mark.parametrize("name", JUDGED)
def test_judge_prompts_are_read_back_whole(folder, name):
    """Every line of every transcript is in an event, and the four files show the same 114 runs."""
    entries = load(folder / f"telecom_judge_{name}.json.gz").entries

    assert len({e.simulation_id for e in entries}) == len(entries) == 114
    for entry in entries:
        transcript = split(entry.judge_prompt).transcript
        assert printed(events(transcript)) == transcript


def printed(found):
    """The transcript these events were printed as."""
    lines = []
    for event in found:
        who = "Assistant" if event.who == "agent" else "User"
        if isinstance(event, Result):
            lines.append((f"Tool {event.id}", event.content))
        elif isinstance(event, Said) and event.calls:
            lines += [(f"{who} TOOL CALL -> {c.name}", str(c.arguments)) for c in event.calls]
        else:
            lines.append((who, event.text))
    return "\n".join(
        f"{n}. {label} {text}" if "->" in label else f"{n}. {label}: {text}" for n, (label, text) in enumerate(lines, 1)
    )


@pytest.mark.slow
def test_all_six_files_arrive_once_with_ground_truth_and_verdicts(store, folder):
    import mlflow

    importer, paths = Tau2Importer(), sorted(folder.glob("*.json.gz"))
    planned = plan(importer, paths, verdicts=True)
    done = import_runs(importer, paths, planned, "telecom")

    assert (done.traces_new, done.spans_new) == (194, 17056)
    assert dict(done.new) == {"expectation": 160, "feedback": 194, "verdict": 456}
    found = mlflow.search_traces(
        locations=[done.experiment_id], return_type="list", include_spans=False, max_results=500
    )
    assert len(found) == 194
    outcomes = Counter(
        (a.name, (a.metadata or {}).get(semconv.OUTCOME)) for t in found for a in t.info.assessments if a.feedback
    )
    passed = {name: outcomes[name, "pass"] for name, _ in outcomes if name != "task_success"}
    assert passed == {
        "quick_triage_v1": 35,
        "customer_outcome_v1": 50,
        "policy_conversation_v1": 34,
        "policy_chain_of_thought_v1": 30,
    }
    assert outcomes["policy_chain_of_thought_v1", "unscored"] == 1
    truth = [a.value for t in found for a in t.info.assessments if a.name == "task_success"]
    assert (len(truth), sum(truth)) == (194, 18 + 30 + 27)
