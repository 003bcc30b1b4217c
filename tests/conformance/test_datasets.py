"""Every registered store and format of datasets against the classes a stranger would derive.

Stores that need a server are held to more, against real ones, in tests/datasets/test_store.py.
"""

from __future__ import annotations

import uuid
from importlib.util import find_spec

import pytest

from mlflow_assay import registry
from mlflow_assay.testing.dataset_conformance import DatasetFormatConformance, DatasetStoreConformance

SERVED = {"s3", "abfs", "abfss", "az", "gs"}
NEEDS = {"deepeval": "deepeval", "ragas": "ragas", "dspy": "dspy", "huggingface": "datasets"}


class TestLocalFolder(DatasetStoreConformance):
    def make(self, tmp_path):
        return registry.load("dataset_stores", "file")(str(tmp_path / "store"))


class TestMemory(DatasetStoreConformance):
    def make(self, tmp_path):
        return registry.load("dataset_stores", "memory")(f"memory://{uuid.uuid4().hex}")


@pytest.mark.parametrize("name", sorted(registry.available("dataset_formats")))
class TestFormats(DatasetFormatConformance):
    @pytest.fixture(autouse=True)
    def choose(self, name):
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            pytest.skip(f"{NEEDS[name]} is not installed: pip install 'mlflow-assay[{NEEDS[name]}]'")
        self.name, self.lossless = name, name != "ragas"

    def make(self):
        return registry.load("dataset_formats", self.name)()


def test_every_registered_store_is_tested():
    assert set(registry.available("dataset_stores")) == {"file", "memory"} | SERVED
