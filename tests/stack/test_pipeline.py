"""The pipeline end to end, with the shipped files: what is kept, what is counted, what survives which death."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from assay_stack import Stack, otlp
from assay_stack.build import ROOT
from assay_stack.fixtures import need
from assay_stack.ports import Ports
from assay_stack.services import Collector, Kafka

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Stack]:
    """Collector, Tempo and Prometheus; of ordinary traces none is kept, so that what is kept has a reason."""
    with Stack(settings={"ASSAY_SAMPLE_PERCENT": "0"}) as servers:
        need(servers.up)
        yield servers


def send(servers: Stack, *spans: dict, service: str = "agents", **more) -> None:
    assert otlp.post(f"{servers.otlp_http}/v1/traces", otlp.traces(spans, service=service, **more)) == 200


def names(servers: Stack, trace: str) -> list[str]:
    return sorted(span["name"] for span in servers.trace(trace))


def decided(servers: Stack) -> None:
    """Long enough for the sampler to have decided and Tempo to have what was kept (waits of 1 s each in tests)."""
    time.sleep(6)


# --- sampling ---------------------------------------------------------------------------------------------------


KEPT = {
    "an error": {"error": "tool failed"},
    "a slow run": {"seconds": 31.0},
    "a run marked for judging": {"sampling__keep": True},
    "a failing verdict inside": {"gen_ai__evaluation__score__label": "fail"},
}


@pytest.mark.parametrize("why", KEPT)
def test_a_trace_is_kept_whole_because_of(pipeline, why):
    """The reason may be on any span of it."""
    trace = otlp.new_trace()
    send(pipeline, otlp.agent_span(trace, "child", parent="2" * 16, **KEPT[why]))
    send(pipeline, otlp.agent_span(trace, "root"))
    assert pipeline.eventually(lambda: names(pipeline, trace) == ["child", "root"])


def test_an_ordinary_trace_is_dropped(pipeline):
    ordinary, marked = otlp.new_trace(), otlp.new_trace()
    send(pipeline, otlp.agent_span(ordinary), otlp.agent_span(marked, sampling__keep=True))
    pipeline.eventually(lambda: names(pipeline, marked))
    decided(pipeline)
    assert names(pipeline, ordinary) == []


def test_a_late_span_follows_the_decision_on_its_trace(pipeline):
    """The decision cache: what comes after the decision is kept with a kept trace, dropped with a dropped one."""
    kept, dropped = otlp.new_trace(), otlp.new_trace()
    send(pipeline, otlp.agent_span(kept, "root", sampling__keep=True), otlp.agent_span(dropped, "root"))
    pipeline.eventually(lambda: names(pipeline, kept) == ["root"])
    decided(pipeline)
    send(pipeline, otlp.agent_span(kept, "late"), otlp.agent_span(dropped, "late"))
    assert pipeline.eventually(lambda: names(pipeline, kept) == ["late", "root"])
    decided(pipeline)
    assert names(pipeline, dropped) == []


def test_a_late_verdict_is_kept_once_with_its_trace(pipeline):
    trace = otlp.new_trace()
    send(pipeline, otlp.agent_span(trace, "root", sampling__keep=True))
    pipeline.eventually(lambda: names(pipeline, trace) == ["root"])
    decided(pipeline)
    send(pipeline, otlp.verdict_span(trace, "faithful", 0.2))
    assert pipeline.eventually(lambda: names(pipeline, trace) == ["evaluation faithful", "root"])
    decided(pipeline)
    assert names(pipeline, trace) == ["evaluation faithful", "root"]


def test_a_verdict_on_a_dropped_trace_is_kept(pipeline):
    """Each verdict in MLflow is found in Tempo, whatever the sampler thought of its trace."""
    trace = otlp.new_trace()
    send(pipeline, otlp.agent_span(trace, "root"))
    decided(pipeline)
    send(pipeline, otlp.verdict_span(trace, "faithful", 1.0))
    assert pipeline.eventually(lambda: names(pipeline, trace) == ["evaluation faithful"])
    query = '{ span.gen_ai.evaluation.name = "faithful" && span.gen_ai.evaluation.score.value >= 0.9 }'
    assert pipeline.eventually(lambda: trace in {result["traceID"] for result in pipeline.search(query)})


def test_a_failing_verdict_in_time_rescues_its_trace(pipeline):
    trace = otlp.new_trace()
    send(pipeline, otlp.agent_span(trace, "root"), otlp.verdict_span(trace, "faithful", 0.0))
    assert pipeline.eventually(lambda: names(pipeline, trace) == ["evaluation faithful", "root"])


def test_a_passing_verdict_rescues_nothing(pipeline):
    trace = otlp.new_trace()
    send(pipeline, otlp.agent_span(trace, "root"), otlp.verdict_span(trace, "faithful", 1.0))
    pipeline.eventually(lambda: names(pipeline, trace))
    decided(pipeline)
    assert names(pipeline, trace) == ["evaluation faithful"]


# --- metrics ----------------------------------------------------------------------------------------------------


def total(servers: Stack, query: str) -> float:
    return sum(value for _, value in servers.promql(query))


def test_rates_are_counted_before_sampling_and_without_verdicts(pipeline):
    """36 ordinary traces are dropped and counted; 40 verdicts are kept and not counted."""
    for number in range(40):
        trace = otlp.new_trace()
        error = "boom" if number < 4 else None
        send(pipeline, otlp.agent_span(trace, error=error), otlp.verdict_span(trace), service="counted")
    calls = 'traces_span_metrics_calls_total{job="counted"}'
    assert pipeline.eventually(lambda: total(pipeline, calls) == 40)
    assert total(pipeline, 'traces_span_metrics_calls_total{job="counted", status_code="STATUS_CODE_ERROR"}') == 4
    labels = {key for series, _ in pipeline.promql(calls) for key in series}
    assert {"gen_ai_operation_name", "gen_ai_agent_name", "span_kind", "status_code"} <= labels
    assert total(pipeline, 'traces_span_metrics_duration_seconds_count{job="counted"}') == 40
    of = '{ resource.service.name = "counted" && span.gen_ai.operation.name = "%s" }'
    assert pipeline.eventually(lambda: len(pipeline.search(of % "evaluation")) == 40)
    assert pipeline.eventually(lambda: len(pipeline.search(of % "invoke_agent")) == 4)


def test_a_new_kind_of_error_is_in_the_durations_at_once(pipeline):
    """A histogram's first report is lost to increase(); so kinds of error share one, and each has a counter from 0."""
    send(pipeline, otlp.agent_span(otlp.new_trace(), error="first", error__type="FirstError"), service="failing")
    count = 'traces_span_metrics_duration_seconds_count{job="failing"}'
    assert pipeline.eventually(lambda: total(pipeline, count) == 1)
    time.sleep(3)  # the first report has been written more than once
    later = otlp.agent_span(otlp.new_trace(), error="other", error__type="OtherError", seconds=7.0)
    send(pipeline, later, service="failing")
    assert pipeline.eventually(lambda: total(pipeline, count) == 2)
    assert pipeline.eventually(lambda: total(pipeline, f"round(increase({count}[1m]))") >= 1)
    calls = 'increase(traces_span_metrics_calls_total{job="failing", error_type="OtherError"}[1m])'
    assert pipeline.eventually(lambda: total(pipeline, calls) > 0)
    assert "error_type" not in {key for series, _ in pipeline.promql(count) for key in series}


