"""What every store and format of datasets must do, as test classes: derive one and say how to make yours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_assay.contracts import DatasetStore
from mlflow_assay.datasets.columns import COLUMNS
from mlflow_assay.datasets.formats import Format
from mlflow_assay.datasets.model import SPLITS, About, DatasetRow
from mlflow_assay.errors import ConfigError, ConflictError, StoreError

__all__ = ["DatasetFormatConformance", "DatasetStoreConformance", "sample_rows"]


def sample_rows(n: int) -> list[DatasetRow]:
    """So many rows, all different, with something in every field."""
    return [
        DatasetRow(
            {"request": f"What about number {i}?", "turn": i},
            {"answer": [i, None, 0.5, "ü"]},
            {"route": SPLITS[i % 3]},
            trace_id=f"tr-{i:032x}",
            session=f"s{i // 2}",
            slice="even" if i % 2 == 0 else None,
            split=SPLITS[i % 3],
            group=f"g{i}",
            tags={"number": str(i)},
            weight=1.0 + i,
            redacted={"email": i} if i else {},
        )
        for i in range(n)
    ]


def _refuses(kind: type[Exception], call: Any) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")


class DatasetStoreConformance:
    """Every store: versions are whole, never change, have one parent, and no writer loses another's rows."""

    def make(self, tmp_path: Path) -> DatasetStore:
        """An empty store."""
        raise NotImplementedError

    def test_it_is_a_store_and_is_empty_at_first(self, tmp_path: Path) -> None:
        """An empty store holds nothing and says so."""
        store = self.make(tmp_path)
        assert isinstance(store, DatasetStore)
        assert store.url
        assert (store.names(), store.versions("d")) == ([], [])
        assert "'d'" in _refuses(StoreError, lambda: store.find("d"))

    def test_rows_come_back_in_order_as_they_were(self, tmp_path: Path) -> None:
        """Every field of every row; also of one split alone, and as Arrow."""
        store, rows = self.make(tmp_path), sample_rows(12)
        version = store.write("d", rows, About(how="build", owner="me", query={"a": 1}))
        assert list(store.rows(version)) == rows
        assert list(store.rows(version, split="test")) == [r for r in rows if r.split == "test"]
        assert set(COLUMNS) <= set(store.arrow(version).schema.names)
        assert (version.version, version.parent, version.rows) == (1, None, 12)
        assert store.find("d") == version
        assert (version.about.owner, store.names()) == ("me", ["d"])

    def test_the_digest_is_of_the_content(self, tmp_path: Path) -> None:
        """The same rows in another order are the same version; other rows are another."""
        store, rows = self.make(tmp_path), sample_rows(6)
        first = store.write("d", rows, About())
        assert store.write("d", rows[::-1], About()).version == 1
        second = store.write("d", rows[1:], About())
        assert (second.version, second.parent, second.parent_digest) == (2, 1, first.digest)
        assert second.digest != first.digest
        assert store.find(f"d@{first.digest[:8]}") == first

    def test_rows_are_appended_and_changed_ones_only_when_told(self, tmp_path: Path) -> None:
        """An append keeps what is there; a changed row is refused, or takes the old one's place."""
        store, rows = self.make(tmp_path), sample_rows(8)
        store.write("d", rows[:5], About(owner="me"))
        more = store.append("d", rows[3:], About(how="append"))
        assert sorted(r.id for r in store.rows(more)) == sorted(r.id for r in rows)
        assert more.about.owner == "me"
        changed = rows[0].moved(expectations={"route": "other"})
        _refuses(ConfigError, lambda: store.append("d", [changed], About(how="append")))
        last = store.append("d", [changed], About(how="append"), replace=True)
        assert {r.id: r.content for r in store.rows(last)}[changed.id] == changed.content
        assert last.rows == len(rows)
        assert sorted(r.content for r in store.rows(more)) == sorted(r.content for r in rows)

    def test_a_writer_that_came_too_late_is_told_and_nothing_is_written(self, tmp_path: Path) -> None:
        """`expect` names the version a new one is made from; two rows with one id are refused, too."""
        store, rows = self.make(tmp_path), sample_rows(4)
        store.write("d", rows, About(), expect=0)
        _refuses(ConflictError, lambda: store.write("d", rows[1:], About(), expect=0))
        _refuses(ConflictError, lambda: store.append("d", sample_rows(9)[8:], About(), expect=7))
        _refuses(ConfigError, lambda: store.write("d", [rows[0], rows[0]], About()))
        assert [v.version for v in store.versions("d")] == [1]

    def test_aliases_and_tags(self, tmp_path: Path) -> None:
        """They point where they were last put, can be removed, and need a version that is there."""
        store, rows = self.make(tmp_path), sample_rows(3)
        store.write("d", rows, About())
        store.write("d", rows[1:], About())
        store.set_alias("d", "golden", 1)
        assert (store.find("d@golden").version, store.find("d@latest").version) == (1, 2)
        assert store.aliases("d") == {"golden": 1}
        store.set_alias("d", "golden", None)
        store.set_tags("d", 1, {"a": "b", "c": "d"})
        store.set_tags("d", 1, {"a": None})
        assert (store.aliases("d"), store.tags("d")) == ({}, {1: {"c": "d"}})
        _refuses(StoreError, lambda: store.set_alias("d", "golden", 9))


class DatasetFormatConformance:
    """Every format: what it writes it reads; what is lost is said; nothing that is there is overwritten."""

    lossless = True

    def make(self) -> Format:
        """A new instance."""
        raise NotImplementedError

    def test_rows_come_back(self, tmp_path: Path) -> None:
        """As many as were written; the same, where the format loses nothing, else what was lost is counted."""
        made, rows = self.make(), sample_rows(5)
        assert isinstance(made, Format)
        lost = made.write(iter(rows), tmp_path / "out")
        found = list(made.read(tmp_path / "out"))
        assert len(found) == len(rows)
        if self.lossless:
            assert not lost
            assert sorted(r.content for r in found) == sorted(r.content for r in rows)
        else:
            assert lost
            assert all(isinstance(reason, str) and count > 0 for reason, count in lost.items())

    def test_what_is_there_is_not_overwritten(self, tmp_path: Path) -> None:
        """A path that exists is refused."""
        path = tmp_path / "out"
        path.write_text("precious")
        _refuses(ConfigError, lambda: self.make().write(iter(sample_rows(1)), path))
        assert path.read_text() == "precious"
