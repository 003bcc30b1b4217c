"""A stranger's plugin package for mlflow-assay, as its tests install it."""

from pathlib import Path


def judges_folder() -> Path:
    """The folder of this package's YAML judges."""
    return Path(__file__).parent / "judges"
