"""A loopback server that speaks the parts of Grafana's HTTP API that an import uses, with its status codes.

From Grafana's HTTP API reference: 401 for a wrong token, 403 for a missing right, 404 for what is not there, 412 for a
dashboard saved with an old version or provisioned from files, 409 for a data source of that name. It keeps what it is
given and adds what Grafana adds (id, version, provenance, durations rewritten).
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "glsa_right"


class FakeGrafana:
    def __init__(self):
        self.folders, self.boards, self.rules = {}, {}, {}
        self.sources, self.marks, self.calls = [], [], []
        self.provisioned: set[str] = set()
        self.refuse: dict[str, int] = {}  # path prefix -> status
        self.url = ""

    def add_source(self, kind, uid=None, default=False):
        self.sources.append(
            {
                "id": len(self.sources) + 1,
                "uid": uid or f"{kind}-1",
                "name": f"My {kind}",
                "type": kind,
                "isDefault": default,
            }
        )

    @property
    def writes(self):
        return [call for call in self.calls if not call.startswith("GET")]

    def answer(self, method, path, query, body):
        for prefix, status in self.refuse.items():
            if path.startswith(prefix):
                return status, {"message": f"refused {prefix}"}
        for pattern, handler in ROUTES:
            found = re.fullmatch(pattern, f"{method} {path}")
            if found:
                return handler(self, *found.groups(), query=query, body=body)
        return 404, {"message": "Not found"}

    # -- folders
    def get_folder(self, uid, **_):
        return (200, self.folders[uid]) if uid in self.folders else (404, {"message": "folder not found"})

    def list_folders(self, **_):
        return 200, list(self.folders.values())

    def create_folder(self, *, body, **_):
        if body["uid"] in self.folders:
            return 412, {"message": "a folder with that UID already exists"}
        self.folders[body["uid"]] = {"id": len(self.folders) + 1, **body}
        return 200, self.folders[body["uid"]]

    # -- dashboards
    def get_board(self, uid, **_):
        if uid not in self.boards:
            return 404, {"message": "Dashboard not found"}
        return 200, self.boards[uid]

    def save_board(self, *, body, **_):
        model, uid = dict(body["dashboard"]), body["dashboard"]["uid"]
        if uid in self.provisioned:
            return 412, {"message": "Cannot save provisioned dashboard", "status": "plugin-dashboard"}
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        old = self.boards.get(uid)
        if old and not body.get("overwrite"):
            return 412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}
        version = (old["dashboard"]["version"] if old else 0) + 1
        model |= {"id": old["dashboard"]["id"] if old else len(self.boards) + 1, "version": version}
        self.boards[uid] = {"dashboard": model, "meta": {"folderUid": body["folderUid"], "version": version}}
        return 200, {"uid": uid, "version": version, "status": "success"}

    # -- data sources
    def list_sources(self, **_):
        return 200, self.sources

    def create_source(self, *, body, **_):
        if any(source["name"] == body["name"] for source in self.sources):
            return 409, {"message": "data source with the same name already exists"}
        self.sources.append({"id": len(self.sources) + 1, "isDefault": False, **body})
        return 200, {"datasource": self.sources[-1], "message": "Datasource added"}

    # -- alert rules
    def get_rule(self, uid, **_):
        return (200, self.rules[uid]) if uid in self.rules else (404, {"message": "alert rule not found"})

    def create_rule(self, *, body, **_):
        if body["uid"] in self.rules:
            return 409, {"message": "conflicting alert rule found"}
        return self._keep_rule(body, 201)

    def update_rule(self, uid, *, body, **_):
        if uid not in self.rules:
            return 404, {"message": "alert rule not found"}
        return self._keep_rule(body, 200)

    def _keep_rule(self, body, status):
        missing = {"title", "folderUID", "ruleGroup", "condition", "data", "noDataState", "execErrState", "for"} - set(
            body
        )
        if missing or body["folderUID"] not in self.folders:
            return 400, {"message": f"invalid alert rule: {sorted(missing) or 'unknown folder'}"}
        if body["condition"] not in {query["refId"] for query in body["data"]}:
            return 400, {"message": "condition refers to no query"}
        hold = int(body["for"][:-1]) * {"m": 60, "h": 3600}[body["for"][-1]]
        shown = f"{hold // 3600}h{hold % 3600 // 60}m0s" if hold >= 3600 else f"{hold // 60}m0s"
        for query in body["data"]:
            query["model"] = {"intervalMs": 1000, "maxDataPoints": 43200, **query["model"]}
        extra = {"id": len(self.rules) + 1, "provenance": "api", "updated": "2026-11-23T00:00:00Z"}
        self.rules[body["uid"]] = {**body, **extra, "for": shown, "notification_settings": None, "record": None}
        return status, self.rules[body["uid"]]

    # -- annotations
    def get_marks(self, *, query, **_):
        wanted = set(query.get("tags", []))
        start, end = int(query.get("from", ["0"])[0]), int(query.get("to", ["9" * 15])[0])
        return 200, [m for m in self.marks if wanted <= set(m["tags"]) and start <= m["time"] <= end]

    def add_mark(self, *, body, **_):
        self.marks.append({"id": len(self.marks) + 1, **body})
        return 200, {"message": "Annotation added", "id": len(self.marks)}


ROUTES = [
    (r"GET /api/folders/([\w-]+)", FakeGrafana.get_folder),
    (r"GET /api/folders", FakeGrafana.list_folders),
    (r"POST /api/folders", FakeGrafana.create_folder),
    (r"GET /api/dashboards/uid/([\w-]+)", FakeGrafana.get_board),
    (r"POST /api/dashboards/db", FakeGrafana.save_board),
    (r"GET /api/datasources", FakeGrafana.list_sources),
    (r"POST /api/datasources", FakeGrafana.create_source),
    (r"GET /api/v1/provisioning/alert-rules/([\w-]+)", FakeGrafana.get_rule),
    (r"POST /api/v1/provisioning/alert-rules", FakeGrafana.create_rule),
    (r"PUT /api/v1/provisioning/alert-rules/([\w-]+)", FakeGrafana.update_rule),
    (r"GET /api/annotations", FakeGrafana.get_marks),
    (r"POST /api/annotations", FakeGrafana.add_mark),
]


@contextmanager
def running():
    grafana = FakeGrafana()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            split = urlsplit(self.path)
            grafana.calls.append(f"{self.command} {split.path}")
            status, answer = 401, {"message": "Invalid API key"}
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, answer = grafana.answer(self.command, split.path, parse_qs(split.query), body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815

        def log_message(self, *_):
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    grafana.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield grafana
    finally:
        server.shutdown()
        server.server_close()
