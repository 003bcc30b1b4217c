"""The second half of the demo: failures become a dataset, the dataset a better prompt, and the gain is proven or not.

No model is called: the optimizer `categories` counts words. What decides is the same as with one that asks a model:
rows the optimizer never saw, and a paired test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlflow_assay import pipeline
from mlflow_assay.demo import EXPERIMENT
from mlflow_assay.demo.expert import EXPECTED_ROUTE, JUDGEMENT, label
from mlflow_assay.demo.predict import route
from mlflow_assay.demo.prompt import ALIAS, PROMPT_NAME
from mlflow_assay.demo.runner import run
from mlflow_assay.trust.compare import Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.optimizers.report import OptimizationReport

__all__ = ["CANDIDATE", "DATASET", "RIGHT_DESK", "FailureSet", "build_dataset", "improve", "promote", "verify"]

DATASET = "routing"
CANDIDATE = "candidate"  # the alias of a proven version until new traffic has confirmed it
RIGHT_DESK = """\
# Where the right answer is known, code compares it; no model is asked.
name: right_desk
purpose: Did the router choose the desk the expert expected?
value: {type: boolean}
uses: expected_value
with: {output: route, expectation: expected_route}
"""
_FRACTIONS = (0.4, 0.2, 0.4)


class _Display(Protocol):
    def steps(self, label: str) -> Callable[[int, int], None]:
        """A callback for (done, of)."""
        ...


@dataclass(frozen=True)
class FailureSet:
    """The dataset made of the labelled requests.

    Attributes:
        dataset: the stored version.
        misrouted: rows whose request went to a wrong desk, according to the expert.
        desks: mis-routed rows by the desk the expert expected, most first.
        masked: pieces of personal data replaced, by kind.
    """

    dataset: Dataset
    misrouted: int
    desks: tuple[tuple[str, int], ...]
    masked: dict[str, int]


def build_dataset(folder: Path, seed: int) -> FailureSet:
    """Every labelled request as a row: the mis-routed ones, and beside them those that went right.

    A test on failures alone could not see what a new prompt breaks.

    Args:
        folder: the store is made in it.
        seed: of the split.
    """
    from mlflow_assay.datasets.build import BuildPlan, build
    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.datasets.shaping import Shaping
    from mlflow_assay.datasets.store import open_store
    from mlflow_assay.redaction import Redactor
    from mlflow_assay.sources.mlflow_store import MlflowSource

    plan = BuildPlan(
        where=(f"label {JUDGEMENT} any",),
        slice=f"expectation:{EXPECTED_ROUTE}",
        inputs={"request": "span:router.inputs.request", "conversation": "span:router.inputs.conversation"},
        shaping=Shaping(duplicates="exact", fractions=_FRACTIONS, seed=seed),
    )
    store = open_store(str(folder / "datasets"))
    with build(MlflowSource(EXPERIMENT), plan, redactor=Redactor()) as built:
        about = built.about(owner="the demo", pii="none, simulated", licence="CC0-1.0")
        dataset = Dataset(store.write(DATASET, built.rows(), about), store)
    wrong = [r for r in dataset.rows() if r.tags.get(f"label.{JUDGEMENT}") == "false"]
    masked = Counter(kind for row in dataset.rows() for kind, n in row.redacted.items() for _ in range(n))
    desks = Counter(str(row.expectations.get(EXPECTED_ROUTE)) for row in wrong)
    return FailureSet(dataset, len(wrong), tuple(desks.most_common()), dict(masked))


def improve(folder: Path, failures: FailureSet, first: str, seed: int, display: _Display) -> OptimizationReport:
    """Optimize the router's prompt without a model; a proven version gets the alias `candidate`.

    Args:
        folder: where definitions of judges are.
        failures: what to learn from and to test on.
        first: URI of the prompt as it is.
        seed: of the optimizer.
        display: shows progress.
    """
    (folder / "judges" / "right_desk.yaml").write_text(RIGHT_DESK, encoding="utf-8")
    judges = pipeline.build_judges(["right_desk"], paths=[folder / "judges"])
    options = {"label": EXPECTED_ROUTE, "inputs": ["request"]}
    request = pipeline.optimization(
        [first], failures.dataset, judges, "categories", predict=route, options=options, seed=seed
    )
    show = display.steps("candidates tried")
    report, _ = pipeline.optimize(
        request, {PROMPT_NAME: CANDIDATE}, experiment=EXPERIMENT, told=lambda c: show(c.number + 1, c.number + 1)
    )
    return report


def verify(first: str, requests: int, seed: int, display: _Display) -> Comparison:
    """Old and proven prompt over the same new requests, and the expert's word on every answer.

    Args:
        first: URI of the prompt as it was.
        requests: how many; none of them was seen before.
        seed: of the traffic.
        display: shows progress.
    """
    right: list[dict[str, bool]] = []
    sessions: dict[str, str] = {}
    for name, uri in (("before", first), ("after", f"prompts:/{PROMPT_NAME}@{CANDIDATE}")):
        told = display.steps(f"traces, {name}")
        played = run(f"{EXPERIMENT}-{name}", requests=requests, seed=seed, prompt_uri=uri, progress=told)
        said = {thumb.trace_id: bool(thumb.value) for thumb in label(played, sample=requests, seed=seed)}
        right.append({turn.request.id: said[turn.trace_id] for turn in played.turns})
        sessions = {turn.request.id: turn.request.session for turn in played.turns}
    ids = list(right[0])
    before, after = ([side[i] for i in ids] for side in right)
    return compare(before, after, name=JUDGEMENT, ids=ids, clusters=[sessions[i] for i in ids], effect=0.05)


def promote(fix: Comparison | None) -> int | None:
    """Put the alias `production` on the proven version if new traffic confirms it; the version, or None."""
    import mlflow

    if fix is None or fix.outcome != "better":
        return None
    client = mlflow.MlflowClient()
    version = int(client.get_prompt_version_by_alias(PROMPT_NAME, CANDIDATE).version)
    client.set_prompt_alias(PROMPT_NAME, ALIAS, version)
    return version
