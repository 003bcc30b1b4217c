"""Panels, through `pipeline.score` against a real store and a real loopback judge server with three models."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from mlflow_assay import pipeline, semconv
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.budget import Budget
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.limits import RetryPolicy
from mlflow_assay.engine.run import Options
from mlflow_assay.errors import ConfigError, DefinitionError, NotTrustedError
from mlflow_assay.judges import calibrating, definition
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.judges.composite import deliberate
from mlflow_assay.judges.panel import mlflow_ensemble
from mlflow_assay.judges.registering import register, why_not
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, Reply, answer

FITS = """
name: fits
purpose: Does the answer fit the request at all?
value: {type: boolean}
instructions: Compare {{ inputs }} with {{ outputs }} and answer whether they fit.
"""
PANEL = """
name: fits_panel
purpose: Do several models find that the answer fits?
value: {type: boolean}
panel: {judge: fits, models: ["openai:/a", "openai:/b", "openai:/c"], vote: majority, quorum: 0.6}
"""
GRADE = """
name: grade
purpose: How good is the answer, from one to five?
value: {type: numeric, low: 1, high: 5, threshold: 3}
instructions: Grade {{ outputs }} as an answer to {{ inputs }} from 1 to 5.
"""
TONE = """
name: tone_word
purpose: Which tone does the answer have?
value: {type: categorical, options: [kind, cold, rude], good: [kind]}
instructions: Name the tone of {{ outputs }}.
"""
QUICK = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "judges"
    path.mkdir()
    for text in (FITS, PANEL, GRADE, TONE):
        put(path, text)
    return path


def put(folder: Path, text: str) -> None:
    found = definition.loads(text)
    (folder / f"{found.name}.yaml").write_text(text)


def by_model(**replies):
    """A server on which each model gives its own reply."""
    return FakeJudgeServer(lambda request: replies[request.body["model"]])


def settings(server: FakeJudgeServer) -> ModelSettings:
    return ModelSettings("openai:/any", server.url, timeout_s=5, usd_per_million=None)


def run(folder, server, judge="fits_panel", **options):
    judges = pipeline.build_judges([judge], model=settings(server), paths=[folder])
    return pipeline.score(MlflowSource("test"), judges, options=Options(retry=QUICK, **options))


def standing(trace_id):
    (found,) = [a for a in mlflow.get_trace(trace_id).info.assessments if a.valid is not False]
    return found


def votes(verdict):
    return json.loads(verdict.metadata[semconv.MEMBERS])


def test_the_majority_decides_and_the_disagreement_is_kept(folder, log_trace):
    trace_id = log_trace()
    with by_model(a=answer(True), b=answer(False, "no greeting"), c=answer(True)) as server:
        report = run(folder, server)
    verdict = standing(trace_id)
    assert (verdict.value, report.tallies[0].passed) == (True, 1)
    assert verdict.metadata[semconv.PANEL_AGREEMENT] == "0.6667"
    assert [(v["judge"], v["value"]) for v in votes(verdict)] == [
        ("openai:/a", True),
        ("openai:/b", False),
        ("openai:/c", True),
    ]
    assert "no greeting" in verdict.rationale
    assert (verdict.source.source_type, verdict.source.source_id) == ("LLM_JUDGE", "fits_panel")
    assert verdict.metadata[semconv.JUDGE_KIND] == "panel"


def test_what_the_members_cost_is_summed_under_mlflows_keys(folder, log_trace):
    put(folder, PANEL.replace("openai:/a", "openai:/gpt-4.1-mini").replace("openai:/b", "openai:/gpt-4.1"))
    trace_id = log_trace()
    with FakeJudgeServer(answer(True), tokens=(1000, 100)) as server:
        report = run(folder, server)
    metadata = standing(trace_id).metadata
    assert metadata["mlflow.assessment.judgeInputTokens"] == "3000"
    assert metadata["mlflow.assessment.judgeOutputTokens"] == "300"
    # Two members have a price (0.4, 1.6 and 2, 8 dollars a million), the third has none.
    assert float(metadata["mlflow.assessment.judgeCost"]) == pytest.approx(0.00056 + 0.0028)
    assert report.tallies[0].cost_usd == pytest.approx(0.00056 + 0.0028)
    assert report.tallies[0].input_tokens == 3000


def test_a_tie_is_no_verdict_and_is_not_judged_again(folder, log_trace):
    trace_id = log_trace()
    with by_model(a=answer(True), b=answer(False), c="garbage") as server:
        report = run(folder, server)
        again = run(folder, server)
    assert dict(report.tallies[0].unscored) == {"undecided": 1}
    assert "tied between" in standing(trace_id).error.error_message
    assert standing(trace_id).metadata["mlflow.assessment.judgeInputTokens"] != "0"
    assert again.tallies[0].standing == 1


def test_a_missed_quorum_is_unscored_with_the_members_reason_and_judged_again(folder, log_trace):
    trace_id = log_trace()
    with by_model(a=answer(True), b=Reply("broken", 500), c=Reply("broken", 500)) as server:
        report = run(folder, server)
    assert dict(report.tallies[0].unscored) == {"provider_error": 1}
    verdict = standing(trace_id)
    assert "1 of 3 members answered" in verdict.error.error_message
    assert verdict.metadata[semconv.PANEL_UNSCORED] == "2"
    assert [v.get("unscored") for v in votes(verdict)] == [None, "provider_error", "provider_error"]
    with by_model(a=answer(True), b=answer(True), c=answer(False)) as server:
        assert run(folder, server).tallies[0].passed == 1


def test_members_without_a_verdict_are_counted_where_the_quorum_holds(folder, log_trace):
    trace_id = log_trace()
    with by_model(a=answer(True), b=answer(True), c="garbage") as server:
        run(folder, server)
    verdict = standing(trace_id)
    assert (verdict.value, verdict.metadata[semconv.PANEL_UNSCORED]) == (True, "1")
    assert verdict.metadata[semconv.PANEL_AGREEMENT] == "1"


def test_a_missing_field_asks_nobody(folder, log_trace):
    log_trace(answer=None)
    with by_model(a=answer(True), b=answer(True), c=answer(True)) as server:
        report = run(folder, server)
        assert not server.requests
    assert dict(report.tallies[0].unscored) == {"missing_field": 1}


def test_each_member_has_its_own_cache_entry(folder, log_trace, tmp_path):
    trace_id = log_trace()
    with VerdictCache(f"sqlite:///{tmp_path}/cache.db") as cache:
        with by_model(a=answer(True), b=answer(True), c=Reply("broken", 500)) as server:
            run(folder, server, cache=cache)
        put(folder, PANEL.replace('"openai:/c"', '"openai:/d"'))
        with by_model(d=answer(False)) as server:
            report = run(folder, server, cache=cache)
            assert [r.body["model"] for r in server.requests] == ["d"]
        verdict = standing(trace_id)
        assert [v.get("cached") for v in votes(verdict)] == [True, True, None]
        assert semconv.CACHE_HIT not in verdict.metadata
        mlflow.delete_assessment(trace_id, verdict.assessment_id)
        with by_model() as server:
            again = run(folder, server, cache=cache)
            assert not server.requests
    assert (report.tallies[0].cache_hits, again.tallies[0].cache_hits) == (0, 1)
    assert standing(trace_id).metadata[semconv.CACHE_HIT] == "true"
    assert "mlflow.assessment.judgeInputTokens" not in standing(trace_id).metadata


def test_a_budget_that_ends_within_a_panel_leaves_it_unscored_for_it(folder, log_trace):
    trace_id = log_trace()
    with by_model(a=answer(True), b=answer(True), c=answer(True)) as server:
        report = run(folder, server, budget=Budget(max_calls=2))
        assert len(server.requests) == 2
    assert dict(report.tallies[0].unscored) == {"budget": 1}
    assert report.stopped
    assert standing(trace_id).metadata["mlflow.assessment.judgeInputTokens"]


def test_a_limit_in_money_needs_the_price_of_every_member(folder):
    put(folder, PANEL.replace("openai:/a", "openai:/gpt-4.1-mini"))
    with by_model() as server:
        judges = pipeline.build_judges(["fits_panel"], model=settings(server), paths=[folder])
    with pytest.raises(ConfigError, match="openai:/b"):
        pipeline.make_budget(judges, max_usd=1.0)


def test_a_members_key_is_asked_for_before_anything_is_called(folder):
    with pytest.raises(ConfigError, match=r"openai:/a.*OPENAI_API_KEY"):
        pipeline.build_judges(["fits_panel"], paths=[folder])


def test_weights_outvote_the_majority(folder, log_trace):
    weights = 'weights: {"openai:/a": 3, "openai:/b": 1, "openai:/c": 1}'
    put(folder, PANEL.replace("vote: majority", f"vote: weights, {weights}"))
    trace_id = log_trace()
    with by_model(a=answer(False), b=answer(True), c=answer(True)) as server:
        run(folder, server)
    assert standing(trace_id).value is False
    assert standing(trace_id).metadata[semconv.PANEL_AGREEMENT] == "0.6"


def test_the_mean_of_grades_passes_by_the_panels_rule(folder, log_trace):
    put(
        folder,
        "name: grades\npurpose: How good is the answer to several models?\n"
        "value: {type: numeric, low: 1, high: 5, threshold: 3}\n"
        'panel: {judge: grade, models: ["openai:/a", "openai:/b", "openai:/c"], vote: mean}\n',
    )
    trace_id = log_trace()
    with by_model(a=answer(5), b=answer(2), c=answer(3.5)) as server:
        assert run(folder, server, "grades").tallies[0].passed == 1
    verdict = standing(trace_id)
    assert verdict.value == pytest.approx(3.5)
    assert verdict.metadata[semconv.PANEL_AGREEMENT] == "0.6667"


def test_judges_of_different_scales_vote_by_pass_and_fail(folder, log_trace):
    put(
        folder,
        "name: jury\npurpose: Do the judges find the answer good?\nvalue: {type: boolean}\n"
        "panel: {judges: [fits, grade, tone_word]}\n",
    )
    trace_id = log_trace()
    replies = {"boolean": answer(True), "number": answer(4), "string": answer("rude")}

    def reply(request):
        schema = request.body["response_format"]["json_schema"]["schema"]["properties"]["result"]
        return replies[schema["type"]]

    with FakeJudgeServer(reply) as server:
        run(folder, server, "jury")
    verdict = standing(trace_id)
    assert (verdict.value, verdict.metadata[semconv.PANEL_AGREEMENT]) == (True, "0.6667")
    assert [v["value"] for v in votes(verdict)] == [True, 4.0, "rude"]


def test_the_digest_covers_members_vote_quorum_and_weights(folder):
    def digest(text):
        put(folder, text)
        return Catalogue([folder]).build("fits_panel", ModelSettings("openai:/any", "http://x")).digest

    weighted = 'vote: weights, weights: {"openai:/a": %d, "openai:/b": 1, "openai:/c": 1}'
    texts = [
        PANEL,
        PANEL.replace("openai:/c", "openai:/d"),
        PANEL.replace("0.6", "0.7"),
        PANEL.replace("vote: majority", weighted % 2),
        PANEL.replace("vote: majority", weighted % 3),
    ]
    found = [digest(text) for text in texts]
    assert len(set(found)) == len(texts)
    put(folder, FITS.replace("fit.", "fit well."))
    assert digest(PANEL) not in found


def test_the_run_endpoint_serves_the_members_of_its_provider_only(folder):
    put(folder, PANEL.replace("openai:/c", "anthropic:/c"))
    model = ModelSettings("openai:/a", "http://x", headers={"k": "v"}, usd_per_million=(1, 2))
    first, second, third = Catalogue([folder]).build("fits_panel", model).composite.members
    assert (first.model.base_url, first.model.usd_per_million) == ("http://x", (1, 2))
    assert (second.model.base_url, second.model.usd_per_million, dict(second.model.headers)) == (
        "http://x",
        None,
        {"k": "v"},
    )
    assert (third.model.base_url, dict(third.model.headers)) == (None, {})


def test_it_is_a_scorer_that_mlflow_evaluates(folder, log_trace, monkeypatch):
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")
    with by_model(a=answer(True, "fine"), b=answer(False), c=answer(True)) as server:
        bound = Catalogue([folder]).build("fits_panel", settings(server))
        result = mlflow.genai.evaluate(
            data=[{"inputs": {"request": "hello"}, "outputs": {"answer": "hi"}}], scorers=[bound.scorer]
        )
        assert len(server.requests) == 3
        direct = bound.scorer(inputs={"request": "hello"}, outputs={"answer": "hi"})
    (verdict,) = result.result_df["assessments"][0]
    assert (verdict["assessment_name"], verdict["feedback"]["value"]) == ("fits_panel", True)
    assert (direct.name, direct.value) == ("fits_panel", True)


def test_members_are_asked_at_once_by_the_engine(folder, log_trace):
    log_trace()
    with FakeJudgeServer(answer(True), latency_s=0.2) as server:
        run(folder, server)
        assert server.in_flight_peak == 3


def test_mlflows_own_ensemble_holds_a_majority_and_registers(folder, log_trace, monkeypatch):
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    log_trace()
    with by_model(a=answer(True), b=answer(False), c=answer(True)) as server:
        panel = Catalogue([folder]).build("fits_panel", settings(server)).composite
        ensemble = mlflow_ensemble(panel)
        assert ensemble(inputs={"request": "hello"}, outputs={"answer": "hi"}).value is True
        experiment = mlflow.get_experiment_by_name("test").experiment_id
        ensemble.register(experiment_id=experiment)
        said = register(Catalogue([folder]), "fits_panel", experiment)
    assert (said.unchanged, said.version, "no quorum" in said.note) == (False, 2, True)
    assert mlflow.genai.get_scorer(name="fits_panel", experiment_id=experiment).kind.value == "ensemble"


def test_mlflows_ensemble_is_refused_for_weights(folder):
    put(
        folder,
        PANEL.replace("vote: majority", 'vote: weights, weights: {"openai:/a": 2, "openai:/b": 1, "openai:/c": 1}'),
    )
    panel = Catalogue([folder]).build("fits_panel", ModelSettings("openai:/any", "http://x")).composite
    with pytest.raises(ConfigError, match="vote: weights"):
        mlflow_ensemble(panel)
    assert "a panel with weights" in why_not(Catalogue([folder]).get("fits_panel"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"openai:/c"]', '"openai:/a"]', "each once"),
        ("judge: fits, models", "judge: fits, judges: [x, y], models", "either `judge` with `models`, or `judges`"),
        ("vote: majority", "vote: loudest", "'majority', 'mean', 'weights' or 'learned'"),
        ("vote: majority", "vote: weights", "`weights` goes with"),
        ("vote: majority", "vote: learned", "`calibration` names"),
        ("quorum: 0.6", "quorum: 0", "greater than 0"),
        ("quorum: 0.6", "quorums: 0.6", "unknown key; valid: judge, models"),
        ("purpose", "model: openai:/x\npurpose", "`model` is for the members"),
    ],
)
def test_a_panel_that_is_wrong_is_refused_with_the_reason(old, new, message):
    with pytest.raises(DefinitionError, match=message):
        definition.loads(PANEL.replace(old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PANEL.replace("judge: fits", "judge: fits_panel"), "made of itself"),
        (PANEL.replace("judge: fits", "judge: nonsense"), "There is no judge 'nonsense'"),
        (PANEL.replace("vote: majority", "vote: mean"), "needs `value: {type: numeric}`"),
        (PANEL.replace("type: boolean", "type: numeric, low: 0, high: 1, threshold: 1"), "its own scale"),
    ],
)
def test_members_that_do_not_fit_are_refused_by_file_and_line(folder, text, message):
    put(folder, text)
    with pytest.raises(DefinitionError, match=rf"fits_panel.yaml:5: .*{message}"):
        Catalogue([folder]).check(folder / "fits_panel.yaml")


def test_texts_reach_the_members_that_have_the_variable(folder):
    put(
        folder,
        FITS.replace("instructions:", "variables: {policy: {description: The rules.}}\ninstructions:").replace(
            "fit.", "fit {{ policy }}."
        ),
    )
    model = ModelSettings("openai:/any", "http://x")
    bound = Catalogue([folder]).build("fits_panel", model, {"policy": "be kind"})
    assert all("be kind" in m.scorer.instructions for m in bound.composite.members)
    with pytest.raises(ConfigError, match=r"No member .* has a variable 'polcy'"):
        Catalogue([folder]).build("fits_panel", model, {"polcy": "be kind"})
    with pytest.raises(ConfigError, match="needs the text 'policy'"):
        Catalogue([folder]).build("fits_panel", model)


def test_a_panel_of_panels_counts_each_panel_once(folder, log_trace):
    put(
        folder,
        "name: both\npurpose: Do panel and judge agree on it?\nvalue: {type: boolean}\n"
        "panel: {judges: [fits_panel, fits], quorum: 1.0}\n",
    )
    trace_id = log_trace()
    with FakeJudgeServer(answer(True), tokens=(10, 1)) as server:
        run(folder, server, "both")
        assert len(server.requests) == 4
    verdict = standing(trace_id)
    assert verdict.metadata["mlflow.assessment.judgeInputTokens"] == "40"
    assert [v["judge"] for v in votes(verdict)] == ["fits_panel", "fits"]


# --- learned weights --------------------------------------------------------------------------------------

LEARNED = PANEL.replace("name: fits_panel", "name: fits_learned").replace(
    "vote: majority", "vote: learned, calibration: fits_learned.calibration.json"
)


@pytest.fixture
def experts(folder, log_trace):
    """60 traces that one model judges like the experts, and two at random but alike; with a panel's verdicts."""
    import random

    from mlflow.entities import AssessmentSource

    draw = random.Random(3)  # noqa: S311 - statistics
    truth = {}
    for n in range(60):
        good, noise = n % 2 == 0, draw.random() < 0.5
        trace_id = log_trace(request=f"question {n} {int(good)}{int(noise)}", tools=())
        truth[trace_id] = good
        mlflow.log_feedback(
            trace_id=trace_id, name="expert_says", value=good, source=AssessmentSource("HUMAN", "expert@example.com")
        )

    def reply(request):
        marks = request.prompt.split("question ")[1].split()[1]
        return answer(marks[0] == "1" if request.body["model"] == "a" else marks[1] == "1")

    return truth, reply


