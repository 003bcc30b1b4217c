"""KPI gauges against the trust code they must repeat, over a real store."""

from __future__ import annotations

import json

import mlflow
import numpy as np
import pytest
from mlflow.entities import AssessmentSource
from mlflow.tracing.client import TracingClient
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from mlflow_assay import semconv
from mlflow_assay.errors import ConfigError, SinkError
from mlflow_assay.kpis.gauges import KpiGauges, to_rows
from mlflow_assay.labels.designs import Draw
from mlflow_assay.labels.kpi import agreement_of, kpi_of
from mlflow_assay.labels.window import LabelChoice, read_window
from mlflow_assay.sinks import otlp
from mlflow_assay.sources.mlflow_store import MlflowSource
from mlflow_assay.testing import FarEnd

from .conftest import DAY, JUDGE, NOW


@pytest.fixture
def gauges(contracts):
    def make(**options):
        return KpiGauges("test", contracts=contracts, **{"windows": ("24h",), **options})

    return make


def pick(found, name, **labels):
    """The one value of a gauge with exactly these labels beside window, experiment, judge; all agents unless said."""
    wanted = {getattr(semconv, key): value for key, value in labels.items()}
    if semconv.GEN_AI_AGENT in semconv.METRICS[name].labels:
        wanted.setdefault(semconv.GEN_AI_AGENT, semconv.ALL_AGENTS)
    aside = {semconv.EVALUATION_NAME, semconv.WINDOW, semconv.EXPERIMENT_ID, semconv.METHOD, semconv.JUDGE_VERSION}
    chosen = [
        v
        for n, own, v in found
        if n == name and {k: x for k, x in own.items() if k not in aside or k in wanted} == wanted
    ]
    assert len(chosen) <= 1, chosen
    return chosen[0] if chosen else None


def fill(write, n=60, labelled=True):
    """A judge that is too kind: of the bad ones it passes a third."""
    for i in range(n):
        good = i % 3 != 0
        write(good or i % 9 == 0, good if i % 2 and labelled else None, agent="billing" if i % 4 else "device")


# --- the same numbers as the trust code -----------------------------------------------------------------------


def test_rates_are_what_assay_kpi_says(write, gauges, contracts):
    fill(write)
    found = gauges().compute(NOW)
    window = read_window(MlflowSource("test"), contracts, LabelChoice())
    said = kpi_of(window.pair(JUDGE), 60).estimate
    assert said.is_corrected
    assert pick(found, semconv.M_KPI_RAW) == pytest.approx(said.raw)
    assert pick(found, semconv.M_KPI_RATE) == pytest.approx(said.value)
    assert pick(found, semconv.M_KPI_LOW) == pytest.approx(said.low)
    assert pick(found, semconv.M_KPI_HIGH) == pytest.approx(said.high)
    assert pick(found, semconv.M_KPI_JUDGED) == 60
    assert pick(found, semconv.M_KPI_LABELLED) == 30
    assert pick(found, semconv.M_KPI_UNITS) == 60
    assert pick(found, semconv.M_KPI_COMPUTED) == NOW / 1000
    totals = [own for n, own, _ in found if n == semconv.M_KPI_RATE and own[semconv.GEN_AI_AGENT] == semconv.ALL_AGENTS]
    methods = {own[semconv.METHOD] for own in totals if semconv.SLICE not in own}
    assert methods == {"corrected"}


def test_agreement_is_what_assay_agreement_says(write, gauges, contracts):
    fill(write)
    found = gauges().compute(NOW)
    kappa = agreement_of(read_window(MlflowSource("test"), contracts, LabelChoice()).pair(JUDGE)).kappa
    values = [pick(found, name) for name in (semconv.M_KAPPA, semconv.M_KAPPA_LOW, semconv.M_KAPPA_HIGH)]
    assert values == pytest.approx([kappa.value, kappa.low, kappa.high])
    (labels,) = [own for name, own, _ in found if name == semconv.M_KAPPA]
    assert labels[semconv.JUDGE_VERSION] == "3"


