"""The house itself: the public names, the layers, the registry, and the stranger's package."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import mlflow_assay
from mlflow_assay import registry
from mlflow_assay.errors import AssayError, PluginError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "plugins" / "mlflow_assay"


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- names and imports ----------------------------------------------------------------------------------


def test_every_public_name_can_be_imported():
    assert sorted(mlflow_assay.__all__) == sorted(mlflow_assay._HOMES)
    for name in mlflow_assay.__all__:
        assert getattr(mlflow_assay, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = mlflow_assay.nonsense


@pytest.mark.parametrize(
    "code", ["import mlflow_assay", "from mlflow_assay.cli import assay; assay(['--help'], standalone_mode=False)"]
)
def test_importing_the_package_and_its_help_import_nothing_heavy(code):
    heavy = ["mlflow", "sklearn", "scipy", "litellm", "deepeval", "ragas", "torch", "pandas"]
    out = python(f"{code}\nimport sys, json\nprint(json.dumps([m for m in {heavy} if m in sys.modules]))")
    assert json.loads(out.splitlines()[-1]) == []


def test_every_error_is_in_one_tree_and_drawn_in_its_docstring():
    from mlflow_assay import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), AssayError)
        assert name in errors.__doc__


# --- layers ---------------------------------------------------------------------------------------------

# Who may import what of the package: a folder's modules see the seams, their own folder, and what is named here.
SEAMS = {
    "contracts",
    "errors",
    "semconv",
    "registry",
    "shipped",
    "sqlstore",
    "recent",
    "redaction",
    "sampling",
    "trace_fields",
    "trace_media",
}
MAY = {
    "alignment": {"trust", "judges", "engine", "labels.verdicts", "sinks.mlflow_assessments", "sources.mlflow_store"},
    "sinks": set(),
    "sources": {"judges.definition"},  # recorded prompts become definitions
    # Local judges measure themselves; cases use the engine's door; libraries ask models as the engine does.
    "judges": {
        "trust",
        "engine.judging",
        "engine.allowance",
        "engine.chat",
        "engine.limits",
        "engine.mlflow_endpoint",
        "engine.prices",
        "testing",
    },
    "engine": {"sinks.mlflow_assessments"},
    "bridge": {"engine.cache", "engine.budget", "sources.mlflow_store"},  # the outbox opens as the cache does
    "trust": set(),
    "interop": {"judges", "engine.judging"},  # a judge as another library's metric: one subject, one verdict
    "telemetry": {"engine.prices"},  # what a model call cost
    "inbound": set(),
    # One split for all that is proven on held-out rows; verdicts and people's labels are read in one place.
    "datasets": {
        "alignment.split",
        "judges.local.examples",
        "judges.local.groups",
        "labels",
        "trust.sampling",
        "sources.mlflow_store",
    },
    # A prompt is proven as a judge is: asked through one door, split by group, tested on held-out rows.
    "optimizers": {"trust", "judges", "engine", "alignment.verdicts", "datasets", "sources.mlflow_store"},
    "labels": {"trust", "sources.mlflow_store"},  # a draw reads and notes in one place
    "report": {"trust", "labels", "judges.catalogue", "judges.definition", "sources.mlflow_store"},
    # Recomputed by the trust code from one reading; pushed the way the sinks push; agents named as the bridge does.
    "kpis": {
        "trust",
        "labels",
        "bridge.subject",
        "judges.catalogue",
        "sources.mlflow_store",
        "sinks.http",
        "sinks.meters",
        "sinks.otlp",
    },
    "demo": {
        "trust",
        "judges",
        "sources.mlflow_store",
        "pipeline",
        "report",
        "engine.report",
        "datasets",
        "optimizers",
    },
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mlflow_assay"):
            base = node.module.removeprefix("mlflow_assay").lstrip(".")
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("mlflow_assay.") for a in node.names if a.name.startswith("mlflow_assay.")}
    return found


@pytest.mark.parametrize("folder", MAY)
def test_a_layer_imports_only_what_it_may(folder):
    """Adapters meet in contracts and pipeline, never in one another."""
    strays = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for name in imports_of(path):
            top = name.split(".")[0]
            allowed = any(name == a or name.startswith(a + ".") for a in MAY[folder])
            if top not in SEAMS and top != folder and not allowed:
                strays.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert strays == []


def test_only_the_command_and_the_demo_import_the_pipeline():
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if any(i.startswith("pipeline") for i in imports_of(path))
    }
    assert users <= {"cli", "demo", "__init__.py"}


# --- registry -------------------------------------------------------------------------------------------


def test_built_ins_register_like_a_strangers_package():
    assert {"mlflow", "jsonl"} <= set(registry.available("sinks"))
    assert {"tau2", "otlp-json"} <= set(registry.available("importers"))
    assert "shipped" in registry.available("judge_packs")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_registered_plugin_loads(kind):
    for name in registry.available(kind):
        assert registry.load(kind, name) is not None


def test_an_unknown_plugin_lists_the_installed_and_suggests_the_nearest():
    with pytest.raises(PluginError, match=r"No sinks plugin 'jsnol' is installed.*jsonl.*Did you mean 'jsonl'"):
        registry.load("sinks", "jsnol")


def test_an_unknown_kind_lists_the_kinds():
    with pytest.raises(PluginError, match=r"no plugin kind .sink.\..*judges, judge_packs"):
        registry.available("sink")


def test_a_plugin_that_cannot_be_imported_keeps_its_cause(monkeypatch):
    broken = EntryPoint("broken", "no_such_module_anywhere:thing", "mlflow_assay.sinks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(PluginError, match="could not be imported: No module named 'no_such_module_anywhere'") as raised:
        registry.load("sinks", "broken")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_two_packages_claiming_one_name_is_an_error(monkeypatch):
    twice = [EntryPoint("x", value, "mlflow_assay.sinks") for value in ("a:x", "b:x")]
    monkeypatch.setattr(registry, "entry_points", lambda group: twice)
    with pytest.raises(PluginError, match="Two packages both register 'x' in sinks: a:x and b:x"):
        registry.available("sinks")


# --- the stranger's package -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """The sample plugin package, built and installed into a folder of its own."""
    target = tmp_path_factory.mktemp("stranger")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "sample_plugin")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return target


def test_a_strangers_judges_and_sink_work_from_outside(stranger, log_trace, store, tmp_path):
    """A Python judge, a YAML judge and a sink of an installed package are listed, run and written to."""
    log_trace(answer="Thank you for asking.")
    log_trace(answer="No.")
    tally = tmp_path / "tally.json"
    arguments = ["score", "-e", "test", "-j", "acme_politeness", "--sink", f"acme_tally={tally}", "--json"]
    code = f"""