def test_tokens_are_counted_from_spans(pipeline):
    trace = otlp.new_trace()
    labels = {"gen_ai__operation__name": "chat", "gen_ai__request__model": "m", "gen_ai__agent__name": "router"}
    spans = [
        otlp.span(trace, "chat m", gen_ai__usage__input_tokens=70, gen_ai__usage__output_tokens=8, **labels)
        for _ in range(3)
    ]
    # An agent's span repeats the sum of its model calls: counting it would double them.
    spans.append(otlp.agent_span(trace, gen_ai__usage__input_tokens=210, gen_ai__usage__output_tokens=24))
    send(pipeline, *spans, service="tokens")
    assert pipeline.eventually(lambda: total(pipeline, 'assay_agent_tokens_total{job="tokens"}') == 234)
    assert total(pipeline, 'assay_agent_tokens_total{job="tokens", gen_ai_token_type="input"}') == 210
    assert total(pipeline, 'assay_agent_tokens_total{job="tokens", gen_ai_token_type="output"}') == 24


def test_an_exemplar_leads_to_the_trace(pipeline):
    trace = otlp.new_trace()
    send(pipeline, otlp.agent_span(trace, error="boom"), service="exemplary")
    found = pipeline.eventually(
        lambda: pipeline.exemplars('traces_span_metrics_duration_seconds_bucket{job="exemplary"}')
    )
    assert {exemplar["labels"]["trace_id"] for exemplar in found} == {trace}
    assert pipeline.eventually(lambda: names(pipeline, trace))


