"""A store is where the environment says when it is opened, whatever was opened before in the same process."""

from __future__ import annotations

import gc
import weakref

import pytest
from tests.datasets.dataset_servers import SERVERS

from mlflow_assay.datasets.model import About
from mlflow_assay.datasets.query import query
from mlflow_assay.datasets.store import load_dataset, open_store
from mlflow_assay.errors import StoreError

pytestmark = pytest.mark.integration


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_store_opened_anew_is_where_the_environment_says_now(kind, tmp_path, monkeypatch, rows):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    url = f"{kind}://tests/datasets"
    with SERVERS[kind](tmp_path / "a") as first, SERVERS[kind](tmp_path / "b") as second:
        use(monkeypatch, first)
        there = open_store(url)
        there.write("d", rows(3), About())
        use(monkeypatch, second)
        assert open_store(url).names() == []
        open_store(url).write("d", rows(5), About())
        counted = query("SELECT count(*) AS n FROM d", {"d": load_dataset("d", url)})
        assert counted.to_pylist() == [{"n": 5}]
        assert len(list(load_dataset("d", url).rows())) == 5
        if kind != "gs":  # gcsfs looks at the emulator's address for every request
            assert len(list(there.rows(there.find("d")))) == 3, "one that is open stays where it was"
        use(monkeypatch, first)
        assert len(load_dataset(f"{url}/d")) == 3


def test_credentials_that_were_corrected_are_used(tmp_path, monkeypatch, rows):
    with SERVERS["s3"](tmp_path) as environment:
        use(monkeypatch, environment)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mistyped")
        with pytest.raises(StoreError, match="cannot be used"):
            open_store("s3://tests/d").write("d", rows(1), About())
        use(monkeypatch, environment)
        open_store("s3://tests/d").write("d", rows(1), About())


@pytest.mark.parametrize("kind", SERVERS)
def test_opening_a_store_again_and_again_holds_no_more_than_one_file_system(kind, tmp_path, monkeypatch, rows):
    """The libraries close what a file system has opened when it is let go; adlfs never lets go of one."""
    with SERVERS[kind](tmp_path) as environment:
        use(monkeypatch, environment)
        made = []
        for i in range(4):
            store = open_store(f"{kind}://tests/d")
            store.write(f"d{i}", rows(1), About())
            made.append(weakref.ref(store._blobs._fs))
            del store
        gc.collect()
        left = {id(found) for ref in made if (found := ref()) is not None}
        assert len(left) <= (kind == "abfs")
