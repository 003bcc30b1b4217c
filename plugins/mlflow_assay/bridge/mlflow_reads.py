"""What the bridge asks MLflow: traces by time, counts of assessments by time, and, of a database, the last changes.

Every failure to read is a `StoreError`, whatever MLflow, its HTTP client or its database raised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_assay import sqlstore
from mlflow_assay.bridge.revision import value_digest
from mlflow_assay.bridge.subject import started_ms
from mlflow_assay.errors import StoreError

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

__all__ = ["MlflowReads", "Page", "Reads", "Touched"]

_IDS = 200
FOREVER_MS = 2**53
Counts = dict[tuple[int, str, str], int]


@dataclass(frozen=True)
class Page:
    """Traces in order of their start.

    Attributes:
        infos: with their assessments.
        next_ms: where the next page begins; every trace that starts before is in this page or an earlier one.
            None when there are no more.
    """

    infos: tuple[TraceInfo, ...]
    next_ms: int | None


@dataclass(frozen=True)
class Touched:
    """An assessment that was written at a time by MLflow's stamp."""

    at_ms: int
    assessment_id: str
    trace_id: str
    valid: bool


class Reads(Protocol):
    """What the bridge needs of MLflow."""

    @property
    def lists_changes(self) -> bool:
        """Whether `touched` can be asked: MLflow is a database, not a server."""
        ...

    def page(self, from_ms: int, to_ms: int = FOREVER_MS, limit: int = 100, filter_string: str | None = None) -> Page:
        """The first traces that start in [from_ms, to_ms)."""
        ...

    def infos(self, trace_ids: Sequence[str]) -> list[TraceInfo]:
        """Traces by id; deleted ones are absent."""
        ...

    def search(self, filter_string: str, limit: int = 100) -> Iterator[list[TraceInfo]]:
        """Traces that match a filter by MLflow, in pages, by their start."""
        ...

    def counts(self, from_ms: int, to_ms: int, bucket_ms: int) -> Counts:
        """Valid assessments of traces that start in [from_ms, to_ms), by (start of bucket, name, digest of value)."""
        ...

    def touched(self, since_ms: int, limit: int) -> Iterator[list[Touched]]:
        """Assessments written at or after a time by MLflow's stamp, oldest first, in pages."""
        ...


class MlflowReads:
    """Reads one experiment of the MLflow the process is set to.

    Args:
        experiment_id: MLflow's.
    """

    def __init__(self, experiment_id: str) -> None:
        self.experiment_id = experiment_id

    @property
    def lists_changes(self) -> bool:
        """As in `Reads`."""
        return sqlstore.open_store() is not None

    def page(self, from_ms: int, to_ms: int = FOREVER_MS, limit: int = 100, filter_string: str | None = None) -> Page:
        """As in `Reads`.

        Raises:
            StoreError: MLflow cannot be read, or refuses the filter.
        """
        found, token = self._search(from_ms, to_ms, limit, filter_string, None)
        if token is None:
            return Page(tuple(found), None)
        # Traces that share the last one's start may be on the next page: the next page begins with them again,
        # unless this one holds nothing else.
        last = started_ms(found[-1])
        while token is not None and started_ms(found[0]) == last:
            more, token = self._search(from_ms, to_ms, limit, filter_string, token)
            found += more
            last = started_ms(found[-1])
        return Page(tuple(found), last if token is not None else None)

    def search(self, filter_string: str, limit: int = 100) -> Iterator[list[TraceInfo]]:
        """As in `Reads`.

        Raises:
            StoreError: MLflow cannot be read, or refuses the filter.
        """
        token: str | None = None
        while True:
            found, token = self._search(0, FOREVER_MS, limit, filter_string, token)
            if found:
                yield found
            if token is None:
                return

    def _search(
        self, from_ms: int, to_ms: int, limit: int, filter_string: str | None, token: str | None
    ) -> tuple[list[TraceInfo], str | None]:
        from mlflow import MlflowClient

        parts = [filter_string, f"timestamp_ms >= {from_ms}", f"timestamp_ms < {to_ms}" if to_ms < FOREVER_MS else None]
        with _reading():
            found = MlflowClient().search_traces(
                locations=[self.experiment_id],
                filter_string=" AND ".join(part for part in parts if part),
                max_results=limit,
                order_by=["timestamp_ms ASC"],
                page_token=token,
                include_spans=False,
            )
        return [trace.info for trace in found], found.token or None

    def infos(self, trace_ids: Sequence[str]) -> list[TraceInfo]:
        """As in `Reads`.

        Raises:
            StoreError: MLflow cannot be read.
        """
        from mlflow_assay.sources.mlflow_store import infos_of

        found: list[TraceInfo] = []
        with _reading():
            for start in range(0, len(trace_ids), _IDS):
                found += infos_of(trace_ids[start : start + _IDS])
        return found

    def counts(self, from_ms: int, to_ms: int, bucket_ms: int) -> Counts:
        """As in `Reads`; by MLflow's metrics of traces, which count valid assessments only.

        Raises:
            StoreError: MLflow cannot be read.
        """
        from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
        from mlflow.tracing.client import TracingClient

        counted: Counts = {}
        token = None
        while True:
            with _reading():
                points = TracingClient().store.query_trace_metrics(
                    [self.experiment_id],
                    MetricViewType.ASSESSMENTS,
                    "assessment_count",
                    [MetricAggregation(AggregationType.COUNT)],
                    dimensions=["assessment_name", "assessment_value"],
                    time_interval_seconds=bucket_ms // 1000,
                    start_time_ms=from_ms,
                    end_time_ms=to_ms,
                    page_token=token,
                )
            for point in points:
                key = _bucket(point.dimensions)
                if key[0] < to_ms:
                    counted[key] = counted.get(key, 0) + int(point.values["COUNT"])
            token = points.token or None
            if token is None:
                return counted

    def touched(self, since_ms: int, limit: int) -> Iterator[list[Touched]]:
        """As in `Reads`.

        Raises:
            StoreError: MLflow cannot be read, or is no database.
        """
        after = (0, "")
        while True:
            with _reading():
                store = sqlstore.open_store()
                if store is None:
                    raise StoreError("A tracking server does not list changed assessments.", valid="a database URI")
                rows = sqlstore.updated_assessments(store, self.experiment_id, since_ms, after, limit)
            if rows:
                yield [Touched(*row) for row in rows]
            if len(rows) < limit:
                return
            after = rows[-1][0], rows[-1][1]


def _bucket(dimensions: Any) -> tuple[int, str, str]:
    begins = int(datetime.fromisoformat(dimensions["time_bucket"].replace("Z", "+00:00")).timestamp() * 1000)
    text = dimensions.get("assessment_value")
    try:
        value = json.loads(text) if text is not None else None
    except ValueError:
        value = text
    return begins, str(dimensions["assessment_name"])[:250], value_digest(value)


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever reading MLflow raises, as a StoreError."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        text = " ".join(str(getattr(error, "message", None) or error).split())[:300]
        raise StoreError(f"MLflow could not be read: {text}") from error
