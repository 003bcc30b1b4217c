"""The budget: limits on money, tokens and calls, held before a call is made and settled after it.

    if budget.reserve(estimate):
        actual = estimate
        try:
            actual = make_the_call()
        finally:
            budget.settle(estimate, actual)

A refused reservation costs nothing: the verdict is unscored with reason `budget`. As long as no call costs more
than was reserved for it, the spending never passes a limit. Where calls do cost more, the overshoot is at most
the sum, over the calls in flight when the last one was let through, of what each cost beyond its reservation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mlflow_assay.engine.cache import open_engine
from mlflow_assay.errors import ConfigError, StoreError

__all__ = ["Budget", "SharedBudget", "Spend"]

_PICO = 10**12  # money is summed as whole picodollars: exact, and finer than any price per token


@dataclass(frozen=True)
class Spend:
    """What calls cost, or are expected to.

    Attributes:
        calls: model calls made, retries of refused ones not counted.
        input_tokens, output_tokens: tokens of the prompts and of the replies.
        usd: US dollars; 0 where the model has no known price, so a limit in money needs one.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.usd + other.usd,
        )

    @property
    def tokens(self) -> int:
        """Tokens of prompts and replies together: what a limit on tokens counts."""
        return self.input_tokens + self.output_tokens


# (calls, input tokens, output tokens, picodollars): what is added up
_Sum = tuple[int, int, int, int]


def _sum(spend: Spend) -> _Sum:
    given = (spend.calls, spend.input_tokens, spend.output_tokens, spend.usd)
    if min(given) < 0 or not math.isfinite(spend.usd):
        raise ConfigError("A spend cannot be negative or endless.", found=spend)
    return spend.calls, spend.input_tokens, spend.output_tokens, round(spend.usd * _PICO)


def _spend(total: _Sum) -> Spend:
    return Spend(*total[:3], total[3] / _PICO)


def _plus(a: _Sum, b: _Sum, sign: int = 1) -> _Sum:
    return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2], a[3] + sign * b[3]


@dataclass(frozen=True)
class _Limits:
    """The limits in whole units; None is no limit."""

    usd: int | None
    tokens: int | None
    calls: int | None
    soft: float

    @classmethod
    def of(cls, max_usd: float | None, max_tokens: int | None, max_calls: int | None, soft: float) -> _Limits:
        for name, limit in (("max_usd", max_usd), ("max_tokens", max_tokens), ("max_calls", max_calls)):
            if limit is not None and not (limit >= 0 and math.isfinite(limit)):
                raise ConfigError(f"The budget's {name} is not an amount.", found=limit, valid="0 or more")
        if not 0 < soft <= 1:
            raise ConfigError("The budget's soft limit is a share of the limit.", found=soft, valid="above 0, up to 1")
        return cls(None if max_usd is None else round(max_usd * _PICO), max_tokens, max_calls, soft)

    def exceeded(self, total: _Sum, share: float = 1.0) -> bool:
        """Whether a total is above `share` of any limit."""
        calls, given, made, pico = total
        return (
            (self.calls is not None and calls > self.calls * share)
            or (self.tokens is not None and given + made > self.tokens * share)
            or (self.usd is not None and pico > self.usd * share)
        )

    def near(self, spent: _Sum) -> str | None:
        """A sentence about the first limit of which the soft share is spent, or None."""
        calls, given, made, pico = spent
        if self.usd and pico >= self.usd * self.soft:
            return f"${pico / _PICO:.4g} of the budget of ${self.usd / _PICO:g} is spent."
        if self.tokens and given + made >= self.tokens * self.soft:
            return f"{given + made:,} of the budget of {self.tokens:,} tokens are used."
        if self.calls and calls >= self.calls * self.soft:
            return f"{calls:,} of the budget of {self.calls:,} calls are made."
        return None

    def sentence(self, spent: _Sum, estimate: _Sum) -> str | None:
        """Which limit one more call would pass even if nothing were in flight, or None."""
        calls, given, made, pico = _plus(spent, estimate)
        if self.calls is not None and calls > self.calls:
            return f"the budget of {self.calls:,} calls is used up ({spent[0]:,} made)"
        if self.tokens is not None and given + made > self.tokens:
            used, more = spent[1] + spent[2], estimate[1] + estimate[2]
            return (
                f"the budget of {self.tokens:,} tokens is used up ({used:,} used, the next call needs about {more:,})"
            )
        if self.usd is not None and pico > self.usd:
            left = f"${spent[3] / _PICO:.4g} spent, the next call costs about ${estimate[3] / _PICO:.4g}"
            return f"the budget of ${self.usd / _PICO:g} is used up ({left})"
        return None


