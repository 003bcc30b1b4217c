"""Links into MLflow's own UI. The routes are those of MLflow 3.17's router, tried in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from mlflow_assay.errors import ConfigError

__all__ = ["Links", "ui_base"]


@dataclass(frozen=True)
class Links:
    """Addresses of one experiment's traces; all None when there is no UI to link to."""

    base: str | None
    experiment_id: str

    def trace(self, trace_id: str) -> str | None:
        """The traces page with this trace opened."""
        return self._at(f"traces?selectedEvaluationId={quote(trace_id, safe='')}")

    def session(self, session_id: str) -> str | None:
        """The page of one session."""
        return self._at(f"chat-sessions/{quote(session_id, safe='')}")

    def _at(self, page: str) -> str | None:
        return f"{self.base}/#/experiments/{quote(self.experiment_id, safe='')}/{page}" if self.base else None


def ui_base(given: str | None, tracking_uri: str) -> str | None:
    """Base address of MLflow's UI without credentials: the one given, else the tracking server's.

    Returns:
        None when none is given and the store is not a server (a database file has no UI of its own).

    Raises:
        ConfigError: the address given is not http or https.
    """
    address = given or (tracking_uri if tracking_uri.startswith(("http://", "https://")) else None)
    if address is None:
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{address!r} is not the address of an MLflow UI.", valid="http://host:port or https://…")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
