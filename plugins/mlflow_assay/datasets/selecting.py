"""Which traces of an experiment become rows, decided in bounded memory.

A verdict may be about a session, so what is said of one session's traces has to be looked at together. Traces come by
time instead: more of them than fit are parted by session on the local disk, and one part is decided after another.
Of a trace that is waiting only what the conditions look at is kept; of one that is chosen, its id and time.
"""

from __future__ import annotations

import pickle
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlflow_assay.contracts import JudgeContract, TraceSource
from mlflow_assay.datasets import where
from mlflow_assay.labels.rows import Row, read_row
from mlflow_assay.labels.verdicts import carries_session, is_verdict, overridden
from mlflow_assay.labels.window import LabelChoice

__all__ = ["Chosen", "choose"]

_HELD = 20_000
_PARTS = 128

Tags = Mapping[str, str]
Ids = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Chosen:
    """The traces that meet every condition.

    Attributes:
        read: how many traces were looked at.
        judges: for each judge a condition names, its versions and how many verdicts each gave.
    """

    read: int
    judges: Mapping[str, Mapping[str, int]]
    _ids: Ids

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, size: int) -> Iterator[list[str]]:
        """Trace ids, oldest first, `size` at a time."""
        for start in range(0, len(self._ids), size):
            yield [i.decode() for i in self._ids[start : start + size].tolist()]


def choose(
    source: TraceSource,
    conditions: Sequence[where.Condition],
    contracts: Mapping[str, JudgeContract],
    choice: LabelChoice,
    progress: Callable[[int], None] | None = None,
) -> Chosen:
    """Look at every trace, without its spans, and keep the ids of those that meet all conditions.

    Args:
        source: where the traces are.
        conditions: none chooses all.
        contracts: pass rules by assessment name.
        choice: where people's labels are.
        progress: called with how many traces were read so far.

    Raises:
        ConfigError: a judge or label named in a condition has said nothing on any of these traces.
    """
    wanted = {c.name for c in conditions if c.kind == "tag"}
    met = _Met()
    with tempfile.TemporaryDirectory(prefix="assay-traces-") as folder:
        waiting = _Waiting(Path(folder))
        for count, trace in enumerate(source.traces(spans=False), 1):
            row = read_row(trace, ())
            met.take(row)
            tags = {key: value for key, value in (trace.info.tags or {}).items() if key in wanted}
            waiting.take(_slim(row, conditions, choice), tags)
            if progress is not None:
                progress(count)
        where.check(conditions, met.judges, met.labels)
        scopes = {name: name not in met.of_traces for name in met.judges}
        return _decided(waiting, conditions, contracts, choice, scopes)


def _decided(
    waiting: _Waiting,
    conditions: Sequence[where.Condition],
    contracts: Mapping[str, JudgeContract],
    choice: LabelChoice,
    scopes: Mapping[str, bool],
) -> Chosen:
    read, ids, times = 0, [], []
    judges: dict[str, Counter[str]] = {c.name: Counter() for c in conditions if c.kind == "judge"}
    for rows, tags in waiting.parts():
        window = where.window_of(rows, contracts, choice, scopes)
        read += len(rows)
        for name, versions in judges.items():
            found = window.found.get(name)
            versions.update(v.version or "unnamed" for v in (found.verdicts.values() if found else ()))
        chosen = where.select(window, tags, conditions)
        ids.append(np.array([row.trace_id.encode() for row in chosen], dtype=np.bytes_))
        times.append(np.array([row.time_ms for row in chosen], dtype=np.int64))
    every, moments = np.concatenate([*ids, np.zeros(0, "S1")]), np.concatenate([*times, np.zeros(0, np.int64)])
    return Chosen(read, {name: dict(found) for name, found in judges.items()}, every[np.lexsort((every, moments))])


@dataclass
class _Met:
    """Names seen on any trace.

    Attributes:
        judges: gave verdicts.
        labels: of people's feedback.
        of_traces: judges of whose verdicts at least one is not about a session.
    """

    judges: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    of_traces: set[str] = field(default_factory=set)

    def take(self, row: Row) -> None:
        by_person = overridden(row)
        for mark in row.marks:
            if mark.human and mark.valid and mark.error is None:
                self.labels.add(mark.name)
            elif is_verdict(mark, by_person):
                self.judges.add(mark.name)
                if not carries_session(mark):
                    self.of_traces.add(mark.name)


def _slim(row: Row, conditions: Sequence[where.Condition], choice: LabelChoice) -> Row:
    """What of the row the conditions look at."""
    judges = {c.name for c in conditions if c.kind == "judge"}
    names = {c.name for c in conditions} | (choice.names if judges else set())
    marks = tuple(replace(mark, rationale=None) for mark in row.marks if mark.name in names)
    return replace(row, request=None, draws={}, groups={}, marks=marks)


class _Waiting:
    """Rows, and the tags of each, until all have been read."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._parted = folder, False
        self._held: list[tuple[Row, Tags]] = []

    def take(self, row: Row, tags: Tags) -> None:
        self._held.append((row, tags))
        if len(self._held) == _HELD:
            self._part()

    def parts(self) -> Iterator[tuple[list[Row], dict[str, Tags]]]:
        """Rows by time and tags by trace id, all of a session in one part; a trace that came twice is there once."""
        if not self._parted:
            yield _ordered(self._held)
            return
        self._part()
        for part in sorted(self._folder.iterdir()):
            yield _ordered(_unpickled(part))

    def _part(self) -> None:
        parts: dict[int, list[tuple[Row, Tags]]] = {}
        for row, tags in self._held:
            parts.setdefault(zlib.crc32(row.unit.encode()) % _PARTS, []).append((row, tags))
        for number, held in parts.items():
            with (self._folder / f"{number:03}").open("ab") as file:
                pickle.dump(held, file, protocol=pickle.HIGHEST_PROTOCOL)
        self._held, self._parted = [], True


def _unpickled(path: Path) -> list[tuple[Row, Tags]]:
    found: list[tuple[Row, Tags]] = []
    with path.open("rb") as file:
        while file.peek(1):
            found += pickle.load(file)  # noqa: S301 - written by this very process, in a folder of its own
    return found


def _ordered(held: Sequence[tuple[Row, Tags]]) -> tuple[list[Row], dict[str, Tags]]:
    rows = {row.trace_id: row for row, _ in held}
    tags = {row.trace_id: tags for row, tags in held}
    return sorted(rows.values(), key=lambda row: (row.time_ms, row.trace_id)), tags
