from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.engine import cache as module
from mlflow_assay.engine.cache import CachedVerdict, CacheError, VerdictCache, default_url, key
from mlflow_assay.errors import ConfigError, StoreError

NOW = int(time.time() * 1000)
DAY = 86_400_000


def verdict(value=True, judge="polite", digest="d1", created_ms=NOW, **metadata):
    return CachedVerdict(value, "because", metadata, judge, digest, created_ms)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'verdicts.db'}"


@pytest.fixture
def cache(url):
    with VerdictCache(url) as opened:
        yield opened


def test_a_verdict_comes_back_as_it_was_put(cache):
    put = {
        "a": verdict(True, cost_usd="0.001"),
        "b": verdict(3),
        "c": verdict(2.5),
        "d": verdict("yes"),
        "e": verdict(False),
    }
    cache.put_many(put)
    got = cache.get_many(["a", "b", "c", "d", "e", "missing"])
    assert got == put
    assert [type(v.value) for v in got.values()] == [type(v.value) for v in put.values()]


# any text, lone surrogates and NUL included: judges quote what users typed
texts = st.text(st.characters(exclude_categories=()), max_size=30)
values = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), texts, st.lists(st.integers(), max_size=3))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with VerdictCache(f"sqlite:///{tmp_path_factory.mktemp('cache') / 'verdicts.db'}") as opened:
        yield opened


@given(value=values, rationale=st.none() | texts, metadata=st.dictionaries(texts, texts, max_size=3), content=texts)
def test_any_value_and_text_survives_the_round_trip(shared, value, rationale, metadata, content):
    put = CachedVerdict(value, rationale, metadata, "j", "d", 1)
    shared.put_many({key("d", content): put})
    assert shared.get_many([key("d", content)])[key("d", content)] == put


@given(st.lists(st.tuples(st.text("abc", max_size=4), texts), min_size=2, max_size=8, unique=True))
def test_different_judge_or_content_means_a_different_key(pairs):
    keys = {key(digest, content) for digest, content in pairs}
    assert len(keys) == len(pairs)
    assert all(len(k) == 64 and int(k, 16) >= 0 for k in keys)


def test_more_keys_than_a_database_takes_parameters(cache):
    """40,000 keys are above SQLite's 32,766 bound parameters."""
    put = {f"{n:064x}": verdict(n) for n in range(3000)}
    cache.put_many(put)
    got = cache.get_many([f"{n:064x}" for n in range(40_000)])
    assert len(got) == 3000


def test_no_keys_and_no_items_are_fine(cache):
    cache.put_many({})
    assert cache.get_many([]) == {}
    assert cache.stats().entries == 0
    assert cache.stats().oldest_ms is None


def test_putting_again_replaces_and_keeps_the_hits(cache):
    cache.put_many({"a": verdict(True)})
    cache.get_many(["a"])
    cache.put_many({"a": verdict(False)})
    assert cache.get_many(["a"])["a"].value is False
    assert cache.stats().entries == 1
    assert cache.stats().hits == 1


def test_an_unscored_verdict_is_never_cached():
    with pytest.raises(ConfigError, match="only scored verdicts"):
        verdict(None)


def test_a_value_json_cannot_hold_keeps_nothing_of_the_batch(cache):
    with pytest.raises(CacheError, match="not JSON"):
        cache.put_many({"a": verdict(True), "b": verdict(object())})
    assert cache.get_many(["a", "b"]) == {}


def test_hits_of_a_process_are_recorded_when_it_closes(url):
    with VerdictCache(url) as first:
        first.put_many({"a": verdict(), "b": verdict()})
        first.get_many(["a", "b"])
        first.get_many(["a", "nothing"])
    with VerdictCache(url) as second:
        assert second.stats().hits == 3


def test_stats_by_judge_and_digest(cache):
    cache.put_many({"a": verdict(created_ms=5), "b": verdict(created_ms=9), "c": verdict(judge="routed", digest="d2")})
    stats = cache.stats()
    assert [(j.judge, j.digest, j.entries, j.oldest_ms) for j in stats.judges] == [
        ("polite", "d1", 2, 5),
        ("routed", "d2", 1, NOW),
    ]
    assert (stats.entries, stats.oldest_ms, stats.newest_ms) == (3, 5, NOW)
    assert stats.bytes == sum(j.bytes for j in stats.judges) > 0


