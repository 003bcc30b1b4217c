"""Do 95 % intervals cover 95 % of the time? Simulations on the real labelled runs; prints tables.

Run from the repository: `python tests/benchmarks/trust_coverage.py [--repeats 1000] [--only jps,kappa]`.
Runs are resampled with replacement from the real ones, so the truth of a cell is the value over all of them. The
telecom truth is the simulated environment's check; PandaLM's is the majority of three people. With 1,000 repeats the
standard error of a coverage of 95 % is 0.7 points.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np

from mlflow_assay.trust import PassRateAlarm, VerdictCounts, jps_share, ppi_mean, stratified_sample
from mlflow_assay.trust._design import t_value
from mlflow_assay.trust._jps import _Posterior, jps_interval
from mlflow_assay.trust._paired import bootstrap_interval, tango_interval
from mlflow_assay.trust._tables import cluster_tables, kappa, posterior_tables
from mlflow_assay.trust.compare import corrected_difference
from mlflow_assay.trust.drift import confidence_sequence
from mlflow_assay.trust.estimate import wilson
from mlflow_assay.trust.ratings import measure

DATA = Path(__file__).parents[3] / "shared" / "data"
PASSES = {"pass", "satisfied", "satisfactory", "compliant", "success"}
WINDOW = 500  # judged traces in a simulated window


def read(name):
    with gzip.open(DATA / name) as file:
        return json.load(file)


def telecom():
    """Judge prompt to (verdicts, truth) of 114 runs."""
    cells = {}
    for prompt in ("customer_outcome", "triage", "policy_conv", "policy_cot"):
        entries = read(f"tau2_telecom/telecom_judge_{prompt}.json.gz")["entries"]
        f = np.array([e["judge_verdict"].strip().lower() in PASSES for e in entries])
        cells[f"telecom {prompt}"] = f, np.array([bool(e["tau2_success"]) for e in entries])
    return cells


def pandalm_answers():
    """Each annotator's and each judge's answer to 999 pairs, 0 tie, 1 first, 2 second."""
    rows = read("pandalm/testset-v1.json.gz")
    humans = np.array([[int(r[f"annotator{i}"]) for i in (1, 2, 3)] for r in rows])
    words = {"Tie": 0, "garbage": 0}
    judges = {}
    for name, key in (("gpt-3.5-turbo", "gpt_result"), ("pandalm-7b", "pandalm_result")):
        found = [r[key] for r in read(f"pandalm/{name}-testset-v1.json.gz")]
        judges[name] = np.array([words[v] if v in words else int(v) for v in found])
    return humans, judges


def pandalm():
    humans, judges = pandalm_answers()
    majority = np.array([np.bincount(row, minlength=3).argmax() for row in humans])
    cells = {}
    for name, verdict in judges.items():
        cells[f"pandalm {name}, first wins"] = verdict == 1, majority == 1
        cells[f"pandalm {name}, no tie"] = verdict != 0, majority != 0
    return cells


def edge_cells():
    """Windows in which every run is truly good, or truly bad, with the judge's real errors."""
    f, y = telecom()["telecom customer_outcome"]
    return {"all runs good": (f[y], y[y]), "all runs bad": (f[~y], y[~y])}


def counts(f, y, chosen):
    return [
        VerdictCounts(int((f == v).sum()), int((chosen & (f == v)).sum()), int((chosen & (f == v) & y).sum()))
        for v in (True, False)
    ]


def jps_covers(pair, truth):
    """Whether the interval holds the truth, by one evaluation of the distribution instead of two root searches."""
    good, labelled = sum(c.good for c in pair), sum(c.labelled for c in pair)
    below = _Posterior(*pair).cdf(truth)
    return (good == 0 or below >= 0.025) and (good == labelled or below <= 0.975)


def window(rng, f, y):
    rows = rng.integers(0, f.size, WINDOW)
    return f[rows], y[rows]


def uniform_choice(rng, size, n):
    chosen = np.zeros(size, bool)
    chosen[rng.permutation(size)[:n]] = True
    return chosen


