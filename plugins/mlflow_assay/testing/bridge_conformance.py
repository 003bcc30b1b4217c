"""What every bridge sink must do, as test classes: derive one, say how to make yours, and pytest runs the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mlflow_assay.contracts import AssessmentRevision, BridgeSink, EvaluatedTrace, InquirableSink, Outcome
from mlflow_assay.errors import SinkError
from mlflow_assay.testing.far_end import FarEnd

__all__ = ["BridgeSinkConformance", "HttpBridgeSinkConformance", "sample_revision", "sample_revisions"]

_NOW_MS = 1_795_400_000_000


def sample_revision(
    number: int = 1,
    *,
    value: Any = True,
    change: Literal["created", "edited", "deleted"] = "created",
    revision: int = 1,
    **others: Any,
) -> AssessmentRevision:
    """One revision of a verdict; `value=None` makes it unscored.

    Args:
        number: makes assessment and trace differ from other numbers'.
        value: a bool passes when true.
        change, revision: which state of the assessment.
        others: any further field.
    """
    outcome = Outcome.UNSCORED if value is None else Outcome.PASS if value else Outcome.FAIL
    trace = EvaluatedTrace(
        trace_id=f"tr-{number:032x}",
        experiment_id="1",
        root_span_id=f"{number:016x}",
        started_ms=_NOW_MS - 5_000,
        ended_ms=_NOW_MS - 4_000,
        agent="support",
        model="gpt-4.1-mini",
        conversation="c-7",
        prompt_version="support/3",
        service="support-agent",
        environment="test",
    )
    facts: dict[str, Any] = {
        "key": f"{number:024x}{revision:08x}",
        "change": change,
        "assessment_id": f"a-{number:032x}",
        "trace": trace,
        "name": "request_resolved",
        "kind": "feedback",
        "source_type": "LLM_JUDGE",
        "source_id": "request_resolved",
        "created_ms": _NOW_MS,
        "changed_ms": _NOW_MS + revision - 1,
        "value": value,
        "score": float(value) if isinstance(value, bool | int | float) else None,
        "outcome": outcome,
        "reason": "timeout" if value is None else None,
        "rationale": None if value is None else "because \u2603",
        "revision": revision,
        "judge_version": "1",
        "judge_digest": "0" * 16,
        "judge_model": "openai:/gpt-4.1-mini",
        "input_tokens": 300,
        "output_tokens": 20,
        "cost_usd": 0.0002,
        "latency_ms": 800.0,
        "cache_hit": False,
    }
    return AssessmentRevision(**{**facts, **others})


def sample_revisions() -> list[AssessmentRevision]:
    """One of each sort: pass, fail, unscored, edited, deleted, a number, a word, a person's, an expectation, bare."""
    bare = EvaluatedTrace(trace_id=f"tr-{10:032x}", experiment_id="1")
    person: dict[str, Any] = {
        "source_type": "HUMAN",
        "source_id": "ada@example.org",
        "judge_digest": None,
        "judge_version": None,
    }
    return [
        sample_revision(1),
        sample_revision(2, value=False),
        sample_revision(3, value=None),
        sample_revision(4, value=False, change="edited", revision=2, replaces=f"{4:024x}{1:08x}"),
        sample_revision(5, change="deleted", revision=2),
        sample_revision(6, value=4, score=4.0, name="tone/5 points", span_id=f"{99:016x}"),
        sample_revision(7, value="mostly", score=None, outcome=None, rationale="x" * 10_000),
        sample_revision(8, **person),
        sample_revision(9, value={"answer": "42"}, score=None, outcome=None, kind="expectation", **person),
        replace(sample_revision(10, judge_digest=None, judge_model=None, latency_ms=None), trace=bare),
    ]


class BridgeSinkConformance:
    """Every bridge sink: has a name, takes nothing and each sort of revision, and says what became of each."""

    def make(self, tmp_path: Path) -> BridgeSink:
        """A sink whose far end works."""
        raise NotImplementedError

    @pytest.fixture
    def sink(self, tmp_path: Path) -> Iterator[BridgeSink]:
        """The sink, closed afterwards."""
        made = self.make(tmp_path)
        yield made
        made.close()

    def test_it_has_a_name(self, sink: BridgeSink) -> None:
        """The name is how the outbox and a failure call it."""
        assert sink.name

    def test_nothing_is_nothing(self, sink: BridgeSink) -> None:
        """An empty batch is no error."""
        assert list(sink.deliver([])) == []

    def test_every_sort_of_revision_is_delivered_or_skipped_for_a_reason(self, sink: BridgeSink) -> None:
        """One answer each, in order; a healthy far end leaves nothing to retry."""
        found = sink.deliver(sample_revisions())
        assert len(found) == len(sample_revisions())
        assert {d.state for d in found} <= {"delivered", "skipped"}
        assert found[0].state == "delivered"
        assert all(d.detail for d in found if d.state == "skipped")

    def test_the_answers_are_in_the_order_of_the_questions(self, sink: BridgeSink) -> None:
        """What is skipped alone is skipped in a batch, wherever it stands."""
        alone = [sink.deliver([revision])[0].state for revision in sample_revisions()]
        assert [d.state for d in sink.deliver(sample_revisions()[::-1])] == alone[::-1]

    def test_a_sink_that_can_be_asked_holds_what_was_delivered(self, sink: BridgeSink) -> None:
        """Only for sinks that can tell."""
        if not isinstance(sink, InquirableSink):
            pytest.skip("this sink cannot be asked what it holds")
        sent, other = sample_revision(1), sample_revision(2)
        assert sink.deliver([sent])[0].state == "delivered"
        try:
            held = sink.held([sent, other])
        except SinkError as error:
            pytest.skip(f"there is nobody to ask here: {error}")
        assert (held[sent.key], held.get(other.key, 0)) == (1, 0)