def test_computing_twice_gives_the_same(write, gauges):
    fill(write, 30)
    assert gauges().compute(NOW) == gauges().compute(NOW)


def test_without_labels_the_rate_is_the_judges_own_and_says_so(write, gauges):
    for i in range(30):
        write(i % 3 != 0)
    found = gauges().compute(NOW)
    assert pick(found, semconv.M_KPI_RATE) == pick(found, semconv.M_KPI_RAW) == pytest.approx(2 / 3)
    assert [own[semconv.METHOD] for n, own, _ in found if n == semconv.M_KPI_RATE] == ["uncorrected"] * 2
    assert pick(found, semconv.M_KAPPA) is None, "no agreement is not an agreement of 0"


def test_an_edited_label_is_in_the_next_update(write, gauges):
    ids = [write(True, True) for _ in range(30)]
    assert pick(gauges().compute(NOW), semconv.M_KPI_RATE) > 0.9
    for trace_id in ids:
        said = TracingClient().get_trace_info(trace_id).assessments
        label = next(a for a in said if a.source.source_type == "HUMAN")
        mlflow.update_assessment(
            trace_id, label.assessment_id, label.__class__(JUDGE, value=False, source=label.source)
        )
    assert pick(gauges().compute(NOW), semconv.M_KPI_RATE) < 0.1


def test_unscored_is_counted_and_in_no_rate(write, gauges):
    for _ in range(10):
        write(True)
    for _ in range(5):
        write(None, unscored=True)
    found = gauges().compute(NOW)
    assert (pick(found, semconv.M_KPI_RAW), pick(found, semconv.M_KPI_UNSCORED)) == (1.0, 5)
    assert (pick(found, semconv.M_KPI_JUDGED), pick(found, semconv.M_KPI_UNITS)) == (10, 15)


# --- windows, agents, slices ----------------------------------------------------------------------------------


def test_each_window_has_its_own_traces(write, gauges):
    write(True, hours_ago=1)
    write(False, hours_ago=3 * 24)
    write(False, hours_ago=20 * 24)
    write(False, hours_ago=40 * 24)
    found = gauges(windows=("24h", "7d", "28d")).compute(NOW)
    judged = {own[semconv.WINDOW]: v for n, own, v in found if n == semconv.M_KPI_JUDGED}
    assert judged == {"24h": 1, "7d": 2, "28d": 3}


def test_agents_and_slices_have_gauges_of_their_own_and_the_total_names_all_agents(write, gauges):
    for agent, domain, passed in [("a", "x", True), ("a", "y", True), ("b", "x", False), (None, "x", False)]:
        write(passed, agent=agent, tags={"domain": domain})
    found = gauges(by=("tag:domain",)).compute(NOW)
    assert pick(found, semconv.M_KPI_RAW) == 0.5
    assert pick(found, semconv.M_KPI_RAW, GEN_AI_AGENT="a") == 1
    assert pick(found, semconv.M_KPI_RAW, GEN_AI_AGENT="b") == 0
    assert pick(found, semconv.M_KPI_RAW, SLICE="domain=x") == pytest.approx(1 / 3)
    assert pick(found, semconv.M_KPI_UNITS, SLICE="domain=x") == 3


def test_slices_are_bounded_and_the_rare_ones_stay_in_the_total(write, gauges):
    for n in range(40):
        write(True, tags={"domain": f"d{n}"})
    found = gauges(by=("tag:domain",)).compute(NOW)
    slices = {own[semconv.SLICE] for n, own, _ in found if n == semconv.M_KPI_RAW and semconv.SLICE in own}
    assert len(slices) == 30
    assert pick(found, semconv.M_KPI_JUDGED) == 40


def test_model_and_prompt_version_are_slices_without_being_asked_for(write, gauges):
    linked = json.dumps([{"name": "desk", "version": "3"}])
    write(True, tags={"model": "gpt-4.1", "mlflow.linkedPrompts": linked})
    write(False, tags={"model": "o3", "mlflow.linkedPrompts": linked})
    found = gauges().compute(NOW)
    assert pick(found, semconv.M_KPI_RAW, SLICE="model=gpt-4.1") == 1
    assert pick(found, semconv.M_KPI_RAW, SLICE="model=o3") == 0
    assert pick(found, semconv.M_KPI_RAW, SLICE="prompt_version=desk/3") == 0.5