def filled(cache):
    cache.put_many(
        {
            "old": verdict(created_ms=NOW - 40 * DAY),
            "new": verdict(created_ms=NOW - DAY),
            "other": verdict(judge="routed", digest="d2", created_ms=NOW - 50 * DAY),
        }
    )


@pytest.mark.parametrize(
    ("criteria", "left"),
    [
        ({}, set()),
        ({"older_than_ms": 30 * DAY}, {"new"}),
        ({"judge": "polite"}, {"other"}),
        ({"digest": "d2"}, {"old", "new"}),
        ({"judge": "polite", "older_than_ms": 30 * DAY}, {"new", "other"}),
        ({"keep": 1}, {"new"}),
        ({"keep": 2, "judge": "polite"}, {"old", "new", "other"}),
        ({"keep": 0, "judge": "polite"}, {"other"}),
    ],
)
def test_prune_deletes_what_matches_all_criteria(cache, criteria, left):
    filled(cache)
    counted = {k: v for k, v in criteria.items() if k != "keep"}
    assert cache.count(**counted) >= 3 - len(left)
    assert cache.prune(**criteria) == 3 - len(left)
    assert set(cache.get_many(["old", "new", "other"])) == left


def test_prune_keeps_exactly_as_many_as_asked_among_equally_old(cache):
    cache.put_many({f"{n}": verdict(created_ms=7) for n in range(10)})
    assert cache.prune(keep=4) == 6
    assert cache.stats().entries == 4


def test_prune_hands_the_space_back(url, tmp_path):
    with VerdictCache(url) as cache:
        cache.put_many({f"{n}": verdict("x" * 2000) for n in range(500)})
    before = (tmp_path / "verdicts.db").stat().st_size
    with VerdictCache(url) as cache:
        cache.prune()
    assert (tmp_path / "verdicts.db").stat().st_size < before / 10


def test_the_default_is_a_file_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("ASSAY_CACHE_URL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with VerdictCache() as cache:
        cache.put_many({"a": verdict()})
    path = tmp_path / "mlflow-assay" / "verdicts.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("ASSAY_CACHE_URL", "sqlite:////elsewhere.db")
    assert default_url() == "sqlite:////elsewhere.db"


def test_the_write_ahead_log_is_as_private_as_the_file(tmp_path, cache):
    cache.put_many({"a": verdict()})
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes["verdicts.db-wal"] == 0o600
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    "bad",
    [
        "not a url",
        "nosuchdb://x/y",
        "mssql+pymssql://x/y",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////proc/nowhere/verdicts.db",
    ],
)
def test_a_cache_that_cannot_be_opened_says_what_to_do(bad):
    with pytest.raises(StoreError, match="--no-cache"):
        VerdictCache(bad)


def test_a_corrupt_file_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "verdicts.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"not a database.*--no-cache"):
        VerdictCache(f"sqlite:///{path}")


def test_a_password_in_the_address_is_never_shown():
    with pytest.raises(StoreError) as caught:
        VerdictCache("sqlite+nosuch://me:hunter2@host/nowhere.db")
    assert "hunter2" not in str(caught.value)


def test_a_locked_cache_raises_an_error_the_run_can_survive(url, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_S", 0.1)
    with VerdictCache(url) as cache:
        cache.put_many({"a": verdict()})
        other = sqlite3.connect(tmp_path / "verdicts.db")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match=r"locked.*--no-cache"):
            cache.put_many({"b": verdict()})
        assert set(cache.get_many(["a", "b"])) == {"a"}, "readers do not wait for the writer"
        other.rollback()
        other.close()
        cache.put_many({"b": verdict()})
        assert set(cache.get_many(["a", "b"])) == {"a", "b"}


