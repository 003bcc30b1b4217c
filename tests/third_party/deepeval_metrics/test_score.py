"""DeepEval's metrics through `assay score`: a team's pack of all kinds, cached, budgeted and billed like any judge."""

from __future__ import annotations

import json
import re

import mlflow
import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.cli import assay
from mlflow_assay.testing import FakeJudgeServer, answer, filled

PACK = {
    "polite": """
name: polite
purpose: Is the answer polite and free of blame?
value: {type: numeric, low: 0, high: 1, threshold: 0.7}
uses: deepeval/GEval
with:
  criteria: The answer is polite and never blames the customer.
  evaluation_params: [input, actual_output]
  rubric:
    - {score_range: [0, 4], expected_outcome: Rude.}
    - {score_range: [5, 10], expected_outcome: Polite.}
""",
    "right_tools": """
name: right_tools
purpose: Were the tools called that the experts expect?
value: {type: numeric, low: 0, high: 1, threshold: 1}
uses: deepeval/ToolCorrectnessMetric
with:
  should_exact_match: true
  fields: {expected_tools: "expectation:must_call"}
""",
    "kept_to_it": """
name: kept_to_it
purpose: Does each reply of the session address what was said before?
scope: session
value: {type: numeric, low: 0, high: 1, threshold: 0.5}
uses: deepeval/TurnRelevancyMetric
""",
    "fits": """
name: fits
purpose: Does the answer fit the request at all?
value: {type: boolean}
instructions: Compare {{ inputs }} with {{ outputs }} and answer whether they fit.
""",
}


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "pack"
    folder.mkdir()
    for name, text in PACK.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def model(request):
    """GEval's score follows the answer; everything else is well."""
    if "result" in request.schema.get("properties", {}):
        return answer(True)
    score = 2 if "your own fault" in request.prompt else 9
    return json.dumps(filled(request.schema, lambda field, _: score if field == "score" else None))


def score(pack, server, *judges, extra=()):
    arguments = ["score", "-e", "test", "--path", str(pack), "--model", "openai:/fake-judge", "--base-url", server.url]
    arguments += [part for judge in judges for part in ("-j", judge)]
    done = CliRunner().invoke(assay, [*arguments, "--json", *extra])
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout[done.stdout.index("{") :])


def tallies(report):
    return {judge["judge"]: judge for judge in report["judges"]}


def test_a_pack_of_all_kinds_is_one_table(pack, log_trace):
    """Instructions, three metrics of DeepEval and a rule side by side, each with number, pass verdict and reason."""
    first = log_trace(answer="Let me look.", session="s1")
    log_trace(answer="That is your own fault.", session="s1")
    mlflow.log_expectation(
        trace_id=first, name="must_call", value=[{"name": "get_invoice", "arguments": {"customer": "C1"}}]
    )
    with FakeJudgeServer(model, tokens=(100, 10)) as server:
        report = score(pack, server, *PACK, "repeated_steps", extra=["--price", "1,10"])
    found = tallies(report)
    counts = {name: (t["passed"], t["failed"], sum(t["unscored"].values())) for name, t in found.items()}
    assert counts == {
        "polite": (1, 1, 0),
        "right_tools": (1, 0, 1),  # one trace has no expectation of that name
        "kept_to_it": (1, 0, 0),
        "fits": (2, 0, 0),
        "repeated_steps": (2, 0, 0),
    }
    verdicts = {a.name: a for a in mlflow.get_trace(first).info.assessments if a.feedback}
    polite = verdicts["polite"]
    assert (polite.value, polite.rationale) == (0.9, "text")
    assert polite.metadata[semconv.OUTCOME] == "pass" and polite.metadata[semconv.LIBRARY_PASSED] == "true"
    assert polite.metadata[semconv.JUDGE_KIND] == "deepeval"
    assert (polite.source.source_type, polite.source.source_id) == ("LLM_JUDGE", "openai:/fake-judge")
    assert polite.metadata[semconv.JUDGE_CALLS] == "2"
    assert float(polite.metadata["mlflow.assessment.judgeCost"]) == pytest.approx(2 * (100 + 100) / 1e6)
    assert found["polite"]["input_tokens"] == 400 and found["polite"]["cost_usd"] == pytest.approx(800e-6)


