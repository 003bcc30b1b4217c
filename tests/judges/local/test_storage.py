"""The saved judge: the same verdicts to the last digit, and nothing but data that was not changed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local import LocalJudge, crossval, examples, features
from mlflow_assay.judges.local.examples import Field


@pytest.fixture
def saved(trained, tmp_path):
    return trained.save(tmp_path / "routing.judge.zip")


def rewrite(path, change):
    """The file with members changed by `change(dict)`; the digest stays."""
    with zipfile.ZipFile(path) as file:
        members = {n: file.read(n) for n in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def edit(members, **changes):
    members["judge.json"] = json.dumps(json.loads(members["judge.json"]) | changes).encode()


def test_a_loaded_judge_scores_as_the_trained_pipeline_did(requests, trained, saved):
    """Against the columns of training itself, not against the same code twice."""
    found, labels = requests(260, seed=1)
    fields = [Field("first_user_message", "text"), Field("tag:agent", "category")]
    rows = [examples.row(e, fields) for e in found]
    raws = [features.raw(b, rows) for b in features.plan(fields, rows, embed=False)]
    passed = np.array([labels.passed[e.trace_id] for e in found])
    model, columns = crossval.fit_linear(raws, passed, np.arange(len(rows)))
    expected = columns @ model.coef + model.intercept
    loaded = LocalJudge.load(saved)
    assert np.abs(loaded.scores(found) - expected).max() < 1e-9
    assert loaded.predict(found[0]).score == pytest.approx(expected[0], abs=1e-9)
    assert loaded.predict(found[0]) == trained.predict(found[0])


def test_everything_else_survives_as_well(trained, saved):
    loaded = LocalJudge.load(saved)
    for name in ("name", "purpose", "good", "fields", "seen", "confidence", "threshold", "report", "trained_on"):
        assert getattr(loaded, name) == getattr(trained, name)
    assert loaded.digest == trained.digest
    assert loaded.versions.keys() == {"mlflow-assay", "numpy", "scikit-learn"}


def test_equal_judges_give_equal_files(trained, saved, tmp_path):
    assert trained.save(tmp_path / "again.zip").read_bytes() == saved.read_bytes()


def test_the_file_holds_json_and_plain_arrays_only(saved):
    with zipfile.ZipFile(saved) as file:
        for name in file.namelist():
            if name.endswith(".json"):
                json.loads(file.read(name))
            else:
                array = np.lib.format.read_array(io.BytesIO(file.read(name)), allow_pickle=False)
                assert array.dtype == np.float64


@pytest.mark.parametrize(
    "change",
    [
        lambda m: edit(m, threshold=0.0),
        lambda m: edit(m, good=False),
        lambda m: m.update({"arrays/coef.npy": m["arrays/coef.npy"][:-1] + b"\0"}),
        lambda m: m.update({"traces.json": b"[]"}),
        lambda m: m.update({"extra.txt": b"hello"}),
        lambda m: m.pop("terms/0.json"),
    ],
)
def test_a_changed_file_is_refused(saved, change):
    rewrite(saved, change)
    with pytest.raises(ConfigError, match="changed since it was written"):
        LocalJudge.load(saved)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: edit(m, format_version=2), "version 2.*Valid: .*version 1"),
        (lambda m: edit(m, format="other"), "cannot read"),
        (lambda m: m.update({"judge.json": b"{"}), "no readable judge.json"),
        (lambda m: m.update({"judge.json": b"[]"}), "no readable judge.json"),
        (lambda m: m.pop("judge.json"), "no readable judge.json"),
    ],
)
def test_another_format_is_refused(saved, change, told):
    rewrite(saved, change)
    with pytest.raises(ConfigError, match=told):
        LocalJudge.load(saved)


class Boom:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_in_place_of_an_array_is_not_opened_even_with_a_fitting_digest(saved, tmp_path):
    from mlflow_assay.judges.local import storage

    target = tmp_path / "pwned"
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Boom(target)], dtype=object), allow_pickle=True)

    def plant(members):
        members["arrays/coef.npy"] = buffer.getvalue()
        manifest = json.loads(members["judge.json"])
        plain = {k: v for k, v in manifest.items() if k not in ("digest", "embedder_path")}
        digest = storage._digest({**members, "judge.json": storage._json(plain)})
        members["judge.json"] = json.dumps(manifest | {"digest": digest}).encode()

    rewrite(saved, plant)
    with pytest.raises(ConfigError, match=r"not complete.*allow_pickle"):
        LocalJudge.load(saved)
    assert not target.exists()


def test_what_is_no_judge_is_refused_by_name(tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    with pytest.raises(ConfigError, match="cannot be read as a local judge"):
        LocalJudge.load(other)
    with pytest.raises(ConfigError, match=r"no local judge at .*assay judges train"):
        LocalJudge.load(tmp_path / "absent.judge.zip")


def test_a_file_that_unpacks_to_more_than_a_gigabyte_is_not_unpacked(saved, monkeypatch):
    from mlflow_assay.judges.local import storage

    monkeypatch.setattr(storage, "_MOST_BYTES", 1_000)
    with pytest.raises(ConfigError, match="more than 1000 bytes"):
        LocalJudge.load(saved)


def test_a_judge_travels_to_other_processes(trained, requests):
    example = requests(1, seed=9)[0][0]
    again = pickle.loads(pickle.dumps(trained))  # noqa: S301 - our own
    assert again.predict(example) == trained.predict(example)