class Budget:
    """Limits for one process; safe for threads, a few microseconds a call.

    Args:
        max_usd: US dollars; None is no limit.
        max_tokens: tokens of prompts and replies together; None is no limit.
        max_calls: model calls; None is no limit.
        soft: share of a limit at which `on_soft` is called, once, with a sentence saying how much is spent.
        on_soft: called in the thread that settled; whatever it raises reaches that thread.
        spent: what a run that is being resumed has spent before.

    Raises:
        ConfigError: a limit is negative or not finite, or `soft` is not in (0, 1].
    """

    def __init__(
        self,
        max_usd: float | None = None,
        max_tokens: int | None = None,
        max_calls: int | None = None,
        soft: float = 0.8,
        on_soft: Callable[[str], None] | None = None,
        spent: Spend | None = None,
    ) -> None:
        self._limits = _Limits.of(max_usd, max_tokens, max_calls, soft)
        self._on_soft = on_soft
        self._lock = Lock()
        self._spent = _sum(spent or Spend())
        self._reserved: _Sum = (0, 0, 0, 0)
        self._exhausted: str | None = None

    def reserve(self, estimate: Spend) -> bool:
        """Set aside what a call is expected to cost.

        Returns:
            False when spent + reserved + estimate would pass a limit; nothing is set aside then. While
            `exhausted` is None that is only because of calls in flight, and it may fit once they settle.
        """
        asked = _sum(estimate)
        with self._lock:
            reserved = _plus(self._reserved, asked)
            if not self._limits.exceeded(_plus(self._spent, reserved)):
                self._reserved = reserved
                return True
            self._exhausted = self._limits.sentence(self._spent, asked) or self._exhausted
            return False

    def settle(self, estimate: Spend, actual: Spend) -> None:
        """Replace a reservation by what the call really cost; call it exactly once per reservation.

        Args:
            estimate: what was given to `reserve`.
            actual: what was paid; `Spend()` when nothing was.
        """
        released, paid = _sum(estimate), _sum(actual)
        with self._lock:
            self._reserved = _plus(self._reserved, released, -1)
            self._spent = _plus(self._spent, paid)
            warn = self._limits.near(self._spent) if self._on_soft else None
            callback, self._on_soft = (self._on_soft, None) if warn else (None, self._on_soft)
        if callback is not None and warn is not None:
            callback(warn)

    @property
    def spent(self) -> Spend:
        """What settled calls have cost."""
        return _spend(self._spent)

    @property
    def reserved(self) -> Spend:
        """What is set aside for calls in flight."""
        return _spend(self._reserved)

    @property
    def exhausted(self) -> str | None:
        """Which limit stopped a call that would not have fitted even with nothing in flight; None while none did."""
        return self._exhausted


# --- across processes -----------------------------------------------------------------------------------------

_tables = sa.MetaData()
_PARTS = ("calls", "input_tokens", "output_tokens", "picousd")
_budgets = sa.Table(
    "assay_budgets",
    _tables,
    sa.Column("run_id", sa.String(250), primary_key=True),
    *(sa.Column(f"{kind}_{part}", sa.BigInteger, nullable=False) for kind in ("spent", "reserved") for part in _PARTS),
    sa.Column("warned", sa.Boolean, nullable=False),
)


