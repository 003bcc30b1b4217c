"""The limiter against simulated endpoints in virtual time (minutes in milliseconds), and against a real one."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.engine.limits import AdaptiveLimiter, RetryPolicy, parse_retry_after, retriable
from mlflow_assay.errors import ConfigError
from mlflow_assay.testing import FakeJudgeServer


class _InstantSelector(selectors.SelectSelector):
    """Instead of waiting for a timer, moves its loop's clock forward to it."""

    loop: VirtualLoop

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("deadlock: nothing left to wait for")
        self.loop.clock += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self):
        self.clock = 1000.0
        selector = _InstantSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        return self.clock


def simulate(coroutine):
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


@dataclass
class Quota:
    """An endpoint that takes `limit` calls in any `per_s` seconds, and refuses the others with `Retry-After`."""

    limit: float
    latency_s: float = 0.005
    retry_after_s: float | None = 1
    per_s: float = 1.0
    chance: Random = field(default_factory=lambda: Random(1))  # noqa: S311
    recent: deque = field(default_factory=deque)
    taken: int = 0
    refused: int = 0

    async def call(self):
        await asyncio.sleep(self.chance.uniform(0, self.latency_s / 10))  # calls do not arrive as evenly as they leave
        now = asyncio.get_running_loop().time()
        while self.recent and self.recent[0] <= now - self.per_s:
            self.recent.popleft()
        if len(self.recent) >= self.limit:
            self.refused += 1
            await asyncio.sleep(0.001)
            return 429, self.retry_after_s
        self.recent.append(now)
        self.taken += 1
        await asyncio.sleep(self.latency_s)
        return 200, None


@dataclass
class Seats:
    """An endpoint that takes `limit` calls at once and refuses the others without naming a time."""

    limit: int
    latency_s: float = 0.3
    chance: Random = field(default_factory=lambda: Random(1))  # noqa: S311
    busy: int = 0
    taken: int = 0
    refused: int = 0

    async def call(self):
        if self.busy >= self.limit:
            self.refused += 1
            await asyncio.sleep(0.002)
            return 429, None
        self.busy += 1
        await asyncio.sleep(self.latency_s * self.chance.uniform(0.7, 1.3))
        self.busy -= 1
        self.taken += 1
        return 200, None


async def press(endpoint, seconds, *, workers=128, limiter=None, change=None):
    """Ask as fast as the limiter allows for some seconds; returns (calls taken per second, limiter)."""
    limiter = limiter or AdaptiveLimiter(workers)
    policy = RetryPolicy(attempts=10)

    async def worker():
        while True:
            for attempt in range(1, 11):
                async with limiter.slot():
                    status, retry_after = await endpoint.call()
                if status == 200:
                    limiter.succeeded()
                    break
                limiter.throttled(retry_after)
                wait = policy.wait(attempt, retry_after)
                assert wait is not None, "a call was refused ten times"
                await asyncio.sleep(wait)

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    before = endpoint.taken
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    return (endpoint.taken - before) / seconds, limiter


@pytest.mark.parametrize("seconds", [20, 120])
@pytest.mark.parametrize(("limit", "latency_s"), [(20, 0.002), (20, 0.3), (5, 0.02), (100, 0.3)])
def test_a_quota_is_used_to_nine_tenths_with_few_refusals(limit, latency_s, seconds):
    endpoint = Quota(limit, latency_s)
    rate, _ = simulate(press(endpoint, seconds))
    assert 0.9 * limit < rate < 1.05 * limit
    assert endpoint.refused < 64 + 0.02 * endpoint.taken + limit, "the first burst, then hardly any"


def test_a_quota_per_minute_is_used_as_well():
    endpoint = Quota(60, 0.3, retry_after_s=60, per_s=60)
    rate, _ = simulate(press(endpoint, 600))
    assert rate > 0.9
    assert endpoint.refused < 64


def test_a_quota_whose_refusals_name_no_time_is_learnt_too():
    endpoint = Quota(20, 0.002, retry_after_s=None)
    rate, limiter = simulate(press(endpoint, 60))
    assert 18 < rate < 20.5
    assert limiter.rate is not None
    assert endpoint.refused < 300


