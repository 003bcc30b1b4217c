"""`--dry-run`: what is owed, exactly; calls, tokens and money, estimated, with their basis; nothing called."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_assay import pipeline
from mlflow_assay.cli import assay
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.cache import VerdictCache
from mlflow_assay.engine.forecast import REPLY_TOKENS
from mlflow_assay.engine.run import Options
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FakeJudgeServer, answer


def judges(folder, server, names=("looks_right",), price=(1.0, 10.0)):
    model = ModelSettings("openai:/fake-judge", server.url, timeout_s=5, usd_per_million=price)
    return pipeline.build_judges(list(names), model=model, paths=[folder])


def content(store: str) -> list[str]:
    with sqlite3.connect(store.removeprefix("sqlite:///")) as db:
        return list(db.iterdump())


def test_the_estimate_is_near_what_the_run_then_costs_and_leaves_no_trace(folder, log_trace, store):
    """40 prompts of very different lengths, a sample of 20 of them; the fake counts tokens by the same rule."""
    for i in range(40):
        log_trace(request=f"question {i} " * (1 + i % 7), answer="word " * 50)
    before = content(store)
    with FakeJudgeServer(answer(True)) as server:
        built = judges(folder, server)
        found = pipeline.dry_run(MlflowSource("test"), built, sample=20)
        assert not server.requests
        assert content(store) == before
        pipeline.score(MlflowSource("test"), built)
        sent = sum(len(json.dumps(r.body, ensure_ascii=False).encode()) for r in server.requests) / 4
    (judge,) = found.judges
    assert (found.traces, judge.owed, judge.already, judge.sampled, judge.calls) == (40, 40, 0, 20, 40)
    assert judge.input_tokens == pytest.approx(sent, rel=0.15)
    assert judge.output_tokens == 40 * REPLY_TOKENS
    assert judge.cost_usd == pytest.approx((judge.input_tokens * 1 + judge.output_tokens * 10) / 1e6, rel=1e-3)
    assert found.cost_usd == judge.cost_usd


def test_what_stands_is_cached_or_cannot_be_judged_costs_nothing(folder, log_trace, tmp_path):
    done = log_trace(request="done before")
    cache = VerdictCache(f"sqlite:///{tmp_path}/known.db")
    with FakeJudgeServer(answer(True)) as server:
        built = judges(folder, server)
        pipeline.score(MlflowSource("test"), built, options=Options(cache=cache))
        assert mlflow.get_trace(done).info.assessments
        log_trace(request="done before")  # the same words: in the cache
        log_trace(answer=None)  # lacks what the judge needs
        log_trace(request="new")
        found = pipeline.dry_run(MlflowSource("test"), built, options=Options(cache=cache)).judges[0]
    assert (found.owed, found.already, found.cached, found.missing, found.calls) == (3, 1, 1, 1, 1)
    cache.close()


def test_code_judges_cost_nothing_and_a_model_without_a_price_is_unknown_not_free(folder, log_trace):
    log_trace()
    with FakeJudgeServer(answer(True)) as server:
        found = pipeline.dry_run(
            MlflowSource("test"), judges(folder, server, ["looks_right", "repeated_steps"], price=None)
        )
    asked, code = found.judges
    assert (asked.cost_usd, found.cost_usd) == (None, None)
    assert "no price is known" in asked.basis
    assert (code.cost_usd, code.input_tokens, code.basis) == (0.0, 0, "no model is called")


def test_the_command_prints_the_estimate_and_its_basis(folder, log_trace, store):
    for i in range(3):
        log_trace(request=f"question {i}")
    with FakeJudgeServer(answer(True)) as server:
        command = ["score", "-e", "test", "-j", "looks_right", "--path", str(folder), "--model", "openai:/fake-judge"]
        command += ["--base-url", server.url, "--price", "1,10", "--dry-run"]
        shown = CliRunner().invoke(assay, command)
        as_json = CliRunner().invoke(assay, [*command, "--json"])
        assert not server.requests
    assert shown.exit_code == 0, shown.output
    assert "estimated from 3 of 3: 3 prompts measured" in shown.output
    assert "Nothing was called or written." in shown.output
    assert json.loads(as_json.output)["judges"][0]["calls"] == 3
    assert MlflowClient().search_runs([mlflow.get_experiment_by_name("test").experiment_id]) == []
    assert not Path(os.environ["ASSAY_CACHE_URL"].removeprefix("sqlite:///")).exists()


def test_nothing_owed_is_said(folder, log_trace):
    log_trace()
    with FakeJudgeServer(answer(True)) as server:
        built = judges(folder, server)
        pipeline.score(MlflowSource("test"), built)
        found = pipeline.dry_run(MlflowSource("test"), built).judges[0]
    assert (found.owed, found.already, found.calls, found.cost_usd) == (0, 1, 0, 0.0)
