"""A source and a sink held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Trace

__all__ = ["ListSource", "MemorySink"]


class ListSource:
    """A `TraceSource` over traces held in memory."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._traces = list(traces)

    def traces(self, *, spans: bool = True) -> Iterator[Trace]:
        """The traces in the order given."""
        return iter(self._traces)


class MemorySink:
    """A `Sink` that keeps what it is given in `written`."""

    name: ClassVar[str] = "memory"

    def __init__(self) -> None:
        self.written: list[Feedback] = []

    def write(self, feedback: Iterable[Feedback]) -> int:
        """Keep the verdicts."""
        before = len(self.written)
        self.written.extend(feedback)
        return len(self.written) - before