def test_a_lowered_quota_is_followed_and_a_raised_one_found():
    async def run():
        endpoint = Quota(20)
        _, limiter = await press(endpoint, 20)
        endpoint.limit = 5
        await press(endpoint, 10, limiter=limiter)
        low, _ = await press(endpoint, 30, limiter=limiter)
        endpoint.limit = 100
        await press(endpoint, 120, limiter=limiter)
        high, _ = await press(endpoint, 60, limiter=limiter)
        return low, high, endpoint.refused

    low, high, refused = simulate(run())
    assert 4.3 < low <= 5.1
    assert 88 < high < 101
    assert refused < 64 + 40


def test_an_endpoint_with_so_many_seats_is_kept_busy():
    endpoint = Seats(32)
    rate, limiter = simulate(press(endpoint, 60))
    assert rate > 0.7 * 32 / 0.3
    assert limiter.window < 64
    assert endpoint.refused < 0.5 * endpoint.taken


def test_after_a_refusal_nothing_is_sent_until_the_time_named():
    async def run():
        loop, limiter = asyncio.get_running_loop(), AdaptiveLimiter(4)
        async with limiter.slot():
            pass
        limiter.throttled(7)
        refused_at = loop.time()
        assert limiter.paused_s == pytest.approx(7)
        async with limiter.slot():
            waited = loop.time() - refused_at
        assert limiter.paused_s == 0
        return waited

    assert simulate(run()) == pytest.approx(7)


def test_a_longer_time_named_later_counts():
    async def run():
        loop, limiter = asyncio.get_running_loop(), AdaptiveLimiter(4)
        started = loop.time()
        limiter.throttled(2)
        waiting = asyncio.create_task(_enter(limiter))
        await asyncio.sleep(1)
        limiter.throttled(5)
        await waiting
        return loop.time() - started

    assert simulate(run()) == pytest.approx(6)


async def _enter(limiter):
    async with limiter.slot():
        return asyncio.get_running_loop().time()


def test_a_time_named_of_a_day_does_not_stop_the_endpoint_for_a_day():
    async def run():
        limiter = AdaptiveLimiter(4)
        limiter.throttled(86_400)
        return limiter.paused_s

    assert simulate(run()) == 120


def test_stray_failures_change_nothing():
    """5 % of refusals without a time, spread evenly, are no reason to go slower."""

    async def run():
        limiter = AdaptiveLimiter(64, start=64)
        for n in range(2000):
            async with limiter.slot():
                await asyncio.sleep(0.001)
            limiter.throttled(None) if n % 20 == 0 else limiter.succeeded()
        return limiter

    limiter = simulate(run())
    assert (limiter.window, limiter.rate, limiter.refused) == (64, None, 100)


def test_the_window_is_halved_at_most_once_a_pause():
    async def run():
        limiter = AdaptiveLimiter(64, start=64)
        for _ in range(40):
            async with limiter.slot():
                pass
        for _ in range(40):
            limiter.throttled(None)
        return limiter.window

    assert simulate(run()) == 32


def test_the_window_opens_fast_until_the_first_refusal():
    async def run():
        limiter = AdaptiveLimiter(256, start=16)
        sizes = [limiter.window]
        for _ in range(400):
            limiter.succeeded()
            if limiter.window != sizes[-1]:
                sizes.append(limiter.window)
        return sizes

    assert simulate(run()) == [16, 64, 256]


@given(st.lists(st.sampled_from(["ok", "no", "wait", "cancel"]), max_size=60), st.integers(1, 8))
def test_never_more_in_flight_than_allowed_and_no_place_is_ever_lost(script, maximum):
    """Calls that succeed, are refused, or are cancelled while waiting or running: the count stays right."""

    async def call(limiter, kind):
        async with limiter.slot():
            assert 1 <= limiter.in_flight <= maximum
            await asyncio.sleep(0.01)
        limiter.throttled(0.5) if kind == "no" else limiter.succeeded()

    async def run():
        limiter = AdaptiveLimiter(maximum)
        tasks = []
        for kind in script:
            if kind == "wait":
                await asyncio.sleep(0.02)
            elif kind == "cancel" and tasks:
                tasks[len(tasks) // 2].cancel()
                tasks[-1].cancel()
            else:
                tasks.append(asyncio.create_task(call(limiter, kind)))
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended), ended
        assert limiter.in_flight == 0
        async with limiter.slot():
            assert limiter.in_flight == 1

    simulate(run())


