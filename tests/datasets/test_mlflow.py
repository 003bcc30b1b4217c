"""In MLflow: evaluation runs record exactly this dataset, and MLflow's own dataset and ours agree, both ways."""

from __future__ import annotations

import json

import mlflow
import pytest
from mlflow.genai import scorer
from mlflow.genai.datasets import create_dataset, get_dataset

import mlflow_assay
from mlflow_assay.datasets.mlflow_source import AssaySource
from mlflow_assay.datasets.model import About, DatasetRow
from mlflow_assay.datasets.store import load_dataset, open_store
from mlflow_assay.datasets.sync import Unmapped, pull, push, sync
from mlflow_assay.errors import ConfigError, ConflictError, StoreError


@pytest.fixture
def kept(store, tmp_path):
    mlflow.set_experiment("evaluations")
    return open_store(str(tmp_path / "datasets"))


@scorer
def long_enough(outputs) -> bool:
    return len(str(outputs)) > 3


def echo(request, turn) -> str:
    return f"{request} {turn}"


def only_input(run_id):
    (used,) = mlflow.get_run(run_id).inputs.dataset_inputs
    return used


# --- identity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluate", [mlflow.genai.evaluate, mlflow_assay.evaluate])
def test_an_evaluation_run_records_exactly_this_version(kept, rows, evaluate):
    manifest = kept.write("d", rows(6), About())
    dataset = load_dataset("d", kept)
    result = evaluate(data=dataset.to_evaluation(), scorers=[long_enough], predict_fn=echo)
    used = only_input(result.run_id)
    assert (used.dataset.name, used.dataset.digest) == ("d@v1", manifest.digest[:36])
    assert used.dataset.source_type == "assay"
    assert json.loads(used.dataset.profile)["digest"] == manifest.digest
    source = mlflow.data.get_source(used)
    assert isinstance(source, AssaySource)
    assert list(source.load()["id"]) == [row.id for row in rows(6)]


def test_one_split_is_recorded_as_that_split_and_loads_as_that(kept, rows):
    kept.write("d", rows(9), About())
    data = load_dataset("d", kept).to_evaluation("test", outputs=True)
    used = only_input(mlflow.genai.evaluate(data=data, scorers=[long_enough]).run_id)
    assert used.dataset.name == "d@v1/test"
    assert json.loads(used.dataset.profile)["num_rows"] == 3
    assert set(mlflow.data.get_source(used).load()["split"]) == {"test"}


def test_a_frame_that_was_changed_no_longer_passes_for_the_dataset(kept, rows):
    kept.write("d", rows(6), About())
    data = load_dataset("d", kept).to_evaluation(outputs=True)
    used = only_input(mlflow.genai.evaluate(data=data.iloc[:3], scorers=[long_enough]).run_id)
    assert used.dataset.source_type != "assay"


def test_a_whole_frame_keeps_none_and_nested_values(kept, rows):
    kept.write("d", rows(6), About())
    frame = load_dataset("d", kept).to_pandas()
    assert frame["slice"][0] is None
    assert frame["outputs"][2] == {"answer": [2, None, 1.5, "ü"]}
    assert frame["weight"].dtype == float
    assert "mlflow.genaiEvaluate.datasetIdentity" in frame.attrs


def test_the_constructor_logs_a_version_as_a_runs_input(kept, rows):
    manifest = kept.write("d", rows(6), About())
    kept.set_alias("d", "golden", 1)
    with mlflow.start_run() as run:
        mlflow.log_input(mlflow.data.from_assay(f"{kept.url}/d@golden"), context="evaluation")
        mlflow.log_input(mlflow.data.from_assay("d", store=kept.url, split="train"), context="training")
    names = {i.dataset.name for i in mlflow.get_run(run.info.run_id).inputs.dataset_inputs}
    assert names == {"d@v1", "d@v1/train"}
    found = mlflow.data.from_assay("d", store=kept.url, digest=manifest.digest[:8])
    assert len(found.df) == found.profile["num_rows"] == 6
    assert found.schema["assay"]["inputs"] == "json"
    with pytest.raises(ConfigError, match=r"d@v1 is not the dataset asked for"):
        mlflow.data.from_assay("d", store=kept.url, digest="123")


def test_a_source_is_found_by_its_address(kept, rows):
    from mlflow.data.dataset_source_registry import resolve_dataset_source

    kept.write("d", rows(3), About())
    source = resolve_dataset_source(f"assay-dataset:{kept.url}/d@latest")
    assert isinstance(source, AssaySource)
    assert source.reference == "d@v1"
    assert len(AssaySource.from_json(source.to_json()).load()) == 3


