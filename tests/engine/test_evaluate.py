"""`evaluate` against `mlflow.genai.evaluate`: the same data and scorers give the same run, assessments and result."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.exceptions import MlflowException
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Guidelines, RegexMatch, ResponseLength, scorer

import mlflow_assay
from mlflow_assay import semconv
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.run import Options
from mlflow_assay.errors import ConfigError
from mlflow_assay.pipeline import build_judges
from mlflow_assay.testing import FakeJudgeServer, answer


@pytest.fixture(autouse=True)
def quiet(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_WORKERS", "8")
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT", "0")
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT", "0")
    monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
    mlflow.set_experiment("test")


@scorer
def length(outputs):
    return len(str(outputs))


@scorer
def polite(outputs):
    return "please" in str(outputs).lower()


@scorer
def word(outputs):
    return "long" if len(str(outputs)) > 20 else "short"


@scorer
def rating(outputs):
    return "yes" if "sorry" in str(outputs) else "no"


@scorer
def expected(outputs, expectations):
    return outputs == expectations.get("answer")


@scorer
def several(inputs):
    return [Feedback(name="first", value=1), Feedback(name="second", value=False, rationale="second of two")]


@scorer
def sometimes(outputs):
    return None if "sorry" in str(outputs) else 1.0


@scorer
def fails(outputs):
    if "sorry" in str(outputs):
        raise ValueError("cannot read this")
    return True


@scorer(aggregations=["min", "max", "mean"])
def spans(trace):
    return len(trace.data.spans)


CODE = [length, polite, word, rating, expected, several, sometimes, fails, spans]
ROWS = [
    {
        "inputs": {"question": f"question {i}"},
        "outputs": ["please wait", "sorry, no", "a rather long answer it is, " * 2][i % 3],
        "expectations": {"answer": "please wait", "route": "billing"},
        "tags": {"slice": str(i % 2)},
    }
    for i in range(7)
]


def run_facts(result: Any) -> dict[str, Any]:
    """What MLflow holds of an evaluation, without ids, times and what each engine says about itself."""
    client = MlflowClient()
    run = client.get_run(result.run_id)
    linked = mlflow.search_traces(
        locations=[run.info.experiment_id], run_id=result.run_id, return_type="list", include_spans=False
    )
    rows = sorted(row_facts(trace.info, result.run_id) for trace in linked)
    tags = {k: v for k, v in run.data.tags.items() if k not in ("mlflow.runName", "mlflow.user")}
    inputs = [(i.dataset.name, i.dataset.digest, i.dataset.source_type) for i in run.inputs.dataset_inputs]
    return {
        "status": run.info.status,
        "metrics": run.data.metrics,
        "result metrics": result.metrics,
        "tags": tags,
        "inputs": inputs,
        "models": [m.model_id for m in run.inputs.model_inputs],
        "rows": rows,
    }


def row_facts(info: Any, run_id: str) -> tuple[str, str, str, list[tuple[str, ...]]]:
    own = [a for a in info.assessments if (a.metadata or {}).get("mlflow.assessment.sourceRunId") == run_id]
    assessments = []
    for a in own:
        error = a.feedback.error.error_message if a.feedback is not None and a.feedback.error else ""
        where = "root" if a.span_id else "trace"
        source = (a.source.source_type, a.source.source_id)
        digest = a.metadata.get("mlflow.assessment.scorerDigest", "")
        session = a.metadata.get("mlflow.trace.session", "")
        kind = "expectation" if a.expectation is not None else "feedback"
        facts = (a.name, kind, repr(a.value), a.rationale, error, where, source, digest, session)
        assessments.append(tuple(map(str, facts)))
    return (info.request_preview, info.response_preview or "", info.tags.get("slice", ""), sorted(assessments))


def table_facts(result: Any) -> dict[str, Any]:
    """The result table: its columns, and every value column in order of rows."""
    frame = result.result_df
    shown = [c for c in frame.columns if c.endswith(("/value", "/error_message", "/rationale"))]
    values = {c: [None if isinstance(v, float) and math.isnan(v) else v for v in frame[c]] for c in sorted(shown)}
    return {"columns": sorted(frame.columns), "values": values, "rows": len(frame), "tables": list(result.tables)}


def both(make: Callable[[], dict[str, Any]], **ours: Any) -> tuple[Any, Any]:
    """MLflow's result and ours on the same arguments."""
    return mlflow.genai.evaluate(**make()), mlflow_assay.evaluate(**make(), **ours)