def test_learned_weights_are_refused_until_labels_have_taught_them(folder, experts):
    truth, reply = experts
    put(folder, LEARNED)
    with FakeJudgeServer(reply) as server:
        with pytest.raises(NotTrustedError, match=r"not calibrated: .*Run: assay judges calibrate fits_learned"):
            pipeline.build_judges(["fits_learned"], model=settings(server), paths=[folder])
        with pytest.raises(ConfigError, match=r"fits openai:/a.*no verdicts.*--judge fits --model openai:/a"):
            pipeline.calibrate(
                "fits_learned", MlflowSource("test"), "expert_says", model=settings(server), paths=[folder]
            )
        run(folder, server)  # the panel by majority keeps each member's vote
        path, found = pipeline.calibrate(
            "fits_learned", MlflowSource("test"), "expert_says", model=settings(server), paths=[folder]
        )
        assert path == folder / "fits_learned.calibration.json"
        assert found.result["weights"][0] > 1 > found.result["weights"][1]
        assert "agree better" in found.summary
        run(folder, server, "fits_learned")
    verdicts = {t: a for t in truth for a in mlflow.get_trace(t).info.assessments if a.name == "fits_learned"}
    assert all(verdicts[t].value is good for t, good in truth.items())
    assert all(0.5 < float(v.metadata[semconv.CONFIDENCE]) <= 1 for v in verdicts.values())


