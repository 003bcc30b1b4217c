"""A local judge among the other judges: the scorer, the library `local`, and the definition beside the file."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import pytest

from mlflow_assay import registry, semconv
from mlflow_assay.contracts import JudgeLibrary, Outcome, Unscored
from mlflow_assay.engine.judging import judge as judge_subject
from mlflow_assay.engine.judging import outcome_of, reason_of, subject_of
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.judges.local import LocalScorer, save_with_definition


def judge(bound, trace):
    """As the engine does it: needs checked first, `UnscoredError` turned into an unscored verdict."""
    return judge_subject(bound, subject_of(bound, trace))


@pytest.fixture
def folder(trained, tmp_path):
    save_with_definition(trained, tmp_path / "judges")
    return tmp_path / "judges"


@pytest.fixture
def asked(make_trace):
    def ask(text="hello there, my refund worries me a lot", route="billing", **more):
        return make_trace(inputs={"query": text}, outputs="we will see", tags={"agent": route}, **more)

    return ask


def test_a_verdict_carries_value_confidence_digest_and_reasons_in_plain_words(trained, asked):
    verdict = LocalScorer(trained)(trace=asked())
    assert verdict.name == "routing" and verdict.value is True
    assert verdict.source.source_type == "CODE"
    assert verdict.metadata[semconv.LOCAL_DIGEST] == trained.digest
    assert verdict.metadata[semconv.JUDGE_KIND] == "local"
    assert trained.threshold <= float(verdict.metadata[semconv.CONFIDENCE]) < 1
    assert semconv.LOCAL_FORCED not in verdict.metadata
    assert verdict.rationale.startswith("Pass, confidence 0.")
    assert "refund” in first_user_message with tag:agent = billing" in verdict.rationale
    wrong = LocalScorer(trained)(trace=asked(route="support"))
    assert wrong.value is False
    assert "refund” in first_user_message with tag:agent = support" in wrong.rationale


def test_reasons_leave_out_words_that_mean_nothing(trained, asked):
    reasons = trained.judge(asked())
    assert not [r for r in (*reasons.towards_pass, *reasons.towards_fail) if "“me”" in r or "“a”" in r]


def test_where_the_label_names_a_fault_a_passing_trace_gets_false(trained, asked):
    verdict = LocalScorer(replace(trained, good=False))(trace=asked())
    assert verdict.value is False
    assert verdict.rationale.startswith("Pass")


def test_a_verdict_on_a_trace_it_was_trained_on_says_so(trained, asked):
    trace = asked()
    trace.info.trace_id = next(iter(trained.trained_on))
    assert LocalScorer(trained)(trace=trace).metadata[semconv.TRAINED_ON] == "true"
    trace.info.trace_id = "tr-new"
    assert semconv.TRAINED_ON not in LocalScorer(trained)(trace=trace).metadata


def test_a_scorer_can_be_pickled_and_renamed(trained, asked):
    scorer = pickle.loads(pickle.dumps(LocalScorer(trained, "renamed")))  # noqa: S301 - our own
    assert scorer(trace=asked()).name == "renamed"
    assert scorer.fingerprint == trained.digest


def test_the_library_is_installed_and_named_local():
    library = registry.load("judges", "local")()
    assert isinstance(library, JudgeLibrary)
    assert [c.name for c in library.contracts()] == ["classifier"]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, "needs `model`"),
        ({"modle": "x"}, "no parameter 'modle'.*Valid: model, embedder"),
        ({"model": 3}, "is a path"),
        ({"model": "absent.judge.zip"}, "no local judge at"),
    ],
)
def test_wrong_parameters_are_refused(params, told):
    with pytest.raises(ConfigError, match=told):
        registry.load("judges", "local")().build("classifier", params, None)


def test_an_unknown_member_is_refused():
    with pytest.raises(ConfigError, match="no judge 'regressor'"):
        registry.load("judges", "local")().build("regressor", {"model": "x"}, None)


def test_the_definition_beside_the_file_makes_it_a_judge_by_name(folder, trained, asked):
    bound = Catalogue([folder]).build("routing")
    assert bound.contract.kind == "local" and not bound.contract.calls_llm
    assert bound.contract.needs == ("spans",)
    assert bound.contract.version == trained.digest[:12]
    verdict = judge(bound, asked())
    assert outcome_of(verdict) is Outcome.PASS
    assert verdict.metadata[semconv.JUDGE_KIND] == "local"


def test_the_folder_can_be_moved_and_the_digest_follows_the_model(folder, trained, requests, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    first = Catalogue([moved]).build("routing").digest
    save_with_definition(replace(trained, threshold=trained.threshold / 2), moved)
    assert Catalogue([moved]).build("routing").digest != first


def test_unsure_and_missing_are_unscored_with_the_reason(folder, trained, asked, make_trace):
    bound = Catalogue([folder]).build("routing")
    unseen = judge(bound, asked(route="sales"))
    assert outcome_of(unseen) is Outcome.UNSCORED and reason_of(unseen) is Unscored.LOW_CONFIDENCE
    empty = judge(bound, make_trace(outputs="only an answer"))
    assert reason_of(empty) is Unscored.MISSING_FIELD


def test_two_megabytes_and_odd_characters_are_judged_or_unscored_but_never_crash(folder, asked):
    bound = Catalogue([folder]).build("routing")
    for text in ("refund " * 300_000, "\U0001f600 ﷽ ä\u0000 refund", "退款 請求", "\u202erefund"):
        assert outcome_of(judge(bound, asked(text))) in Outcome


def test_the_case_beside_the_definition_passes(folder):
    from mlflow_assay.judges.definition import load

    (case,) = load(folder / "routing.yaml").cases
    assert (case.kind, case.unscored) == ("unscorable", Unscored.MISSING_FIELD)


def test_a_name_that_cannot_be_a_judges_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="cannot be a judge's name"):
        save_with_definition(replace(trained, name="My Judge"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_listing_the_library_imports_neither_mlflow_nor_scikit_learn():
    code = (
        "import sys; from mlflow_assay.judges.local.library import LocalJudges; LocalJudges().contracts();"
        "import mlflow_assay.judges.local; assert not {'mlflow', 'sklearn', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_package_offers_what_it_names():
    import mlflow_assay.judges.local as local

    assert all(getattr(local, name) is not None for name in local.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = local.nonsense
