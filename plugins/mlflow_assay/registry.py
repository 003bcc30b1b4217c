"""The registry is the installed packages' entry points, read lazily: `available(kind)`, `load(kind, name)`.

Built-ins stand in this project's own `pyproject.toml` and go through the same door as a stranger's
package. Groups are named `mlflow_assay.<kind>`; the kinds and what their entry points must name:

    judges         a `contracts.JudgeLibrary` (or a Scorer subclass with a `contract`)
    judge_packs    a callable returning the folder of YAML judge definitions
    sources        a `contracts.TraceSource` class
    importers      a `contracts.TraceImporter` class
    sinks          a `contracts.Sink` class
    label_sources  a `contracts.LabelSource` class
    dataset_stores   a `contracts.DatasetStore` class, named by the scheme of its URLs
    dataset_formats  a `datasets.formats.Format`: another library's or file's form of a dataset
    dashboards      a callable returning a `dashboards.board.Board`
    bridge_sinks   a `contracts.BridgeSink` class
    aligners       a class of MLflow's `AlignmentOptimizer` (ours: `alignment.aligner.Aligner`)
    optimizers     a class of MLflow's `BasePromptOptimizer` (ours: `optimizers.optimizer.PromptOptimizer`)
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mlflow_assay.errors import PluginError

__all__ = ["KINDS", "Plugin", "available", "load"]

KINDS = (
    "judges",
    "judge_packs",
    "sources",
    "importers",
    "sinks",
    "label_sources",
    "bridge_sinks",
    "aligners",
    "optimizers",
    "dataset_stores",
    "dataset_formats",
    "dashboards",
)

Plugin = EntryPoint


def _group(kind: str) -> str:
    if kind not in KINDS:
        raise PluginError(f"There is no plugin kind {kind!r}.", valid=KINDS)
    return f"mlflow_assay.{kind}"


def available(kind: str) -> dict[str, EntryPoint]:
    """Every installed plugin of a kind by name, without importing any of them.

    Raises:
        PluginError: unknown kind, or two packages register one name for different objects.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=_group(kind)):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise PluginError(
                f"Two packages both register {point.name!r} in {kind}: {other.value} and {point.value}.",
                fix="Uninstall one of them.",
            )
    return dict(sorted(found.items()))


def load(kind: str, name: str) -> Any:
    """Import one plugin and return the object its entry point names.

    Raises:
        PluginError: no such plugin (the installed ones are listed), or its import failed (chained).
    """
    plugins = available(kind)
    if name not in plugins:
        near = difflib.get_close_matches(name, plugins, n=1)
        raise PluginError(
            f"No {kind} plugin {name!r} is installed.",
            valid=plugins,
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )
    point = plugins[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        extras = point.dist.metadata.get_all("Provides-Extra") or [] if point.dist else []
        package = point.dist.name if point.dist else "the package that provides it"
        fix = f"Try: pip install '{package}[{name}]'" if name in extras else f"Reinstall {package}."
        raise PluginError(
            f"The {kind} plugin {name!r} ({point.value}) could not be imported: {error}.", fix=fix
        ) from error
