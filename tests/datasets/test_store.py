"""Versions in every kind of store: whole or not at all, never changed, never lost, whoever writes at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from mlflow_assay.datasets import snapshot
from mlflow_assay.datasets.model import About, DatasetRow
from mlflow_assay.datasets.store import load_dataset, open_store
from mlflow_assay.errors import AssayError, ConfigError, ConflictError, PluginError, StoreError

ABOUT = About(
    how="build", query={"where": ["judge x failed"]}, licence="CC-BY-4.0", owner="ann", retention="90d", pii="none"
)


def contents(dataset) -> list[str]:
    return sorted(row.content for row in dataset.rows())


def script(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *arguments]


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(script(code, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- what is stored ---------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_and_the_manifest_says_what_they_are(kept, rows):
    given = rows(40)
    manifest = kept.write("d", given, ABOUT)
    assert list(kept.rows(manifest)) == given
    assert (manifest.reference, manifest.rows, manifest.parent) == ("d@v1", 40, None)
    assert manifest.splits == {"train": 14, "validation": 13, "test": 13}
    assert manifest.about == ABOUT
    assert manifest.schema["inputs"] == "json"
    assert manifest.created_at.endswith("+00:00")
    assert manifest.created_by
    found = load_dataset("d", kept)
    assert found.manifest == manifest
    assert [r.split for r in found.rows("test")] == ["test"] * 13
    assert kept.names() == ["d"]


def test_the_digest_is_of_the_content_alone(kept, rows):
    """Other order, other store, other files: the same digest. Anything changed, removed or added: another."""
    first = kept.write("d", rows(30), ABOUT)
    assert kept.write("again", reversed(rows(30)), About()).digest == first.digest
    changed = [*rows(29), rows(30)[29].moved(split="train")]
    others = [rows(29), rows(31), changed]
    digests = {kept.write(f"other{i}", other, About()).digest for i, other in enumerate(others)}
    assert len(digests | {first.digest}) == 4


def test_writing_the_same_rows_again_makes_no_new_version(kept, rows):
    first = kept.write("d", rows(10), ABOUT)
    assert kept.write("d", reversed(rows(10)), ABOUT) == first
    assert kept.write("d", rows(10), About(owner="ben")).version == 2
    assert kept.write("d", rows(11), About(owner="ben")).parent_digest == first.digest


def test_a_version_is_named_by_number_alias_digest_or_url(kept, rows):
    for n in (10, 11, 12):
        kept.write("d", rows(n), ABOUT)
    kept.set_alias("d", "golden", 2)
    digest = kept.find("d@v1").digest
    names = {"d": 3, "d@latest": 3, "d@v2": 2, "d@2": 2, "d@golden": 2, f"d@{digest[:10]}": 1}
    assert {name: load_dataset(name, kept).manifest.version for name in names} == names
    assert load_dataset(f"{kept.url}/d@golden").digest == kept.find("d@v2").digest
    with pytest.raises(StoreError, match=r"no version 'v9'.*latest, golden, v1, v2, v3"):
        kept.find("d@v9")
    with pytest.raises(StoreError, match=r"There is no dataset 'e' at .*Valid: d\."):
        kept.find("e")


def test_aliases_move_and_tags_change_and_who_did_it_is_kept(kept, rows):
    for n in (10, 11):
        kept.write("d", rows(n), ABOUT)
    kept.set_alias("d", "golden", 1)
    kept.set_alias("d", "@golden", 2)
    kept.set_alias("d", "old", 1)
    kept.set_alias("d", "old", None)
    assert kept.aliases("d") == {"golden": 2}
    kept.set_tags("d", 1, {"reviewed": "yes", "by": "ann"})
    kept.set_tags("d", 1, {"by": None})
    assert kept.tags("d") == {1: {"reviewed": "yes"}}
    history = kept.history("d")
    assert [e["kind"] for e in history] == ["alias"] * 4 + ["tags"] * 2
    assert all(e["by"] and e["at"] for e in history)
    for bad in ("latest", "v3", "7", "abcdef12"):
        with pytest.raises(ConfigError, match="An alias cannot be called"):
            kept.set_alias("d", bad, 1)
    with pytest.raises(StoreError, match="no version 'v7'"):
        kept.set_alias("d", "golden", 7)


def test_two_rows_with_one_id_are_refused_and_nothing_is_written(kept, rows):
    with pytest.raises(ConfigError, match=r"1 rows have the id of another row"):
        kept.write("d", [*rows(5), rows(1)[0]], ABOUT)
    assert kept.names() == []


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", ".hidden", "x" * 101, "a@b"])
def test_a_name_that_could_leave_its_folder_is_refused(kept, rows, name):
    with pytest.raises(ConfigError, match="cannot be called"):
        kept.write(name, rows(1), ABOUT)


# --- append -----------------------------------------------------------------------------------------------


def test_append_shares_the_files_of_the_version_before(kept, rows):
    first = kept.write("d", rows(30), ABOUT)
    second = kept.append("d", [*rows(40)[25:]], About(how="append"))
    assert (second.version, second.rows, second.parent) == (2, 40, 1)
    assert second.files[0] == first.files[0]
    assert second.about.owner == "ann"
    assert contents(load_dataset("d", kept)) == sorted(r.content for r in rows(40))
    assert second.digest == kept.write("whole", rows(40), About()).digest
    assert kept.append("d", rows(10), About(how="append")) == second


def test_append_refuses_changed_rows_unless_told_to_replace(kept, rows):
    kept.write("d", rows(30), ABOUT)
    changed = rows(30)[7].moved(expectations={"route": "other"})
    with pytest.raises(ConfigError, match=r"1 rows are in d@v1 with other contents.*--replace"):
        kept.append("d", [changed], About(how="append"))
    second = kept.append("d", [changed, *rows(31)[30:]], About(how="append"), replace=True)
    wanted = [r for r in rows(31) if r.id != changed.id] + [changed]
    assert contents(load_dataset("d", kept)) == sorted(r.content for r in wanted)
    assert second.splits == {"train": 11, "validation": 10, "test": 10}
    assert second.digest == kept.write("whole", wanted, About()).digest
    assert contents(load_dataset("d@v1", kept)) == sorted(r.content for r in rows(30))


def test_many_files_are_one_version(kept, rows, monkeypatch):
    monkeypatch.setattr(snapshot, "_ROWS_A_FILE", 10)
    monkeypatch.setattr(snapshot, "_ROWS_A_GROUP", 4)
    manifest = kept.write("d", rows(95), ABOUT)
    assert len(manifest.files) > 5
    replaced = kept.append("d", [rows(95)[50].moved(slice="z")], About(how="append"), replace=True)
    assert len(set(replaced.files) & set(manifest.files)) == len(manifest.files) - 1
    kept.verify(replaced)
    assert replaced.rows == 95


def test_an_empty_version_can_be_read(kept):
    manifest = kept.write("d", [], ABOUT)
    assert list(kept.rows(manifest)) == []
    assert manifest.rows == 0


# --- damage -----------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_or_lost_is_noticed(kept, rows, tmp_path):
    manifest = kept.write("d", rows(10), ABOUT)
    kept.verify(manifest)
    other = kept.write("other", rows(9), ABOUT)
    path = tmp_path / "file"
    kept._blobs.fetch(f"other/{other.files[0].path}", path)
    kept._blobs.put(f"d/{manifest.files[0].path}", path)
    with pytest.raises(StoreError, match=r"d@v1: the file .* is not what was written"):
        kept.verify(manifest)
    kept._blobs.remove(f"d/{manifest.files[0].path}")
    with pytest.raises(StoreError, match="is gone"):
        kept.verify(manifest)


# --- writers at once ----------------------------------------------------------------------------------------


def test_of_two_writers_from_one_version_the_second_is_told(kept, rows):
    first = kept.write("d", rows(10), ABOUT, expect=0)
    kept.write("d", rows(11), ABOUT, expect=first.version)
    with pytest.raises(ConflictError, match=r"was to follow version 1, but another writer was first.*version 2"):
        kept.write("d", rows(12), ABOUT, expect=first.version)
    assert kept.find("d").rows == 11


APPENDER = """
    import sys
    from mlflow_assay.datasets.model import About, DatasetRow
    from mlflow_assay.datasets.store import open_store

    url, who, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = open_store(url)
    for i in range(n):
        store.append("d", [DatasetRow({"who": who, "i": i, "k": k}) for k in range(5)], About(how="append"))
        store.set_tags("d", 1, {f"w{who}": str(i)})