def histogram(trace: str, score: float, service: str = "assay-watch") -> dict:
    """The score histogram as the worker's SDK sends it, with an exemplar and an attribute its view left out."""
    now = str(time.time_ns())
    exemplar = {
        "timeUnixNano": now, "asDouble": score, "traceId": trace, "spanId": "3" * 16,
        "filteredAttributes": otlp.attributes({"user": "maria@example.com", "other": "long story"}),
    }  # fmt: skip
    point = {
        "startTimeUnixNano": now, "timeUnixNano": now, "count": "1", "sum": score, "explicitBounds": [0.5],
        "bucketCounts": ["1", "0"], "exemplars": [exemplar],
        "attributes": otlp.attributes({"gen_ai.evaluation.name": "faithful", "note": "ask maria@example.com"}),
    }  # fmt: skip
    metric = {
        "name": "gen_ai.evaluation.score",
        "unit": "1",
        "histogram": {"aggregationTemporality": 2, "dataPoints": [point]},
    }
    resource = {"attributes": otlp.attributes({"service.name": service, "service.instance.id": "i1"})}
    return {
        "resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {"name": "t"}, "metrics": [metric]}]}]
    }


def test_the_workers_metrics_arrive_with_exemplars_and_without_what_must_not_leave(pipeline):
    trace = otlp.new_trace()
    assert otlp.post(f"{pipeline.otlp_http}/v1/metrics", histogram(trace, 0.25)) == 200
    ((series, value),) = pipeline.eventually(lambda: pipeline.promql("gen_ai_evaluation_score_sum"))
    assert (value, series["job"], series["instance"]) == (0.25, "assay-watch", "i1")
    assert series["note"] == "ask ****"
    (exemplar,) = pipeline.eventually(lambda: pipeline.exemplars("gen_ai_evaluation_score_bucket"))
    assert exemplar["labels"] == {"trace_id": trace, "span_id": "3" * 16}


def test_verdict_events_of_any_tool_are_counted(pipeline):
    def record(label: str, name: str = "gen_ai.evaluation.result") -> dict:
        about = {"gen_ai.evaluation.name": "toxicity", "gen_ai.evaluation.score.label": label}
        return {"timeUnixNano": str(time.time_ns()), "eventName": name, "attributes": otlp.attributes(about)}

    records = [record("pass"), record("pass"), record("fail"), record("pass", "some.other.event")]
    assert otlp.post(f"{pipeline.otlp_http}/v1/logs", otlp.logs(records)) == 200
    events = 'gen_ai_evaluation_events_total{gen_ai_evaluation_name="toxicity"}'
    assert pipeline.eventually(lambda: total(pipeline, events) == 3)
    assert total(pipeline, events.replace("}", ', gen_ai_evaluation_score_label="fail"}')) == 1