def assert_same(theirs: Any, mine: Any) -> None:
    assert run_facts(mine) == run_facts(theirs)
    assert table_facts(mine) == table_facts(theirs)
    assert type(mine) is type(theirs)
    assert mine.passed == theirs.passed
    assert sorted(mine.reason.splitlines()) == sorted(theirs.reason.splitlines())


@pytest.mark.parametrize("form", ["list", "frame"])
def test_rows_of_inputs_outputs_and_expectations(form):
    data: Any = ROWS if form == "list" else pd.DataFrame(ROWS)
    theirs, mine = both(lambda: {"data": data, "scorers": list(CODE)})
    assert_same(theirs, mine)
    assert len(mine.result_df) == len(ROWS)
    assert MlflowClient().get_run(mine.run_id).data.tags["mlflow.runType"] == "genai_evaluate"


@pytest.mark.parametrize("form", ["search_traces", "list of traces"])
def test_traces_that_are_there(form, log_trace):
    ids = [log_trace(request=f"question {i}", answer="please wait") for i in range(4)]
    mlflow.log_expectation(
        trace_id=ids[0], name="answer", value="please wait", source=AssessmentSource("HUMAN", "expert")
    )

    def arguments():
        kind: Any = "pandas" if form == "search_traces" else "list"
        traces = mlflow.search_traces(locations=[experiment_id()], return_type=kind)
        return {"data": traces, "scorers": [length, polite, spans, several]}

    first = arguments()
    theirs, mine = mlflow.genai.evaluate(**first), mlflow_assay.evaluate(**first)
    assert_same(theirs, mine)
    assert len(mlflow.search_traces(locations=[experiment_id()], return_type="list")) == 4


def experiment_id() -> str:
    return mlflow.get_experiment_by_name("test").experiment_id


def test_traces_of_another_experiment_are_copied(log_trace):
    log_trace(answer="please wait")
    traces = mlflow.search_traces(locations=[experiment_id()], return_type="list")
    mlflow.set_experiment("elsewhere")
    theirs, mine = both(lambda: {"data": traces, "scorers": [polite]})
    assert_same(theirs, mine)
    assert mlflow.get_trace(traces[0].info.trace_id).info.assessments == []


def test_a_predict_fn_is_called_once_a_row_and_its_traces_are_judged():
    calls: list[str] = []

    def agent(question: str) -> str:
        calls.append(question)
        if question.endswith("3"):
            raise RuntimeError("the agent fell over")
        return f"please wait, {question}"

    rows = [{k: v for k, v in row.items() if k != "outputs"} for row in ROWS]
    theirs, mine = both(lambda: {"data": rows, "scorers": [length, polite, spans], "predict_fn": agent})
    assert_same(theirs, mine)
    assert sorted(calls) == sorted([*(row["inputs"]["question"] for row in ROWS)] * 2 + ["question 0"] * 2)


def test_an_async_predict_fn_and_its_bounded_concurrency():
    flying, most, lock, together = [0], [0], threading.Lock(), threading.Event()

    async def agent(question: str) -> str:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
            if flying[0] > 1:
                together.set()
        together.wait(timeout=30)
        with lock:
            flying[0] -= 1
        return "please"

    rows = [{"inputs": {"question": f"q{i}"}} for i in range(12)]
    result = mlflow_assay.evaluate(rows, [polite], agent, options=Options(threads=3))
    assert result.metrics == {"polite/mean": 1.0}
    assert 1 < most[0] <= 3