def test_a_call_cancelled_at_the_moment_it_is_let_through_hands_its_place_on():
    async def run():
        limiter = AdaptiveLimiter(1)
        async with limiter.slot():
            first, second = asyncio.create_task(_enter(limiter)), asyncio.create_task(_enter(limiter))
            await asyncio.sleep(1)
        first.cancel()  # its turn has come, but it has not run yet
        return await asyncio.wait_for(second, 1)

    assert simulate(run()) == pytest.approx(1001)


def test_a_limiter_outlives_its_event_loop():
    limiter = AdaptiveLimiter(1)

    async def left_hanging():
        await limiter.slot().__aenter__()

    simulate(left_hanging())
    simulate(_enter(limiter))
    assert limiter.in_flight == 0


@pytest.mark.parametrize(("maximum", "start"), [(0, None), (4, 5), (4, 0)])
def test_a_limiter_without_a_place_is_refused(maximum, start):
    with pytest.raises(ConfigError, match="limiter"):
        AdaptiveLimiter(maximum, start=start)


def test_an_unthrottled_call_costs_microseconds():
    async def run():
        limiter, slot_us = AdaptiveLimiter(64), []
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(2000):
                async with limiter.slot():
                    pass
                limiter.succeeded()
            slot_us.append((time.perf_counter() - started) / 2000 * 1e6)
        return min(slot_us)

    assert asyncio.run(run()) < 30  # about 2 on an idle machine


def test_a_real_endpoint_limited_to_20_requests_per_second_is_used_to_nine_tenths():
    """120 calls at 20 a second, over HTTP: 6 s at best. All are answered, few are refused."""
    import aiohttp

    async def run(url):
        limiter, policy, answered = AdaptiveLimiter(32), RetryPolicy(), 0
        async with aiohttp.ClientSession() as session:

            async def call():
                nonlocal answered
                for attempt in range(1, 6):
                    async with limiter.slot(), session.post(url, json={"messages": []}) as response:
                        await response.read()
                    if response.status == 200:
                        limiter.succeeded()
                        answered += 1
                        return
                    wait = parse_retry_after(response.headers.get("Retry-After"), time.time())
                    limiter.throttled(wait)
                    await asyncio.sleep(policy.wait(attempt, wait) or 0)

            started = time.perf_counter()
            await asyncio.gather(*(call() for _ in range(120)))
            return answered, answered / (time.perf_counter() - started)

    with FakeJudgeServer(requests_per_s=20) as server:
        answered, rate = asyncio.run(run(server.url))
    print(f"{rate:.1f} calls/s of 20, {server.refused} refused")
    assert answered == 120
    assert rate > 15, "one stall of the machine costs a second of Retry-After; without one it is above 18"
    assert server.refused < 32 + 8


# --- retries ---


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_retried(status):
    assert retriable(status)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 402, 403, 404, 410, 413, 422, 501, 505])
def test_what_will_not_pass_is_never_retried(status):
    assert not retriable(status)


@given(
    attempt=st.integers(1, 2000),
    attempts=st.integers(1, 2000),
    retry_after=st.none() | st.floats(0, 300),
    elapsed=st.floats(0, 100),
    deadline=st.none() | st.floats(0, 100),
)
def test_a_wait_is_in_bounds_and_ends_before_the_deadline(attempt, attempts, retry_after, elapsed, deadline):
    policy = RetryPolicy(attempts, base_s=0.5, cap_s=30, deadline_s=deadline)
    wait = policy.wait(attempt, retry_after, elapsed)
    if wait is None:
        too_late = deadline is not None and elapsed + 30 + (retry_after or 0) > deadline
        assert attempt >= attempts or too_late or (retry_after or 0) > 120
    else:
        assert attempt < attempts
        assert (retry_after or 0) <= wait <= max(retry_after or 0, 0.5 * 2.0 ** min(attempt - 1, 10), 0)
        assert wait <= max(30, retry_after or 0)
        assert deadline is None or elapsed + wait <= deadline


def test_waits_are_spread_over_the_whole_interval():
    waits = [RetryPolicy(base_s=1).wait(2) or 0 for _ in range(300)]
    assert min(waits) < 0.2 < 1.8 < max(waits) <= 2


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("1", 1.0),
        (" 30 ", 30.0),
        ("0.25", 0.25),
        ("0", 0.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("soon", None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 90).replace("-0000", ""), 90.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_whatever_a_server_sends_as_retry_after_is_a_time_or_nothing(value):
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
