"""A small router whose prompt lacks a category, rows that say which it should have been, and no model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from mlflow_assay.datasets.model import DatasetRow
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.optimizers.agent import FunctionAgent
from mlflow_assay.optimizers.request import Request, Rows, load_prompts, rows_of

PROMPT = """\
Send each request to the desk that can solve it.

Desks:
- billing: invoice, charge, refund, payment
- support: broken, slow, outage, signal

If it fits no desk, choose billing.

Request: {{request}}
"""
WORDS = {
    "billing": ["invoice", "charge", "refund", "payment"],
    "support": ["broken", "slow", "outage", "signal"],
    "product": ["handset", "camera", "tariff", "delivery"],
}
JUDGE = "desk"
DEFINITION = """
name: desk
purpose: Did the request reach the desk that was expected?
value: {type: boolean}
uses: expected_value
with: {output: desk, expectation: desk}
"""
SHORT = """
name: short
purpose: Is the prompt the agent works with short enough to pay for?
value: {type: boolean}
uses: expected_value
with: {output: short, expectation: short}
"""


@pytest.fixture(autouse=True)
def _no_catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No price look-up on the network, and nothing in the user's own cache folder."""
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def texts(kind: str, count: int) -> list[str]:
    """Requests of one kind, unlike one another but for the word that matters."""
    syllables = ["ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za"]
    names = ["".join(p) for p in itertools.permutations(syllables, 3)]
    start = {"billing": 0, "support": 900, "product": 1800}[kind]
    return [
        f"{names[start + 3 * i]} {WORDS[kind][i % 4]} {names[start + 3 * i + 1]} {names[start + 3 * i + 2]}"
        for i in range(count)
    ]


def make_rows(each: int = 40, **more) -> list[DatasetRow]:
    """Rows of all kinds in turn, each in a session of its own; fast tests take fewer."""
    pairs = [(kind, text) for kind in WORDS for text in texts(kind, each)]
    pairs.sort(key=lambda p: p[1][::-1])
    return [
        DatasetRow({"request": text}, expectations={"desk": kind, **more}, session=f"s{i}")
        for i, (kind, text) in enumerate(pairs)
    ]


def route(request: str) -> dict[str, object]:
    """The agent: counts the words a request shares with each description in its registered prompt."""
    return choose(str(mlflow.genai.load_prompt("prompts:/router@production", link_to_model=False).template), request)


def choose(prompt: str, request: str) -> dict[str, object]:
    desks = dict(re.findall(r"^- (\w+):(.*(?:\n  .*)*)", prompt, re.MULTILINE))
    shared = {d: len(set(re.findall(r"\w+", t)) & set(request.split())) for d, t in desks.items()}
    best = max(shared, key=lambda d: shared[d])
    return {"desk": best if shared[best] else "billing", "short": "yes" if len(prompt) < 1000 else "no"}


@pytest.fixture
def judges_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "judges"
    folder.mkdir()
    (folder / "desk.yaml").write_text(DEFINITION)
    (folder / "short.yaml").write_text(SHORT)
    return folder


@pytest.fixture
def prompt(store: str) -> Iterator[str]:
    """The registered prompt's URI."""
    made = mlflow.genai.register_prompt(name="router", template=PROMPT)
    mlflow.MlflowClient().set_prompt_alias("router", "production", made.version)
    yield "prompts:/router@production"


@pytest.fixture(scope="session")
def rows() -> Rows:
    return rows_of(make_rows(), reference="toy@v1")


@pytest.fixture
def request_for(prompt: str, judges_folder: Path, rows: Rows) -> Callable[..., Request]:
    """Makes a request of the toy router; anything in it can be set."""

    def make(optimizer: str = "categories", *, judges=(JUDGE,), function=route, **more) -> Request:
        catalogue = Catalogue([judges_folder])
        more.setdefault("rows", rows)
        more.setdefault("agent", FunctionAgent(function))
        return Request(load_prompts([prompt]), judges=[catalogue.build(j) for j in judges], optimizer=optimizer, **more)

    return make


@pytest.fixture
def experiment(store: str) -> str:
    return str(
        mlflow.create_experiment(
            "optimizing", artifact_location=Path(store.removeprefix("sqlite:///")).parent.joinpath("artifacts").as_uri()
        )
    )
