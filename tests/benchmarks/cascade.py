"""What does a cascade save, and what does it cost in agreement? On recorded verdicts of real judges; prints a table.

Run from the repository: `python tests/benchmarks/cascade.py [--repeats 300]`. Nothing is called: verdicts, truth and
prices are recorded ones, in `../shared/data`; without it the script says so and ends.

telecom: 114 recorded agent runs. Cheap judge: a classifier on eight counts and the words of the conversation, trained
on the other folds' labels (5-fold), which costs nothing. Dear judge: gpt-4o with the triage prompt. Truth: the
simulated environment's check, not a person's.

pandalm: 999 pairs of answers, asked "is the first one better" and "is one of them better". Cheap judge: gpt-3.5 and
PandaLM-7B as a panel, sure where they agree. Dear judge: the first human annotator. Truth: the majority of three
annotators, the first among them, so the dear judge looks better than it is.

Each repeat draws labels at random to calibrate on and measures on the remaining rows. `uncalibrated` trusts the cheap
judge by its own word: a probability of 0.9 or more, or the two members' agreement. A calibration that refuses sends
every row to the dear judge, as `assay judges calibrate` tells the user to. `below` is the share of repeats in which
what the cheap judge was allowed to answer agreed less than asked with the truth over *all* rows; the promise is at
most delta, up to the noise of resampling one small pool. Agreement is not kappa: where most rows are of one kind, an
aim below the dear judge's own agreement gives kappa away.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from mlflow_assay.trust.selective import calibrate_cascade

DATA = Path(__file__).parents[3] / "shared" / "data"
DELTA = 0.1


@dataclass
class Case:
    """One cascade on one data set; arrays over its rows."""

    name: str
    truth: np.ndarray
    cheap: np.ndarray
    sure: np.ndarray
    dear: np.ndarray
    usd_per_dear_call: float | None
    labels: int
    naive: float  # the confidence at which the cheap judge would be trusted without labels
    aims: tuple[float, ...]


def read(name):
    with gzip.open(DATA / name) as file:
        return json.load(file)


def telecom():
    entries = read("tau2_telecom/telecom_judge_triage.json.gz")["entries"]
    truth = np.array([bool(e["tau2_success"]) for e in entries])
    dear = np.array([e["judge_verdict"].strip().lower() == "pass" for e in entries])
    price = float(np.mean([e["judge_cost_usd"] for e in entries]))
    talks = [e["judge_prompt"].split("Judging instructions:")[0] for e in entries]
    chance = out_of_fold(talks, truth)
    cheap = chance > 0.5
    return Case("telecom", truth, cheap, np.where(cheap, chance, 1 - chance), dear, price, 70, 0.9, (0.8, 0.85, 0.9))


def out_of_fold(talks, truth):
    """Each run's chance of success by a model that has not seen its label."""
    found = np.empty(truth.size)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(talks, truth):
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        scale = StandardScaler()
        counts = np.array([structure(t) for t in talks])
        x = hstack([words.fit_transform([talks[i] for i in train]), csr_matrix(scale.fit_transform(counts[train]))])
        model = LogisticRegression(C=1.0, max_iter=2000).fit(x, truth[train])
        y = hstack([words.transform([talks[i] for i in test]), csr_matrix(scale.transform(counts[test]))])
        found[test] = model.predict_proba(y)[:, 1]
    return found


def structure(talk):
    lines = talk.splitlines()
    calls = [line for line in lines if "TOOL CALL ->" in line]
    return (
        len(talk),
        sum(bool(re.match(r"\d+\. User:", line)) for line in lines),
        len(calls),
        len({line.partition("->")[2].split()[0] for line in calls if line.partition("->")[2].split()}),
        sum("transfer" in line for line in calls),
        talk.lower().count("excellent"),
        talk.lower().count("error"),
        int("###STOP###" in talk[-200:]),
    )