def test_closing_a_locked_cache_warns_and_does_not_raise(url, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_BUSY_S", 0.1)
    cache = VerdictCache(url)
    cache.put_many({"a": verdict()})
    cache.get_many(["a"])
    other = sqlite3.connect(tmp_path / "verdicts.db")
    other.execute("BEGIN IMMEDIATE")
    cache.close()
    other.close()
    assert "Only the count of hits" in caplog.text


def test_an_error_does_not_show_the_verdicts(cache, tmp_path):
    other = sqlite3.connect(tmp_path / "verdicts.db")
    other.execute("DROP TABLE assay_verdicts")
    other.commit()
    other.close()
    with pytest.raises(CacheError) as caught:
        cache.put_many({"a": verdict("a secret of a customer")})
    assert "no such table" in str(caught.value)
    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


def test_a_damaged_entry_is_reported_with_the_judge_to_prune(cache, tmp_path):
    cache.put_many({"a": verdict()})
    other = sqlite3.connect(tmp_path / "verdicts.db")
    other.execute("UPDATE assay_verdicts SET payload = '[tru'")
    other.commit()
    other.close()
    with pytest.raises(CacheError, match="assay cache prune --judge polite"):
        cache.get_many(["a"])
    assert cache.prune(judge="polite") == 1


WRITER = """
import json, sys
from mlflow_assay.engine.cache import CachedVerdict, VerdictCache
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
cache = VerdictCache(url)
for n in range(count):
    own, both = CachedVerdict(n, None, {}, name, "d", 1), CachedVerdict(name, None, {}, "both", "d", 1)
    cache.put_many({f"{name}-{n}": own, f"both-{n}": both})
    print(n, flush=True)
cache.close()
"""


def writer(url, name, count):
    command = [sys.executable, "-c", WRITER, url, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def test_processes_may_create_and_write_one_cache_at_once(url):
    """Three processes race to create the file and then write to it, half of the keys the same."""
    writers = [writer(url, f"w{n}", 25) for n in range(3)]
    for process in writers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with VerdictCache(url) as cache:
        assert {j.judge: j.entries for j in cache.stats().judges} == {"w0": 25, "w1": 25, "w2": 25, "both": 25}


def test_verdicts_put_before_kill_9_are_found_again(url):
    process = writer(url, "w", 100_000)
    reported = [process.stdout.readline() for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=10)
    last = int(([*reported, *rest.split("\n")[:-1]])[-1])
    assert last >= 29
    with VerdictCache(url) as cache:
        found = cache.get_many([f"w-{n}" for n in range(last + 1)])
    assert [v.value for v in found.values()] and len(found) == last + 1


def test_a_database_without_a_known_upsert_is_written_all_the_same(url):
    """The way for other databases (delete, then insert) is run here on SQLite."""
    with VerdictCache(url) as cache, cache._engine.begin() as connection:
        rows = [module._encoded("a", verdict(True)), module._encoded("b", verdict(1))]
        for value in (True, False):
            rows[0] = module._encoded("a", verdict(value))
            module._upsert(_Named(connection), rows)
        kept = connection.execute(sa.select(module._verdicts.c.key, module._verdicts.c.payload)).all()
    assert {row.key: json.loads(row.payload)[0] for row in kept} == {"a": False, "b": 1}


class _Named:
    """A connection that says it is to a database the cache has no upsert for."""

    class dialect:  # noqa: N801
        name = "oracle"

    def __init__(self, connection):
        self.execute = connection.execute


@pytest.mark.skipif(not os.environ.get("ASSAY_TEST_POSTGRES_URL"), reason="ASSAY_TEST_POSTGRES_URL is not set")
def test_a_team_shares_a_cache_on_postgresql():
    url = os.environ["ASSAY_TEST_POSTGRES_URL"]
    with VerdictCache(url) as cache:
        cache.prune()
    writers = [writer(url, f"w{n}", 20) for n in range(3)]
    for process in writers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with VerdictCache(url) as cache:
        assert len(cache.get_many(["w0-1", "both-1"])) == 2
        cache.put_many({"nul": verdict("a\0b\ud800")})
        assert cache.get_many(["nul"])["nul"].value == "a\0b\ud800"
        assert cache.stats().entries == 81
        assert cache.prune(judge="both", keep=5) == 15
        assert cache.prune() == 66
