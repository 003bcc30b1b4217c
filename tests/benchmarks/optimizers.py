"""Prompt optimizers at an equal budget of calls, and what the gate makes of luck. On a FAKE model: read on.

No real model is asked. The agent sorts requests by the words they share with its prompt; the model that writes is a
script that puts some of the words it is shown beside the category it is told was expected. So the table says what each
optimizer does with its calls under the same rules (one budget over agent and writer, choice on validation, result on
test rows never seen), and nothing about how they rank with a real model. The second part needs no realism: an agent
whose answers are luck shows how often each rule would promote a prompt that is no better.

    python tests/benchmarks/optimizers.py [--tasks 12] [--calls 400] [--null 100]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import numpy as np

from mlflow_assay.errors import AssayError
from mlflow_assay.optimizers.journal import Journal
from mlflow_assay.optimizers.procedure import make_optimizer
from mlflow_assay.optimizers.rollouts import Purse
from mlflow_assay.optimizers.task import Example, Score, Task
from mlflow_assay.optimizers.template import Template
from mlflow_assay.optimizers.writer import Writer
from mlflow_assay.testing import FakeJudgeServer, JudgeRequest
from mlflow_assay.trust.prompt_gate import PromptGate

OPTIMIZERS = {
    "categories": {"label": "desk"},
    "knn_few_shot": {"label": "desk"},
    "bootstrap_few_shot": {"label": "desk"},
    "gepa": {},
    "miprov2": {"label": "desk", "candidates": 4, "trials": 8},
}
DESKS = ("account", "billing", "product", "support")
SIZES = (60, 40, 200)  # training, validation, test


def make_task(seed: int) -> tuple[str, list[Example]]:
    """A prompt that knows a few words of three desks and none of the fourth, and requests of all four."""
    draw = random.Random(seed)  # noqa: S311 - a made-up task, not a secret
    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in ("rt", "ns", "lk", "mp", "st", "x", "ng", "d")]
    draw.shuffle(words)
    own = {desk: [words.pop() for _ in range(12)] for desk in DESKS}
    common = [words.pop() for _ in range(60)]
    lines = [f"- {desk}: {', '.join(own[desk][:4])}" for desk in DESKS if desk != "product"]
    prompt = "Sort each request.\n\nDesks:\n" + "\n".join(lines) + "\n\nRequest: {{request}}\n"
    rows = []
    for i in range(sum(SIZES)):
        desk = draw.choice(DESKS)
        said = [*draw.sample(own[desk], 2), *draw.sample(common, 4)]
        draw.shuffle(said)
        expected = desk if draw.random() > 0.05 else draw.choice(DESKS)  # experts err now and then
        rows.append(Example(f"{seed}-{i}", {"request": " ".join(said)}, {"desk": expected}))
    return prompt, rows


def answer(prompt: str, request: str) -> str:
    """The simulated agent: the category whose words, or whose solved examples' words, a request shares most."""
    known: dict[str, set[str]] = {desk: set() for desk in DESKS}
    for desk, text in re.findall(r"^- (\w+):(.*(?:\n  .*)*)", prompt, re.MULTILINE):
        known.setdefault(desk, set()).update(re.findall(r"\w+", text))
    for text, desk in re.findall(r"request: (.*)\nanswer: (\w+)", prompt):
        known.setdefault(desk, set()).update(text.split())
    shared = {desk: len(words & set(request.split())) for desk, words in known.items()}
    best = max(shared, key=lambda d: shared[d])
    return best if shared[best] else "billing"


def writer(request: JudgeRequest) -> str:
    """The scripted writer: adds a few of the words it was shown in failures to the category that was expected."""
    text = request.prompt
    draw = random.Random(hashlib.sha256(text.encode()).hexdigest())  # noqa: S311 - likewise
    found = re.findall(r"^- (\w+): (.*)$", text, re.MULTILINE)
    lists = {desk: line.split(", ") for desk, line in found if desk in DESKS}
    shown = re.findall(r"request['\": \n#]*(?:request)?[\s#]*([a-z ]{12,})", text)
    wanted = re.findall(r"expected \"(\w+)\"|Expected[\s#:]*(\w+)|answer['\": ]+(\w+)", text)
    desks = [next(d for d in match if d) for match in wanted]
    for words, desk in zip(shown, desks, strict=False):
        if desk in DESKS:
            lists.setdefault(desk, []).extend(draw.sample(words.split(), min(3, len(words.split()))))
    made = "Sort each request.\n\nDesks:\n" + "\n".join(
        f"- {desk}: {', '.join(dict.fromkeys(words))}" for desk, words in lists.items()
    )
    asked = text.rpartition("Respond with ")[2]
    if asked.startswith("a JSON object"):
        return json.dumps(dict.fromkeys(re.findall(r"`(\w+)`", asked), made))
    fields = [f for f in dict.fromkeys(re.findall(r"\[\[ ## (\w+) ## \]\]", asked)) if f != "completed"]
    return "\n\n".join(f"[[ ## {f} ## ]]\n{made}" for f in fields) if fields else f"```\n{made}\n```"