def test_what_people_say_that_is_no_label_has_a_rate_of_its_own(write, gauges):
    """Users' thumbs; two who disagree on a run are counted as no verdict."""
    ids = [write(True), write(True), write(True), write(True)]
    for trace_id, value, who in zip([*ids, ids[0]], [True, True, False, None, False], "abcde", strict=True):
        if value is not None:
            mlflow.log_feedback(trace_id=trace_id, name="thumb", value=value, source=AssessmentSource("HUMAN", who))
    found = [g for g in gauges().compute(NOW) if g[1].get(semconv.EVALUATION_NAME) == "thumb"]
    assert pick(found, semconv.M_KPI_RATE) == 0.5
    assert {own[semconv.METHOD] for n, own, _ in found if n == semconv.M_KPI_RATE} == {"uncorrected"}
    counts = (semconv.M_KPI_JUDGED, semconv.M_KPI_UNSCORED, semconv.M_KPI_UNITS)
    assert [pick(found, name) for name in counts] == [2, 1, 4]


def test_labels_are_no_thumbs(write, gauges):
    trace_id = write(True)
    mlflow.log_feedback(trace_id=trace_id, name="truth", value=False, source=AssessmentSource("HUMAN", "ana"))
    found = gauges(labels=("truth",)).compute(NOW)
    assert {own.get(semconv.EVALUATION_NAME) for _, own, _ in found} - {None} == {JUDGE}


def test_an_agent_named_only_by_its_span_is_the_one_the_sinks_name(log_trace, contracts):
    trace_id = log_trace()
    mlflow.log_feedback(trace_id=trace_id, name=JUDGE, value=True, source=AssessmentSource("LLM_JUDGE", "j"))
    made = KpiGauges("test", contracts=contracts, windows=("24h",))
    for _ in range(2):  # the second reading remembers
        found = made.compute()
        assert pick(found, semconv.M_KPI_RAW, GEN_AI_AGENT="agent") == 1


def test_a_trace_without_spans_and_without_a_tag_is_in_the_total_only(write, gauges):
    """MLflow refuses a whole batch over one trace whose spans it does not have."""
    for n in range(3):
        write(True, agent=None if n else "a")
    found = gauges().compute(NOW)
    assert pick(found, semconv.M_KPI_JUDGED) == 3
    assert pick(found, semconv.M_KPI_JUDGED, GEN_AI_AGENT="a") == 1


def test_only_the_judges_asked_for(write, gauges):
    write(True)
    assert pick(gauges(judges=("other",)).compute(NOW), semconv.M_KPI_RAW) is None


# --- runs ------------------------------------------------------------------------------------------------------


def test_cost_and_latency_of_runs(write, gauges):
    for cost, passed, took in [(0.1, True, 1000), (0.2, False, 2000), (0.3, True, 9000), (None, True, 4000)]:
        write(passed, agent="a", cost=cost, took_ms=took)
    found = gauges().compute(NOW)
    assert pick(found, semconv.M_COST_PER_UNIT) == pytest.approx(0.2)
    assert pick(found, semconv.M_COST_PER_PASS, GEN_AI_AGENT="a") == pytest.approx(0.6 / 2)
    median = pick(found, semconv.M_RUN_LATENCY, QUANTILE="0.5")
    assert median == pytest.approx(np.quantile([1, 2, 9, 4], 0.5))


def test_without_a_pass_there_is_no_cost_of_one(write, gauges):
    write(False, cost=0.1)
    found = gauges().compute(NOW)
    assert pick(found, semconv.M_COST_PER_PASS) is None
    assert pick(found, semconv.M_COST_PER_UNIT) == 0.1


# --- alarm, backlog, gold ---------------------------------------------------------------------------------------