class HttpBridgeSinkConformance(BridgeSinkConformance):
    """Every bridge sink that talks HTTP: a failing far end is never an exception, and what may pass is retried.

    Attributes:
        secret: a key the sink is built with; it must be in no message. None where the sink has none.
    """

    secret: str | None = None
    timeout_s = 0.4

    def make_for(self, url: str, timeout_s: float) -> BridgeSink:
        """A sink sending to this base URL, giving up on a request after the timeout."""
        raise NotImplementedError

    def make(self, tmp_path: Path) -> BridgeSink:
        """The sink of the `far_end`."""
        return self.make_for(self.far_end.url, self.timeout_s)

    @pytest.fixture(autouse=True)
    def _far_end(self) -> Iterator[None]:
        with FarEnd() as self.far_end:
            yield

    def _failing(self, sink: BridgeSink, status: int, **headers: str) -> Sequence[Any]:
        self.far_end.status, self.far_end.headers = status, headers
        return sink.deliver([sample_revision(1), sample_revision(2)])

    @pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403, 404])
    def test_what_may_pass_is_retried_with_the_reason(self, sink: BridgeSink, status: int) -> None:
        """Outage, overload, and what somebody can put right."""
        found = self._failing(sink, status)
        assert [d.state for d in found] == ["retry", "retry"]
        assert all(str(status) in d.detail for d in found)

    def test_the_far_ends_own_wish_is_passed_on(self, sink: BridgeSink) -> None:
        """A Retry-After in seconds."""
        assert [d.retry_after_s for d in self._failing(sink, 429, **{"Retry-After": "7"})] == [7.0, 7.0]

    def test_what_is_refused_is_rejected_with_the_reason(self, sink: BridgeSink) -> None:
        """A 400 will be a 400 tomorrow."""
        found = self._failing(sink, 400)
        assert [d.state for d in found] == ["rejected", "rejected"]
        assert all("400" in d.detail for d in found)

    def test_a_hanging_far_end_costs_no_more_than_the_timeout(self, sink: BridgeSink) -> None:
        """No answer is a retry, soon."""
        began = time.monotonic()
        found = self._failing(sink, 0)
        assert time.monotonic() - began < 10 * self.timeout_s
        assert [d.state for d in found] == ["retry", "retry"]

    def test_nobody_listening_is_a_retry(self) -> None:
        """The far end is not up yet."""
        with FarEnd() as gone:
            url = gone.url
        sink = self.make_for(url, self.timeout_s)
        found = sink.deliver([sample_revision()])
        sink.close()
        assert [d.state for d in found] == ["retry"]
        assert found[0].detail

    def test_after_an_outage_the_same_revision_is_delivered_under_the_same_id(self, sink: BridgeSink) -> None:
        """A resend says the same as the first sending did."""
        assert self._failing(sink, 503)[0].state == "retry"
        self.far_end.status, self.far_end.headers = 200, {}
        assert [d.state for d in sink.deliver([sample_revision(1), sample_revision(2)])] == ["delivered"] * 2
        bodies = [r.body for r in self.far_end.requests]
        if sample_revision(1).key.encode() in bodies[-1] + bodies[0]:
            assert sample_revision(1).key.encode() in bodies[0]
            assert sum(sample_revision(1).key.encode() in body for body in bodies) == 2

    def test_no_secret_is_in_a_message(self, sink: BridgeSink, caplog: pytest.LogCaptureFixture) -> None:
        """Not even where the far end sends the request's headers back."""
        if self.secret is None:
            pytest.skip("this sink has no secret")
        self.far_end.echo = True
        details = [d.detail for status in (400, 500) for d in self._failing(sink, status)]
        assert any(self.secret in str(request.headers) for request in self.far_end.requests) or self._hidden()
        assert not any(self.secret in text for text in (*details, caplog.text))

    def _hidden(self) -> bool:
        """Whether the secret travels encoded (basic authentication)."""
        return any(
            "basic" in str(request.headers.get("Authorization", "")).lower() for request in self.far_end.requests
        )
