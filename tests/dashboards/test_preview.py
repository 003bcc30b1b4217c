"""A preview where servers refuse: the panel says so, the page stands."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlflow_assay.dashboards.asking import Asker, Range, fill
from mlflow_assay.dashboards.files import generated
from mlflow_assay.dashboards.formats import shown
from mlflow_assay.dashboards.preview import preview
from mlflow_assay.errors import StoreError


@pytest.fixture
def refusing():
    """A Prometheus that knows labels and refuses every query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            labels = "/label/" in self.path
            body = b'{"status": "success", "data": ["a"]}' if labels else b"parse error at char 3"
            self.send_response(200 if labels else 400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_refused_query_is_shown_in_its_panel_with_what_was_asked(refusing):
    board = next(b for b in generated() if b.uid == "assay-judges")
    html = preview(board, Asker(refusing, None), Range(time.time() - 60, time.time(), 15))
    assert html.count('class="error"') == len(board.panels)
    assert "refused with 400: parse error at char 3" in html and "Found: max by" in html


def test_a_server_that_is_not_there_is_said():
    board = next(b for b in generated() if b.uid == "assay-stakeholder-kpis")
    with pytest.raises(StoreError, match="cannot be reached"):
        preview(board, Asker("http://127.0.0.1:9", None), Range(0, 60, 15))


def test_variables_and_macros_are_filled_in_and_others_left():
    assert fill('x{a=~"$judge"}[$__range] ${b:regex} $c', {"judge": "t", "__range": "5m", "b": "z"}) == (
        'x{a=~"t"}[5m] z $c'
    )


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.8234, "percentunit", "82.3 %"),
        (float("nan"), "s", "–"),
        (0.25, "s", "250 ms"),
        (90, "s", "1.5 min"),
        (3, "short", "3"),
        (0.0123, "currencyUSD", "$ 0.0123"),
        (2_500_000, "short", "2.5 M"),
        (3 * 2**20, "bytes", "3.0 MiB"),
    ],
)
def test_numbers_are_written_with_their_unit(value, unit, text):
    assert shown(value, unit) == text