def test_the_alarm_rises_when_the_rate_falls_below_the_target_and_not_before(write, gauges):
    for i in range(40):
        write(i % 10 != 0, hours_ago=1 + i / 10)
    steady = pick(gauges(targets={JUDGE: 0.85}).compute(NOW), semconv.M_KPI_ALARM)
    assert steady < 20
    for i in range(40):
        write(i % 2 == 0, hours_ago=0.5 - i / 100)
    assert pick(gauges(targets={JUDGE: 0.85}).compute(NOW), semconv.M_KPI_ALARM) >= 20, "1 over alpha of 5 %"


def test_without_a_target_the_rate_to_hold_is_that_of_before_the_block(write, gauges):
    """Held to its past: 24 hours' block began at midnight; what is older sets the bar."""
    for i in range(200):
        write(i % 10 != 0, hours_ago=30 + i / 10)
    for i in range(60):
        write(i % 2 == 0, hours_ago=1 + i / 100)
    found = gauges(windows=("24h", "7d")).compute(NOW)
    by_window = {own[semconv.WINDOW]: v for n, own, v in found if n == semconv.M_KPI_ALARM}
    assert by_window["24h"] > 100


def test_with_neither_a_target_nor_a_past_there_is_no_alarm_gauge(write, gauges):
    for _ in range(10):
        write(True)
    assert pick(gauges().compute(NOW), semconv.M_KPI_ALARM) is None


def test_the_alarm_does_not_depend_on_when_one_looks(write, gauges):
    """Bets begin at midnight, not at the window's moving edge: an hour later the highest evidence is still there."""
    for i in range(40):
        write(i % 2 == 0, hours_ago=2 + i / 10)
    first = pick(gauges(targets={JUDGE: 0.9}).compute(NOW), semconv.M_KPI_ALARM)
    later = pick(gauges(targets={JUDGE: 0.9}).compute(NOW + 11 * 3_600_000), semconv.M_KPI_ALARM)
    assert first == later > 20


def test_the_label_backlog_is_what_was_drawn_and_not_labelled(write, gauges):
    draw = Draw(0.5, "q", "pass", 4, 2, 1, "2026-02-15")
    ids = [write(True), write(True, True), write(True)]
    for trace_id in ids[:2]:
        mlflow.set_trace_tag(trace_id, *draw.tag(JUDGE))
    found = gauges().compute(NOW)
    assert pick(found, semconv.M_LABEL_BACKLOG) == 1
    age_days = pick(found, semconv.M_LABEL_AGE) * 1000 / DAY
    assert age_days == pytest.approx((NOW - 1_771_113_600_000) / DAY)


def test_a_judge_that_changed_on_the_gold_set_is_seen(store, write, contracts):
    ids = [write(i % 2 == 0, i % 2 == 0) for i in range(40)]
    for n, trace_id in enumerate(ids):  # the judge again, now blind
        source = AssessmentSource("LLM_JUDGE", "j")
        mlflow.log_feedback(trace_id=trace_id, name=JUDGE, value=n % 4 < 2, source=source)
    found = KpiGauges("test", contracts=contracts, windows=("24h",), gold="test").compute(NOW)
    assert pick(found, semconv.M_GOLD_DRIFT) == pytest.approx(-1.0, abs=0.1)


# --- pushing ---------------------------------------------------------------------------------------------------


