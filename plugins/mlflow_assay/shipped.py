"""Where the shipped data folders lie: inside a wheel, or in a checkout when installed editable."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def folder(name: str) -> Path:
    """Path of the shipped folder `name` (`judges`, `dashboards/generated`)."""
    packaged = Path(str(files("mlflow_assay"))) / "_shipped" / name
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / name


def judges() -> Path:
    """The folder of shipped judge definitions; what the `shipped` judge pack entry point names."""
    return folder("judges")
