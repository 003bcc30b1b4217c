"""KPI gauges of an experiment, computed from MLflow and pushed over OTLP.

Computing twice gives the same numbers: nothing is remembered between updates, so a restart, a second worker or a
missed hour changes nothing, and an edited or late label is in the next update. What no longer holds (a judge gone, a
slice that ran dry, a rate that is corrected from now on) is sent once more as ended. The series are the experiment's,
not a process': after a restart they go on, where they would else stand twice until Prometheus forgets the old ones.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.bridge.subject import SpanFacts
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.errors import ConfigError, SinkError
from mlflow_assay.kpis import points
from mlflow_assay.kpis.points import Gauge
from mlflow_assay.kpis.snapshot import Snapshot, hours_of, take
from mlflow_assay.labels.window import LabelChoice, Window, parse_labels
from mlflow_assay.redaction import Redactor
from mlflow_assay.sinks.http import number
from mlflow_assay.sinks.meters import gauges_message
from mlflow_assay.sinks.otlp import OtlpClient

__all__ = ["WINDOWS", "KpiGauges", "to_rows"]

WINDOWS = ("24h", "7d", "28d")


class KpiGauges:
    """Computes and pushes the gauges of one experiment.

    Args:
        experiment: name or id.
        judges: only these; empty takes all that gave verdicts, and what people said that is no label.
        by: breakdowns with gauges of their own beside model and prompt version, for example `tag:domain`; the 30
            most frequent values of each.
        windows: lengths, back from now.
        labels: where labels are, as `--label` takes them.
        targets: by judge, the pass rate in (0, 1) its alarm holds the agent to.
        gold: an experiment with a fixed gold set; its stored verdicts tell whether a judge has changed.
        contracts: pass rules by assessment name; None takes the catalogue's.
        every_s: seconds for which computed gauges are pushed again rather than computed anew.
        endpoint, timeout_s: see `sinks.otlp.OtlpClient`.
        redactor: a gauge in whose labels it finds something is not pushed: agents' names and tags come from traces,
            and masked they could no longer be told apart. None pushes all.

    Raises:
        ConfigError: a window, breakdown, target or label choice is not one.
    """

    def __init__(
        self,
        experiment: str,
        *,
        judges: Sequence[str] = (),
        by: Sequence[str] = (),
        windows: Sequence[str] = WINDOWS,
        labels: Sequence[str] = (),
        targets: Mapping[str, float] | None = None,
        gold: str | None = None,
        contracts: Mapping[str, JudgeContract] | None = None,
        every_s: float = 300.0,
        endpoint: str | None = None,
        timeout_s: float | str | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor
        self._hours = {window: hours_of(window) for window in windows}
        if not self._hours:
            raise ConfigError("KPI gauges need a window.", valid="for example 24h")
        for judge, target in (targets or {}).items():
            if not 0 < target < 1:
                raise ConfigError(f"The target of {judge!r} is no rate.", found=target, valid="between 0 and 1")
        self._experiment, self._judges, self._by = experiment, tuple(judges), tuple(by)
        self._choice: LabelChoice = parse_labels(labels)
        self._targets, self._gold = dict(targets or {}), gold
        self._contracts = contracts if contracts is not None else _catalogue()
        self._every = number("every_s", every_s)
        self._client = OtlpClient("metrics", endpoint=endpoint, timeout_s=timeout_s)
        self._known: dict[str, SpanFacts] = {}
        self._last: tuple[float, list[Gauge]] | None = None
        self._told: dict[str, tuple[str, Mapping[str, str]]] = {}  # series the far end has

    def update(self) -> list[Gauge]:
        """Compute where the last computation is older than `every_s`, push, and return what was pushed.

        Raises:
            StoreError: MLflow cannot be read.
            SinkError: the push was not acknowledged.
        """
        if self._last is None or time.monotonic() - self._last[0] >= self._every:
            self._last = (time.monotonic(), [gauge for gauge in self.compute() if self._may_leave(gauge)])
        found = self._last[1]
        if found or self._told:
            self._push(found)
        return found

    def _push(self, found: Sequence[Gauge]) -> None:
        now = {json.dumps([name, labels], sort_keys=True): (name, labels) for name, labels, _ in found}
        gone = [series for key, series in self._told.items() if key not in now]
        self._told |= now  # what a push that failed may have brought there counts as told
        reply = self._client.post(gauges_message(found, gone, instance=self._instance()))
        if not reply.accepted:
            raise SinkError(f"The KPI gauges could not be pushed: {reply.problem}.")
        self._told = now

    def _instance(self) -> str:
        """The same for every worker on this experiment of this MLflow, and no other's."""
        import mlflow

        where = re.sub(r"//[^@/]*@", "//", mlflow.get_tracking_uri())
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{where}#{self._experiment}"))

    def _may_leave(self, gauge: Gauge) -> bool:
        return self._redactor is None or not self._redactor.redact(dict(gauge[1])).counts

    def compute(self, now_ms: int | None = None) -> list[Gauge]:
        """The gauges (metric name, labels, value) as of a time; None is now. Nothing is sent.

        Raises:
            StoreError: MLflow cannot be read.
        """
        now = int(time.time() * 1000) if now_ms is None else now_ms
        since = now - max(self._hours.values()) * 3_600_000
        snapshot = take(
            self._experiment,
            self._contracts,
            self._choice,
            since_ms=since,
            now_ms=now,
            by=self._by,
            known=self._known,
        )
        found = [*self._windows(snapshot), *self._standing(snapshot), *self._drift(now)]
        return list(points.labelled_with(found, EXPERIMENT_ID=snapshot.experiment_id))

    def _windows(self, snapshot: Snapshot) -> Iterator[Gauge]:
        for length, hours in self._hours.items():
            window = snapshot.between(snapshot.now_ms - hours * 3_600_000)
            yield from points.labelled_with(self._window(snapshot, window, length), WINDOW=length)

    def _window(self, snapshot: Snapshot, window: Window, length: str) -> Iterator[Gauge]:
        yield from points.agents(snapshot, window)
        if not self._judges:
            yield from points.people(snapshot, window, self._by)
        for judge in self._chosen(window):
            yield from points.rates(snapshot, window, judge, self._by)
            yield from points.agreement(window, judge)
            yield from points.alarm(snapshot, length, judge, self._targets.get(judge))

    def _standing(self, snapshot: Snapshot) -> Iterator[Gauge]:
        for judge in self._chosen(snapshot.whole):
            yield from points.backlog(snapshot, snapshot.whole, judge)

    def _drift(self, now_ms: int) -> Iterator[Gauge]:
        if self._gold is None:
            return
        snapshot = take(self._gold, self._contracts, self._choice, since_ms=None, now_ms=now_ms)
        for judge in self._chosen(snapshot.whole):
            yield from points.gold(snapshot.whole, judge)

    def _chosen(self, window: Window) -> list[str]:
        return [judge for judge in window.judges if not self._judges or judge in self._judges]

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _catalogue() -> dict[str, JudgeContract]:
    """Judges by the name of their verdicts; a YAML definition goes before a library's own."""
    from mlflow_assay.judges.catalogue import Catalogue

    entries = sorted(Catalogue().entries.values(), key=lambda entry: entry.definition is not None)
    return {entry.contract.name: entry.contract for entry in entries}


def to_rows(gauges: Sequence[Gauge]) -> list[dict[str, Any]]:
    """The gauges as JSON-ready rows under their names in Prometheus."""
    return [
        {
            "metric": semconv.prometheus_name(name),
            "labels": {semconv.prometheus_label(label): value for label, value in labels.items() if value},
            "value": value,
        }
        for name, labels, value in gauges
    ]