def test_an_update_pushes_what_it_computed_and_the_next_one_pushes_it_again(write, contracts):
    write(True)
    with FarEnd() as far_end:
        made = KpiGauges("test", contracts=contracts, endpoint=far_end.url, windows=("24h",))
        now = made.compute.__func__
        made.compute = lambda: now(made, NOW)
        first = made.update()
        write(False)
        assert made.update() == first, "not computed anew before its time"
        made.close()
        assert far_end.paths() == ["/v1/metrics"] * 2
    request = ExportMetricsServiceRequest.FromString(far_end.requests[0].body)
    names = {m.name for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert names == {name for name, _, _ in first}


def sent(request):
    """(metric, labels) -> flags, and the instance ids, of a push."""
    message = ExportMetricsServiceRequest.FromString(request.body)
    points = {
        (metric.name, frozenset((a.key, a.value.string_value) for a in point.attributes)): point.flags
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.gauge.data_points
    }
    ids = {
        a.value.string_value
        for resource in message.resource_metrics
        for a in resource.resource.attributes
        if a.key == semconv.SERVICE_INSTANCE
    }
    return points, ids


def test_a_rate_that_is_corrected_from_now_on_ends_the_uncorrected_one(write, contracts):
    """Else Prometheus answers with both for five minutes, and a board with the wrong one."""
    fill(write, 30, labelled=False)
    with FarEnd() as far_end:
        made = KpiGauges("test", contracts=contracts, endpoint=far_end.url, windows=("24h",), every_s=1e-9)
        now = made.compute.__func__
        made.compute = lambda: now(made, NOW)
        made.update()
        fill(write)
        made.update()
        made.update()
        made.close()
    first, then, last = (sent(request)[0] for request in far_end.requests)

    def ended(points):
        return {
            dict(labels)[semconv.METHOD]
            for (name, labels), flags in points.items()
            if flags and name == semconv.M_KPI_RATE
        }

    assert not any(first.values())
    assert ended(then) == {"uncorrected"}
    assert not any(last.values()), "said once"


def test_what_a_failed_push_would_have_ended_is_ended_by_the_next(write, contracts):
    write(True)
    with FarEnd() as far_end:
        made = KpiGauges("test", contracts=contracts, endpoint=far_end.url, windows=("24h",), every_s=1e-9)
        now, at = made.compute.__func__, NOW
        made.compute = lambda: now(made, at)
        made.update()
        at = NOW + 40 * DAY  # everything has left the window
        far_end.status = 400
        with pytest.raises(SinkError):
            made.update()
        far_end.status = 200
        assert made.update() == []
        made.close()
    first, last = sent(far_end.requests[0])[0], sent(far_end.requests[-1])[0]
    assert last.keys() == first.keys()
    assert all(last.values())


def test_a_second_worker_goes_on_with_the_same_series(write, contracts):
    write(True)
    with FarEnd() as far_end:
        for _ in range(2):
            made = KpiGauges("test", contracts=contracts, endpoint=far_end.url, windows=("24h",))
            now = made.compute.__func__
            made.compute = lambda made=made, now=now: now(made, NOW)
            made.update()
            made.close()
    (_, one), (_, other) = (sent(request) for request in far_end.requests)
    assert one == other
    assert one != {otlp._instance()}


def test_a_push_nobody_takes_is_an_error(log_trace, contracts):
    mlflow.log_feedback(trace_id=log_trace(), name=JUDGE, value=True, source=AssessmentSource("LLM_JUDGE", "j"))
    with FarEnd(status=503) as far_end:
        made = KpiGauges("test", contracts=contracts, endpoint=far_end.url)
        with pytest.raises(SinkError, match=r"could not be pushed: .*503"):
            made.update()


def test_every_gauge_has_only_declared_labels(write, gauges):
    fill(write, 30)
    for name, labels, _ in gauges(by=("tag:agent",), windows=("24h", "7d")).compute(NOW):
        assert set(labels) <= set(semconv.METRICS[name].labels), name


def test_rows_carry_the_names_of_prometheus(write, gauges):
    write(True)
    rows = json.loads(json.dumps(to_rows(gauges().compute(NOW))))
    raw = next(row for row in rows if row["metric"] == "assay_kpi_raw")
    assert raw["value"] == 1
    assert raw["labels"] == {
        "gen_ai_evaluation_name": JUDGE,
        "gen_ai_agent_name": "all",
        "assay_window": "24h",
        "mlflow_experiment_id": "1",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": ("soon",)}, "'soon' is no window"),
        ({"windows": ("0d",)}, "'0d' is no window"),
        ({"windows": ()}, "need a window"),
        ({"targets": {"j": 1.5}}, "target of 'j' is no rate"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        KpiGauges("test", contracts={}, **options)
