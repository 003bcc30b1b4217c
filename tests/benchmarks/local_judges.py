"""How good are local judges? Figures on simulated and real labelled runs; prints tables.

Run from the repository: `python tests/benchmarks/local_judges.py [--only crossing,demo] [--embedder FOLDER]`.

crossing  random routes over five desks: neither request nor route alone says whether the route is right
promise   how often the true agreement of the answered verdicts misses the target (promised: at most 10 %)
demo      the demo's traffic, labels of its simulated expert
telecom   114 real telecom runs (tau2-bench); the truth is the simulated environment's check, no person's
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from datetime import datetime, timezone
from pathlib import Path

os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"})

import numpy as np
from click.testing import CliRunner

from mlflow_assay.judges.local import Example, LabelSet, Options, train_examples

DATA = Path(__file__).parents[3] / "shared" / "data" / "tau2_telecom" / "telecom_judge_triage.json.gz"

SUBJECTS = {
    "account": "login|password|address|surname|user name|authorised person|pin code|birth date",
    "billing": "invoice|late fee|double charge|refund|direct debit|due date|receipt|instalments",
    "support": "no signal|slow internet|router lights|dropped calls|voicemail|wifi calling|outage|mobile data",
    "product": "new handset|family plan|smart watch|upgrade|tablet|trade in|fibre speeds|student offer",
    "leaving": "cancel|notice period|port my number|switch provider|final bill date|closing|move abroad|unhappy",
}
FRAMES = [
    "I ask about {}",
    "please help: {}",
    "{} again this month",
    "what about {} then",
    "hello, {} thanks",
    "my son and {}",
]


def made(n, seed, slip=0.03):
    """Requests whose route is right half of the time; `slip` labels are wrong."""
    draw = random.Random(seed)  # noqa: S311 - a simulation
    found, passed = [], {}
    for i in range(n):
        desk = draw.choice(list(SUBJECTS))
        route = desk if draw.random() < 0.5 else draw.choice([d for d in SUBJECTS if d != desk])
        text = draw.choice(FRAMES).format(draw.choice(SUBJECTS[desk].split("|")))
        found.append(Example(f"tr-{i}", {"first_user_message": text, "tag:agent": route}))
        passed[f"tr-{i}"] = (route == desk) != (draw.random() < slip)
    return found, LabelSet("ok", passed)


def learn(found, labels, fields, **options):
    return train_examples(found, labels, name="bench", options=Options(fields, force=True, **options))


def crossing():
    print("\ncrossing: out-of-fold kappa, mean of 5 seeds")
    print(f"{'labels':>8} {'request + route':>16} {'crossed as well':>16}")
    for n in (50, 100, 200, 400):
        kappas = {c: [] for c in (False, True)}
        for seed in range(5):
            for cross, found in kappas.items():
                judge = learn(*made(n, seed), ["first_user_message", "tag:agent"], cross=cross, group_by=None)
                found.append(judge.report.kappa)
        print(f"{n:>8} {np.mean(kappas[False]):>16.2f} {np.mean(kappas[True]):>16.2f}")


def promise(repeats=60):
    print(f"\npromise: {repeats} judges each, true agreement on 1,500 new traces")
    print(f"{'labels':>8} {'target':>7} {'proven':>7} {'missed':>7} {'answers':>8} {'agreement':>10}")
    new, truth = made(1500, 10_000, slip=0.05)
    right = np.array([truth.passed[e.trace_id] for e in new])
    for n, target in ((150, 0.8), (300, 0.85), (300, 0.9), (600, 0.9)):
        proven = []
        for seed in range(repeats):
            judge = learn(
                *made(n, seed, 0.05), ["first_user_message", "tag:agent"], target_agreement=target, group_by=None
            )
            if judge.report.target_proven:
                scores = judge.scores(new)
                answered = judge.confidence.of(scores) >= judge.threshold
                proven.append((answered.mean(), ((scores > 0) == right)[answered].mean()))
        missed = sum(agreement < target for _, agreement in proven)
        cover, agreed = np.mean(proven, axis=0) if proven else (np.nan, np.nan)
        print(f"{n:>8} {target:>7.2f} {len(proven):>7} {missed:>7} {cover:>8.2f} {agreed:>10.3f}")


HEAD = f"{'fields':<58} {'labels':>6} {'kappa':>20} {'random':>7} {'answers':>8} {'agree':>6} {'proven':>7}"


def line(fields, report):
    kappa = f"{report['kappa']:.2f} [{report['kappa_low']:.2f}, {report['kappa_high']:.2f}]"
    return (
        f"{' '.join(fields):<58} {report['n']:>6} {kappa:>20} {report['kappa_random']:>7.2f} "
        f"{report['coverage']:>8.2f} {report['answered_agreement']:>6.2f} {report['target_proven']!s:>7}"
    )


def demo(embedder):
    from mlflow_assay.demo.agent import Agent
    from mlflow_assay.demo.expert import opinion
    from mlflow_assay.demo.prompt import FIRST_PROMPT, parse
    from mlflow_assay.demo.requests import generate
    from mlflow_assay.demo.runner import play

    print("\ndemo: routing of the simulated agent, simulated expert, three seeds\n" + HEAD)
    for fields in (
        ["first_user_message", "tag:agent"],
        ["first_user_message", "tag:agent", "final_answer?", "tools_called"],
    ):
        for seed in (7, 8, 9):
            turns = play(
                Agent(parse(FIRST_PROMPT), seed=seed), generate(400, seed=seed), now=datetime.now(timezone.utc)
            )
            chosen = random.Random(seed).sample(turns, 200)  # noqa: S311 - a simulation
            passed = {t.trace_id: opinion(t, seed=seed).correct for t in chosen}
            for n in (100, 200):
                found = [read(t) for t in chosen[:n]]
                print(line(fields, learn(found, LabelSet("ok", passed), fields, embedder=embedder).report.to_dict()))


def read(turn):
    """What `examples.read` reads of the turn's trace."""
    values = {
        "first_user_message": turn.request.text,
        "tag:agent": turn.reply.route,
        "tools_called": [s.name for s in turn.reply.spans if s.type == "TOOL"],
    }
    answer = {"final_answer": turn.reply.answer} if turn.reply.answer else {}
    return Example(turn.trace_id, values | answer, turn.session_id)


