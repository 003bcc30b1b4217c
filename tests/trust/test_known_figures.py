"""Figures known from the real labelled runs, reproduced through the public functions.

The telecom "truth" is the simulated environment's final check, not a person's, and its customer is a model.
"""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from mlflow_assay.trust import Ratings, alt_test, corrected_kpi, human_ceiling, krippendorff_alpha, share
from mlflow_assay.trust.agreement import agreement
from mlflow_assay.trust.compare import compare

# the fourth prompt answered with nine spellings; these mean "pass", all others "fail"
PASSES = {"pass", "satisfied", "satisfactory", "compliant", "success"}


def read(path):
    with gzip.open(path) as file:
        return json.load(file)


@pytest.fixture
def judged(shared_data):
    """Judge prompt's file name to (verdicts, truth) of the 114 telecom runs."""

    def load(prompt):
        entries = read(shared_data / "tau2_telecom" / f"telecom_judge_{prompt}.json.gz")["entries"]
        verdicts = [e["judge_verdict"].strip().lower() in PASSES for e in entries]
        return verdicts, [bool(e["tau2_success"]) for e in entries]

    return load


@pytest.mark.parametrize(
    ("prompt", "judge_rate", "kappa", "sensitivity", "specificity"),
    [
        ("customer_outcome", 0.439, 0.306, 0.74, 0.66),
        ("triage", 0.307, 0.780, 0.96, 0.90),
        ("policy_conv", 0.298, 0.399, 0.63, 0.80),
        ("policy_cot", 0.263, 0.462, 0.63, 0.85),
    ],
)
def test_telecom_judges_agree_with_the_truth_as_published(judged, prompt, judge_rate, kappa, sensitivity, specificity):
    verdicts, truth = judged(prompt)
    found = agreement(verdicts, truth)
    assert share(verdicts).raw == pytest.approx(judge_rate, abs=5e-4)
    assert np.mean(truth) == pytest.approx(0.237, abs=5e-4)
    assert found.kappa.value == pytest.approx(kappa, abs=5e-4)
    assert found.sensitivity.value == pytest.approx(sensitivity, abs=0.005)
    assert found.specificity.value == pytest.approx(specificity, abs=0.006)
    assert found.enough


def test_the_naive_interval_misses_the_truth_and_the_corrected_one_does_not(judged):
    verdicts, truth = judged("customer_outcome")
    chosen = set(np.random.default_rng(0).permutation(114)[:30].tolist())
    naive = share(verdicts)
    corrected = corrected_kpi(verdicts, [t if i in chosen else None for i, t in enumerate(truth)])
    assert naive.low > np.mean(truth)
    assert corrected.method == "jps" and corrected.low < np.mean(truth) < corrected.high


def test_two_judge_prompts_differ_on_the_same_runs(judged):
    rights = []
    for prompt in ("customer_outcome", "triage"):
        verdicts, truth = judged(prompt)
        rights.append([v == t for v, t in zip(verdicts, truth, strict=True)])
    found = compare(*rights)
    assert (len(found.wins), len(found.losses)) == (28, 1)
    assert found.p_value == pytest.approx(1.1e-7, rel=0.05)
    assert (found.value_a, found.value_b) == pytest.approx((0.675, 0.912), abs=5e-4)


def test_the_fine_tuned_agent_beats_the_plain_one(shared_data):
    rewards = []
    for name in ("gpt41_telecom", "ftgpt41_telecom"):
        runs = read(shared_data / "tau2_telecom" / f"{name}.json.gz")["simulations"]
        rewards.append({r["task_id"]: r["reward_info"]["reward"] == 1.0 for r in runs})
    tasks = list(rewards[0])
    found = compare(*([side[t] for t in tasks] for side in rewards), ids=tasks, margin=0.05)
    assert (sum(rewards[0].values()), sum(rewards[1].values()), found.n) == (18, 30, 40)
    assert (len(found.wins), len(found.losses)) == (12, 0)
    assert found.p_value == pytest.approx(0.0005, abs=2e-5)
    assert found.difference == pytest.approx(0.3) and found.outcome == "better" and found.non_inferior


@pytest.fixture
def pandalm(shared_data):
    rows = read(shared_data / "pandalm" / "testset-v1.json.gz")
    ratings = Ratings.collect((r["idx"], f"annotator{i}", int(r[f"annotator{i}"])) for r in rows for i in (1, 2, 3))

    def verdicts(file, key, words):
        by_id = {r["idx"]: r[key] for r in read(shared_data / "pandalm" / f"{file}-testset-v1.json.gz")}
        return [words[by_id[u]] if by_id[u] in words else int(by_id[u]) for u in ratings.units]

    return ratings, verdicts


def test_pandalm_experts_agree_as_published(pandalm):
    ratings, _ = pandalm
    assert krippendorff_alpha(ratings.values).value == pytest.approx(0.86422, abs=5e-6)
    kappas = {(a, b): k for a, b, k, _ in human_ceiling(ratings).pairs}
    expected = {("annotator1", "annotator2"): 0.8520, ("annotator1", "annotator3"): 0.8789}
    assert kappas == pytest.approx(expected | {("annotator2", "annotator3"): 0.8617}, abs=5e-5)
    assert len(ratings.conflicts()) == 120


def test_pandalm_judges_agree_with_the_majority_as_published(pandalm):
    ratings, verdicts = pandalm
    own = agreement(verdicts("pandalm-7b", "pandalm_result", {}), ratings.consensus())
    assert (own.accuracy.value, own.kappa.value) == pytest.approx((0.66767, 0.43535), abs=5e-6)
    # the published figure of gpt-3.5-turbo counts its 25 garbled replies as a wrong fourth answer ...
    published = agreement(verdicts("gpt-3.5-turbo", "gpt_result", {"Tie": 0, "garbage": 3}), ratings.consensus())
    assert (published.accuracy.value, published.kappa.value) == pytest.approx((0.69770, 0.47551), abs=5e-6)
    # ... while here a garbled reply is unscored, and said to be
    ours = agreement(verdicts("gpt-3.5-turbo", "gpt_result", {"Tie": 0, "garbage": None}), ratings.consensus())
    assert (ours.n, ours.n_unscored) == (974, 25) and ours.kappa.value == pytest.approx(0.49286, abs=5e-6)


def test_neither_pandalm_judge_may_replace_an_expert(pandalm):
    ratings, verdicts = pandalm
    judge = verdicts("pandalm-7b", "pandalm_result", {})
    found = alt_test(ratings, judge)
    assert not found.passed and len(found.experts) == 3
    assert human_ceiling(ratings, judge).judge < human_ceiling(ratings).humans
