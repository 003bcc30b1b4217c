"""What `assay labels pick` buys on real labelled runs: coverage, bias and width of corrected rates.

Windows of 1,000 traces are drawn from the 114 telecom runs of tau2-bench, whose success the environment checked, with
the verdicts of four judge prompts. Each window is labelled three ways and its rate corrected as `assay kpi` does it;
the truth is the window's own.

    python tests/benchmarks/label_picking.py --data ../shared/data --labels 60 --runs 400
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlflow_assay.labels.designs import Frame
from mlflow_assay.labels.picking import Candidate, Share, choose
from mlflow_assay.labels.sampled import sampled_labels
from mlflow_assay.trust import corrected_kpi

PASSES = {"pass", "satisfied", "satisfactory", "compliant", "success"}
PROMPTS = ("customer_outcome", "triage", "policy_conv", "policy_cot")
WINDOW = 1000


def runs_of(folder: Path, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts and truth of the 114 runs."""
    with gzip.open(folder / "tau2_telecom" / f"telecom_judge_{prompt}.json.gz") as file:
        entries = json.load(file)["entries"]
    verdicts = [e["judge_verdict"].strip().lower() in PASSES for e in entries]
    return np.array(verdicts), np.array([bool(e["tau2_success"]) for e in entries])


def window(verdicts: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> tuple[list[Candidate], list[bool]]:
    rows = rng.integers(0, len(truth), WINDOW)
    found = [Candidate(f"tr-{rng.integers(2**62):032x}", bool(verdicts[r])) for r in rows]
    return found, [bool(truth[r]) for r in rows]


def uniform(candidates: list[Candidate], truth: list[bool], labels: int, seed: int):
    chosen = set(np.random.default_rng(seed).choice(len(truth), labels, replace=False))
    said = [t if i in chosen else None for i, t in enumerate(truth)]
    return corrected_kpi([c.passed for c in candidates], said, kind="share")


def picked(candidates: list[Candidate], truth: list[bool], counts: list[int], seed: int):
    """Picked in waves, each labelled before the next."""
    frame = Frame("q", "judge", None, None, 0, None, None, seed, "2026-11-23")
    said = dict(zip((c.trace_id for c in candidates), truth, strict=True))
    for count in counts:
        draws = choose(candidates, frame, Share(count), date="2026-11-23").draws
        candidates = [
            replace(c, draw=draws[c.trace_id], good=said[c.trace_id], labellers=frozenset({"a"}))
            if c.trace_id in draws
            else c
            for c in candidates
        ]
    sample = sampled_labels([c.good for c in candidates], [c.draw for c in candidates])
    verdicts = [c.passed for c in candidates]
    return corrected_kpi(verdicts, sample.labels, kind="share", label_probabilities=sample.probabilities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=60)
    parser.add_argument("--runs", type=int, default=400)
    options = parser.parse_args()
    n = options.labels
    print(f"{n} labels of {WINDOW} traces, {options.runs} windows each")
    for prompt in PROMPTS:
        verdicts, truth = runs_of(options.data, prompt)
        ways = {
            "uniform": lambda c, t, s: uniform(c, t, n, s),
            "even by verdict": lambda c, t, s: picked(c, t, [n], s),
            f"pilot {n // 3}, then Neyman": lambda c, t, s: picked(c, t, [n // 3, n], s),
        }
        widths = {}
        for name, way in ways.items():
            found = []
            for seed in range(options.runs):
                candidates, said = window(verdicts, truth, np.random.default_rng(seed))
                found.append((way(candidates, said, seed), float(np.mean(said))))
            covered = np.mean([e.low <= t <= e.high for e, t in found])
            bias = np.mean([e.value - t for e, t in found])
            error = math.sqrt(np.mean([(e.value - t) ** 2 for e, t in found]))
            widths[name] = float(np.mean([e.high - e.low for e, _ in found]))
            saved = 1 - (widths[name] / widths["uniform"]) ** 2
            print(
                f"  {prompt:17} {name:22} coverage {covered:.3f}  bias {bias * 100:+.2f} pt  "
                f"rmse {error * 100:.2f} pt  width {widths[name]:.3f}  labels saved against uniform {saved:+.0%}"
            )


if __name__ == "__main__":
    main()