def pandalm():
    rows = read("pandalm/testset-v1.json.gz")
    humans = np.array([[int(r[f"annotator{i}"]) for i in (1, 2, 3)] for r in rows])
    majority = np.array([np.bincount(row, minlength=3).argmax() for row in humans])
    answers = []
    for name, key in (("gpt-3.5-turbo", "gpt_result"), ("pandalm-7b", "pandalm_result")):
        said = [r[key] for r in read(f"pandalm/{name}-testset-v1.json.gz")]
        answers.append(np.array([0 if v in ("Tie", "garbage") else int(v) for v in said]))
    for name, good in (("first is better", lambda v: v == 1), ("one is better", lambda v: v != 0)):
        first, second = (good(a) for a in answers)
        sure = np.where(first == second, 1.0, 0.5)
        dear = good(humans[:, 0])
        yield Case(f"pandalm, {name}", good(majority), first, sure, dear, None, 300, 1.0, (0.8, 0.85, 0.9))


def threshold_of(case, chosen, aim):
    """What the labels of the chosen rows allow; None where they refuse."""
    agrees = case.cheap[chosen] == case.truth[chosen]
    found = calibrate_cascade([case.sure[chosen].tolist()], [agrees.tolist()], agreement=aim, delta=DELTA)
    return found.gates[0].threshold


def measure(case, threshold, rows):
    """(share of dear calls saved, kappa, agreement of what the cheap judge answered) on these rows."""
    taken = case.sure[rows] >= threshold if threshold is not None else np.zeros(rows.size, dtype=bool)
    verdict = np.where(taken, case.cheap[rows], case.dear[rows])
    right = (case.cheap == case.truth)[rows][taken]
    kappa = cohen_kappa_score(case.truth[rows], verdict)
    return taken.mean(), kappa, right.mean() if taken.any() else np.nan


def allowed_below(case, threshold, aim):
    """Whether what a threshold lets through agrees less than asked, over all rows."""
    taken = case.sure >= threshold if threshold is not None else np.zeros(case.sure.size, dtype=bool)
    return bool(taken.any()) and (case.cheap == case.truth)[taken].mean() < aim


def rows_of(case, repeats):
    draw = np.random.default_rng(0)
    splits = [np.split(draw.permutation(case.truth.size), [case.labels]) for _ in range(repeats)]
    fixed = {"dear judge alone": 2.0, "cheap judge alone": 0.0, "uncalibrated": case.naive}
    for name, threshold in fixed.items():
        yield name, None, [threshold] * repeats, [measure(case, threshold, rest) for _, rest in splits]
    for aim in case.aims:
        found = [threshold_of(case, chosen, aim) for chosen, _ in splits]
        yield (
            f"calibrated, {aim:.0%}",
            aim,
            found,
            [measure(case, t, r) for t, (_, r) in zip(found, splits, strict=True)],
        )


def report(case, repeats):
    price = f" for ${case.usd_per_dear_call:.4f} a call" if case.usd_per_dear_call else ""
    dear = f"dear judge agrees on {(case.dear == case.truth).mean():.1%}{price}"
    print(f"\n{case.name}: {case.truth.size} rows, {case.labels} labels to calibrate on, {repeats} repeats; {dear}")
    print(f"{'':20}{'dear saved':>11}{'kappa':>8}{'change':>8}{'cheap agrees':>14}{'refused':>9}{'below':>8}")
    base = None
    for name, aim, thresholds, measured in rows_of(case, repeats):
        saved, kappa = (float(np.mean([m[i] for m in measured])) for i in (0, 1))
        base = kappa if base is None else base
        agreed = [m[2] for m in measured if not np.isnan(m[2])]
        told = f"{np.mean(agreed):13.1%}" if agreed else f"{'–':>13}"
        line = f"{name:20}{saved:11.1%}{kappa:8.3f}{kappa - base:+8.3f} {told}"
        if aim is not None:
            refused = np.mean([t is None for t in thresholds])
            below = np.mean([allowed_below(case, t, aim) for t in thresholds])
            line += f"{refused:9.1%}{below:8.1%}"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    if not DATA.is_dir():
        print("Skipped: the recorded verdicts (../shared/data) are not on this machine.")
        return
    print(f"Cascades on recorded verdicts; calibrated with delta {DELTA:g}")
    for case in (telecom(), *pandalm()):
        report(case, repeats)


if __name__ == "__main__":
    main()
