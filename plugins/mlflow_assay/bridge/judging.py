"""Judging new traces as they end: sampled by id, filtered by MLflow, in batches, within a budget, none left behind.

Traces are found by when they *ended*, from a watermark on with an overlap: a run that takes an hour is found when it
is over, and one that never ends is waited for. A sweep over all traces in the background finds what that misses:
traces written with old times, verdicts that failed for a passing reason. What owes a verdict is read from MLflow
itself (`engine.plan`), so a killed worker, or two of them, judge nothing twice.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlflow_assay.bridge.mlflow_reads import Reads
from mlflow_assay.bridge.outbox import Outbox, now_ms
from mlflow_assay.bridge.subject import started_ms
from mlflow_assay.recent import Recent
from mlflow_assay.sampling import chosen

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

__all__ = ["Judged", "Judging", "Selection"]

_SEEN = 20_000  # traces gone through lately; one that is forgotten is looked at again, and owes nothing
_AHEAD_MS = 60_000  # an end so far ahead of our clock was written by a wrong one
Scope = Literal["trace", "session"]


@dataclass(frozen=True)
class Judged:
    """What came of a batch.

    Attributes:
        verdicts: newly stored in MLflow.
        stopped: why judging must pause, such as a spent budget; None when it need not.
    """

    verdicts: int = 0
    stopped: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which traces are judged, and when.

    Attributes:
        rate: share of traces, or of sessions for a judge of sessions, chosen by id; in [0, 1].
        filter: MLflow's search syntax; None takes all.
        since_ms: only traces that start from then on; 0 takes all.
        settle_s: seconds a trace must have ended before it is judged, for spans that arrive late.
        quiet_s: seconds without a new trace after which a session is judged.
        overlap_s: how far behind the watermark ended traces are looked at again.
        batch: traces judged at once.
        sweep_every_s: seconds between two sweeps, at the least.
        busy_share: share of time spent on the sweep at most.
    """

    rate: float = 1.0
    filter: str | None = None
    since_ms: int = 0
    settle_s: float = 10.0
    quiet_s: float = 300.0
    overlap_s: float = 60.0
    batch: int = 100
    sweep_every_s: float = 900.0
    busy_share: float = 0.1


