"""Every registered adapter of another library: its table is complete, readable, and costs no import."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys

import pytest

from mlflow_assay import registry
from mlflow_assay.contracts import UnscoredError
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.metric import MetricLibrary

LOADED = {name: registry.load("judges", name) for name in registry.available("judges")}
LIBRARIES = {n: p() for n, p in LOADED.items() if inspect.isclass(p) and issubclass(p, MetricLibrary)}


def installed(library):
    try:
        library.imported()
    except ConfigError as error:
        pytest.skip(str(error))
    return library


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_table_and_the_library_do_not_drift_apart(name):
    """A metric the installed release adds or drops must be decided upon here."""
    library = installed(LIBRARIES[name])
    exported = library.exported()
    listed = set(library.metrics) | set(library.unsupported)
    assert sorted(exported - listed) == [], "exported, but neither supported nor left out with a reason"
    assert sorted(listed - exported) == [], "in the table, but no longer exported"
    assert not set(library.metrics) & set(library.unsupported)


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_metric_declares_what_it_means_and_needs(name):
    for key, metric in LIBRARIES[name].metrics.items():
        assert key == metric.name
        assert metric.purpose.endswith("?"), key
        contract = metric.contract(name, name)
        assert contract.kind == name and contract.value.describe()
        with pytest.raises(UnscoredError):
            contract.value.read(None)
        assert contract.calls_llm == (contract.least_calls > 0)
        assert ("session" in contract.needs) == (contract.scope == "session"), key


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_left_out_says_why(name):
    assert all(len(reason.split()) > 2 and not reason.endswith(".") for reason in LIBRARIES[name].unsupported.values())


def test_the_list_of_judges_tells_all_of_it():
    from click.testing import CliRunner

    from mlflow_assay.cli import assay

    for name, library in LIBRARIES.items():
        done = CliRunner().invoke(assay, ["judges", "list", "--provider", name, "--json"])
        rows = {row["name"]: row for row in json.loads(done.output)}
        assert set(rows) == {f"{name}/{metric}" for metric in library.metrics}
        for metric in library.metrics.values():
            row = rows[f"{name}/{metric.name}"]
            assert (row["llm_calls"], row["embeddings"]) == (metric.calls, metric.embeddings)
            assert row["value"]["type"] == metric.value.type and row["passes"]
    shown = CliRunner().invoke(assay, ["judges", "list", "--provider", "deepeval"]).output
    assert "Not supported:" in shown and "JevEval" in shown


def test_a_metric_that_is_left_out_is_refused_with_the_reason(tmp_path):
    """By name and in a definition alike, rather than as a name nobody knows."""
    from mlflow_assay.errors import DefinitionError
    from mlflow_assay.judges.catalogue import Catalogue

    for name, library in LIBRARIES.items():
        for metric, reason in list(library.unsupported.items())[:1]:
            with pytest.raises(ConfigError, match=f"{name}/{metric} is not supported: {re.escape(reason)}"):
                Catalogue().get(f"{name}/{metric}")
            text = f"name: x_{name}\npurpose: Is this left out?\nvalue: {{type: boolean}}\nuses: {name}/{metric}\n"
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.yaml").write_text(text)
            with pytest.raises(DefinitionError, match=rf"x\.yaml:4: {name}/{metric} is not supported"):
                Catalogue([tmp_path / name]).get(f"x_{name}")


def test_neither_the_package_nor_the_list_of_judges_imports_any_library():
    modules = sorted({library.module.partition(".")[0] for library in LIBRARIES.values()})
    code = f"""
import sys
from mlflow_assay.cli import assay
import mlflow_assay
assay(["judges", "list"], standalone_mode=False)
print([m for m in {modules} if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "120"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_page_of_metrics_is_what_the_contracts_say():
    """judges/THIRD_PARTY.md is current; `make generate` writes it."""
    import importlib.util
    from pathlib import Path

    tests = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("generate", tests / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = tests.parent / "judges" / "THIRD_PARTY.md"
    assert page.read_text(encoding="utf-8") == generate.generated()[page], "run `make generate`"