def report_jps(repeats):
    print(f"\n## Corrected pass rate (JPS), window of {WINDOW} judged traces, uniform labels\n")
    print("| cell | truth | judge | naive | n=20 | n=30 | n=50 | n=100 | n=200 | width JPS / Wilson at 30 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    every = []
    for name, (f, y) in {**telecom(), **pandalm(), **edge_cells()}.items():
        truth, row, widths, naive = y.mean(), [], [], 0
        for n in (20, 30, 50, 100, 200):
            rng, hits = np.random.default_rng(n), 0
            for r in range(repeats):
                fw, yw = window(rng, f, y)
                pair = counts(fw, yw, chosen := uniform_choice(rng, WINDOW, n))
                hits += jps_covers(pair, truth)
                if n == 30:
                    low, high = wilson(fw.sum(), WINDOW)
                    naive += low <= truth <= high
                    if r < 60:
                        found, human = jps_interval(*pair), wilson((chosen & yw).sum(), n)
                        widths.append((found[2] - found[1], human[1] - human[0]))
            row.append(hits / repeats)
        every += row if 0 < truth < 1 else []
        ours, human = np.mean(widths, axis=0)
        cells = " | ".join(f"{c:.3f}" for c in row)
        print(f"| {name} | {truth:.3f} | {f.mean():.3f} | {naive / repeats:.2f} | {cells} | {ours:.3f} / {human:.3f} |")
    print(
        f"\nCells that are not all good or all bad: lowest {min(every):.3f}, highest {max(every):.3f}, "
        f"mean {np.mean(every):.3f}."
    )


def report_neyman(repeats):
    print(
        "\n## The same with 100 labels chosen by verdict (Neyman, pilot of 30), labels saved against uniform + Wilson\n"
    )
    print("| cell | coverage | width | Wilson width at 100 | labels saved |\n|---|---|---|---|---|")
    for name, (f, y) in {**telecom(), **pandalm()}.items():
        rng, hits, widths = np.random.default_rng(1), 0, []
        for r in range(repeats // 4):
            fw, yw = window(rng, f, y)
            chosen = np.zeros(WINDOW, bool)
            chosen[list(stratified_sample(fw.tolist(), 30, seed=r).chosen)] = True
            labels = [bool(t) if c else None for t, c in zip(yw, chosen, strict=True)]
            chosen[list(stratified_sample(fw.tolist(), 70, labels=labels, seed=r).chosen)] = True
            pair = counts(fw, yw, chosen)
            hits += jps_covers(pair, y.mean())
            if r < 60:
                found = jps_interval(*pair)
                widths.append(found[2] - found[1])
        human = np.diff(wilson(100 * y.mean(), 100))[0]
        width = np.mean(widths)
        print(f"| {name} | {hits / (repeats // 4):.3f} | {width:.3f} | {human:.3f} | {1 - (width / human) ** 2:.0%} |")


def report_sessions(repeats):
    print(
        "\n## Sessions of 5 traces (each repeats its session's run with probability 0.6), 60 labels in whole sessions\n"
    )
    print("| cell | ignoring sessions | with sessions | mean width |\n|---|---|---|---|")
    for name, (f, y) in telecom().items():
        rng, hits, widths = np.random.default_rng(2), np.zeros(2), []
        for _ in range(repeats // 4):
            session = np.repeat(np.arange(100), 5)
            rows = np.where(rng.random(500) < 0.6, rng.integers(0, f.size, 100)[session], rng.integers(0, f.size, 500))
            chosen = np.isin(session, rng.permutation(100)[:12])
            labels = [bool(t) if c else None for t, c in zip(y[rows], chosen, strict=True)]
            for i, clusters in enumerate((None, session.tolist())):
                found = jps_share(f[rows].tolist(), labels, clusters=clusters)
                hits[i] += found.low <= y.mean() <= found.high
            widths.append(found.high - found.low)
        blind, aware = hits / (repeats // 4)
        print(f"| {name} | {blind:.3f} | {aware:.3f} | {np.mean(widths):.3f} |")


def report_kappa(repeats):
    print(
        "\n## Kappa, Dirichlet posterior of the table\n\n| cell | kappa | n=20 | n=30 | n=50 | n=100 | n=200 |\n"
        "|---|---|---|---|---|---|---|"
    )
    humans, judges = pandalm_answers()
    majority = np.array([np.bincount(row, minlength=3).argmax() for row in humans])
    cells = {n: (f.astype(int), y.astype(int), 2) for n, (f, y) in telecom().items()}
    cells |= {f"pandalm {n}, 3 values": (v, majority, 3) for n, v in judges.items()}
    cells["pandalm annotators 1 and 2, 3 values"] = humans[:, 0], humans[:, 1], 3
    for name, (f, y, size) in cells.items():
        table = cluster_tables(y, f, (size, size), np.ones(f.size), np.arange(f.size)).sum(0)
        truth, row = float(kappa(table)), []
        for n in (20, 30, 50, 100, 200):
            rng, hits, used = np.random.default_rng(n), 0, 0
            for r in range(repeats):
                rows = rng.integers(0, f.size, n)
                parts = cluster_tables(y[rows], f[rows], (size, size), np.ones(n), np.arange(n))
                found = measure(float(kappa(parts.sum(0))), kappa(posterior_tables(parts, seed=r, draws=1500)), 0.95)
                if found.low is not None:
                    used, hits = used + 1, hits + (found.low <= truth <= found.high)
            row.append(hits / used)
        print(f"| {name} | {truth:.2f} | " + " | ".join(f"{c:.3f}" for c in row) + " |")


def report_means(repeats):
    print("\n## Mean preference of three people (-1 to 1), PPI++ from a judge's choice, window of 1,500\n")
    print("| judge | truth | naive | n=100: coverage, width / labels alone | n=200 |\n|---|---|---|---|---|")
    humans, judges = pandalm_answers()
    score = np.array([0.0, 1.0, -1.0])
    y = score[humans].mean(1)
    for name, verdict in judges.items():
        f, row = score[verdict], []
        for n in (100, 200):
            rng, hits, naive, widths = np.random.default_rng(n), 0, 0, []
            for _ in range(repeats):
                rows = rng.integers(0, f.size, 1500)
                labels = [*y[rows][:n].tolist(), *[None] * (1500 - n)]
                found = ppi_mean(f[rows].tolist(), labels)
                hits += found.low <= y.mean() <= found.high
                naive += abs(f[rows].mean() - y.mean()) <= 1.96 * f.std() / np.sqrt(1500)
                widths.append((found.high - found.low, 2 * t_value(0.95, n - 1) * y[rows][:n].std(ddof=1) / np.sqrt(n)))
            ours, alone = np.mean(widths, axis=0)
            row.append(f"{hits / repeats:.3f}, {ours:.3f} / {alone:.3f}")
        print(f"| {name} | {y.mean():.3f} | {naive / repeats:.2f} | " + " | ".join(row) + " |")


def report_differences(repeats):
    print("\n## Paired differences\n\n| what | truth | n=20 | n=40 | n=100 |\n|---|---|---|---|---|")
    runs = [
        {
            r["task_id"]: r["reward_info"]["reward"] == 1.0
            for r in read(f"tau2_telecom/{n}_telecom.json.gz")["simulations"]
        }
        for n in ("gpt41", "ftgpt41")
    ]
    gap = np.array([float(runs[1][t]) - float(runs[0][t]) for t in runs[0]])
    prompts = telecom()
    rights = [(f == y).astype(float) for f, y in (prompts["telecom customer_outcome"], prompts["telecom triage"])]
    cells = {
        "gpt-4.1 against fine-tuned (Tango)": gap,
        "outcome against triage prompt, rightly judged (Tango)": rights[1] - rights[0],
    }
    for name, d in cells.items():
        row, cache = [], {}
        for n in (20, 40, 100):
            rng, hits = np.random.default_rng(n), 0
            for _ in range(repeats):
                x = d[rng.integers(0, d.size, n)]
                key = int((x > 0).sum()), int((x < 0).sum()), n
                low, high = cache.setdefault(key, cache.get(key) or tango_interval(*key, 0.95))
                hits += low <= d.mean() <= high
            row.append(f"{hits / repeats:.3f}")
        print(f"| {name} | {d.mean():+.3f} | " + " | ".join(row) + " |")
    row, d = [], np.abs(rights[1] - rights[0]) * np.linspace(0.2, 2, rights[0].size) + rights[1]
    for n in (20, 40, 100):
        rng, hits, used = np.random.default_rng(n), 0, 0
        for r in range(repeats // 2):
            found = bootstrap_interval(d[rng.integers(0, d.size, n)], np.arange(n), 0.95, seed=r, draws=1000)
            if found:
                used, hits = used + 1, hits + (found[1] <= d.mean() <= found[2])
        row.append(f"{hits / used:.3f}")
    print(f"| a skewed score (bootstrap-t) | {d.mean():+.3f} | " + " | ".join(row) + " |")
    report_corrected_differences(repeats)


def report_corrected_differences(repeats):
    print("\n## Corrected difference of two versions, judged with the telecom judge's error rates, 300 pairs\n")
    print("| judge | truth | judged as | naive | 30 labelled pairs | 60 | 120 |\n|---|---|---|---|---|---|---|")
    for name, (f, y) in telecom().items():
        rates = [f[y == v].mean() for v in (False, True)]
        row, naive, seen = [], 0, []
        for n in (30, 60, 120):
            rng, hits = np.random.default_rng(n), 0
            for _ in range(repeats // 2):
                ya = rng.random(300) < 0.45
                yb = np.where(ya, rng.random(300) < 0.97, rng.random(300) < 0.3)
                a, b = (rng.random(300) < np.where(v, rates[1], rates[0]) for v in (ya, yb))
                truth = 0.45 * 0.97 + 0.55 * 0.3 - 0.45
                labels = [[bool(t) if i < n else None for i, t in enumerate(v)] for v in (ya, yb)]
                found = corrected_difference(a.tolist(), b.tolist(), *labels)
                hits += found.low <= truth <= found.high
                low, high = tango_interval(int((b & ~a).sum()), int((a & ~b).sum()), 300, 0.95)
                naive += low <= truth <= high
                seen.append(found.raw)
            row.append(f"{hits / (repeats // 2):.3f}")
        print(
            f"| {name} | {truth:+.3f} | {np.mean(seen):+.3f} | {naive / (3 * (repeats // 2)):.2f} | "
            + " | ".join(row)
            + " |"
        )


def report_peeking(repeats):
    print("\n## Watching a pass rate of 0.90 over 1,000 traces, looking after each (naive: every 10)\n")
    print(
        "| alarm | false alarms | traces until 0.90 → 0.80 is seen: from the start | after 500 good ones |"
        "\n|---|---|---|---|"
    )
    streams = repeats // 5
    naive = 0
    for seed in range(streams):
        done = np.cumsum(np.random.default_rng(seed).random(1000) < 0.9)
        naive += any(not np.less_equal(*wilson_pair(done[i - 1], i)) for i in range(20, 1001, 10))
    print(f"| Wilson 95 % looked at every 10 | {naive / streams:.3f} | | |")
    for title, every in (("e-process, one bet", None), ("e-process, restarts every 100 (default)", 100)):
        false, early, late = 0, [], []
        for seed in range(streams):
            rng = np.random.default_rng(seed)
            false += PassRateAlarm(0.9, restart_every=every).extend((rng.random(1000) < 0.9).tolist())
            for delay, good in ((early, 0), (late, 500)):
                alarm = PassRateAlarm(0.9, restart_every=every)
                stream = np.concatenate([rng.random(good) < 0.9, rng.random(1000) < 0.8])
                alarm.extend(stream.tolist())
                if alarm.alarm_at is None or alarm.alarm_at > good:
                    delay.append((alarm.alarm_at or 10**6) - good)
        print(f"| {title} | {false / streams:.3f} | {np.median(early):.0f} | {np.median(late):.0f} |")
    broken = 0
    for seed in range(streams):
        done = np.cumsum(np.random.default_rng(seed).random(1000) < 0.9)
        pairs = (confidence_sequence(int(done[i - 1]), i) for i in range(5, 1001, 10))
        broken += any(not low <= 0.9 <= high for low, high in pairs)
    print(f"| confidence sequence leaves 0.90 out, looked at every 10 | {broken / streams:.3f} | | |")


def wilson_pair(passed, n):
    """(low, high) moved so that low <= high fails exactly when 0.9 lies outside."""
    low, high = wilson(passed, n)
    return max(low, 0.9), 0.9 if low <= 0.9 <= high else 0.0


REPORTS = {
    "jps": report_jps,
    "neyman": report_neyman,
    "sessions": report_sessions,
    "kappa": report_kappa,
    "means": report_means,
    "differences": report_differences,
    "peeking": report_peeking,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--only", default=",".join(REPORTS), help="comma-separated: " + ", ".join(REPORTS))
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit("the real labelled runs (../shared/data) are not on this machine")
    for name in options.only.split(","):
        start = time.perf_counter()
        REPORTS[name](options.repeats)
        print(f"\n({name}: {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
