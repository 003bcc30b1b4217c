"""The judging budget of a worker that never ends: limits for a day (UTC), shared by all workers on one outbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow_assay.engine.budget import SharedBudget

__all__ = ["DailyBudget"]


@dataclass
class DailyBudget:
    """Limits that begin anew every day at midnight UTC.

    Args:
        url: the database the sums are kept in.
        name: whose budget it is; workers that give the same name share it.
        max_usd, max_tokens, max_calls: as for `engine.budget.Budget`.
        warn: told once a day when most of it is spent.
    """

    url: str
    name: str
    max_usd: float | None = None
    max_tokens: int | None = None
    max_calls: int | None = None
    warn: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self._day = ""
        self._budget: SharedBudget | None = None

    def today(self) -> SharedBudget:
        """The budget of this day.

        Raises:
            StoreError: its database cannot be opened.
        """
        day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        if self._budget is None or day != self._day:
            limits = (self.max_usd, self.max_tokens, self.max_calls)
            if self._budget is not None:
                self._budget.close()
            self._budget = SharedBudget(self.url, f"watch-{self.name}-{day}", *limits, on_soft=self.warn)
            self._day = day
        return self._budget

    @property
    def exhausted(self) -> str | None:
        """Which limit has stopped judging today; None when none has, so far as this worker knows."""
        return self.today().exhausted

    @property
    def share(self) -> float:
        """Share of today's budget that is spent, by the limit nearest; in [0, 1]."""
        spent = self.today().spent
        parts = [
            used / limit
            for used, limit in (
                (spent.usd, self.max_usd),
                (spent.tokens, self.max_tokens),
                (spent.calls, self.max_calls),
            )
            if limit
        ]
        return min(1.0, max(parts, default=0.0))

    def close(self) -> None:
        """Close the connections."""
        if self._budget is not None:
            self._budget.close()
