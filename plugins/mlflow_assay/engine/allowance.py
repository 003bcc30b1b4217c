"""What a judge that asks its model by itself may still spend: the run's budget, seen from inside one verdict.

The engine reserves for a verdict what it expects (`run.LocalEngine`). A metric of another library may ask more often
than that: each further call is reserved for itself before it is made, and refused where the budget has no room. So a
limit on calls holds to the call, whatever a metric does; limits on tokens and money as for any judge.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mlflow_assay.engine.budget import Budget, SharedBudget, Spend

__all__ = ["Allowance", "allowed", "current"]

_here: ContextVar[Allowance | None] = ContextVar("assay_allowance", default=None)


class Allowance:
    """The reservation of one verdict, which grows call by call; safe for threads.

    Args:
        budget: the run's.
        reserved: what was reserved for the verdict, one call or more.
    """

    def __init__(self, budget: Budget | SharedBudget, reserved: Spend) -> None:
        self._budget, self._reserved, self._made = budget, reserved, 0
        self._one = Spend(
            1,
            reserved.input_tokens // reserved.calls,
            reserved.output_tokens // reserved.calls,
            reserved.usd / reserved.calls,
        )
        self._lock = threading.Lock()

    @property
    def reserved(self) -> Spend:
        """All that is set aside for the verdict by now."""
        return self._reserved

    def take(self) -> str | None:
        """Ask for one more call.

        Returns:
            None when it may be made; else why not. It is not waited for: the calls in flight may be waiting, too.
        """
        with self._lock:
            if self._made >= self._reserved.calls:
                if not self._budget.reserve(self._one):
                    return self._budget.exhausted or "the rest of the budget is reserved for calls in flight"
                self._reserved += self._one
            self._made += 1
            return None


def current() -> Allowance | None:
    """The allowance of the verdict this thread is reaching; None where no budget limits it."""
    return _here.get()


@contextmanager
def allowed(allowance: Allowance | None) -> Iterator[None]:
    """While it is entered, `current` is this allowance, in this thread."""
    token = _here.set(allowance)
    try:
        yield
    finally:
        _here.reset(token)
