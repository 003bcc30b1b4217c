"""The committed JSON of the boards, and making it anew from the code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay import registry, shipped
from mlflow_assay.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from mlflow_assay.dashboards.board import Board

__all__ = ["FOLDER", "BoardFile", "build", "generated", "read_folder"]

FOLDER = "dashboards/generated"


@dataclass(frozen=True)
class BoardFile:
    """One board's classic dashboard JSON.

    Attributes:
        uid: the dashboard's, and the file's stem.
        model: the parsed JSON.
        origin: file it came from, or the plugin that built it.
    """

    uid: str
    model: dict[str, Any]
    origin: str

    @property
    def title(self) -> str:
        """As Grafana shows it."""
        return str(self.model["title"])

    @property
    def panels(self) -> list[dict[str, Any]]:
        """Panels without the rows."""
        return [panel for panel in self.model["panels"] if panel["type"] != "row"]


def build() -> dict[str, str]:
    """Every registered board as JSON text, by file name.

    Raises:
        PluginError: a board cannot be imported (the extra `dashboards` is missing), or two have one uid.
    """
    made: dict[str, str] = {}
    for name in registry.available("dashboards"):
        board: Board = registry.load("dashboards", name)()
        if f"{board.uid}.json" in made:
            raise PluginError(f"Two dashboards have the uid {board.uid!r}; the second is {name!r}.")
        made[f"{board.uid}.json"] = board.to_json()
    return made


def generated() -> list[BoardFile]:
    """The boards shipped with this package."""
    return read_folder(shipped.folder(FOLDER))


def read_folder(folder: Path) -> list[BoardFile]:
    """All boards of a folder, by title.

    Raises:
        ConfigError: there are none, or a file is no dashboard.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ConfigError(f"There are no dashboards in {folder}.", fix="`assay dashboards build` writes them.")
    return [_read(path) for path in paths]


def _read(path: Path) -> BoardFile:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        return BoardFile(str(model["uid"]), model, path.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no dashboard: {error}.") from error