def test_verdicts_are_cached_like_any_judges(pack, log_trace):
    for number in range(4):
        log_trace(request=f"question {number}")
    with FakeJudgeServer(model) as server:
        score(pack, server, "polite")
        asked = len(server.requests)
        mlflow.search_traces(return_type="list")
        for trace in mlflow.search_traces(return_type="list"):
            for verdict in trace.info.assessments:
                mlflow.delete_assessment(trace_id=trace.info.trace_id, assessment_id=verdict.assessment_id)
        again = tallies(score(pack, server, "polite"))["polite"]
        assert (asked, len(server.requests)) == (8, 8)
    assert (again["passed"], again["cache_hits"]) == (4, 4)
    assert again["input_tokens"] == 0


def test_another_criterion_is_another_judge(pack, log_trace):
    """The criteria are part of the digest, so nothing is taken from the cache of the old ones."""
    log_trace()
    with FakeJudgeServer(model) as server:
        score(pack, server, "polite")
        (pack / "polite.yaml").write_text(PACK["polite"].replace("never blames", "never ever blames"))
        score(pack, server, "polite")
        assert len(server.requests) == 4


@pytest.mark.parametrize("limit", [1, 5, 6])
def test_a_budget_counts_every_call_of_a_metric_and_holds(pack, log_trace, limit):
    """Each verdict takes two calls: no more of them are begun than the budget has room for."""
    for number in range(8):
        log_trace(request=f"question {number}")
    with FakeJudgeServer(model) as server:
        found = tallies(score(pack, server, "polite", extra=["--max-calls", str(limit)]))["polite"]
        assert len(server.requests) == limit - limit % 2
    assert found["passed"] == limit // 2
    assert found["unscored"] == {"budget": 8 - limit // 2}


@pytest.mark.parametrize("limit", [10, 25, 26])
def test_a_budget_holds_to_the_call_also_for_metrics_that_ask_more_often_than_declared_at_least(pack, log_trace, limit):
    """Six conversations of four exchanges: five calls each. Reserved are two; the others are asked for one by one."""
    for session in range(6):
        for number in range(4):
            log_trace(request=f"question {number} of {session}", session=f"s{session}")
    with FakeJudgeServer(model) as server:
        report = score(pack, server, "kept_to_it", extra=["--max-calls", str(limit)])
        found = tallies(report)["kept_to_it"]
        assert len(server.requests) <= limit
    assert found["passed"] + found["unscored"].get("budget", 0) == 6
    assert found["unscored"]["budget"] >= 1 and found["passed"] >= (1 if limit > 20 else 0)


def test_a_dry_run_asks_nobody(pack, log_trace):
    log_trace()
    with FakeJudgeServer(model) as server:
        done = score(pack, server, "polite", "right_tools", extra=["--dry-run"])
        assert server.requests == []
    by_name = {judge["judge"]: judge for judge in done["judges"]}
    assert (by_name["polite"]["owed"], by_name["polite"]["calls"]) == (1, 2)
    assert (by_name["right_tools"]["missing"], by_name["right_tools"]["cost_usd"]) == (1, 0.0)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("criteria:", "criterion:", r"polite.yaml:\d+: .*no parameter 'criterion'.*Valid: .*criteria"),
        ("[input, actual_output]", "[input, answer]", r"cannot look at 'answer' of a trace.*actual_output"),
        ("deepeval/GEval", "deepeval/GeeEval", r"library 'deepeval' has no judge 'GeeEval'"),
        ("deepeval/GEval", "deepeval/JevEval", "deepeval/JevEval is not supported: asks"),
        ("[0, 4]", "[0, 40]", "refuses its metric 'GEval'"),
        ("threshold: 0.7}", "threshold: 0.7, better: lower}", r"yaml:\d+: deepeval/GEval gives another value.*≤ 0.7"),
        ("high: 1, threshold: 0.7}", "high: 10, threshold: 7}", "Valid: 0 to 1, ≥ 0.5 passes; the threshold is yours"),
    ],
)
def test_a_wrong_definition_is_refused_with_its_line(pack, old, new, told):
    path = pack / "polite.yaml"
    path.write_text(PACK["polite"].replace(old, new))
    done = CliRunner().invoke(assay, ["judges", "validate", str(path)])
    assert done.exit_code != 0
    assert re.search(told, " ".join(done.output.split())), done.output
