"""Scripted traffic with a known incident, played through the real bridge under a moved clock (time-machine).

Run as a program: what MLflow, the engine, the bridge and the OpenTelemetry SDK take for now is moved through the days,
so that days of verdicts, labels and KPI gauges reach the collector in minutes, with the times they would have had. The
judge is the shipped `request_resolved` asked of a fake model that reads off what was planted (too kind to a quarter of
the failures), under a daily budget; beside it a guardrail's verdicts on safety are logged to MLflow, of which experts
are drawn some to label at the end, and a gold set is judged twice. Traffic, labels and answers are made up from a seed.
Prints one JSON object: what was planted, and what the bridge says it delivered.

    python week.py --start SECONDS --days 6 --otlp http://127.0.0.1:4318 …
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import time_machine

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
EXPERIMENT, AGENT_A, AGENT_B = "support", "billing-agent", "device-agent"
TOPICS = ("billing", "device", "roaming")
SEED, JUDGE, SAFETY = 7, "request_resolved", "content_safety"
GOLD, GOLD_SIZE, GOLD_CHANGED = "gold", 20, 3  # a gold set; how many verdicts on it are others the second time
USD_A_DAY, DRAWN = 0.5, 12  # what judging may cost; how many traces are drawn for labels on safety


def incident(at: float, start: float, days: float) -> bool:
    """The known incident: device requests go wrong for a day, three days before the end."""
    return start + (days - 3) * DAY <= at < start + (days - 2) * DAY


@dataclass
class Request:
    at: float
    number: int
    topic: str
    good: bool
    passes: str | None  # what the fake model will say; None is a garbled reply
    labelled: bool
    thumb: bool | None
    session: str
    safe: bool
    prompt: int  # version of the router's prompt; the second brought the incident


@dataclass
class Script:
    """The traffic, from a seed: about `per_hour` requests an hour, fewer at night."""

    start: float
    days: float
    per_hour: float
    seed: int = SEED
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        dice = random.Random(self.seed)  # noqa: S311 - made-up traffic
        at, number = self.start, 0
        while at < self.start + self.days * DAY - 10 * MINUTE:
            at += dice.expovariate(self.per_hour / HOUR * (0.4 if time.gmtime(at).tm_hour < 7 else 1.2))
            number += 1
            topic = dice.choices(TOPICS, (5, 4, 1))[0]
            bad = 0.75 if topic == "device" and incident(at, self.start, self.days) else 0.12
            good = dice.random() >= bad
            kind = dice.random() < (0.97 if good else 0.25)
            says = None if dice.random() < 0.03 else ("yes" if kind else "no")
            thumb = dice.random() < (0.8 if good else 0.3) if dice.random() < 0.15 else None
            session = f"s{number // 2}"
            labelled = dice.random() < 0.4
            prompt = 2 if incident(at, self.start, self.days) else 1 if at < self.start + self.days * DAY / 2 else 3
            self.requests.append(
                Request(at, number, topic, good, says, labelled, thumb, session, number % 60 != 0, prompt)
            )


class Clock:
    """What Python takes for now (time-machine), moved on; it ticks in between, and sleeping takes what it takes."""

    def __init__(self, start: float) -> None:
        self._ahead = time.time() - time.monotonic()
        self._traveller = time_machine.travel(start, tick=True).start()

    def move(self, to: float) -> None:
        self._traveller.move_to(to, tick=True)

    def catch_up(self) -> float:
        """To what it really is now, which it returns: recording rules look at the present."""
        now = time.monotonic() + self._ahead
        self.move(now)
        return now


def log_run(request: Request) -> str:
    """One agent run as an MLflow trace with the times of the script."""
    import mlflow

    begin, ns = int(request.at * 1e9), 1_000_000_000
    agent = AGENT_B if request.topic == "device" else AGENT_A
    text = {"question": f"#{request.number} about {request.topic}"}
    root = mlflow.start_span_no_context(
        agent,
        span_type="AGENT",
        inputs=text,
        start_time_ns=begin,
        tags={
            "agent": agent,
            "topic": request.topic,
            "model": "gpt-4.1-mini",
            "environment": "production",
            "mlflow.linkedPrompts": json.dumps([{"name": "router", "version": str(request.prompt)}]),
        },
        metadata={"mlflow.trace.session": request.session},
    )
    chat = mlflow.start_span_no_context(
        "chat", span_type="CHAT_MODEL", parent_span=root, inputs=text, start_time_ns=begin
    )
    chat.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 900, "output_tokens": 150, "total_tokens": 1050})
    chat.set_attribute("mlflow.llm.cost", {"input_cost": 0.009, "output_cost": 0.006, "total_cost": 0.015})
    chat.end(outputs="ok", end_time_ns=begin + 2 * ns)
    planted = {"yes": "PLANTED-YES", "no": "PLANTED-NO", None: "PLANTED-GARBLED"}[request.passes]
    root.end(
        outputs={"answer": f"answer {request.number} {planted}"}, end_time_ns=begin + (3 + request.number % 5) * ns
    )
    return root.trace_id


def reply(request):
    from mlflow_assay.testing import answer

    if "PLANTED-GARBLED" in request.prompt:
        return "I would rather not say"
    return answer("yes" if "PLANTED-YES" in request.prompt else "no", rationale="read off what was planted")


def say(trace_id: str, name: str, value: object, by: str, kind: str = "HUMAN") -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    mlflow.log_feedback(
        trace_id=trace_id, name=name, value=value, source=AssessmentSource(source_type=kind, source_id=by)
    )


class GoldSet:
    """Traces in an experiment of their own that do not change, labelled, judged at the start and once more."""

    def __init__(self, script: Script) -> None:
        import mlflow

        mlflow.set_experiment(GOLD)
        self._good = [bool(i % 2) for i in range(GOLD_SIZE)]
        self._ids = [log_run(replace(request, at=script.start)) for request in script.requests[:GOLD_SIZE]]
        for trace_id, good in zip(self._ids, self._good, strict=True):
            say(trace_id, JUDGE, "yes" if good else "no", "expert")
            say(trace_id, JUDGE, "yes" if good else "no", "gold-judge", "LLM_JUDGE")
        mlflow.set_experiment(EXPERIMENT)

    def judge_again(self) -> None:
        """The judge has changed: some verdicts are others now."""
        for i, (trace_id, good) in enumerate(zip(self._ids, self._good, strict=True)):
            say(trace_id, JUDGE, "yes" if good != (i < GOLD_CHANGED) else "no", "gold-judge", "LLM_JUDGE")


def draw_for_labels() -> int:
    """What `assay labels pick` does; how many were drawn."""
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.labels.pick import PickRequest, pick
    from mlflow_assay.labels.picking import Share

    contracts = {SAFETY: Catalogue().get(SAFETY).contract}
    return len(pick(PickRequest(EXPERIMENT, SAFETY, "round-1", Share(DRAWN)), contracts).new)


class Bridge:
    """The worker's own parts, stepped by hand."""

    def __init__(self, otlp: str, prometheus: str, outbox: str, judge_url: str) -> None:
        from mlflow_assay import pipeline
        from mlflow_assay.bridge.daily_budget import DailyBudget
        from mlflow_assay.bridge.database import Database
        from mlflow_assay.bridge.judging import Selection
        from mlflow_assay.bridge.worker import Worker
        from mlflow_assay.contracts import ModelSettings
        from mlflow_assay.kpis.gauges import KpiGauges
        from mlflow_assay.sinks.otlp_event import OtlpEventSink
        from mlflow_assay.sinks.otlp_metrics import OtlpMetricsSink
        from mlflow_assay.sinks.otlp_span import OtlpSpanSink
        from mlflow_assay.sinks.worker_metrics import WorkerMetrics

        model = ModelSettings("openai:/fake-judge", base_url=judge_url, usd_per_million=(2.0, 8.0))
        judges = pipeline.build_judges([JUDGE], model=model)
        self.metrics = OtlpMetricsSink(endpoint=otlp, prometheus=prometheus, interval_s=3600)
        self.sinks = {
            "otlp-span": OtlpSpanSink(endpoint=otlp),
            "otlp-event": OtlpEventSink(endpoint=otlp),
            "otlp-metrics": self.metrics,
        }
        self.observer = WorkerMetrics(endpoint=otlp, interval_s=3600)
        database = Database(outbox)
        self.budget = DailyBudget(outbox, "week", max_usd=USD_A_DAY)
        self.experiment = pipeline.bridged(
            EXPERIMENT,
            database,
            "week",
            tuple(self.sinks),
            judges=judges,
            budget=self.budget,
            slices=("topic",),
            selection=Selection(settle_s=1.0),
            told=self.observer.judged,
        )
        self.worker = Worker(
            database,
            [self.experiment],
            self.sinks,
            observers=[self.observer],
            owner="week",
            spent=lambda: self.budget.share,
        )
        self.worker.outbox.add_sinks()
        self.gauges = KpiGauges(EXPERIMENT, by=("tag:topic",), gold=GOLD, every_s=HOUR * 10_000, endpoint=otlp)

    def carry(self) -> None:
        """Judge, read, ship until nothing is due."""
        self.worker.judge(self.experiment)
        self.worker.read(self.experiment)
        for shipper in self.worker.shippers:
            while shipper.ship():
                pass

    def compute(self) -> None:
        self.gauges._last = None  # the interval runs on the monotonic clock, which is not moved
        self.gauges.update()

    def push(self) -> None:
        """What the worker's threads do every quarter of a minute."""
        self.metrics.deliver([])
        self.metrics._meters.push()
        self.observer.backlog(self.worker.status())
        self.observer._meters.push()
        self.gauges.update()