def test_instruction_judges_send_and_store_what_mlflow_sends_and_stores():
    """`make_judge` judges on the fast path, with row inputs, a missing output, a garbled reply, any value type."""
    rows = [{**row, "outputs": None} if i == 2 else row for i, row in enumerate(ROWS)]

    def reply(request):
        return "garbled" if "question 4" in request.prompt else answer(True, "fits")

    def word_reply(request):
        return answer("fine", "as a word")

    prompts = []
    results = []
    for run in (mlflow.genai.evaluate, mlflow_assay.evaluate):
        with FakeJudgeServer(reply) as server, FakeJudgeServer(word_reply) as words:
            fits = make_judge(
                name="fits",
                instructions="Do {{ inputs }} and {{ outputs }} fit {{ expectations }}?",
                model="openai:/fake",
                base_url=server.url,
                feedback_value_type=bool,
            )
            feel = make_judge(
                name="feel",
                instructions="How does {{ inputs }} feel?",
                model="openai:/fake",
                base_url=words.url,
                feedback_value_type=Literal["fine", "bad"],
            )
            results.append(run(data=rows[:2] + rows[3:], scorers=[fits, feel]))
            prompts.append(sorted(str(r.body) for r in [*server.requests, *words.requests]))
    theirs, mine = results
    assert set(prompts[0]) == set(prompts[1])
    assert mine.metrics == theirs.metrics == {"fits/mean": 1.0}
    for name in ("fits/value", "feel/value", "fits/rationale"):
        assert table_facts(mine)["values"][name] == table_facts(theirs)["values"][name]
    errors = table_facts(mine)["values"]["fits/error_message"]
    assert [i for i, e in enumerate(errors) if e] == [3]


def test_built_in_scorers():
    """MLflow's own, with and without a model; the model's replies come from the same fake."""
    with FakeJudgeServer(answer("yes", "follows")) as server:
        import os

        before = os.environ.get("OPENAI_API_BASE")
        os.environ["OPENAI_API_BASE"] = server.base
        try:

            def arguments():
                guide = Guidelines(name="kind", guidelines="Be kind.", model="openai:/fake")
                return {"data": ROWS, "scorers": [guide, RegexMatch(pattern="please"), ResponseLength(max_length=20)]}

            theirs, mine = both(arguments)
        finally:
            os.environ.pop("OPENAI_API_BASE")
            if before is not None:
                os.environ["OPENAI_API_BASE"] = before
        assert_same(theirs, mine)
        assert mine.metrics["kind/mean"] == 1.0


def test_session_level_scorers_judge_a_session_once_on_its_first_trace(log_trace):
    for i in range(6):
        log_trace(request=f"question {i}", session=None if i == 5 else f"s{i % 2}")

    @scorer
    def turns(session):
        return len(session)

    @scorer
    def broken(session):
        raise ValueError("no such session")

    traces = mlflow.search_traces(locations=[experiment_id()], return_type="list")
    first = {"data": traces, "scorers": [turns, broken, length]}
    theirs, mine = mlflow.genai.evaluate(**first), mlflow_assay.evaluate(**first)
    assert_same(theirs, mine)
    assert mine.metrics["turns/mean"] == 2.5
    with pytest.raises(MlflowException, match="Session-level scorers require traces"):
        mlflow_assay.evaluate(ROWS, [turns], lambda question: question)


def test_an_evaluation_dataset_is_logged_as_the_runs_input(store):
    dataset = mlflow.genai.datasets.create_dataset(name="support", experiment_id=[experiment_id()])
    dataset.merge_records([{"inputs": r["inputs"], "expectations": r["expectations"]} for r in ROWS])
    dataset = mlflow.genai.datasets.get_dataset(name="support")

    def agent(question: str) -> str:
        return f"please wait, {question}"

    theirs, mine = both(lambda: {"data": dataset, "scorers": [length, expected], "predict_fn": agent})
    assert_same(theirs, mine)
    assert run_facts(mine)["inputs"][0][0] == "support"