# --- MLflow's own dataset -----------------------------------------------------------------------------------


def test_pushed_and_pulled_rows_are_the_same(kept, rows):
    given = [*rows(6), DatasetRow({"a": 1}, "text", weight=2.5, redacted={"email": 1}), DatasetRow({"a": 2})]
    kept.write("d", given, About())
    done = push(load_dataset("d", kept))
    assert done.there == {"added": 8, "changed": 0, "removed": 0}
    unmapped = Unmapped()
    assert sorted(r.content for r in pull("d", unmapped)) == sorted(r.content for r in given)
    assert set(unmapped.reasons) <= {"tag left out: mlflow.user, which MLflow sets on every record"}
    assert get_dataset(name="d").tags["assay.dataset.version"] == "d@v1"
    assert push(load_dataset("d", kept)).there == {"added": 0, "changed": 0, "removed": 0}


def test_what_mlflow_has_no_place_for_is_reported(kept, rows):
    twins = [DatasetRow({"q": 1}, trace_id=f"tr-{i}", id=f"{i:032x}") for i in range(2)]
    kept.write("d", [DatasetRow("just text"), DatasetRow({"goal": "g", "other": 1}), *twins], About())
    done = push(load_dataset("d", kept))
    assert sum(done.unmapped.values()) == 3
    assert len(get_dataset(name="d").to_df()) == 1


def test_a_changed_row_is_replaced_not_mixed(kept, rows):
    kept.write("d", rows(3), About())
    push(load_dataset("d", kept))
    kept.write("d", [rows(3)[0].moved(expectations={"other": 1}, tags={}), *rows(2)[1:]], About())
    done = push(load_dataset("d", kept))
    assert done.there == {"added": 0, "changed": 1, "removed": 1}
    assert {r.content for r in pull("d")} == {r.content for r in load_dataset("d", kept).rows()}


def test_changes_on_both_sides_meet(kept, rows):
    kept.write("d", rows(4), About())
    sync(kept, "d")
    theirs = get_dataset(name="d")
    theirs.merge_records([{"inputs": {"request": "asked in the UI"}, "expectations": {"route": "x"}}])
    gone = theirs.to_df()
    theirs.delete_records([gone[gone["inputs"].map(lambda i: i.get("turn") == 3)]["dataset_record_id"].iloc[0]])
    kept.append("d", rows(5)[4:], About(how="append"))
    done = sync(kept, "d")
    assert done.here == {"added": 1, "changed": 0, "removed": 1}
    assert done.there == {"added": 1, "changed": 0, "removed": 0}
    ours = {r.content for r in load_dataset("d", kept).rows()}
    assert ours == {r.content for r in pull("d")}
    assert len(ours) == 5
    again = sync(kept, "d")
    assert again.version == done.version
    assert not any(again.here.values()) and not any(again.there.values())


def test_a_row_changed_on_both_sides_is_a_conflict_until_one_side_is_preferred(kept, rows):
    kept.write("d", rows(2), About())
    sync(kept, "d")
    get_dataset(name="d").merge_records([{"inputs": rows(1)[0].inputs, "expectations": {"route": "theirs"}}])
    kept.append("d", [rows(1)[0].moved(expectations={"route": "ours"})], About(how="append"), replace=True)
    with pytest.raises(ConflictError, match=r"1 rows changed both here and in MLflow.*--prefer"):
        sync(kept, "d")
    assert kept.find("d").version == 2
    done = sync(kept, "d", prefer="mlflow")
    assert done.conflicts == (rows(1)[0].id,)
    assert {r.expectations["route"] for r in load_dataset("d", kept).rows() if r.inputs["turn"] == 0} == {"theirs"}


def test_rows_mlflow_cannot_hold_stay_here(kept, rows):
    kept.write("d", [*rows(2), DatasetRow("text")], About())
    sync(kept, "d")
    assert not any(sync(kept, "d").here.values())
    assert kept.find("d").rows == 3


def test_a_dataset_of_mlflow_alone_becomes_one_here(kept):
    create_dataset(name="ui").merge_records([{"inputs": {"q": "a"}, "expectations": {"x": 1}}])
    done = sync(kept, "ui")
    (row,) = load_dataset("ui", kept).rows()
    assert (row.inputs, row.expectations, done.version) == ({"q": "a"}, {"x": 1}, "ui@v1")
    with pytest.raises(StoreError, match="MLflow has no evaluation dataset 'nothing'"):
        pull("nothing")
