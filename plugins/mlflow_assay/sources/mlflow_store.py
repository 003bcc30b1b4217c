"""Traces from MLflow: a tracking server or a database URI, read in pages so that memory does not grow.

Trace infos (with their assessments) come first and cheaply; spans are loaded only for the traces asked for,
since through a server they are the dominating cost.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import TYPE_CHECKING, Any

from mlflow_assay import sqlstore
from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Experiment, Trace, TraceInfo

__all__ = [
    "MlflowSource",
    "assessments_on",
    "find_experiment",
    "infos_of",
    "load_ids",
    "load_present",
    "missing_assessments",
    "parse_since",
    "reach",
]

_PAGE = 200
_PAGES = 25  # of one search
_DURATION = re.compile(r"(\d+)\s*(m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_BUSY_TIMEOUT_S = 60


def parse_since(text: str, now: datetime | None = None) -> int:
    """`7d`, `24h`, `90m`, `2w` or an ISO date or time (UTC where it names no zone) as epoch milliseconds.

    Raises:
        ConfigError: it is neither.
    """
    if match := _DURATION.fullmatch(text.strip()):
        moment = (now or datetime.now(timezone.utc)) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    else:
        try:
            moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        except ValueError as error:
            raise ConfigError(
                f"{text!r} is not a time.", valid="7d, 24h, 90m, 2w, 2026-11-01, 2026-11-01T08:00+01:00"
            ) from error
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)


def reach() -> str:
    """Check that the tracking server answers, and return its URI.

    MLflow itself retries an unreachable server for minutes; this asks once.

    Raises:
        StoreError: no answer within five seconds, or the database cannot be opened.
    """
    import mlflow
    import requests

    uri = str(mlflow.get_tracking_uri())
    if uri.startswith(("http://", "https://")):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=5)
        except requests.RequestException as error:
            raise StoreError(
                f"The MLflow server {uri} does not answer.",
                found=type(error).__name__,
                fix="Start it (mlflow server), or set MLFLOW_TRACKING_URI to one that runs.",
            ) from error
    elif uri.startswith("sqlite:"):
        # Several processes may write one SQLite file; wait for its lock rather than fail at once.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "20")
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW", "20")
    return uri


def find_experiment(name: str) -> Experiment:
    """The experiment of that name, or with that id.

    Raises:
        StoreError: there is none (near names are suggested), or MLflow cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = reach()
    try:
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is None and name.isdigit():
            experiment = mlflow.get_experiment(name)
        if experiment is None:
            names = [e.name for e in mlflow.search_experiments(max_results=1000)]
    except MlflowException as error:
        if "No Experiment" not in str(error):
            raise StoreError(f"MLflow at {uri} could not be read: {error.message}") from error
        names = [e.name for e in mlflow.search_experiments(max_results=1000)]
        experiment = None
    if experiment is None:
        near = difflib.get_close_matches(name, names, n=5) or names[:10]
        raise StoreError(
            f"There is no experiment {name!r} at {uri}.",
            valid=near,
            fix="Import or log traces into it first, or set MLFLOW_TRACKING_URI.",
        )
    return experiment