"""


def test_writers_in_processes_of_their_own_never_lose_one_anothers_rows(base_url, kept, rows):
    """Each append is a version on top of the one before; aliases and tags lose nothing either."""
    if base_url.startswith("memory"):
        pytest.skip("memory:// is one process's own")
    kept.write("d", rows(3), ABOUT)
    writers, each = 4, 4
    running = [start(APPENDER, kept.url, str(w), str(each)) for w in range(writers)]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    versions = kept.versions("d")
    assert [v.version for v in versions] == list(range(1, 2 + writers * each))
    assert [v.parent for v in versions[1:]] == [v.version for v in versions[:-1]]
    assert [v.rows for v in versions] == [3 + 5 * i for i in range(1 + writers * each)]
    found = [(r.inputs["who"], r.inputs["i"]) for r in kept.rows(versions[-1]) if "who" in r.inputs]
    assert len(found) == writers * each * 5
    assert len(set(found)) == writers * each
    kept.verify(versions[-1])
    assert kept.tags("d")[1] == {f"w{w}": str(each - 1) for w in range(writers)}


WRITER = """
    import random, sys, time
    from mlflow_assay.datasets import snapshot
    from mlflow_assay.datasets.blobs import Blobs
    from mlflow_assay.datasets.model import About, DatasetRow
    from mlflow_assay.datasets.store import open_store

    snapshot._ROWS_A_FILE, snapshot._ROWS_A_GROUP = 400, 400
    url, seed = sys.argv[1], int(sys.argv[2])
    rng = random.Random(seed)
    rows = [DatasetRow({"i": i, "noise": rng.randbytes(2000).hex()}) for i in range(4000)]
    store, put = open_store(url), Blobs.put

    def slow_put(self, path, local):
        put(self, path, local)
        time.sleep(0.1)

    Blobs.put = slow_put
    print("ready", flush=True)
    print(store.write("d", rows, About()).version, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_whole_version_or_none(base_url, kept, rows):
    if base_url.startswith("memory"):
        pytest.skip("memory:// is one process's own")
    before = kept.write("d", rows(20), ABOUT)
    for attempt in range(5):
        _kill_writer(kept, seed=attempt, files=2 * attempt, after_s=0.02 * attempt)
        versions = kept.versions("d")
        assert [v.version for v in versions] == list(range(1, len(versions) + 1))
        assert {v.rows for v in versions} <= {20, 4000}
        for version in versions:
            kept.verify(version)
    assert kept.find("d").digest == before.digest, "every writer was killed before it was done"
    assert kept.sweep("d", older_than_s=0), "and some while they were putting files"
    out, errors = start(WRITER, kept.url, "0").communicate(timeout=240)
    assert out == "ready\n2\n", errors
    kept.verify(kept.find("d@v2"))
    kept.verify(before)
    assert kept.sweep("d", older_than_s=0) == []


def _kill_writer(kept, *, seed: int, files: int, after_s: float) -> None:
    """Starts a writer and kills it a moment after so many files of its ten are there."""
    there = len(kept._blobs.names("d/data"))
    process = start(WRITER, kept.url, str(seed))
    assert process.stdout.readline() == "ready\n"
    while len(kept._blobs.names("d/data")) < there + files:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    time.sleep(after_s)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_files_of_a_writer_at_work_are_not_swept(kept, rows, tmp_path):
    kept.write("d", rows(5), ABOUT)
    path = tmp_path / "part"
    path.write_bytes(b"x")
    kept._blobs.put("d/data/orphan.parquet", path)
    assert kept.sweep("d") == []
    assert kept.sweep("d", older_than_s=0) == ["d/data/orphan.parquet"]


def test_a_store_that_lets_a_file_be_created_twice_is_not_written_to(rows):
    """Some servers that speak S3 do not look at If-None-Match: two writers there would lose versions silently."""
    store = open_store(f"memory://{uuid.uuid4().hex}")
    files = store._blobs._fs

    class Careless:
        def pipe_file(self, path, data, mode):
            files.pipe_file(path, data)

        def __getattr__(self, name):
            return getattr(files, name)

    store._blobs._fs = Careless()
    with pytest.raises(StoreError, match=r"lets a file be created twice.*a local folder"):
        store.write("d", rows(2), ABOUT)
    assert store.names() == []


def test_files_of_others_in_the_folder_are_no_versions(tmp_path, rows):
    store = open_store(str(tmp_path))
    store.write("d", rows(2), ABOUT)
    (tmp_path / "d" / "versions" / "notes.txt").write_text("mine")
    (tmp_path / "papers").mkdir()
    assert [v.version for v in store.versions("d")] == [1]
    assert store.names() == ["d"]


# --- addresses ----------------------------------------------------------------------------------------------


def test_a_store_of_no_known_kind_is_refused(monkeypatch, tmp_path):
    with pytest.raises(PluginError, match=r"No dataset_stores plugin 'ftp' is installed.*abfs, .*s3"):
        open_store("ftp://host/folder")
    with pytest.raises(ConfigError, match=r"'s3:/bucket/folder' is no URL.*s3://"):
        open_store("s3:/bucket/folder")


def test_the_store_is_named_by_the_environment_or_is_a_folder_here(monkeypatch, tmp_path, rows):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASSAY_DATASETS", raising=False)
    open_store().write("d", rows(2), ABOUT)
    assert (tmp_path / "assay-datasets" / "d" / "versions" / "000001.json").is_file()
    monkeypatch.setenv("ASSAY_DATASETS", str(tmp_path / "elsewhere"))
    assert open_store().names() == []


def test_a_server_that_does_not_answer_is_said_without_a_traceback(monkeypatch):
    needs = pytest.importorskip("s3fs", reason="pip install 'mlflow-assay[s3]'")
    needs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"The dataset store s3://nowhere/x cannot be used: .*credentials"):
        open_store("s3://nowhere/x").names()


def test_a_manifest_that_is_no_manifest_is_an_error_and_a_newer_ones_fields_are_left_out(tmp_path, rows):
    store = open_store(str(tmp_path))
    store.write("d", rows(2), ABOUT)
    path = tmp_path / "d" / "versions" / "000001.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"of_a_later_release": 1}))
    assert store.find("d").rows == 2
    path.write_text("{}")
    with pytest.raises(StoreError, match=r"manifest of version 1 of 'd' .* cannot be read"):
        store.find("d")


def test_no_rows_of_a_failed_writer_are_left_in_a_local_folder(tmp_path, rows):
    def failing():
        yield from rows(3)
        raise AssayError("the source broke off")

    store = open_store(str(tmp_path / "s"))
    with pytest.raises(AssayError, match="broke off"):
        store.write("d", failing(), ABOUT)
    assert not any(Path(tmp_path).rglob("*.parquet"))


def test_a_row_is_checked_when_it_is_made():
    with pytest.raises(ConfigError, match=r"split cannot be 'dev'.*train, validation, test"):
        DatasetRow({"a": 1}, split="dev")
    with pytest.raises(ConfigError, match="id cannot be 'x'"):
        DatasetRow({"a": 1}, id="x")