def telecom(embedder):
    if not DATA.is_file():
        print("\ntelecom: left out, the real labelled runs (../shared/data) are not on this machine")
        return
    import mlflow

    from mlflow_assay.cli import assay

    print("\ntelecom: was the customer's problem solved? 114 real runs, near-duplicates by transcript or sessions only")
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        run = CliRunner()
        done = run.invoke(assay, ["traces", "import", "--format", "tau2", str(DATA), "--experiment", "telecom"])
        if done.exit_code:
            raise SystemExit(f"the import failed: {done.output} {done.exception}")
        for by in ("session", "transcript"):
            for fields in (
                ["tools_called", "steps"],
                ["final_answer", "tools_called", "steps"],
                ["transcript"],
                ["transcript", "tools_called", "steps"],
            ):
                command = ["judges", "train", "solved", "-e", "telecom", "--label", "task_success", "--source", "code"]
                command += ["--group-by", by, "--force", "--out", f"{folder}/judges", "--json"]
                command += ["--embedder", str(embedder)] if embedder else []
                result = run.invoke(assay, [*command, *(a for f in fields for a in ("-f", f))])
                if result.exit_code:
                    raise SystemExit(f"training failed: {result.output} {result.exception}")
                print(line([f"{by}:", *fields], json.loads(result.stdout)["report"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="crossing,promise,demo,telecom")
    parser.add_argument("--embedder", type=Path)
    given = parser.parse_args()
    parts = {
        "crossing": crossing,
        "promise": promise,
        "demo": lambda: demo(given.embedder),
        "telecom": lambda: telecom(given.embedder),
    }
    for name in given.only.split(","):
        parts[name]()


if __name__ == "__main__":
    main()