def test_the_collectors_own_metrics_have_the_names_the_board_asks_for(pipeline):
    """Suffixes are a setting of the collector. A failed send is counted from the first one on."""
    send(pipeline, otlp.agent_span(otlp.new_trace(), sampling__keep=True))
    boards = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dashboards" / "generated").glob("*.json"))
    wanted = set(re.findall(r"otelcol_\w+", boards)) - {"otelcol_exporter_send_failed_spans_total"}
    assert len(wanted) >= 5

    def missing() -> set[str]:
        return wanted - {series["__name__"] for series, _ in pipeline.promql('{job="collector"}')}

    assert pipeline.eventually(lambda: not missing(), timeout=30), missing()


# --- durability -------------------------------------------------------------------------------------------------


def test_acknowledged_verdicts_survive_tempos_absence_and_the_collectors_death(fresh_stack):
    """Tempo down, verdicts acknowledged, collector killed, both started again: each verdict is there, once."""
    collector, tempo = fresh_stack.service("collector"), fresh_stack.service("tempo")
    fresh_stack.up("collector")
    sent = [otlp.new_trace() for _ in range(50)]
    for trace in sent:
        send(fresh_stack, otlp.verdict_span(trace, "durable"))
    collector.kill()
    collector.start()
    fresh_stack.up("tempo")
    query = '{ span.gen_ai.evaluation.name = "durable" }'
    fresh_stack.eventually(lambda: len(fresh_stack.search(query)) == len(sent), timeout=90)
    found = fresh_stack.search(query)
    assert {result["traceID"] for result in found} == set(sent)
    assert [len(result["spans"]) for result in found] == [1] * len(sent)
    assert tempo.running


def test_sampled_traces_survive_once_decided(fresh_stack):
    """What the sampler has let through is on disk; what it still holds is not (stated as the limit)."""
    collector = fresh_stack.service("collector")
    fresh_stack.up("collector")
    kept, undecided = otlp.new_trace(), otlp.new_trace()
    send(fresh_stack, otlp.agent_span(kept, sampling__keep=True))
    time.sleep(4)
    send(fresh_stack, otlp.agent_span(undecided, sampling__keep=True))
    collector.kill()
    collector.start()
    fresh_stack.up("tempo")
    assert fresh_stack.eventually(lambda: names(fresh_stack, kept), timeout=90)
    assert names(fresh_stack, undecided) == []


def test_tempo_killed_and_back_receives_what_was_sent_meanwhile(fresh_stack):
    tempo = fresh_stack.service("tempo")
    fresh_stack.up("tempo", "collector")
    before, meanwhile = otlp.new_trace(), otlp.new_trace()
    send(fresh_stack, otlp.verdict_span(before))
    fresh_stack.eventually(lambda: names(fresh_stack, before))
    time.sleep(3)  # into Tempo's write-ahead log; what it holds in memory dies with it
    tempo.kill()
    send(fresh_stack, otlp.verdict_span(meanwhile))
    tempo.start()
    assert fresh_stack.eventually(lambda: names(fresh_stack, meanwhile) and names(fresh_stack, before), timeout=90)


def test_totals_are_right_after_prometheus_was_away(fresh_stack):
    """Counters are cumulative, so an outage costs a gap and no count."""
    prometheus = fresh_stack.service("prometheus")
    fresh_stack.up("prometheus", "collector")
    send(fresh_stack, otlp.agent_span(otlp.new_trace()), service="away")
    calls = 'traces_span_metrics_calls_total{job="away"}'
    fresh_stack.eventually(lambda: total(fresh_stack, calls) == 1)
    prometheus.kill()
    for _ in range(9):
        send(fresh_stack, otlp.agent_span(otlp.new_trace()), service="away")
    time.sleep(3)
    prometheus.start()
    assert fresh_stack.eventually(lambda: total(fresh_stack, calls) == 10, timeout=90)


