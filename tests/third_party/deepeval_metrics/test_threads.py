"""Forty rows by ten workers find what one finds at a time; MLflow 3.17's wrapper, which shares its metric, does not."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest

from mlflow_assay.engine.mlflow_endpoint import route
from mlflow_assay.testing import FakeJudgeServer, Reply, filled

NONE = "100"  # what a prompt without a number is about
ROWS = range(101, 141)


def model(request):
    """Even orders are well, odd ones not; each reply passes the number on to the next request of its row."""
    numbers = [n for n in re.findall(r"[Oo]rder (1\d\d)\b", request.prompt) if n != NONE]
    number = numbers[-1] if numbers else NONE
    word = "yes" if int(number) % 2 == 0 else "no"

    def pick(field, schema):
        if "yes" in (schema.get("enum") or ()):
            return word
        return f"Order {number} arrives." if schema.get("type") == "string" else None

    if request.schema:
        said = filled(request.schema, pick)
    else:
        statement, verdict = f"Order {number} arrives.", {"verdict": word, "reason": f"Order {number}"}
        said = {"statements": [statement], "verdicts": [verdict], "reason": statement}
    return Reply(json.dumps(said), delay_s=random.random() / 50)  # noqa: S311 - only to mix the rows


@pytest.mark.parametrize("name", ["AnswerRelevancyMetric", "FaithfulnessMetric", "TurnRelevancyMetric"])
def test_ten_workers_find_what_one_finds(of, full_trace, full_session, name):
    def judged(number):
        if name.startswith("Turn"):
            session = full_session(1, number)
            return of.verdict(bound, session[0], session)
        return of.verdict(bound, full_trace(number, expectations={}))

    with FakeJudgeServer(model) as server:
        bound = of.bind(name, server.model)
        with ThreadPoolExecutor(10) as pool:
            together = list(pool.map(judged, ROWS))
        alone = [judged(number) for number in ROWS]
    assert [f.error for f in together] == [None] * len(ROWS)
    assert [f.value for f in together] == [f.value for f in alone] == [float(n % 2 == 0) for n in ROWS]
    assert [f.rationale for f in together] == [f.rationale for f in alone]
    assert {f.metadata["assay.judge.calls"] for f in together} == {alone[0].metadata["assay.judge.calls"]}


@pytest.mark.skipif(
    tuple(map(int, mlflow.__version__.split(".")[:2])) >= (3, 18), reason="MLflow 3.18 copies its metric for each call"
)
def test_mlflows_wrapper_gives_rows_each_others_scores(of):
    """The same model and rows, ten workers: 17 to 20 of 40 scores of the shared metric were other rows'."""
    from mlflow.genai.scorers.deepeval import get_scorer

    with FakeJudgeServer(model) as server, route(server.model):
        theirs = get_scorer("AnswerRelevancy", model="openai:/fake-judge")

        def judged(number):
            return theirs(inputs=f"Where is order {number}?", outputs=f"Order {number} arrives.")

        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(judged, ROWS))
    wrong = sum(f.metadata.get("score") != float(n % 2 == 0) for n, f in zip(ROWS, found, strict=True))
    assert wrong > 0
