"""`assay report` on a real store."""

from __future__ import annotations

import json
import socket
import sys

import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.cli import assay, main
from mlflow_assay.errors import ConfigError, StoreError


@pytest.fixture
def judged(log_trace):
    """Six traces of two specialists in three sessions, judged, two of them by a person too."""
    import mlflow
    from mlflow.entities import AssessmentSource

    ids = []
    for i in range(6):
        trace = log_trace(
            f"request {i}", session=f"s{i // 2}", tools=("lookup",) if i % 2 else (), tags={"agent": f"a{i % 2}"}
        )
        good = i % 3 != 0
        mlflow.log_feedback(
            trace_id=trace,
            name="resolved",
            value=good,
            rationale="<b>because</b>",
            source=AssessmentSource(source_type="LLM_JUDGE", source_id="openai:/judge"),
            metadata={semconv.OUTCOME: "pass" if good else "fail", semconv.JUDGE_DIGEST: "d" * 16},
        )
        if i < 2:
            person = AssessmentSource(source_type="HUMAN", source_id="dana")
            mlflow.log_feedback(trace_id=trace, name="resolved", value=good, source=person)
        ids.append(trace)
    return ids


def run(*arguments):
    return CliRunner().invoke(assay, ["report", *arguments], catch_exceptions=False)


def test_a_page_is_written_and_its_numbers_printed(judged, tmp_path):
    target = tmp_path / "new folder" / "r.html"
    done = run("-e", "test", "--out", str(target), "--ui-url", "http://localhost:5000")
    assert done.exit_code == 0
    assert "6 traces, 1 judge" in done.output
    assert "resolved: 67" in done.output
    html = target.read_text(encoding="utf-8")
    assert "&lt;b&gt;because&lt;/b&gt;" in html
    assert f"http://localhost:5000/#/experiments/1/traces?selectedEvaluationId={judged[0]}" in html


def test_json_goes_to_stdout_alone_and_writes_no_page_unless_asked(judged, tmp_path):
    done = run("-e", "test", "--json")
    found = json.loads(done.stdout)
    assert found["n_traces"] == found["judges"][0]["counts"]["total"] == 6
    assert found["judges"][0]["labels"]["n"] == 2
    assert found["n_sessions"] == 3
    assert not list(tmp_path.glob("*.html"))
    both = run("-e", "test", "--json", "--out", str(tmp_path / "r.html"))
    assert json.loads(both.stdout)["n_traces"] == 6
    assert (tmp_path / "r.html").exists()


def test_the_store_is_only_read(judged):
    import mlflow

    def state():
        return [sorted(a.assessment_id for a in t.info.assessments) for t in mlflow.search_traces(return_type="list")]

    before = state()
    run("-e", "test", "--json")
    assert state() == before


def test_a_breakdown_reads_steps_and_tags(judged):
    expected = {
        "span:lookup": {"ran", "did not run"},
        "tag:agent": {"a0", "a1"},
        "agent": {"a0", "a1"},  # no agent below the root: the tag says it
        "span:agent.inputs.request": {f"request {i}" for i in range(6)},
    }
    found = json.loads(run("-e", "test", "--json", *(x for by in expected for x in ("--by", by))).stdout)
    assert [b["by"] for b in found["breakdowns"]] == list(expected)
    for breakdown, values in zip(found["breakdowns"], expected.values(), strict=True):
        groups = breakdown["judges"][0]["groups"]
        assert {g["value"] for g in groups} == values
        assert sum(g["estimate"]["n_judged"] for g in groups) == 6


def test_the_agent_that_answered_is_the_one_below_the_root(store):
    import mlflow

    mlflow.set_experiment("test")
    for name in ("billing", "product"):
        with mlflow.start_span("support", span_type="AGENT") as root, mlflow.start_span(name, span_type="AGENT"):
            pass
        mlflow.log_feedback(trace_id=root.trace_id, name="ok", value=name == "billing", source=_code())
    found = json.loads(run("-e", "test", "--json", "--by", "agent").stdout)
    assert [g["value"] for g in found["breakdowns"][0]["judges"][0]["groups"]] == ["product", "billing"]


