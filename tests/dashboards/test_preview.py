"""A preview where servers refuse: the panel says so, the page stands."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    with prometheus(lambda path: (400, "parse error at char 3")) as url:
        yield url


@pytest.fixture
def answering():
    """A Prometheus with one series, of value 1, whatever it is asked."""

    def answer(path: str) -> tuple[int, str]:
        at = time.time() - 30
        points = {"values": [[at, "1"], [at + 15, "1"]]} if "query_range" in path else {"value": [at, "1"]}
        series = {"metric": {"gen_ai_evaluation_name": "request_resolved", "le": "1"}, **points}
        return 200, json.dumps({"status": "success", "data": {"result": [series]}})

    with prometheus(answer) as url:
        yield url


@contextmanager
def prometheus(answer: Callable[[str], tuple[int, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            labels = '{"status": "success", "data": ["a"]}'
            status, text = (200, labels) if "/label/" in self.path else answer(self.path)
            body = text.encode()
            self.send_response(status)
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


def test_a_telephone_gets_tables_as_cards_and_charts_it_can_read(answering):
    """Each cell names its column; a chart wider than the screen has a twin drawn for it."""
    board = next(b for b in generated() if b.uid == "assay-quality-by-judge")
    html = preview(board, Asker(answering, None), Range(time.time() - 60, time.time(), 15))
    assert '<td data-heading="Judge">request_resolved</td><td data-heading="Agent">' in html
    wide = [p for p in board.panels if p["type"] in ("timeseries", "heatmap") and p["gridPos"]["w"] >= 10]
    assert html.count('class="chart narrow"') == html.count('class="chart wide"') == len(wide) > 3


def test_words_and_whole_numbers_of_a_column_are_shown(answering):
    board = next(b for b in generated() if b.uid == "assay-quality-by-judge")
    html = preview(board, Asker(answering, None), Range(time.time() - 60, time.time(), 15))
    assert '<td data-heading="Corrected">yes</td>' in html
    assert '<td data-heading="Judged">1</td>' in html and '<td data-heading="Pass rate">100.0 %</td>' in html


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
