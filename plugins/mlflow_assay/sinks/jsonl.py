"""One verdict a line in a JSON Lines file. Entry point `jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mlflow_assay.errors import SinkError

if TYPE_CHECKING:
    from mlflow.entities import Feedback


class JsonLinesSink:
    """Appends each verdict as MLflow's own dictionary form of an assessment.

    Args:
        path: the file; created when missing, appended to otherwise.
    """

    name: ClassVar[str] = "jsonl"

    def __init__(self, path: str | Path = "verdicts.jsonl") -> None:
        self._path = Path(path)

    def write(self, feedback: Iterable[Feedback]) -> int:
        """Append the verdicts and return how many.

        Raises:
            SinkError: the file cannot be written.
        """
        lines = [json.dumps(f.to_dictionary(), ensure_ascii=False) + "\n" for f in feedback]
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise SinkError(f"The sink 'jsonl' cannot write {self._path}: {error}.") from error
        return len(lines)