def test_a_full_queue_refuses_instead_of_forgetting(fresh_stack, tmp_path):
    """With room for nothing the sender is told, so that it retries."""
    import yaml

    small = tmp_path / "small.yaml"
    queue = {"exporters": {"otlp_grpc/tempo": {"sending_queue": {"queue_size": 3}}}}
    small.write_text(yaml.safe_dump(queue), encoding="utf-8")
    collector = fresh_stack.service("collector")
    collector.configs = (*collector.configs, str(small))
    fresh_stack.up("collector")
    answers = [
        otlp.post(f"{fresh_stack.otlp_http}/v1/traces", otlp.traces([otlp.verdict_span(otlp.new_trace())]))
        for _ in range(40)
    ]
    assert answers[0] == 200
    assert answers[-1] in {429, 503}


# --- two tiers --------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    """A port of our own, for the life of the test."""
    ports = Ports()
    yield ports.next()
    ports.release()


@pytest.fixture
def tier(tmp_path, pipeline) -> Iterator[Callable[..., Collector]]:
    """Starts a collector of a tier: tier("core", files, settings); all are stopped at the end."""
    ports, started = Ports(), []

    def start(name: str, files: tuple[str, ...], **settings: str) -> Collector:
        collector = Collector(
            tmp_path / name,
            ports,
            tempo_otlp=f"127.0.0.1:{pipeline.service('tempo').otlp}",
            prometheus=pipeline.prometheus,
            configs=tuple(f"{file}.yaml" for file in files),
            settings={"ASSAY_SAMPLE_PERCENT": "0", "ASSAY_COLLECTOR_NAME": name, **settings},
        )
        started.append(collector)
        collector.start()
        return collector

    yield start
    for collector in reversed(started):
        collector.stop()
    ports.release()


def test_behind_a_balancing_edge_a_trace_stays_whole(pipeline, tier, port):
    """Edge and core as processes of their own, joined by the shipped overlays."""
    tier("core", ("base", "core", "overlays/from-balanced"), ASSAY_CORE_LISTEN=f"127.0.0.1:{port}")
    edge = tier(
        "edge", ("base", "edge", "overlays/to-balanced"), ASSAY_CORE_HOST="127.0.0.1", ASSAY_CORE_PORT=str(port)
    )
    trace = otlp.new_trace()
    for spans in (
        [otlp.agent_span(trace, "root maria@example.com", error="x")],
        [otlp.agent_span(trace, "child")],
        [otlp.verdict_span(trace)],
    ):
        assert otlp.post(f"http://{edge.http}/v1/traces", otlp.traces(spans, service="tiers")) == 200
    expected = ["child", "evaluation faithful", "root ****"]
    assert pipeline.eventually(lambda: names(pipeline, trace) == expected)
    assert pipeline.eventually(lambda: total(pipeline, 'traces_span_metrics_calls_total{job="tiers"}') == 2)


def test_kafka_between_the_tiers_holds_what_a_dead_core_cannot_take(pipeline, tier, tmp_path):
    """Traces, events and metrics through an in-memory broker that speaks Kafka's protocol; core killed meanwhile."""
    ports = Ports()
    broker = Kafka(tmp_path / "kafka", ports)
    need(broker.start)
    try:
        edge = tier("edge", ("base", "edge", "overlays/to-kafka"), ASSAY_KAFKA_BROKER=broker.address)
        core = tier("core", ("base", "core", "overlays/from-kafka"), ASSAY_KAFKA_BROKER=broker.address)

        def send_verdict() -> str:
            body = otlp.traces([otlp.verdict_span(trace := otlp.new_trace(), "kafkaesque maria@example.com")])
            assert otlp.post(f"http://{edge.http}/v1/traces", body) == 200
            return trace

        first = send_verdict()
        assert pipeline.eventually(lambda: names(pipeline, first) == ["evaluation kafkaesque ****"])
        core.kill()
        sent = {send_verdict() for _ in range(20)}
        assert otlp.post(f"http://{edge.http}/v1/metrics", histogram(first, 0.75, service="through-kafka")) == 200
        core.start()
        assert pipeline.eventually(lambda: all(names(pipeline, trace) for trace in sent), timeout=90)
        score = 'gen_ai_evaluation_score_sum{job="through-kafka"}'
        assert pipeline.eventually(lambda: total(pipeline, score) == 0.75)
    finally:
        broker.stop()
        ports.release()