def trying(purse: Purse):
    """How a `Task` tries prompts here: the simulated agent, each answer counted."""

    def attempt(prompts: Mapping[str, str], examples: Sequence[Example]) -> list[Score]:
        scores = []
        for example in examples:
            purse.settle("agent", purse.reserve("agent"), 0.0)
            said, right = answer(prompts["p"], example.inputs["request"]), example.expectations["desk"]
            scores.append(Score(float(said == right), said, f'expected "{right}", the answer was "{said}"'))
        return scores

    return attempt


def one(name: str, seed: int, calls: int, server: FakeJudgeServer) -> tuple[float, float, bool, int]:
    """Test accuracy before and after, whether the gate accepts, calls made."""
    prompt, rows = make_task(seed)
    train, validation, test = rows[: SIZES[0]], rows[SIZES[0] : sum(SIZES[:2])], rows[sum(SIZES[:2]) :]
    purse = Purse(max_calls=calls)
    task = Task(
        {"p": prompt}, train, validation, trying(purse), writer=Writer(server.model, purse, Journal()), seed=seed
    )
    try:
        best = make_optimizer(name, OPTIMIZERS[name], seed).run(task)
    except AssayError as error:
        print(f"  {name} on task {seed}: {error}")
        best = task.best
    sides = [
        [answer(p["p"], e.inputs["request"]) == e.expectations["desk"] for e in test]
        for p in (task.prompts, best.prompts)
    ]
    decision = PromptGate().decide("desk", {"desk": sides[0]}, {"desk": sides[1]})
    return float(np.mean(sides[0])), float(np.mean(sides[1])), decision.accepted, purse.spent.calls


def interval(values: Sequence[float]) -> str:
    """Mean with its 95 % bootstrap interval over tasks."""
    rng = np.random.default_rng(0)
    x = np.asarray(values)
    means = rng.choice(x, (4000, x.size)).mean(1)
    return f"{100 * x.mean():+.1f} [{100 * np.quantile(means, 0.025):+.1f}, {100 * np.quantile(means, 0.975):+.1f}]"


def null(count: int, calls: int) -> tuple[int, int]:
    """Runs in which validation alone, and in which the gate would have promoted a prompt that is no better."""
    chosen = accepted = 0
    for seed in range(count):
        prompt, rows = make_task(seed)
        train, validation, test = rows[: SIZES[0]], rows[SIZES[0] : sum(SIZES[:2])], rows[sum(SIZES[:2]) :]

        def lucky(prompts: Mapping[str, str], examples: Sequence[Example]) -> list[Score]:
            return [Score(luck(prompts["p"], e.id), "x", "luck") for e in examples]

        task = Task({"p": prompt}, train, validation, lucky, seed=seed)
        best = make_optimizer("knn_few_shot", {"label": "desk", "sizes": list(range(1, 9))}, seed).run(task)
        chosen += best.number > 0
        if best.number:
            sides = [[luck(p["p"], e.id) == 1.0 for e in test] for p in (task.prompts, best.prompts)]
            accepted += PromptGate().decide("desk", {"desk": sides[0]}, {"desk": sides[1]}).accepted
    return chosen, accepted


def luck(prompt: str, row: str) -> float:
    """An answer that has nothing to do with how good the prompt is: right in 60 % of cases."""
    return float(hashlib.sha256(f"{Template.read(prompt).text}|{row}".encode()).digest()[0] < 0.6 * 256)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--null", type=int, default=100)
    given = parser.parse_args()
    print(f"FAKE agent and FAKE writer; {given.tasks} tasks, {given.calls} calls each, {SIZES} rows; gain in points")
    print(f"{'optimizer':20} {'gain on test rows':>26} {'accepted':>9} {'calls':>6} {'s':>6}")
    baseline: list[float] = []
    with FakeJudgeServer(writer, record=False) as server:
        for name in OPTIMIZERS:
            started, found = time.perf_counter(), [one(name, s, given.calls, server) for s in range(given.tasks)]
            baseline = [before for before, *_ in found]
            gains, calls = [after - before for before, after, *_ in found], np.mean([c for *_, c in found])
            took = time.perf_counter() - started
            accepted = f"{sum(a for *_, a, _ in found)}/{given.tasks}"
            print(f"{name:20} {interval(gains):>26} {accepted:>9} {calls:6.0f} {took:6.1f}", flush=True)
    print(f"before: {100 * np.mean(baseline):.1f} % right on average")
    chosen, accepted = null(given.null, given.calls)
    print(
        f"no gain to be had, {given.null} searches of 9 candidates: best on validation promoted {chosen}, "
        f"gate {accepted} (its level: 5 %)"
    )


if __name__ == "__main__":
    main()