def _code():
    from mlflow.entities import AssessmentSource

    return AssessmentSource(source_type="CODE", source_id="x")


def test_an_overridden_verdict_in_the_store_is_known(judged):
    import mlflow
    from mlflow.entities import AssessmentSource

    trace = mlflow.get_trace(judged[3])
    said = next(a for a in trace.info.assessments if a.name == "resolved")
    person = AssessmentSource(source_type="HUMAN", source_id="dana")
    mlflow.override_feedback(trace_id=judged[3], assessment_id=said.assessment_id, value=True, source=person)
    judge = json.loads(run("-e", "test", "--json").stdout)["judges"][0]
    assert (judge["overridden"], judge["counts"]["failed"], judge["labels"]["n"]) == (1, 2, 2)


def test_which_traces_are_chosen_is_said_on_the_page(judged, tmp_path):
    target = tmp_path / "r.html"
    run("-e", "test", "--out", str(target), "--filter", "tag.agent = 'a1'", "--since", "7d", "--max-traces", "2")
    html = target.read_text(encoding="utf-8")
    assert "since 7d, tag.agent = &#39;a1&#39;, the first 2" in html
    assert "2 requests" in html


def test_a_judge_in_the_catalogue_lends_its_rule_and_purpose(log_trace, tmp_path):
    import mlflow

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stars.yaml").write_text(
        """name: stars
version: "1"
purpose: How many stars would the customer give?
instructions: "Rate {{ outputs }} from 1 to 5."
value: {type: numeric, low: 1, high: 5, threshold: 4, integer: true}
cases: []
""",
        encoding="utf-8",
    )
    for stars in (5, 4, 1):
        mlflow.log_feedback(trace_id=log_trace(), name="stars", value=stars, source=_code())
    plain = json.loads(run("-e", "test", "--json").stdout)["judges"][0]
    assert (plain["estimate"], plain["rule_source"]) == (None, "none")
    done = run("-e", "test", "--json", "--path", str(tmp_path / "mine"))
    judge = json.loads(done.stdout)["judges"][0]
    assert (judge["counts"]["passed"], judge["counts"]["failed"]) == (2, 1)
    assert judge["purpose"] == "How many stars would the customer give?"


# --- what can be wrong ----------------------------------------------------------------------------------


def test_an_experiment_that_is_not_there_suggests_near_names(judged):
    with pytest.raises(StoreError, match=r"no experiment 'tset'.*Valid: test"):
        run("-e", "tset")


def test_an_unreachable_server_is_said_at_once(store, monkeypatch, capsys):
    import mlflow

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        mlflow.set_tracking_uri(f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setattr(sys, "argv", ["assay", "report", "-e", "test"])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 2
    assert "does not answer" in capsys.readouterr().err


def test_wrong_options_are_clear_errors(judged):
    for arguments, message in {
        ("--by", "nonsense"): "cannot be broken down by 'nonsense'",
        ("--label", "nonsense"): "NAME=JUDGE",
        ("--label", "nothing=resolved"): "No assessment or expectation 'nothing'",
        ("--since", "yesterday"): "'yesterday' is not a time",
        ("--ui-url", "javascript:alert(1)"): "not the address of an MLflow UI",
        ("--out", "/proc/nowhere/r.html"): "cannot be written",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run("-e", "test", *arguments)


def test_an_empty_experiment_gives_a_page_that_says_so(store, tmp_path):
    import mlflow

    mlflow.create_experiment("empty")
    run("-e", "empty", "--out", str(tmp_path / "r.html"))
    assert "There are no traces in the experiment “empty”" in (tmp_path / "r.html").read_text(encoding="utf-8")
