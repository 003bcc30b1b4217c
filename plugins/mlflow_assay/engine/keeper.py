"""Paid verdicts into the cache as they come, before their judge is asked again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from mlflow_assay.engine.cache import CachedVerdict
from mlflow_assay.errors import StoreError

__all__ = ["Keeper"]

_logger = logging.getLogger(__name__)


class _Store(Protocol):
    def put_many(self, items: Mapping[str, CachedVerdict]) -> None: ...


class _Batch:
    def __init__(self) -> None:
        self.items: dict[str, CachedVerdict] = {}
        self.written = asyncio.Event()


class Keeper:
    """Commits verdicts in groups: while one commit is under way, the next ones gather. For one event loop.

    A worker that awaits `keep` holds at most one verdict that is paid and not yet kept, so that a process killed
    at any moment loses at most as many paid replies as it has workers.

    Args:
        store: where to, usually a `VerdictCache`. One that cannot be written is a warning: the verdicts hold.
    """

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._next = _Batch()
        self._task: asyncio.Task[None] | None = None

    async def keep(self, key: str, verdict: CachedVerdict) -> None:
        """Returns when the verdict is committed, or could not be."""
        batch = self._next
        batch.items[key] = verdict
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await batch.written.wait()

    async def _drain(self) -> None:
        while self._next.items:
            batch, self._next = self._next, _Batch()
            try:
                await asyncio.to_thread(self._store.put_many, batch.items)
            except StoreError as error:
                _logger.warning("The verdict cache could not be written: %s", error)
            finally:
                batch.written.set()
