"""The worker's log: one line an event on stderr, as text or JSON, with whatever looks like a key or password masked."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Literal

from mlflow_assay.redaction import Redactor

__all__ = ["configure_logging"]


class _Formatter(logging.Formatter):
    def __init__(self, style: Literal["text", "json"]) -> None:
        super().__init__()
        self._form, self._mask = style, Redactor(kinds=["secret"]).text

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        text = record.getMessage()
        if record.exc_info:
            text += " | " + self.formatException(record.exc_info).replace("\n", " | ")
        text = self._mask(" ".join(text.split()))
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        if self._form == "text":
            return f"{moment} {record.levelname.lower()} {text}"
        facts = {"time": moment, "level": record.levelname.lower(), "logger": record.name, "thread": record.threadName}
        return json.dumps({**facts, "message": text}, ensure_ascii=False)


def configure_logging(style: Literal["text", "json"] = "text", level: int = logging.INFO) -> None:
    """Send this package's log to stderr, and of others' only warnings; both masked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("mlflow_assay").setLevel(level)
