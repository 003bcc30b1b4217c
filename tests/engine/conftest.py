"""The judge most tests of the engine ask: a definition in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

DEFINITION = """
name: looks_right
purpose: Does the answer fit the request at all?
value: {type: boolean}
instructions: Compare {{ inputs }} with {{ outputs }} and answer whether they fit.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the definition of `looks_right`."""
    path = tmp_path / "judges"
    path.mkdir()
    (path / "looks_right.yaml").write_text(DEFINITION)
    return path