from mlflow_assay.cli import assay
from mlflow_assay.judges.catalogue import Catalogue
entries = Catalogue().entries
assert entries["acme_refund_promised"].origin == "pack acme"
assert entries["acme_politeness"].origin == "library acme_politeness"
assay({arguments!r}, standalone_mode=False)
"""
    result = json.loads(python(code, PYTHONPATH=str(stranger), MLFLOW_TRACKING_URI=store))
    assert (result["judges"][0]["passed"], result["judges"][0]["failed"]) == (1, 1)
    assert json.loads(tally.read_text()) == {"pass": 1, "fail": 1}


def test_a_strangers_bridge_sink_is_shipped_to(stranger, log_trace, store, tmp_path):
    """`assay watch` takes it by name, its option from the command line."""
    import mlflow

    mlflow.log_feedback(trace_id=log_trace(), name="polite", value=True)
    ledger = tmp_path / "ledger.txt"
    arguments = ["watch", "-e", "test", "--once", "--sink", f"acme_ledger,path={ledger}"]
    outbox = ["--outbox", f"sqlite:///{tmp_path}/outbox.db"]
    code = f"from mlflow_assay.cli import assay\nassay({[*arguments, *outbox]!r}, standalone_mode=False)"
    python(code, PYTHONPATH=str(stranger), MLFLOW_TRACKING_URI=store)
    assert ledger.read_text() == "created polite pass\n"


def test_the_wheel_carries_judges_and_templates(tmp_path):
    """What is installed from the wheel finds its shipped data without the checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    code = f"""
import sys
sys.path[:] = [p for p in sys.path if "plugins" not in p]
sys.path.insert(0, {str(wheel)!r})
import zipfile
names = zipfile.ZipFile({str(wheel)!r}).namelist()
assert "mlflow_assay/_shipped/judges/request_resolved.yaml" in names, names
assert any(n.endswith(".j2") for n in names), names
assert "mlflow_assay/py.typed" in names
print(len(names))
"""
    assert int(python(code)) > 50


def test_what_is_listed_as_slow_is_there():
    """A file that was renamed would silently be quick again."""
    for line in (ROOT / "tests" / "slow.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            path, _, name = line.partition("::")
            assert (ROOT / "tests" / path).exists(), line
            assert not name or name in (ROOT / "tests" / path).read_text(), line