def play(script: Script, bridge: Bridge, clock: Clock, every_s: float) -> dict[str, object]:
    """The days: requests as they come, labels half a day later, the bridge every three hours, metrics in between."""
    pending = list(script.requests)
    labels: list[tuple[float, str, Request]] = []
    traces: dict[str, Request] = {}
    end, now, next_hour = script.start + script.days * DAY, script.start, script.start
    gold = GoldSet(script)
    while now < end:
        now = min(end, now + every_s)
        clock.move(now)
        while pending and pending[0].at + 20 < now:
            request = pending.pop(0)
            trace_id = log_run(request)
            traces[trace_id] = request
            say(trace_id, SAFETY, "yes" if request.safe else "no", "guardrail", "LLM_JUDGE")
            if request.labelled:
                labels.append((request.at + DAY / 2, trace_id, request))
            if request.thumb is not None:
                say(trace_id, "user_feedback", request.thumb, "user")
        while labels and labels[0][0] < now:
            _, trace_id, request = labels.pop(0)
            say(trace_id, JUDGE, "yes" if request.good else "no", "expert")
        if now >= next_hour:
            next_hour += 3 * HOUR
            bridge.carry()
            bridge.compute()
        bridge.push()
    gold.judge_again()
    bridge.carry()
    drawn = draw_for_labels()
    bridge.compute()
    bridge.push()
    spent = bridge.budget.share
    caught_up = clock.catch_up()
    bridge.push()
    return {
        "traces": len(traces),
        "labels_waiting": len(labels),
        "drawn": drawn,
        "budget_spent": spent,
        "caught_up": caught_up,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--start", "--days", "--per-hour", "--every"):
        parser.add_argument(name, type=float, required=True)
    for name in ("--otlp", "--prometheus", "--outbox"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    import mlflow

    from mlflow_assay.testing import FakeJudgeServer

    clock = Clock(given.start)
    mlflow.set_experiment(EXPERIMENT)
    script = Script(given.start, given.days, given.per_hour)
    with FakeJudgeServer(reply, tokens=(700, 40), record=False) as server:
        bridge = Bridge(given.otlp, given.prometheus, given.outbox, server.url)
        said = play(script, bridge, clock, given.every)
        gauges = bridge.gauges._last[1]
        status = bridge.worker.status()
        bridge.worker.close()
        bridge.observer.close()
        bridge.budget.close()
    played = script.requests[: said["traces"]]
    planted = Counter((r.passes or "garbled") for r in played)
    truth = sum(r.good for r in played) / len(played)
    rows = [{"metric": name, "labels": dict(labels), "value": value} for name, labels, value in gauges]
    sinks = {s.sink: {"delivered": s.delivered, "pending": s.pending, "dead": s.dead} for s in status.sinks}
    thumbs = sum(r.thumb is not None for r in played)
    made = {"planted": planted, "truth": truth, "thumbs": thumbs, "unsafe": sum(not r.safe for r in played)}
    print(json.dumps({**said, **made, "seed": script.seed, "gauges": rows, "sinks": sinks}))


if __name__ == "__main__":
    main()