@dataclass
class Judging:
    """Judges one experiment.

    Args:
        experiment_id: MLflow's.
        reads: MLflow.
        outbox: keeps the positions.
        score: judges traces (or whole sessions) where they owe a verdict.
        scopes: what the judges look at; `session` among them makes sessions be waited for.
        selection: which traces.
        told: called with counts of traces `judged` and `sampled_out`.
        stop: set when the worker is to end: the batch at hand is judged, and no further one.
    """

    experiment_id: str
    reads: Reads
    outbox: Outbox
    score: Callable[[Sequence[TraceInfo], Scope], Judged]
    scopes: frozenset[Scope] = frozenset({"trace"})
    selection: Selection = field(default_factory=Selection)
    told: Callable[[Mapping[str, int]], None] | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._seen: Recent[str, None] = Recent(_SEEN)
        self._next_sweep = 0.0
        self.stopped: str | None = None

    def step(self) -> int:
        """Judge what has ended since the last step; how many verdicts are new.

        Raises:
            StoreError: MLflow or the outbox cannot be used; the next step goes on from the same place.
        """
        self.stopped = None
        verdicts = self.ended() + self.sessions()
        if self.stopped is None and time.monotonic() >= self._next_sweep and self._may_sweep():
            started = time.monotonic()
            verdicts += self.sweep_page()
            spent = time.monotonic() - started
            self._next_sweep = time.monotonic() + spent / self.selection.busy_share - spent
        return verdicts

    def ended(self) -> int:
        """Traces that ended since the watermark, less the overlap."""
        until = now_ms() - int(self.selection.settle_s * 1000)
        # A mark from before the clock went back: what has ended since is behind it.
        mark = min(int(self.outbox.mark(self.experiment_id, "ended") or 0), until)
        parts = [
            self.selection.filter,
            f"end_time_ms >= {max(0, mark - int(self.selection.overlap_s * 1000))}",
            f"end_time_ms <= {until}",
            f"timestamp_ms >= {self.selection.since_ms}" if self.selection.since_ms else None,
        ]
        verdicts, last = 0, mark
        for infos in self.reads.search(" AND ".join(p for p in parts if p), self.selection.batch):
            fresh = [info for info in infos if str(info.trace_id) not in self._seen]
            last = max([last, *(_ended_ms(info) for info in infos)])
            verdicts += self._judge(fresh, tell=True)
            if self.stopped is not None or self.stop.is_set():
                return verdicts  # the mark stays: these are looked at again
            self._remember(fresh)
        if last > mark:
            self.outbox.put_mark(self.experiment_id, "ended", str(min(last, until)))
        return verdicts

    def sweep_page(self) -> int:
        """The next page of all traces, for what was missed or failed."""
        start = max(int(self.outbox.mark(self.experiment_id, "judging") or 0), self.selection.since_ms)
        page = self.reads.page(start, limit=self.selection.batch, filter_string=self.selection.filter)
        verdicts = self._judge([info for info in page.infos if self._settled(info)])
        if self.stopped is None:
            self.outbox.put_mark(self.experiment_id, "judging", str(page.next_ms or 0))
            if page.next_ms is None:
                self.outbox.put_mark(self.experiment_id, "judged", str(now_ms()))
        return verdicts

    def _settled(self, info: TraceInfo) -> bool:
        """Whether the run has ended long enough ago; one that ended in the future has, since its clock was wrong."""
        if info.execution_duration is None:
            return False
        past = now_ms() - _ended_ms(info)
        return past >= self.selection.settle_s * 1000 or past < -_AHEAD_MS

    def everything(self) -> int:
        """Judge all traces that owe a verdict, whatever was looked at before."""
        self.stopped = None
        self.outbox.put_mark(self.experiment_id, "judging", "0")
        verdicts = self.sweep_page()
        while self.stopped is None and int(self.outbox.mark(self.experiment_id, "judging") or 0) > 0:
            verdicts += self.sweep_page()
        return verdicts + self.sessions()

    def _may_sweep(self) -> bool:
        last = int(self.outbox.mark(self.experiment_id, "judged") or 0)
        under_way = int(self.outbox.mark(self.experiment_id, "judging") or 0) > 0
        return under_way or not 0 <= now_ms() - last < self.selection.sweep_every_s * 1000

    def _judge(self, infos: Sequence[TraceInfo], *, tell: bool = False) -> int:
        """Judge those that are chosen; a sweep does not tell, since it sees every trace again and again."""
        if not infos:
            return 0
        self._note_sessions(infos)
        taken = [info for info in infos if chosen(str(info.trace_id), self.selection.rate)]
        result = self.score(taken, "trace") if taken and "trace" in self.scopes else Judged()
        self.stopped = result.stopped
        if tell and result.stopped is None and self.told is not None:
            self.told({"judged": len(taken), "sampled_out": len(infos) - len(taken)})
        return result.verdicts

    # --- sessions -------------------------------------------------------------------------------------------

    def _note_sessions(self, infos: Iterable[TraceInfo]) -> None:
        if "session" not in self.scopes:
            return
        named = {session for info in infos if (session := _session(info))}
        self.outbox.wait_for(self.experiment_id, sorted(s for s in named if chosen(s, self.selection.rate)))

    def sessions(self) -> int:
        """Judge the sessions waited for that have become quiet."""
        verdicts = 0
        for session in self.outbox.waiting(self.experiment_id, 20) if "session" in self.scopes else ():
            if self.stopped is not None:
                break
            infos = self._traces_of(session)
            if infos and not self._quiet(infos):
                continue
            result = self.score(infos, "session") if infos else Judged()
            verdicts, self.stopped = verdicts + result.verdicts, result.stopped
            if result.stopped is None:
                self.outbox.waited(self.experiment_id, session)
        return verdicts

    def _traces_of(self, session: str) -> list[TraceInfo]:
        from mlflow.tracing.constant import TraceMetadataKey

        # MLflow's filters know no escapes: for a quote any one character is asked, and the answer looked through.
        plain = re.sub(r"['\"\\%]", "_", session)
        how = "=" if plain == session else "LIKE"
        found = self.reads.search(f"metadata.`{TraceMetadataKey.TRACE_SESSION}` {how} '{plain}'", self.selection.batch)
        return [info for page in found for info in page if _session(info) == session]

    def _quiet(self, infos: Sequence[TraceInfo]) -> bool:
        last = max(_ended_ms(info) if info.execution_duration is not None else now_ms() for info in infos)
        # Nobody can tell how long ago the future was: then it is not waited for; later traces have it judged again.
        return now_ms() - last >= self.selection.quiet_s * 1000 or last > now_ms() + _AHEAD_MS

    # --- helpers --------------------------------------------------------------------------------------------

    def _remember(self, infos: Iterable[TraceInfo]) -> None:
        self._seen.update(dict.fromkeys(str(info.trace_id) for info in infos))


def _ended_ms(info: TraceInfo) -> int:
    return started_ms(info) + int(info.execution_duration or 0)


def _session(info: TraceInfo) -> str | None:
    from mlflow.tracing.constant import TraceMetadataKey

    return (info.trace_metadata or {}).get(TraceMetadataKey.TRACE_SESSION)
