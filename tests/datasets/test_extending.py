"""More rows for a dataset: nothing of the test split leaks into training, and nothing is there twice."""

from __future__ import annotations

from datetime import datetime

import pytest

from mlflow_assay.datasets.extending import extend
from mlflow_assay.datasets.model import About, DatasetRow
from mlflow_assay.datasets.shaping import Shaping, shape
from mlflow_assay.datasets.store import load_dataset, open_store
from mlflow_assay.errors import ConfigError, StoreError

WORDS = ("parcel", "invoice", "router", "contract", "roaming", "voicemail", "tariff", "landline", "refund", "passport")
ABOUT = About(how="append")


def row(i: int, session: str | None = None, **more) -> DatasetRow:
    return DatasetRow({"request": f"{WORDS[i % 10]} {'xyz'[i // 10 % 3] * 7} {i * 7919}"}, session=session, **more)


@pytest.fixture
def kept(tmp_path):
    store = open_store(str(tmp_path))
    with shape([row(i, f"s{i}") for i in range(20)], Shaping(duplicates="exact")) as shaped:
        store.write("d", shaped.rows(), About(how="build"))
    return store


def test_a_row_of_a_session_that_is_there_goes_where_the_session_is(kept):
    where = {r.session: r.split for r in load_dataset("d", kept).rows()}
    new = [DatasetRow({"request": f"quite another matter {i} {chr(97 + i) * 9}"}, session=f"s{i}") for i in range(20)]
    done = extend(kept, "d", new, ABOUT)
    assert done.record["rows_added"] == 20
    after = list(load_dataset("d", kept).rows())
    assert len(after) == 40
    assert {(r.session, r.split) for r in after if r.split} <= set(where.items())
    old = {r.id: r.split for r in load_dataset("d@v1", kept).rows()}
    assert all(r.split == old[r.id] for r in after if r.id in old)


def test_what_resembles_rows_of_two_splits_is_in_none(kept):
    sessions = {}
    for r in load_dataset("d", kept).rows():
        sessions.setdefault(r.split, r)
    train, test = sessions["train"], sessions["test"]
    double = DatasetRow({"request": train.inputs["request"] + " " + train.inputs["request"]}, session=test.session)
    done = extend(kept, "d", [double], ABOUT, Shaping(duplicates="exact"))
    assert done.record["in_no_split"] == 1
    added = [r for r in load_dataset("d", kept).rows() if r.id == double.id]
    assert added[0].split is None


def test_near_duplicates_of_rows_there_are_not_added_again(kept):
    first = next(iter(load_dataset("d", kept).rows()))
    again = DatasetRow({"request": first.inputs["request"].upper() + "!"})
    done = extend(kept, "d", [again, DatasetRow({"request": "nothing like it"})], ABOUT)
    assert done.record["near_duplicates_of_rows_there"] == 1
    assert done.record["rows_added"] == 1
    assert done.manifest.rows == 21


def test_nothing_new_is_no_new_version(kept):
    done = extend(kept, "d", list(load_dataset("d", kept).rows()), ABOUT)
    assert done.manifest.version == 1
    assert done.record["there_already"] == 20


def test_a_changed_row_keeps_its_split_when_it_is_replaced(kept):
    first = next(iter(load_dataset("d", kept).rows()))
    changed = first.moved(expectations={"route": "x"}, split=None, group=None)
    with pytest.raises(ConfigError, match=r"1 rows are in d@v1 with other contents"):
        extend(kept, "d", [changed], ABOUT)
    extend(kept, "d", [changed], ABOUT, replace=True)
    found = {r.id: r for r in load_dataset("d", kept).rows()}[first.id]
    assert (found.split, found.expectations) == (first.split, {"route": "x"})


def test_rows_written_by_another_meanwhile_are_taken_into_account(kept, monkeypatch):
    """The other's row of the same session decides the split, though it came while ours was being placed."""
    find = kept.find
    calls = []

    def find_then_other(reference):
        found = find(reference)
        if not calls:
            calls.append(1)
            kept.append("d", [row(200, "shared", split="test", group="g")], ABOUT)
        return found

    monkeypatch.setattr(kept, "find", find_then_other)
    extend(kept, "d", [DatasetRow({"request": "something else entirely"}, session="shared")], ABOUT)
    monkeypatch.undo()
    assert {r.split for r in load_dataset("d", kept).rows() if r.session == "shared"} == {"test"}
    assert load_dataset("d", kept).manifest.version == 3


def test_a_dataset_that_is_not_there_cannot_be_extended(kept):
    with pytest.raises(StoreError, match="There is no dataset 'e'"):
        extend(kept, "e", [row(1)], ABOUT)


def test_retention_is_a_number_of_days_or_a_date(kept):
    with pytest.raises(ConfigError, match=r"retention 'soon' cannot be read.*90d"):
        About(retention="soon")
    manifest = kept.write("r", [row(1)], About(retention="30d"))
    assert 29 <= (manifest.expires - datetime.now(manifest.expires.tzinfo)).days <= 30
    assert str(kept.write("r", [row(2)], About(retention="2027-01-31")).expires.date()) == "2027-01-31"
