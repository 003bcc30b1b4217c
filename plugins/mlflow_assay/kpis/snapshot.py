"""One reading of an experiment, cut into windows: every gauge of an update speaks about the same data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_assay.bridge.subject import SpanFacts, describe, facts_of
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.verdicts import collect
from mlflow_assay.labels.window import LabelChoice, Window, read_window
from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment

if TYPE_CHECKING:
    from mlflow.entities import Trace, TraceInfo

__all__ = ["Run", "Snapshot", "hours_of", "take"]

_logger = logging.getLogger(__name__)
_PAGE = 200
_UNITS = {"h": 1, "d": 24}


def hours_of(window: str) -> int:
    """The length of a window, `24h` or `7d`, in hours.

    Raises:
        ConfigError: it is none.
    """
    number, unit = window[:-1], window[-1:]
    if unit not in _UNITS or not number.isdigit() or int(number) == 0:
        raise ConfigError(f"{window!r} is no window.", valid="hours or days, for example 24h, 7d, 28d")
    return int(number) * _UNITS[unit]


class Run(NamedTuple):
    """Of one run, what gauges are split by; None where the trace does not say."""

    agent: str | None = None
    model: str | None = None
    prompt_version: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """All traces of the longest window.

    Attributes:
        experiment_id: MLflow's.
        now_ms: when it was read, Unix milliseconds.
        whole: the rows and what was said about them.
        runs: by trace id, who ran, by the names the bridge's sinks say.
    """

    experiment_id: str
    now_ms: int
    whole: Window
    runs: Mapping[str, Run]
    _cut: dict[tuple[int, int | None], Window] = field(default_factory=dict, repr=False)

    def between(self, since_ms: int, until_ms: int | None = None) -> Window:
        """The traces that began in [since, until); None is no end."""
        if (since_ms, until_ms) not in self._cut:
            rows = [r for r in self.whole.rows if since_ms <= r.time_ms and (until_ms is None or r.time_ms < until_ms)]
            self._cut[since_ms, until_ms] = self._window(rows)
        return self._cut[since_ms, until_ms]

    def _window(self, rows: Sequence[Row]) -> Window:
        found = {one.name: one for one in collect(rows, self.whole.contracts)}
        return Window(tuple(rows), found, self.whole.contracts, self.whole.choice)


@dataclass
class _Described:
    """A source that notes on the way who ran each trace."""

    source: MlflowSource
    known: MutableMapping[str, SpanFacts]
    runs: dict[str, Run] = field(default_factory=dict)
    settled: dict[str, SpanFacts] = field(default_factory=dict)

    def traces(self, *, spans: bool = True) -> Iterator[Trace]:
        page: list[Any] = []
        for trace in self.source.traces(spans=spans):
            page.append(trace)
            if len(page) == _PAGE:
                yield from self._noted(page)
                page = []
        yield from self._noted(page)

    def _noted(self, page: list[Any]) -> list[Any]:
        """Spans are asked for only where neither the trace's tags nor an earlier reading says it all."""
        infos = {str(trace.info.trace_id): trace.info for trace in page}
        silent = [i for i, info in infos.items() if i not in self.known and _run(info, SpanFacts())[:2].count(None)]
        found = _facts(silent)
        for trace_id, info in infos.items():
            facts = self.known.get(trace_id) or found.get(trace_id, SpanFacts())
            self.runs[trace_id] = _run(info, facts)
            if info.execution_duration is not None:  # a run that has not ended may yet say who it is
                self.settled[trace_id] = facts
        return page


def _run(info: TraceInfo, facts: SpanFacts) -> Run:
    told = describe(info, facts)
    return Run(told.agent, told.model, told.prompt_version)


def _facts(trace_ids: list[str]) -> dict[str, SpanFacts]:
    """What the spans say; of a trace whose spans MLflow cannot give (it refuses the whole batch then), nothing."""
    if not trace_ids:
        return {}
    try:
        return facts_of(trace_ids)
    except StoreError as error:
        if len(trace_ids) == 1:
            _logger.debug("The spans of %s cannot be had: %s", trace_ids[0], error)
            return {}
    middle = len(trace_ids) // 2
    return {**_facts(trace_ids[:middle]), **_facts(trace_ids[middle:])}


def take(
    experiment: str,
    contracts: Mapping[str, JudgeContract],
    choice: LabelChoice,
    *,
    since_ms: int | None,
    now_ms: int,
    by: Sequence[str] = (),
    known: MutableMapping[str, SpanFacts] | None = None,
) -> Snapshot:
    """Read an experiment's traces since a time.

    Args:
        experiment: name or id.
        contracts: pass rules by assessment name.
        choice: where labels are read from.
        since_ms: Unix milliseconds; None reads all.
        now_ms: the time the windows end at.
        by: breakdowns, for example `tag:domain`.
        known: what spans said in earlier readings, by trace id; brought up to date. None remembers nothing.

    Raises:
        StoreError: no such experiment, or MLflow cannot be read.
        ConfigError: a breakdown is not one.
    """
    found = find_experiment(experiment)
    remembered: MutableMapping[str, SpanFacts] = {} if known is None else known
    source = _Described(MlflowSource(found.name, since_ms=since_ms), remembered)
    window = read_window(source, contracts, choice, by=by)
    remembered.clear()
    remembered.update(source.settled)
    return Snapshot(str(found.experiment_id), now_ms, window, source.runs)
