"""What the package may and may not import here: NumPy and SciPy, no MLflow, no GPL oracle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "plugins" / "mlflow_assay" / "trust"
ALLOWED = {"numpy", "scipy", "mlflow_assay"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.name)
def test_only_numpy_scipy_and_ourselves_are_imported(path):
    import sys

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            root = name.partition(".")[0]
            assert root in ALLOWED or root in sys.stdlib_module_names, name
            assert root != "mlflow_assay" or name.startswith(("mlflow_assay.trust", "mlflow_assay.errors")), name


def test_every_public_name_exists():
    import mlflow_assay.trust as trust

    assert sorted(trust.__all__) == list(trust.__all__)
    assert all(hasattr(trust, name) for name in trust.__all__)
