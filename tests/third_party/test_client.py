"""The one judge-model setting for any library, and the bill: what is sent where, what is counted, what is retried."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from mlflow_assay import semconv
from mlflow_assay.contracts import ModelSettings, Unscored, UnscoredError
from mlflow_assay.engine.limits import RetryPolicy
from mlflow_assay.judges.third_party.client import JudgeClient
from mlflow_assay.testing import FakeJudgeServer, Reply

ASKED = [{"role": "user", "content": "one two three"}]
QUICK = RetryPolicy(attempts=3, base_s=0.01)


def ask(client, **params):
    return client.openai().chat.completions.create(model="whatever", messages=ASKED, **params)


def test_the_official_client_reaches_the_model_of_the_setting():
    with FakeJudgeServer("fine") as server:
        client = JudgeClient(server.model)
        assert ask(client).choices[0].message.content == "fine"
        assert client.base == server.base and client.model == "fake-judge"
    assert server.requests[0].body["model"] == "fake-judge"


def test_the_asynchronous_client_is_bound_to_no_event_loop():
    with FakeJudgeServer("fine") as server:
        ours = JudgeClient(server.model).async_openai()

        async def once():
            return await ours.chat.completions.create(model="x", messages=ASKED)

        for _ in range(2):
            assert asyncio.run(once()).choices[0].message.content == "fine"


def test_keys_headers_and_parameters_are_the_settings_whatever_the_library_says(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    with FakeJudgeServer("fine") as server:
        model = replace(server.model, params={"temperature": 0.3}, headers={"X-Team": "care"})
        ask(JudgeClient(model), temperature=1.0, top_p=0.5)
    (request,) = server.requests
    assert (request.body["temperature"], request.body["top_p"]) == (0.3, 0.5)
    assert request.headers["Authorization"] == "Bearer sk-real" and request.headers["X-Team"] == "care"


def test_a_key_given_to_no_library_is_not_in_what_the_client_shows(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    with FakeJudgeServer("fine") as server:
        assert "sk-real" not in repr(vars(JudgeClient(server.model)))


def test_calls_tokens_and_cost_are_counted_also_with_threads():
    with FakeJudgeServer("four words are here", tokens=(10, 4)) as server:
        model = replace(server.model, usd_per_million=(1.0, 2.0))
        client = JudgeClient(model)
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    paid = client.meter.paid(model)
    assert paid.pop("mlflow.assessment.judgeCost") == pytest.approx(20 * (10 + 8) / 1e6)
    assert paid == {
        semconv.JUDGE_CALLS: 20,
        "mlflow.assessment.judgeInputTokens": 200,
        "mlflow.assessment.judgeOutputTokens": 80,
    }


def test_a_model_without_a_price_has_no_cost_rather_than_none_to_pay():
    with FakeJudgeServer("x") as server:
        client = JudgeClient(server.model)
        ask(client)
    assert "mlflow.assessment.judgeCost" not in client.meter.paid(server.model)


@pytest.mark.parametrize("first", [Reply("busy", 503), Reply("slow down", 429, {"Retry-After": "0"})])
def test_what_may_pass_is_tried_again_and_counted_once(first):
    with FakeJudgeServer([first, "fine"]) as server:
        client = JudgeClient(server.model, QUICK)
        assert ask(client).choices[0].message.content == "fine"
    assert (len(server.requests), client.meter.calls) == (2, 1)


@pytest.mark.parametrize(
    ("reply", "raised", "reason"),
    [
        (Reply("no key", 401), openai.AuthenticationError, Unscored.UNAUTHORIZED),
        (Reply("no model", 404), openai.NotFoundError, Unscored.NOT_FOUND),
        (Reply("broken", 500), openai.InternalServerError, Unscored.PROVIDER_ERROR),
    ],
)
def test_a_refusal_reaches_the_library_as_the_official_error_and_is_remembered(reply, raised, reason):
    with FakeJudgeServer(reply) as server:
        client = JudgeClient(server.model, QUICK)
        with pytest.raises(raised):
            ask(client)
    assert client.meter.failure.reason is reason and client.meter.calls == 0


def test_a_call_that_takes_too_long_is_not_made_again():
    with FakeJudgeServer(Reply("late", delay_s=2)) as server:
        with pytest.raises(openai.APITimeoutError):
            ask(JudgeClient(replace(server.model, timeout_s=0.2), QUICK))
        assert len(server.requests) == 1


def test_no_server_is_unreachable():
    client = JudgeClient(ModelSettings("openai:/x", base_url="http://127.0.0.1:9/v1/chat/completions"), QUICK)
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert client.meter.failure.reason is Unscored.UNREACHABLE


def test_an_endpoint_without_response_formats_is_asked_without_and_not_bothered_again():
    def reply(request):
        if "response_format" in request.body:
            return Reply("response_format is not supported by this model", 400)
        return "plain"

    asked = {"response_format": {"type": "json_object"}}
    with FakeJudgeServer(reply) as server:
        for _ in range(2):
            assert JudgeClient(server.model).complete(ASKED, **asked) == "plain"
    assert len(server.requests) == 3


def test_a_parameter_a_model_does_not_know_is_left_out_unless_the_user_set_it():
    body = {"error": {"message": "no", "code": "unsupported_value", "param": "temperature"}}

    def reply(request):
        return Reply(status=400, body=json.dumps(body).encode()) if "temperature" in request.body else "fine"

    with FakeJudgeServer(reply) as server:
        assert ask(JudgeClient(server.model), temperature=0).choices[0].message.content == "fine"
        with pytest.raises(openai.BadRequestError):
            ask(JudgeClient(replace(server.model, params={"temperature": 0})))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("", refusal="I would rather not"), Unscored.REFUSED),
        (Reply("half a", finish_reason="length"), Unscored.TRUNCATED),
        (Reply(None, finish_reason="content_filter"), Unscored.REFUSED),
        (Reply(""), Unscored.EMPTY_REPLY),
        (Reply(body=b"<html>"), Unscored.GARBLED_REPLY),
    ],
)
def test_a_reply_of_no_use_says_why(reply, reason):
    with FakeJudgeServer(reply) as server, pytest.raises(UnscoredError) as raised:
        JudgeClient(server.model).complete(ASKED)
    assert raised.value.reason is reason


class _Claude(BaseHTTPRequestHandler):
    """Anthropic's messages API, as far as MLflow's adapter speaks it."""

    seen: list[dict] = []  # noqa: RUF012 - one server a test module

    def do_POST(self):
        self.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        reply = {
            "id": "m", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "bonjour"}], "usage": {"input_tokens": 5, "output_tokens": 2},
        }  # fmt: skip
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_provider_with_its_own_protocol_serves_a_library_that_speaks_openais(monkeypatch):
    """MLflow's adapter translates: the library's chat request becomes an Anthropic message, and back."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Claude)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1/messages"
        client = JudgeClient(ModelSettings("anthropic:/claude-x", base_url=url))
        assert ask(client, max_tokens=50).choices[0].message.content == "bonjour"
    finally:
        server.shutdown()
    assert (client.meter.calls, client.meter.input_tokens, client.meter.output_tokens) == (1, 5, 2)
    assert _Claude.seen[0]["model"] == "claude-x" and _Claude.seen[0]["max_tokens"] == 50


def test_embeddings_go_to_the_same_endpoint():
    from mlflow_assay.errors import ConfigError

    client = JudgeClient(ModelSettings("openai:/x", base_url="http://127.0.0.1:9/v1/chat/completions"))
    assert client._backend._url("/embeddings") == "http://127.0.0.1:9/v1/embeddings"
    with pytest.raises(ConfigError, match="neither a chat nor embeddings"):
        client.http().post("http://judge/v1/images", json={})


def test_a_model_nobody_can_be_asked_for_is_refused_when_the_judge_is_built():
    from mlflow_assay.errors import ConfigError
    from mlflow_assay.judges.third_party.client import check_provider

    with pytest.raises(ConfigError, match=r"cannot ask 'nobody:/x'.*openai:/NAME with --base-url"):
        check_provider(ModelSettings("nobody:/x"))
    check_provider(ModelSettings("anthropic:/claude-x"))