def test_weights_that_gain_nothing_are_refused(folder):
    put(folder, LEARNED)
    catalogue = Catalogue([folder])
    spec = catalogue.get("fits_learned").definition.composite
    members = catalogue.members("fits_learned", ModelSettings("openai:/any", "http://x"))
    alike = {f"t{n}": calibrating.StoredVerdict(n % 2 == 0, None, False, 0) for n in range(80)}
    labelled = {f"t{n}": calibrating.LabelledUnit((n % 2 == 0) != (n % 10 == 0), f"t{n}") for n in range(80)}
    found = calibrating.calibrate("fits_learned", spec, members, {m.digest: alike for m in members}, labelled)
    with pytest.raises(NotTrustedError, match=r"do not provably agree better.*Nothing was written"):
        calibrating.refuse("fits_learned", found)


def test_deliberation_is_free_of_engine_and_network(folder):
    """A panel's rules run on any verdicts handed to them."""
    from mlflow_assay.engine.judging import Subject, verdict
    from mlflow_assay.judges.composite import _no_trace

    panel = Catalogue([folder]).build("fits_panel", ModelSettings("openai:/any", "http://x")).composite
    subject = Subject(_no_trace())
    found = deliberate(panel, lambda i: verdict(panel.members[i], subject, i != 1))
    assert found.value is True


def test_a_panel_needs_what_all_its_members_need(folder):
    put(
        folder,
        PANEL.replace('judge: fits, models: ["openai:/a", "openai:/b", "openai:/c"]', "judges: [fits, tone_word]"),
    )
    built = Catalogue([folder]).build("fits_panel", ModelSettings("openai:/any", "http://x"))
    assert built.contract.needs == ("outputs",)
    put(folder, FITS.replace("value:", "fields: {outputs: {said: final_answer}}\nvalue:"))
    built = Catalogue([folder]).build("fits_panel", ModelSettings("openai:/any", "http://x"))
    assert built.contract.needs == ()
