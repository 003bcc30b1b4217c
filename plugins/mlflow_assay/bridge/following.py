"""Following one experiment in MLflow: how every creation, edit and deletion is found, without a change feed.

MLflow 3.17 announces no change of an assessment, so three ways are combined, each with its own reach:

1. *Last changes* (a database only): assessments by their own time stamp from a watermark on, with an overlap.
   Every poll. Finds creations and edits whose stamp is not further back than the overlap.
2. *Counts*: valid assessments by time of their trace, name and value, in MLflow and in the outbox, compared by day,
   then hour, then minute; a range whose counts differ is read again. The last hours every poll, all of time every
   `counts_every_s`. Finds creations, edits of the value and deletions, on traces of any age, whatever any clock says.
3. *Sweep*: all traces in order of time, read and compared in content, a few pages a poll, begun anew when it ends.
   Finds everything else: an edited rationale seen through a server, values swapped within one minute of traces.

Nothing is dropped for being old. What is read is compared by content; time stamps only say where to look first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflow_assay.bridge.ingest import Ingest
from mlflow_assay.bridge.mlflow_reads import FOREVER_MS, Counts, Reads, Touched
from mlflow_assay.bridge.outbox import Outbox, now_ms
from mlflow_assay.bridge.subject import started_ms
from mlflow_assay.recent import Recent

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

__all__ = ["Following", "Pace"]

_logger = logging.getLogger(__name__)
_DAY, _HOUR, _MINUTE = 86_400_000, 3_600_000, 60_000
_FAR_MS = 4_102_444_800_000  # 2100: what lies beyond has its unit mixed up, and is left to the sweep
# Remembered so that they are not looked at twice; what is forgotten is looked at again and found to be known.
_SEEN = 50_000  # last changes: those of two minutes at 400 a second; about 15 MB
_STUCK = 10_000  # buckets
WATERMARK, SWEPT, SWEEPING = "watermark", "swept", "sweeping"


@dataclass(frozen=True)
class Pace:
    """How often and how much to read.

    Attributes:
        overlap_s: how far behind the watermark last changes are read again, for late commits and wrong clocks.
        counts_every_s: seconds between two comparisons of all counts, at the least.
        recent_s: how far back counts are compared at every poll, where MLflow is a server.
        sweep_every_s: seconds between two sweeps, at the least.
        busy_share: share of time spent on comparisons and on the sweep at most, in (0, 1].
        page: traces a page.
        small: assessments up to which a range whose counts differ is read as a whole.
        since_ms: only traces that start from then on; 0 takes all.
    """

    overlap_s: float = 120.0
    counts_every_s: float = 20.0
    recent_s: float = 7200.0
    sweep_every_s: float = 900.0
    busy_share: float = 0.1
    page: int = 100
    small: int = 500
    since_ms: int = 0


@dataclass
class _Chore:
    """Something done now and then, that takes no more than its share of the time."""

    every_s: float
    share: float
    _next: float = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def done(self, started: float) -> None:
        spent = time.monotonic() - started
        self._next = time.monotonic() + max(self.every_s, spent / self.share - spent)


@dataclass
class Following:
    """Follows one experiment.

    Args:
        reads: MLflow.
        outbox: what is known.
        ingest: takes in what was read.
        pace: how often and how much.
        stop: set when the worker is to end: what is being read is recorded, and no further page is read.
    """

    reads: Reads
    outbox: Outbox
    ingest: Ingest
    pace: Pace = field(default_factory=Pace)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._seen: Recent[tuple[str, int, bool], int] = Recent(_SEEN)
        self._stuck: Recent[tuple[int, int], object] = Recent(_STUCK)
        self._all = _Chore(self.pace.counts_every_s, self.pace.busy_share)
        self._sweep = _Chore(0.0, self.pace.busy_share)

    @property
    def experiment_id(self) -> str:
        """MLflow's."""
        return self.ingest.experiment_id

    def poll(self) -> int:
        """One look at MLflow; how many revisions are new.

        Raises:
            StoreError: MLflow or the outbox cannot be used; what was recorded before stays.
        """
        found = self.last_changes() if self.reads.lists_changes else self.recent()
        if self._all.due():
            started = time.monotonic()
            found += self.compare(self.pace.since_ms, _FAR_MS, _DAY)
            self._all.done(started)
        if self._sweep.due() and self._may_sweep():
            started = time.monotonic()
            found += self.sweep_page()
            self._sweep.done(started)
        return found

    def everything(self) -> int:
        """Read the whole experiment once, whatever was read before; how many revisions are new.

        Raises:
            StoreError: as for `poll`.
        """
        return self.last_changes() + self._read_range(self.pace.since_ms, FOREVER_MS)

    # --- 1: last changes ----------------------------------------------------------------------------------

    def last_changes(self) -> int:
        """Assessments stamped since the watermark, less the overlap. Nothing where MLflow is a server."""
        if not self.reads.lists_changes:
            return 0
        # A mark from before the clock went back: what was written since is behind it.
        mark = min(int(self.outbox.mark(self.experiment_id, WATERMARK) or 0), now_ms())
        since = max(0, mark - int(self.pace.overlap_s * 1000))
        found = 0
        for rows in self.reads.touched(since, self.pace.page * 5):
            # A stamp from the future must not move the watermark past what others will write before then.
            mark = max(mark, min(rows[-1].at_ms, now_ms()))
            found += self._take_touched([row for row in rows if self._key(row) not in self._seen], mark)
            self._seen.update({self._key(row): row.at_ms for row in rows})
            self._forget(mark - int(self.pace.overlap_s * 1000))
            if self.stop.is_set():
                break
        return found

    def _take_touched(self, rows: list[Touched], mark: int) -> int:
        ids, found = list(dict.fromkeys(row.trace_id for row in rows)), 0
        for start in range(0, len(ids), self.pace.page):
            some = ids[start : start + self.pace.page]
            infos = [info for info in self.reads.infos(some) if started_ms(info) >= self.pace.since_ms]
            last = start + self.pace.page >= len(ids)
            found += self.ingest.take(infos, positions={WATERMARK: str(mark)} if last else None)
        return found

    @staticmethod
    def _key(row: Touched) -> tuple[str, int, bool]:
        return row.assessment_id, row.at_ms, row.valid

    def _forget(self, before_ms: int) -> None:
        while self._seen and next(iter(self._seen.values())) < before_ms:
            self._seen.popitem(last=False)

    # --- 2: counts ------------------------------------------------------------------------------------------

    def recent(self) -> int:
        """Compare the counts of the last hours, by the minute."""
        end = _ceil(now_ms() + _HOUR, _MINUTE)
        start = max(self.pace.since_ms, end - _HOUR - int(self.pace.recent_s * 1000))
        return self.compare(start - start % _MINUTE, end, _MINUTE)

    def compare(self, from_ms: int, to_ms: int, bucket_ms: int) -> int:
        """Compare counts by bucket and read again where they differ; how many revisions are new."""
        from_ms -= from_ms % bucket_ms
        theirs = _by_bucket(self.reads.counts(from_ms, to_ms, bucket_ms))
        ours = _by_bucket(self.outbox.counts(self.experiment_id, from_ms, to_ms, bucket_ms))
        found, small = 0, []
        for start in sorted({*theirs, *ours}):
            one, other = theirs.get(start, {}), ours.get(start, {})
            if one == other or self._stuck.get((start, bucket_ms)) == (one, other):
                continue
            if bucket_ms > _MINUTE and max(sum(one.values()), sum(other.values())) > self.pace.small:
                found += self.compare(start, start + bucket_ms, _HOUR if bucket_ms == _DAY else _MINUTE)
            else:
                small.append((start, one))
        for start, end in _joined([start for start, _ in small], bucket_ms):
            found += self._read_range(max(start, self.pace.since_ms), end)
        self._note_stuck(small, bucket_ms)
        return found

    def _note_stuck(self, read: Sequence[tuple[int, Mapping[tuple[str, str], int]]], bucket_ms: int) -> None:
        """Remember buckets that differ still, as where a trace has moved in time since, until they change."""
        for start, theirs in read:
            now = _by_bucket(self.outbox.counts(self.experiment_id, start, start + bucket_ms, bucket_ms))
            self._stuck[(start, bucket_ms)] = (theirs, now.get(start, {}))

    # --- 3: sweep -------------------------------------------------------------------------------------------

    def _may_sweep(self) -> bool:
        if self.outbox.mark(self.experiment_id, SWEEPING) is not None and self._position() > 0:
            return True
        last = int(self.outbox.mark(self.experiment_id, SWEPT) or 0)
        return now_ms() - last >= self.pace.sweep_every_s * 1000 or last > now_ms()

    def _position(self) -> int:
        return int(self.outbox.mark(self.experiment_id, SWEEPING) or 0)

    def sweep_page(self) -> int:
        """The next page of the sweep; how many revisions are new."""
        start = max(self._position(), self.pace.since_ms)
        page = self.reads.page(start, limit=self.pace.page)
        end = page.next_ms if page.next_ms is not None else FOREVER_MS
        marks = {SWEEPING: str(page.next_ms or 0)}
        if page.next_ms is None:
            marks[SWEPT] = str(now_ms())
        return self._take_page(page.infos, start, end, marks)

    # --- reading --------------------------------------------------------------------------------------------

    def _read_range(self, from_ms: int, to_ms: int) -> int:
        found, start = 0, from_ms
        for infos, end in self._pages(from_ms, to_ms):
            found += self._take_page(infos, start, end, None)
            start = end
            if self.stop.is_set():
                break
        return found

    def _pages(self, from_ms: int, to_ms: int) -> Iterator[tuple[tuple[TraceInfo, ...], int]]:
        """Pages with the time up to which each is complete."""
        while True:
            page = self.reads.page(from_ms, to_ms, self.pace.page)
            yield page.infos, to_ms if page.next_ms is None else page.next_ms
            if page.next_ms is None:
                return
            from_ms = page.next_ms

    def _take_page(
        self, infos: tuple[TraceInfo, ...], from_ms: int, to_ms: int, marks: Mapping[str, str] | None
    ) -> int:
        """Take in a page that holds every trace that starts in [from_ms, to_ms), and look for what is not in it."""
        here = {str(info.trace_id) for info in infos}
        absent = sorted(self.outbox.traces_between(self.experiment_id, from_ms, to_ms) - here)
        moved = self.reads.infos(absent) if absent else []
        gone = sorted(set(absent) - {str(info.trace_id) for info in moved})
        return self.ingest.take([*infos, *moved], gone, marks)


def _by_bucket(counts: Counts) -> dict[int, dict[tuple[str, str], int]]:
    found: dict[int, dict[tuple[str, str], int]] = {}
    for (start, name, value), count in counts.items():
        found.setdefault(start, {})[(name, value)] = count
    return found


def _joined(starts: list[int], width: int) -> Iterator[tuple[int, int]]:
    """Neighbouring buckets as one range."""
    held: tuple[int, int] | None = None
    for start in sorted(starts):
        if held is not None and held[1] == start:
            held = (held[0], start + width)
            continue
        if held is not None:
            yield held
        held = (start, start + width)
    if held is not None:
        yield held


def _ceil(moment: int, width: int) -> int:
    return -(-moment // width) * width