def test_the_active_run_is_used_and_left_open():
    with mlflow.start_run(run_name="mine") as run:
        result = mlflow_assay.evaluate(ROWS[:2], [length])
        assert mlflow.active_run().info.run_id == run.info.run_id == result.run_id
    assert MlflowClient().get_run(result.run_id).data.metrics == result.metrics


def test_no_scorers_still_log_expectations_and_make_the_table():
    theirs, mine = both(lambda: {"data": ROWS, "scorers": []})
    assert run_facts(mine) == run_facts(theirs)
    assert mine.result_df.shape == theirs.result_df.shape


# --- beyond MLflow's own ---------------------------------------------------------------------------------


DEFINITION = """
name: looks_right
purpose: Does the answer fit the request at all?
value: {type: categorical, options: [good, bad], good: [good]}
instructions: Compare {{ inputs }} with {{ outputs }} and answer whether they fit.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "judges"
    path.mkdir()
    (path / "looks_right.yaml").write_text(DEFINITION)
    return path


def test_catalogue_judges_by_name_and_built_keep_their_contract(folder):
    with FakeJudgeServer(lambda r: answer("good" if "sorry" not in r.prompt else "sideways")) as server:
        (built,) = build_judges(["repeated_steps"])
        result = mlflow_assay.evaluate(ROWS, ["looks_right", built, length], model=server.model, paths=[folder])
    values = table_facts(result)["values"]["looks_right/value"]
    assert values == ["good", None, "good", "good", None, "good", "good"]
    trace = mlflow.get_trace(result.result_df["trace_id"][0])
    by_name = {a.name: a for a in trace.info.assessments if a.feedback is not None}
    assert by_name["looks_right"].metadata[semconv.OUTCOME] == "pass"
    assert by_name["repeated_steps"].metadata[semconv.JUDGE_DIGEST] == built.digest
    assert semconv.JUDGE_DIGEST not in by_name["length"].metadata
    assert semconv.OUTCOME not in by_name["length"].metadata


def test_a_second_evaluation_is_a_new_run_and_its_replies_come_from_the_cache(folder, tmp_path):
    cache = VerdictCache(f"sqlite:///{tmp_path}/known.db")
    with FakeJudgeServer(answer("good")) as server:
        fits = make_judge(
            name="fits", instructions="Is {{ outputs }} fit?", model="openai:/fake", base_url=server.url,
            feedback_value_type=Literal["good", "bad"],
        )  # fmt: skip
        first = mlflow_assay.evaluate(ROWS, [fits], options=Options(cache=cache))
        paid = len(server.requests)
        second = mlflow_assay.evaluate(ROWS, [fits], options=Options(cache=cache))
        assert (paid, len(server.requests)) == (3, 3)  # three different outputs in seven rows
    assert first.run_id != second.run_id
    assert first.result_df["fits/value"].tolist() == second.result_df["fits/value"].tolist() == ["good"] * 7
    cache.close()


def test_every_row_counts_with_many_rows():
    rows = [{"inputs": {"q": i}, "outputs": "x" * i} for i in range(105)]
    result = mlflow_assay.evaluate(rows, [length, polite, rating])
    assert len(result.result_df) == 105
    assert result.result_df["length/value"].tolist() == list(range(105))
    assert result.result_df.filter(like="/value").notna().all().all()


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ([len], "is not a scorer"),
        ([length, length], "Two scorers are named 'length'"),
        (["no_such_judge"], "no judge 'no_such_judge'"),
    ],
)
def test_what_is_no_scorer_is_refused_before_a_run_is_made(scorers, message):
    with pytest.raises(ConfigError, match=message):
        mlflow_assay.evaluate(ROWS, scorers)
    assert MlflowClient().search_runs([experiment_id()]) == []


@pytest.mark.parametrize("data", [[], [{"outputs": "x"}], ["x"], [{"inputs": "no mapping", "outputs": "x"}]])
def test_data_mlflow_refuses_is_refused(data):
    with pytest.raises((MlflowException, ConfigError)):
        mlflow_assay.evaluate(data, [length])