@dataclass(frozen=True)
class MlflowSource:
    """The traces of one experiment, oldest first.

    Args:
        experiment: name or id.
        filter: MLflow's search syntax, for example `tag.agent = 'billing'`; None takes all.
        since_ms: epoch milliseconds; None takes all.
        max_traces: at most so many; None is no limit.
        since: `since_ms` as it was asked for, for example `7d`: what a later run of the same command shares.
    """

    experiment: str
    filter: str | None = None
    since_ms: int | None = None
    max_traces: int | None = None
    since: str | None = None

    @property
    def experiment_id(self) -> str:
        """The experiment's id.

        Raises:
            StoreError: there is no such experiment.
        """
        return str(find_experiment(self.experiment).experiment_id)

    @property
    def selection(self) -> str:
        """What is selected, as a text that is the same when the same is asked for again."""
        return f"{self.filter or 'all'} since {self.since or self.since_ms} limit {self.max_traces}"

    def infos(self) -> Iterator[TraceInfo]:
        """Trace infos with their assessments, without spans, oldest first.

        Raises:
            StoreError: MLflow refuses the filter or cannot be read.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client, location = MlflowClient(), self.experiment_id
        left, since, seen, token = self.max_traces, self.since_ms, _Seen(), None
        for pages in count(1):
            if left == 0:
                return
            try:
                page = client.search_traces(
                    locations=[location],
                    filter_string=self._filter(since),
                    max_results=_PAGE if left is None else min(_PAGE, left),
                    order_by=["timestamp_ms ASC"],
                    page_token=token,
                    include_spans=False,
                )
            except MlflowException as error:
                raise StoreError(f"MLflow could not search traces: {error.message}") from error
            fresh = seen.fresh([trace.info for trace in page])
            yield from fresh
            left = None if left is None else left - len(fresh)
            token = page.token
            if not token:
                return
            # MLflow counts its way to each page, so the millionth trace costs as much as all before it: start anew
            # from the last time seen, unless all of these pages are of that one time.
            if pages % _PAGES == 0 and seen.time_ms != since:
                since, token = seen.time_ms, None

    def traces(self, *, spans: bool = True) -> Iterator[Trace]:
        """The traces, spans included unless told otherwise. A trace whose spans cannot be read has none."""
        page: list[TraceInfo] = []
        for info in self.infos():
            page.append(info)
            if len(page) == _PAGE:
                yield from load_spans(page) if spans else bare(page)
                page = []
        yield from load_spans(page) if spans else bare(page)

    def _filter(self, since_ms: int | None) -> str | None:
        since = f"timestamp_ms >= {since_ms}" if since_ms is not None else None
        return " AND ".join(part for part in (self.filter, since) if part) or None


class _Seen:
    """The last time read and what was read of it, for a search that starts anew there."""

    def __init__(self) -> None:
        self.time_ms: int | None = None
        self._ids: set[str] = set()

    def fresh(self, infos: Sequence[TraceInfo]) -> list[TraceInfo]:
        """Those that were not given before."""
        found: list[TraceInfo] = []
        for info in infos:
            if info.request_time != self.time_ms:
                self.time_ms, self._ids = info.request_time, set()
            if info.trace_id not in self._ids:
                self._ids.add(info.trace_id)
                found.append(info)
        return found


def bare(infos: Sequence[TraceInfo]) -> list[Trace]:
    """Traces without spans from their infos."""
    from mlflow.entities import Trace, TraceData

    return [Trace(info, TraceData(spans=[])) for info in infos]


def load_spans(infos: Sequence[TraceInfo]) -> list[Trace]:
    """The traces of these infos with their spans, in the same order, none left out.

    MLflow drops a trace it cannot read from a batch without a word; here it stays, with no spans.
    """
    loaded = {t.info.trace_id: t for t in _batch([i.trace_id for i in infos], infos)}
    empty = {t.info.trace_id: t for t in bare([i for i in infos if i.trace_id not in loaded])}
    return [loaded.get(i.trace_id) or empty[i.trace_id] for i in infos]


def load_ids(trace_ids: Sequence[str]) -> list[Trace]:
    """Traces by id with their spans, in the order asked for, none left out.

    Raises:
        StoreError: MLflow cannot be read, or a trace has been deleted meanwhile.
    """
    from mlflow.exceptions import MlflowException

    loaded = {t.info.trace_id: t for t in _batch(trace_ids)}
    absent = [i for i in trace_ids if i not in loaded]
    try:
        infos = infos_of(absent) if absent else []
    except MlflowException as error:
        raise StoreError(f"MLflow could not load traces: {error.message}") from error
    loaded |= {t.info.trace_id: t for t in bare(infos)}
    if gone := [i for i in trace_ids if i not in loaded]:
        raise StoreError(f"{len(gone)} traces were deleted while the run was reading them, first {gone[0]}.")
    return [loaded[i] for i in trace_ids]


def load_present(trace_ids: Sequence[str]) -> list[Trace]:
    """Those of the traces that can be loaded with their spans, in no particular order.

    Raises:
        StoreError: MLflow cannot be read.
    """
    return _batch(trace_ids)


def assessments_on(trace_ids: Iterable[str]) -> dict[str, Assessment]:
    """All assessments on these traces by their ids, read back from the store."""
    wanted = list(trace_ids)
    found: dict[str, Assessment] = {}
    for start in range(0, len(wanted), _PAGE):
        for info in infos_of(wanted[start : start + _PAGE]):
            found |= {str(a.assessment_id): a for a in info.assessments or []}
    return found


def missing_assessments(written: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those (trace id, assessment id) pairs that are not in the store, read back from it."""
    if (sql := sqlstore.open_store()) is not None:
        present = sqlstore.assessment_ids(sql, [wanted for _, wanted in written])
    else:
        present = set(assessments_on(dict.fromkeys(trace_id for trace_id, _ in written)))
    return [pair for pair in written if pair[1] not in present]


def infos_of(trace_ids: Sequence[str]) -> list[TraceInfo]:
    """Trace infos by id with their assessments; ids that MLflow does not hold are absent."""
    from mlflow.exceptions import MlflowNotImplementedException
    from mlflow.tracing.client import TracingClient

    if (sql := sqlstore.open_store()) is not None:
        return sqlstore.trace_infos(sql, trace_ids)
    store: Any = TracingClient().store
    try:
        return list(store.batch_get_trace_infos(list(trace_ids)))
    except (AttributeError, MlflowNotImplementedException):
        return [store.get_trace_info(i) for i in trace_ids]


def _batch(trace_ids: Sequence[str], infos: Sequence[TraceInfo] | None = None) -> list[Trace]:
    """Traces with spans, in as few round trips as the store allows; unreadable ones are absent.

    Args:
        infos: of these traces, where they have been read.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracing.client import TracingClient

    found: list[Trace] = []
    client = TracingClient()
    try:
        if (sql := sqlstore.open_store()) is not None:
            # One query for all; MLflow's client would ask for every trace's tags, metadata and assessments apart.
            found = sqlstore.with_spans(sql, sqlstore.trace_infos(sql, trace_ids) if infos is None else infos)
        have = {trace.info.trace_id for trace in found}
        # What is not in the database, such as spans kept as artifacts, comes by MLflow's own way.
        rest = [i for i in trace_ids if i not in have]
        return [*found, *(client.batch_get_traces(rest) if rest else [])]
    except MlflowException as error:
        raise StoreError(f"MLflow could not load traces: {error.message}") from error
