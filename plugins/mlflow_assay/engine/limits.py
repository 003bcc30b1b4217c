"""How fast an endpoint may be asked: concurrency and request rate learnt from its refusals, and when to retry.

    async with limiter.slot():
        status = await post()
    limiter.succeeded() if status == 200 else limiter.throttled(retry_after_s)

One `AdaptiveLimiter` an endpoint. Until the endpoint refuses something it only counts calls in flight. Two
kinds of refusal are answered in two ways, since they mean different limits:

- With `Retry-After` (a quota of requests per second or minute): the whole endpoint is paused until then, and
  what it accepted in the time before becomes the rate at which calls are let through from then on, evenly
  spaced. The rate starts at 93 % of that, rises to 97 % within 30 s, lingers there, and after a minute probes
  upward ever faster, so that a quota that was raised, or taken for too low, is found within two minutes: the
  shape of CUBIC (RFC 9438), applied to a rate. The constants were chosen by simulation (tests/engine/test_limits.py).
  Concurrency alone cannot hold a quota: at a latency of 5 ms even one call at a time is 200 a second.
- Without (an endpoint that takes so many calls at once): the window of concurrent calls is halved, at most once
  a pause, and grows by a fixed amount after each window of successes (AIMD: Chiu and Jain 1989,
  doi:10.1016/0169-7552(89)90019-6). Where halving does not help, since most calls are still refused, the rate is
  learnt as above. Stray failures, below a fifth of the calls, are no refusal and change nothing.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from mlflow_assay.errors import ConfigError

__all__ = ["AdaptiveLimiter", "RetryPolicy", "parse_retry_after", "retriable"]

_RETRIABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # 529: Anthropic's "overloaded"

_MARK_S = 0.05  # how fine sent and refused calls are remembered
_MEMORY_S = 120.0  # and for how long; also the longest pause
_LATE_S = 0.02  # how late a paced call may be and still keep its place, so that late timers cost no throughput
_RAMP_S = 30.0  # from a cut to the plateau, and again as long until probing turns exponential
_RAMP_PAUSES = 6.0  # the same in pauses, where pauses are long: each probe too far costs one
_BELOW, _DIP = 0.97, 0.04  # the plateau as a share of the rate learnt; how far below it a cut goes
_SQUEEZE_S = 0.25  # first pause after a refusal that names none
_STRAY = 0.2  # share of calls below which failures are strays


def retriable(status: int) -> bool:
    """Whether asking again can help after this HTTP status: 408, 409, 425, 429, 500, 502, 503, 504, 529."""
    return status in _RETRIABLE


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header; None when it is absent or cannot be read.

    Args:
        value: the header: seconds (decimals allowed) or an HTTP date (RFC 9110, section 10.2.3).
        now: seconds since 1970, against which a date is read. A date that has passed gives 0.0.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    except ValueError:
        pass  # not a number: a date
    try:
        date: datetime = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, date.timestamp() - now)


@dataclass(frozen=True)
class RetryPolicy:
    """When to ask again after a retriable failure: exponential backoff with full jitter.

    Source of the method: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Attributes:
        attempts: calls in all, the first included; 1 never retries.
        base_s: upper bound of the first wait, in seconds; it doubles with each attempt.
        cap_s: largest upper bound.
        deadline_s: seconds after which no further attempt may start; None is no deadline.
        longest_retry_after_s: a `Retry-After` beyond this (a daily quota) is not waited for.
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    deadline_s: float | None = None
    longest_retry_after_s: float = _MEMORY_S

    def wait(self, attempt: int, retry_after_s: float | None = None, elapsed_s: float = 0.0) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        Args:
            attempt: calls made so far, 1 or more.
            retry_after_s: what the server asked for; waited for in full.
            elapsed_s: seconds since the first call started, for `deadline_s`.
        """
        if attempt >= self.attempts or (retry_after_s or 0.0) > self.longest_retry_after_s:
            return None
        bound = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        jitter = random.uniform(0.0, bound)  # noqa: S311 - spreads load, keeps no secret
        wait = max(jitter, retry_after_s or 0.0)
        if self.deadline_s is not None and elapsed_s + wait > self.deadline_s:
            return None
        return wait


class AdaptiveLimiter:
    """Lets calls to one endpoint through as fast as it takes them. For one event loop at a time; not for threads.

    Args:
        maximum: most calls in flight, 1 or more.
        start: calls in flight at first; None is 64 or `maximum`, whichever is less. Until the first refusal
            the window is quadrupled after each window of successes.

    Raises:
        ConfigError: `maximum` or `start` is below 1, or `start` above `maximum`.
    """

    def __init__(self, maximum: int, *, start: int | None = None) -> None:
        first = min(maximum, 64) if start is None else start
        if not 1 <= first <= maximum:
            raise ConfigError("A limiter needs 1 <= start <= maximum.", found=f"start {first}, maximum {maximum}")
        self._maximum = maximum
        self._window = first
        self._opening = True
        self._slot = _Slot(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._free = True  # neither paused nor paced: the fast path
        self._in_flight = self._sent = self._refused = 0
        self._won = 0  # successes since the window last grew
        self._barren = 0  # pauses in a row after which nothing was accepted
        self._marks: deque[tuple[float, int, int]] = deque()  # (time, sent, refused) before that time
        self._paused_until = 0.0
        self._refusal: tuple[float, float] | None = None  # (when, over how many seconds to measure)
        self._resumed: tuple[int, int] = (0, 0)  # (sent, refused) when the last pause ended
        self._squeezed_since = self._squeezed_last = -math.inf
        self._plateau: float | None = None  # calls per second; None lets calls through unpaced
        self._cut_at, self._ramp_s = 0.0, _RAMP_S
        self._next_at = 0.0

    def slot(self) -> _Slot:
        """Hold one of the endpoint's places: `async with limiter.slot(): ...`. Waits, first come first served."""
        return self._slot

    def succeeded(self) -> None:
        """The endpoint took the last call: it answered anything but a refusal."""
        self._barren = 0
        self._won += 1
        if self._won >= self._window and self._window < self._maximum:
            self._won = 0
            step = 3 * self._window if self._opening else max(1, self._maximum // 64)
            self._window = min(self._maximum, self._window + step)
            if self._waiters:
                self._wake()

    def throttled(self, retry_after_s: float | None = None) -> None:
        """The endpoint refused a call for want of capacity: 429, 529, or a 503 that names a time.

        A 503 without `Retry-After` is as likely a fault; it is for `RetryPolicy` alone.

        Args:
            retry_after_s: what it asked for; None or 0 when it named no time. At most 120 s are waited.
        """
        now = self._now()
        self._mark(now)
        self._refused += 1
        if retry_after_s:
            self._pause(now, min(retry_after_s * 2**self._barren, _MEMORY_S), max(1.0, min(retry_after_s, _MEMORY_S)))
        else:
            self._squeeze(now)

    @property
    def window(self) -> int:
        """Most calls in flight at present."""
        return self._window

    @property
    def in_flight(self) -> int:
        """Places taken."""
        return self._in_flight

    @property
    def rate(self) -> float | None:
        """Calls per second let through at present; None when unpaced."""
        return None if self._plateau is None else self._rate(self._now())

    @property
    def paused_s(self) -> float:
        """Seconds until calls are let through again; 0.0 when they are."""
        return max(0.0, self._paused_until - self._now()) if self._paused_until else 0.0

    @property
    def refused(self) -> int:
        """Calls refused so far."""
        return self._refused

    # --- letting calls through ---

    def _now(self) -> float:
        return (self._loop or asyncio.get_running_loop()).time()

    def _take(self, now: float) -> None:
        if not self._marks or now - self._marks[-1][0] >= _MARK_S:
            self._mark(now)
        self._in_flight += 1
        self._sent += 1

    async def _enter(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        if self._free and self._in_flight < self._window and not self._waiters:
            self._take(loop.time())
            return
        turn = loop.create_future()
        self._waiters.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let through and cancelled at once: hand the place on
                self._leave()
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        if self._waiters:
            self._wake()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Move to another event loop: calls of a loop that ended before they did are gone with it."""
        if self._loop is not None and self._timer is not None:
            self._timer.cancel()
        self._loop, self._timer, self._in_flight = loop, None, 0
        self._waiters.clear()

    def _wake(self) -> None:
        """Let through whoever may go now, and come back when the next one may."""
        while self._waiters and self._in_flight < self._window:
            turn = self._waiters[0]
            if turn.done():
                self._waiters.popleft()
                continue
            now = self._now()
            if not self._free and (until := self._closed_until(now)) > now:
                self._come_back(until)
                return
            self._waiters.popleft()
            self._take(now)
            turn.set_result(None)

    def _come_back(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                return  # it will look again, and then set the later time
            self._timer.cancel()
        assert self._loop is not None  # noqa: S101 - a waiter has bound it
        self._timer = self._loop.call_at(at, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._wake()

    def _closed_until(self, now: float) -> float:
        """When the next call may go; if that is now, its place in the pace is taken."""
        if now < self._paused_until:
            return self._paused_until
        if self._refusal is not None:
            self._resume(now)
        if self._plateau is None:
            self._free = True
            return now
        if now < self._next_at:
            return self._next_at
        self._next_at = max(self._next_at, now - _LATE_S) + 1 / self._rate(now)
        return now

    # --- learning ---

    def _pause(self, now: float, pause_s: float, measured_s: float) -> None:
        self._free = False
        self._paused_until = max(self._paused_until, now + pause_s)
        at, over_s = self._refusal or (now, 0.0)
        self._refusal = (at, max(over_s, measured_s))

    def _resume(self, now: float) -> None:
        """The pause is over, and by now all calls refused before it are known: learn the rate."""
        assert self._refusal is not None  # noqa: S101 - asked by the caller
        (at, over), self._refusal = self._refusal, None
        sent, refused = self._resumed
        self._resumed = (self._sent, self._refused)
        if self._plateau is not None and self._sent - sent <= self._refused - refused:
            self._barren = min(self._barren + 1, 5)  # the pause was too short; once, it says nothing of the rate
            if self._barren > 1:
                self._plateau = max(self._plateau / 2, 1 / _MEMORY_S)
            return
        if over > 0:
            self._learn(self._accepted(at, over), over, at, now)

    def _learn(self, accepted: int, over_s: float, at: float, now: float) -> None:
        found = max(accepted, 1) / over_s
        if self._plateau is not None:
            rate = self._rate(at)
            # a count is exact to one call only; nothing is lost by more than half at once
            found = rate if accepted + 1.5 >= rate * over_s else min(rate, max(found, rate / 2))
        self._plateau, self._cut_at, self._next_at = found * _BELOW, now, now
        self._ramp_s = max(_RAMP_S, _RAMP_PAUSES * (now - at))

    def _rate(self, now: float) -> float:
        """Calls per second: below the plateau, along it, then beyond it."""
        assert self._plateau is not None  # noqa: S101 - asked by the caller
        x = (now - self._cut_at) / self._ramp_s
        if x < 2:
            return self._plateau * (1 + _DIP * (x - 1) ** 3)
        if x > 6:
            self._plateau = None  # 65,000 times the rate and not refused: no quota
            return math.inf
        return self._plateau * (1 + _DIP) * 16 ** (x - 2)

    def _squeeze(self, now: float) -> None:
        """A refusal that names no time: fewer at once, and if that is no remedy, a rate."""
        if now < self._paused_until:
            return
        sent, refused = self._since(now - 1.0)
        many = refused >= 3 and refused >= _STRAY * sent
        if many:
            self._opening, self._won = False, 0
            self._window = max(1, self._window // 2)
            if now - self._squeezed_last > 5.0:
                self._squeezed_since = max(now - 1.0, self._marks[0][0])
            self._squeezed_last = now
        if self._plateau is not None:
            self._pause(now, _SQUEEZE_S * 2**self._barren, 1.0)
        elif many:
            lasted = now - self._squeezed_since
            helpless = lasted >= 1.0 and refused > sent / 2
            self._pause(now, _SQUEEZE_S * 2**self._barren, min(lasted, _MEMORY_S) if helpless else 0.0)

    def _mark(self, now: float) -> None:
        self._marks.append((now, self._sent, self._refused))
        while self._marks[0][0] < now - _MEMORY_S:
            self._marks.popleft()

    def _since(self, start: float) -> tuple[int, int]:
        """Calls sent and refused since a time."""
        before = (self._sent, self._refused)
        for when, sent, refused in reversed(self._marks):
            if when < start:
                break
            before = (sent, refused)
        return self._sent - before[0], self._refused - before[1]

    def _accepted(self, at: float, over_s: float) -> int:
        """Calls taken by the endpoint in the seconds before `at`; nothing has been sent since."""
        sent, refused = self._since(at - over_s)
        return sent - refused


class _Slot:
    """What `async with limiter.slot()` enters; one object serves all calls, since it holds nothing."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: AdaptiveLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        await self._limiter._enter()

    async def __aexit__(self, *exc: object) -> None:
        self._limiter._leave()