class SharedBudget:
    """One budget for the workers of a run on several processes or machines: the interface of `Budget`.

    The sums live in a database row; each reservation is one atomic `UPDATE ... WHERE it still fits`, so the
    guarantee is that of `Budget` over all workers together. It costs a committed transaction per call and one
    to settle. A worker that is killed leaves its reservations behind: the driver calls `release` when no worker runs.

    Args:
        url: SQLAlchemy database URL that every worker reaches; a SQLite file works for processes of one machine.
        run_id: names the budget; workers and resumed runs that give the same share what was spent.
        max_usd, max_tokens, max_calls, soft: as for `Budget`; the same for every worker.
        on_soft: as for `Budget`; called in one worker only.

    Raises:
        ConfigError: as for `Budget`.
        StoreError: the database cannot be opened. All methods raise it when it cannot be read or written.
    """

    def __init__(
        self,
        url: str,
        run_id: str,
        max_usd: float | None = None,
        max_tokens: int | None = None,
        max_calls: int | None = None,
        soft: float = 0.8,
        on_soft: Callable[[str], None] | None = None,
    ) -> None:
        self._limits = _Limits.of(max_usd, max_tokens, max_calls, soft)
        self._on_soft = on_soft
        self._exhausted: str | None = None
        self._run_id = run_id
        self._engine = open_engine(url, _tables, "shared budget", "Name a database that all workers can write.")
        self._this = _budgets.c.run_id == run_id
        try:
            with self._engine.begin() as connection:
                _insert_if_absent(connection, run_id)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def reserve(self, estimate: Spend) -> bool:
        """As `Budget.reserve`, over all workers."""
        asked = _sum(estimate)
        update = sa.update(_budgets).where(self._this, *self._fits(asked)).values(_added("reserved", asked))
        if self._execute(update):
            return True
        self._exhausted = self._limits.sentence(self._read("spent"), asked) or self._exhausted
        return False

    def settle(self, estimate: Spend, actual: Spend) -> None:
        """As `Budget.settle`."""
        changes = {**_added("reserved", _sum(estimate), -1), **_added("spent", _sum(actual))}
        self._execute(sa.update(_budgets).where(self._this).values(changes))
        if self._on_soft is not None and (warn := self._limits.near(self._read("spent"))):
            callback, self._on_soft = self._on_soft, None
            first = sa.update(_budgets).where(self._this, _budgets.c.warned.is_(False)).values(warned=True)
            if self._execute(first):
                callback(warn)

    def release(self) -> None:
        """Drop all reservations. Only while no worker runs: those of calls in flight would be lost as well."""
        self._execute(sa.update(_budgets).where(self._this).values({f"reserved_{part}": 0 for part in _PARTS}))

    @property
    def spent(self) -> Spend:
        """What settled calls have cost, over all workers and earlier runs of the same id."""
        return _spend(self._read("spent"))

    @property
    def reserved(self) -> Spend:
        """What is set aside for calls in flight, over all workers."""
        return _spend(self._read("reserved"))

    @property
    def exhausted(self) -> str | None:
        """Which limit stopped this worker, as `Budget.exhausted`."""
        return self._exhausted

    def close(self) -> None:
        """Close the connections. What was spent stays in the database."""
        self._engine.dispose()

    def _fits(self, asked: _Sum) -> list[sa.ColumnElement[bool]]:
        held = [_budgets.c[f"spent_{part}"] + _budgets.c[f"reserved_{part}"] for part in _PARTS]
        limits = self._limits
        checks: list[sa.ColumnElement[bool]] = []
        if limits.calls is not None:
            checks.append(held[0] <= limits.calls - asked[0])
        if limits.tokens is not None:
            checks.append(held[1] + held[2] <= limits.tokens - asked[1] - asked[2])
        if limits.usd is not None:
            checks.append(held[3] <= limits.usd - asked[3])
        return checks

    def _read(self, kind: str) -> _Sum:
        columns = [_budgets.c[f"{kind}_{part}"] for part in _PARTS]
        try:
            with self._engine.connect() as connection:
                row = connection.execute(sa.select(*columns).where(self._this)).one()
        except SQLAlchemyError as error:
            raise self._failed(error) from error
        return int(row[0]), int(row[1]), int(row[2]), int(row[3])

    def _execute(self, statement: sa.Update) -> bool:
        try:
            with self._engine.begin() as connection:
                return bool(connection.execute(statement).rowcount)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        where = self._engine.url.render_as_string(hide_password=True)
        return StoreError(
            f"The budget of run {self._run_id!r} in {where} could not be kept.",
            found=getattr(error, "orig", None) or error,
            fix="Nothing more is spent without it; start the run again when the database answers.",
        )


def _added(kind: str, amounts: _Sum, sign: int = 1) -> dict[str, sa.ColumnElement[int]]:
    pairs = zip(_PARTS, amounts, strict=True)
    return {f"{kind}_{part}": _budgets.c[f"{kind}_{part}"] + sign * amount for part, amount in pairs}


def _insert_if_absent(connection: sa.Connection, run_id: str) -> None:
    values = {column.name: 0 for column in _budgets.columns if column.name not in ("run_id", "warned")}
    row = {**values, "run_id": run_id, "warned": False}
    dialect = connection.dialect.name
    if dialect in ("sqlite", "postgresql"):
        insert = (sqlite if dialect == "sqlite" else postgresql).insert(_budgets)
        connection.execute(insert.values(row).on_conflict_do_nothing())
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(_budgets).values(row))
    except IntegrityError:
        return  # it is there already, which is all that is wanted
