from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from mlflow_assay.cli import assay
from mlflow_assay.engine.cache import CachedVerdict, VerdictCache
from mlflow_assay.errors import ConfigError, StoreError

DAY = 86_400_000


@pytest.fixture
def url(tmp_path):
    url, now = f"sqlite:///{tmp_path / 'verdicts.db'}", int(time.time() * 1000)
    with VerdictCache(url) as cache:
        for n, days in enumerate((1, 10, 40)):
            cache.put_many({f"t{n}": CachedVerdict(True, "why", {}, "tone", "aaaa", now - days * DAY)})
        cache.put_many({"r": CachedVerdict("x" * 5000, None, {}, "routed", "bbbb", now - 50 * DAY)})
        cache.get_many(["t0", "t1", "r"])
    return url


def run(*arguments, answer=None):
    done = CliRunner().invoke(assay, ["cache", *arguments], input=answer)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_stats_shows_each_judge(url):
    said = run("stats", "--url", url).output
    assert "4 verdicts, 5.1 kB, used again 3 times" in said
    assert "tone" in said and "aaaa" in said and "routed" in said


def test_stats_as_json(url):
    found = json.loads(run("stats", "--url", url, "--json").output)
    assert (found["entries"], found["hits"]) == (4, 3)
    assert [(j["judge"], j["digest"], j["entries"]) for j in found["judges"]] == [
        ("routed", "bbbb", 1),
        ("tone", "aaaa", 3),
    ]


def test_an_empty_cache_is_no_error(tmp_path):
    said = run("stats", "--url", f"sqlite:///{tmp_path / 'new.db'}").output
    assert "0 verdicts, 0 B" in said


def test_the_url_of_the_environment_is_the_default(url, monkeypatch):
    monkeypatch.setenv("ASSAY_CACHE_URL", url)
    assert json.loads(run("stats", "--json").output)["entries"] == 4


@pytest.mark.parametrize(
    ("options", "deleted"),
    [
        (["--older-than", "30d"], 2),
        (["--older-than", "2w", "--judge", "tone"], 1),
        (["--judge", "tone", "--keep", "1"], 2),
        (["--digest", "bbbb"], 1),
        ([], 4),
        (["--judge", "nobody"], 0),
        (["--keep", "9"], 0),
    ],
)
def test_prune_deletes_what_matches(url, options, deleted):
    done = run("prune", "--url", url, *options, "--yes", "--json")
    assert json.loads(done.output) == {"deleted": deleted, "left": 4 - deleted}


def test_prune_asks_first_and_says_how_many(url):
    refused = run("prune", "--url", url, "--judge", "tone", answer="n\n")
    assert "Delete 3 verdicts from sqlite:///" in refused.output
    assert refused.exit_code == 1
    assert json.loads(run("stats", "--url", url, "--json").output)["entries"] == 4
    agreed = run("prune", "--url", url, "--judge", "tone", answer="y\n")
    assert "3 verdicts deleted, 1 left." in agreed.output


def test_an_age_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="not a time"):
        run("prune", "--url", url, "--older-than", "old", "--yes")


def test_a_cache_that_cannot_be_opened_says_so():
    with pytest.raises(StoreError, match="cannot be opened"):
        run("stats", "--url", "sqlite:////proc/nowhere/verdicts.db")
