"""Boards, alert rules, data sources and release marks into a running Grafana, through its HTTP API (grafana-client).

Idempotent: what is there and equal stays untouched. A plan is made first, from reads alone; a dry run prints it and
stops. Nothing is deleted.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from mlflow_assay.dashboards.files import BoardFile
from mlflow_assay.errors import ConfigError, SinkError

__all__ = ["Change", "Grafana", "Release"]

T = TypeVar("T")
# What Grafana itself adds to a dashboard or a rule: never a difference of ours.
_OWN_OF_DASHBOARD: Final = {"id", "version", "iteration"}
_OWN_OF_RULE: Final = {
    "id",
    "updated",
    "provenance",
    "keep_firing_for",
    "notification_settings",
    "record",
    "guid",
    "missingSeriesEvalsToResolve",
}
TAG: Final = "mlflow-assay"


@dataclass(frozen=True)
class Release:
    """A moment to mark on the boards: a prompt version, a deployment.

    Attributes:
        key: what makes it one: marked once, however often it is imported.
        text: what stands at the mark.
        at_ms: Unix time.
    """

    key: str
    text: str
    at_ms: int


@dataclass(frozen=True)
class Change:
    """One thing to do.

    Attributes:
        kind: `folder`, `data source`, `board`, `alert rule` or `mark`.
        name: for a person.
        action: `create`, `update` or `unchanged`.
        diff: unified diff of JSON for an update; "" otherwise.
        run: does it.
    """

    kind: str
    name: str
    action: Literal["create", "update", "unchanged"]
    diff: str
    run: Callable[[], Any]


class Grafana:
    """A Grafana server.

    Args:
        url: its address, with a path where it is served under one.
        token: a service account's token, or `user:password`. Never logged or shown.
        timeout_s: seconds a request may take.

    Raises:
        ConfigError: the address is none, or grafana-client is not installed.
    """

    def __init__(self, url: str, token: str, timeout_s: float = 20.0) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigError(f"--url {url!r} is no address.", valid="https://grafana.example.org")
        try:
            from grafana_client import GrafanaApi, TokenAuth
        except ImportError as error:
            raise ConfigError(
                "grafana-client is missing.", fix="Try: pip install 'mlflow-assay[dashboards]'"
            ) from error
        user, colon, password = token.partition(":")
        credential = (user, password) if colon else TokenAuth(token)
        self.url = url
        self._api = GrafanaApi.from_url(url=url, credential=credential, timeout=timeout_s)

    def plan(
        self,
        boards: Iterable[BoardFile],
        *,
        folder: str,
        folder_uid: str,
        datasources: Mapping[str, str] | None = None,
        rules: Callable[[str], list[dict[str, Any]]] | None = None,
        prometheus: str | None = None,
        releases: Iterable[Release] = (),
    ) -> list[Change]:
        """What there is to do, found out by reading only.

        Args:
            folder, folder_uid: where boards and alert rules go; a folder of that title serves where none has the uid
                (provisioned alerts make theirs under a uid of Grafana's choice).
            datasources: address by type (`prometheus`, `tempo`) to create where no data source of that type is.
            rules: makes the alert rules, given the uid of the Prometheus data source.
            prometheus: that uid; None takes the only one there is.
            releases: moments to mark.

        Raises:
            ConfigError: a data source is missing, or several could be meant.
            SinkError: Grafana cannot be reached or refuses; says what to do.
        """
        found = self._find_folder(folder, folder_uid)
        folder_uid = folder_uid if found is None else str(found["uid"])
        changes = [self._folder(folder, folder_uid, found)]
        known = self._call(self._api.datasource.list_datasources)
        changes += [self._datasource(kind, url, known) for kind, url in (datasources or {}).items()]
        missing = {kind for kind in ("prometheus", "tempo") if not _of_type(known, kind)} - set(datasources or {})
        if missing:
            options = " ".join(f"--{kind}-url URL" for kind in sorted(missing))
            raise ConfigError(
                f"Grafana has no data source of type {' and none of type '.join(sorted(missing))}; boards ask both.",
                found=", ".join(str(source["name"]) for source in known) or "none",
                fix=f"Add one, or give {options}.",
            )
        changes += [self._board(board, folder_uid) for board in boards]
        if rules is not None:
            uid = prometheus or _only(known, "prometheus", bool((datasources or {}).get("prometheus")))
            changes += [self._rule({**rule, "folderUID": folder_uid}) for rule in rules(uid)]
        return changes + self._marks(list(releases))

    def apply(self, changes: Iterable[Change], done: Callable[[Change], None] = lambda change: None) -> None:
        """Do it, in order.

        Raises:
            SinkError: Grafana refused; what was done before stays, and running again goes on from there.
        """
        for change in changes:
            if change.action != "unchanged":
                self._call(change.run, change)
            done(change)

    def _find_folder(self, title: str, uid: str) -> dict[str, Any] | None:
        there: dict[str, Any] | None = self._maybe(lambda: self._api.folder.get_folder(uid))
        if there is None:
            known = self._call(self._api.folder.get_all_folders)
            there = next((folder for folder in known if folder["title"] == title), None)
        return there

    def _folder(self, title: str, uid: str, there: dict[str, Any] | None) -> Change:
        if there is None:
            return Change("folder", title, "create", "", lambda: self._api.folder.create_folder(title, uid))
        return Change("folder", str(there["title"]), "unchanged", "", lambda: None)

    def _datasource(self, kind: str, url: str, known: list[dict[str, Any]]) -> Change:
        if there := _of_type(known, kind):
            return Change("data source", str(there[0]["name"]), "unchanged", "", lambda: None)
        body = _datasource_body(kind, url)
        return Change("data source", body["name"], "create", "", lambda: self._api.datasource.create_datasource(body))

    def _board(self, board: BoardFile, folder_uid: str) -> Change:
        there = self._maybe(lambda: self._api.dashboard.get_dashboard(board.uid))
        old = None if there is None else _without(there["dashboard"], _OWN_OF_DASHBOARD)
        new = _without(board.model, _OWN_OF_DASHBOARD)
        moved = there is not None and there.get("meta", {}).get("folderUid", folder_uid) != folder_uid
        body = {"dashboard": {**new, "id": None}, "folderUid": folder_uid, "overwrite": True, "message": "mlflow-assay"}
        action, diff = _compare(old, new, moved)
        return Change("board", board.title, action, diff, lambda: self._api.dashboard.update_dashboard(body))

    def _rule(self, rule: dict[str, Any]) -> Change:
        api, uid = self._api.alertingprovisioning, rule["uid"]
        there = self._maybe(lambda: api.get_alertrule(uid))
        old = None if there is None else {k: v for k, v in there.items() if k in rule and k not in _OWN_OF_RULE}
        action, diff = _compare(_plain(old), _plain(rule), False)
        if action == "create":
            return Change("alert rule", rule["title"], action, diff, lambda: api.create_alertrule(rule))
        return Change("alert rule", rule["title"], action, diff, lambda: api.update_alertrule(uid, rule))

    def _marks(self, releases: list[Release]) -> list[Change]:
        if not releases:
            return []
        start, end = min(r.at_ms for r in releases), max(r.at_ms for r in releases)
        found = self._call(
            lambda: self._api.annotations.get_annotation(
                time_from=start, time_to=end + 1, tags=[TAG, "release"], limit=10_000
            )
        )
        there = {tag for mark in found for tag in mark.get("tags", [])}
        return [self._mark(release, release.key in there) for release in releases]

    def _mark(self, release: Release, there: bool) -> Change:
        def add() -> Any:
            return self._api.annotations.add_annotation(
                time_from=release.at_ms, tags=[TAG, "release", release.key], text=release.text
            )

        return Change("mark", release.text, "unchanged" if there else "create", "", add)

    def _maybe(self, ask: Callable[[], T]) -> T | None:
        """None where Grafana says there is none (404)."""
        from grafana_client.client import GrafanaClientError

        try:
            return ask()
        except GrafanaClientError as error:
            if error.status_code == 404:
                return None
            raise self._refused(error, None) from error
        except Exception as error:
            raise self._refused(error, None) from error

    def _call(self, ask: Callable[[], T], change: Change | None = None) -> T:
        try:
            return ask()
        except Exception as error:
            raise self._refused(error, change) from error

    def _refused(self, error: Exception, change: Change | None) -> SinkError:
        from grafana_client.client import GrafanaException

        what = f"the {change.kind} {change.name!r}" if change else "the request"
        if not isinstance(error, GrafanaException):
            return SinkError(f"Grafana at {self.url} cannot be reached: {type(error).__name__}.", fix="Check --url.")
        status = int(error.status_code)
        return SinkError(
            f"Grafana at {self.url} refused {what} with status {status}.",
            found=_message(error),
            fix=_ADVICE.get(status) or _ADVICE.get(status // 100 * 100),
        )


_ADVICE: Final = {
    401: "The token is wrong or has ended: make one for a service account.",
    403: "The token lacks the right: folders, dashboards, data sources, alert rules and annotations need an Editor or "
    "Admin service account.",
    404: "Is --url the root of Grafana, with its path?",
    409: "Something of that name or uid is there already; choose another --folder-uid.",
    412: "Somebody else saved it, or it is provisioned from files and cannot be changed here.",
    500: "Grafana itself failed; its log says why. Run the same command again.",
}


def _message(error: Any) -> str:
    response = error.response
    text = response.get("message", "") if isinstance(response, dict) else str(response or "")
    return str(text)[:300] or "no explanation"


def _compare(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], moved: bool
) -> tuple[Literal["create", "update", "unchanged"], str]:
    if old is None:
        return "create", ""
    if old == new and not moved:
        return "unchanged", ""
    before, after = (json.dumps(x, indent=1, sort_keys=True, ensure_ascii=False).splitlines() for x in (old, new))
    return "update", "\n".join(difflib.unified_diff(before, after, "in Grafana", "here", lineterm="", n=2))


def _without(model: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in model.items() if key not in keys}


def _plain(value: Any) -> Any:
    """As JSON sends it, with durations in one spelling (Grafana answers `1h0m0s` for `1h`)."""
    if not isinstance(value, dict):
        return value
    plain = json.loads(json.dumps(value))
    if "for" in plain:
        plain["for"] = _seconds(str(plain["for"]))
    return plain


def _seconds(duration: str) -> int:
    import re

    parts = re.findall(r"(\d+)([dhms])", duration)
    return sum(int(count) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit] for count, unit in parts)


def _of_type(known: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [source for source in known if source.get("type") == kind]


def _only(known: list[dict[str, Any]], kind: str, created: bool) -> str:
    found = _of_type(known, kind)
    if not found and created:
        return f"assay-{kind}"
    default = [source for source in found if source.get("isDefault")] or found
    if len(default) != 1:
        raise ConfigError(
            f"Which {kind} data source shall the alert rules ask?",
            found=", ".join(f"{s['name']} ({s['uid']})" for s in found),
            fix="Give --prometheus-uid.",
        )
    return str(default[0]["uid"])


def _datasource_body(kind: str, url: str) -> dict[str, Any]:
    """As `compose/grafana` provisions them: an exemplar leads to its trace, a trace to its metrics."""
    linked: dict[str, Any] = {
        "prometheus": {
            "httpMethod": "POST",
            "exemplarTraceIdDestinations": [{"name": "trace_id", "datasourceUid": "assay-tempo"}],
        },
        "tempo": {"tracesToMetrics": {"datasourceUid": "assay-prometheus", "spanEndTimeShift": "30m"}},
    }
    return {
        "name": f"Agent quality {kind}",
        "uid": f"assay-{kind}",
        "type": kind,
        "access": "proxy",
        "url": url,
        "jsonData": linked[kind],
    }
